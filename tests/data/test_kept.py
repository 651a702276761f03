"""A second run reads neither files nor templates, unless something changed that moves token ids."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import COMPARISONS, encoder

from prefrep.data import kept as keeping
from prefrep.data.encode import EncodeConfig
from prefrep.data.kept import about_encoding, about_records, kept, read_kept
from prefrep.data.sources import Source, read_mixed
from prefrep.errors import RecordError
from prefrep.nn.loading import load_tokenizer


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(7)]


def test_records_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [
        Source(str(write(tmp_path / "a.jsonl", [*ROWS, {"prompt": "q"}])), weight=1.5),
        Source(str(write(tmp_path / "b.jsonl", ROWS))),
    ]
    skipped: list[RecordError] = []
    expected = list(read_mixed(sources, 3, "skip", skipped))
    where = str(tmp_path / "cache")
    first, errors = read_kept(where, about_records(sources, "skip", ""), sources, 3, "skip", "")
    assert list(first) == expected and [str(e) for e in errors] == [str(e) for e in skipped] != []
    monkeypatch.setattr(keeping, "every", None)  # cannot be called
    again, errors = read_kept(where, about_records(sources, "skip", ""), sources, 3, "skip", "")
    assert list(again) == expected and [str(e) for e in errors] == [str(e) for e in skipped]
    other, _ = read_kept(where, about_records(sources, "skip", ""), sources, 4, "skip", "")
    assert list(other) == list(read_mixed(sources, 4, "skip")), "the seed draws from the same records"
    others = [replace(sources[0], strength="margin")]
    with pytest.raises(TypeError):
        read_kept(where, about_records(others, "skip", ""), others, 3, "skip", "")
    write(tmp_path / "a.jsonl", ROWS[:-1])
    with pytest.raises(TypeError):
        read_kept(where, about_records(sources, "skip", ""), sources, 3, "skip", "")


def test_an_error_is_not_kept(tmp_path: Path) -> None:
    source = Source(str(write(tmp_path / "a.jsonl", [*ROWS, {"prompt": "q"}])))
    for _ in range(2):
        with pytest.raises(RecordError, match="no 'chosen'"):
            read_kept(str(tmp_path / "cache"), about_records([source], "error", ""), [source], 0, "error", "")


def test_hub_data_are_not_kept() -> None:
    assert about_records([Source("owner/name")], "error", "train") is None
    made = []
    for _ in range(2):
        items, _, there = kept("auto", None, lambda: made.append(1) or [1, 2], dict)  # type: ignore[func-returns-value]
        assert list(items) == [1, 2] and not there
    assert made == [1, 1]


def test_data_come_back_as_they_were(tmp_path: Path) -> None:
    encode = encoder()
    data = [datum for _, datum in encode.encode(COMPARISONS)]
    for there in (False, True):
        items, note, found = kept(str(tmp_path), {"x": 1}, lambda: iter(data), lambda: {"n": 1})
        assert (found, note) == (there, {"n": 1})
        for ours, theirs in zip(data, items, strict=True):
            assert ours is not None and theirs is not None and ours.pairs == theirs.pairs
            assert [ids.tolist() for ids in ours.trees[0].sequences] == [ids.tolist() for ids in theirs.trees[0].sequences]


def test_what_moves_token_ids_is_part_of_the_key() -> None:
    def key(path: str = "bundled:tiny-llama", control: str = "text", layout: str = "single", eos: str | None = None, **config: Any) -> str:
        tokenizer = load_tokenizer(path)
        if eos:
            tokenizer.eos_token = eos
        if "chat" in config:
            tokenizer.chat_template = config.pop("chat")
        return json.dumps(about_encoding(tokenizer, EncodeConfig(**config), layout, control), sort_keys=True)

    keys = [
        key(), key("bundled:tiny-qwen2"), key(control="refuse"), key(layout="pair"), key(eos="<|im_start|>"), key(template="plain"),
        key(max_length=9), key(truncation="drop"), key(chat="{{ messages[0].content }}"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys) and key() == keys[0]


def test_a_folder_that_is_not_writable_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO):
        items, _, there = kept(str(tmp_path / "file"), {"x": 1}, lambda: [1], dict)
    assert list(items) == [1] and not there and "so encoded data are not kept for the next run" in caplog.text
