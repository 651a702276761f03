"""Malformed rows and files by the hundred: each is read, or gets one sentence. Nothing is dropped in silence, nothing is a traceback."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import encoder
from data.test_benchmark_formats import ROWS as BENCHMARK_ROWS
from data.test_public_formats import ROWS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefrep.data.encode import EncodeConfig
from prefrep.data.formats import detect, to_records
from prefrep.data.inspection import numbers, report, summarise
from prefrep.data.notes import Tracked
from prefrep.data.preference import PreferenceData
from prefrep.data.sources import Source, read
from prefrep.data.summary import by_tokens, by_words
from prefrep.errors import PrefrepError
from prefrep.evaluation.pairs import comparisons_of
from prefrep.io.folder import PreferenceModel
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead
from prefrep.scoring import Scorer

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAPES: list[dict[str, Any]] = [
    *(row for row, _ in ROWS.values()),
    *(row for _, row, _ in BENCHMARK_ROWS),
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "b"}]},
    {
        "prompt": TALK[:1],
        "chosen": TALK[1:],
        "rejected": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}],
    },
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    {"instruction": "q", "chosen": {"response": "a"}, "reject": {"response": "b"}},
    {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]},
    {"prompt": "q", "chosen": ["a"], "rejected": ["b"], "num_correct": 1, "subset": "s", "id": "1"},
    {"instruction": "q", "completions": [{"response": "a", "annotations": {"x": {"Rating": "5"}}}, {"response": "b", "overall_score": 2}]},
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=True), st.text(max_size=12),
    st.sampled_from(["", " ", "<|im_end|>", "\n\nHuman:", "[1", "{}", "nan", "A>B", "\ud800", "\x00", "{{ x }}", "model_a", "-1"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=5
)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside a row."""
    found = [above] if above else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [path for key, each in inner for path in places(each, (*above, key))]


@st.composite
def rows(draw: st.DrawFn) -> Any:
    """A row of a known shape with some of its values replaced, removed, renamed or wrapped; sometimes no row at all."""
    if draw(st.integers(0, 15)) == 0:
        return draw(VALUES)
    row = json.loads(json.dumps(draw(st.sampled_from(SHAPES))))
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from(places(row) or [("prompt",)]))
        try:
            there = row
            for key in above:
                there = there[key]
            match draw(st.sampled_from(["replace", "remove", "wrap", "rename", "repeat"])):
                case "replace":
                    there[last] = draw(VALUES)
                case "remove":
                    del there[last]
                case "wrap":
                    there[last] = [there[last]]
                case "rename":
                    there[draw(st.text(max_size=6))] = there.pop(last)
                case "repeat":
                    there[last] = there[last] * 2
        except (KeyError, IndexError, TypeError, AttributeError):
            continue
    if draw(st.integers(0, 20)) == 0:
        row["tools"] = draw(VALUES)
    if draw(st.integers(0, 20)) == 0:
        row["chat_template_kwargs"] = draw(VALUES)
    return row


def written(row: Any) -> bytes:
    return json.dumps(row).encode()  # with NaN, Infinity and lone surrogates, as programs write them


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Name and content of a file, sometimes damaged."""
    found = draw(st.lists(rows(), min_size=1, max_size=4))
    lines = b"".join(written(row) + b"\n" for row in found)
    name, content = draw(
        st.sampled_from([
            ("a.jsonl", lines), ("a.json", b"[" + b",".join(map(written, found)) + b"]"), ("a.json", lines),
            ("a.json", b'{"data": [' + b",".join(map(written, found)) + b"]}"), ("a.jsonl.gz", gzip.compress(lines)),
            ("a.csv", lines), ("a.tsv", b"prompt\tchosen\trejected\n" + lines), ("a.parquet", lines), ("a.arrow", lines),
            ("a.jsonl.zst", lines),
        ])
    )  # fmt: skip
    match draw(st.sampled_from(["whole", "whole", "whole", "cut", "bytes", "deep", "digits", "empty"])):
        case "cut":
            content = content[: draw(st.integers(0, len(content)))]
        case "bytes":
            at = draw(st.integers(0, len(content)))
            content = content[:at] + draw(st.binary(max_size=5)) + content[at:]
        case "deep":
            content += b"[" * 1500 + b"]" * 1500
        case "digits":
            content += b'{"prompt": "q", "chosen": "a", "rejected": "b", "weight": ' + b"9" * 5000 + b"}\n"
        case "empty":
            content = b""
    return name, content


def sentence(error: PrefrepError) -> None:
    said = str(error)
    assert said.strip() and "\n" not in said and "Traceback" not in said, said


def inspected(path: str) -> int:
    """Records and bad rows of `prefrep inspect`, by words and by tokens, which count every row once."""
    counts = []
    for lengths in (by_words, by_tokens(encoder())):
        found, unread = summarise([Source(path)], lengths, None, "skip")
        for error in (*unread, *(error for each in found for error in each.bad)):
            sentence(error)
        json.dumps(numbers(found, "words", None))
        list(report(found, "words", None))
        counts.append(sum(each.summary.counts["records"] + len(each.bad) for each in found))
    assert counts[0] == counts[1], "a record that a template refuses is a bad row"
    return counts[0]


def fitted(path: str) -> None:
    """What `prefrep fit` does up to the first batch."""
    for skip in ("error", "skip"):
        try:
            data = PreferenceData(train=path, on_bad_row=cast(Any, skip), cache=None)
            data.trainer = cast(Any, SimpleNamespace(lightning_module=reader(), global_rank=0, world_size=1))
            data.setup("fit")
            for datum in data._encoded("train"):
                assert datum.pairs and len(datum.pairs) == len(datum.weight)
        except PrefrepError as error:
            sentence(error)


@cache
def reader() -> Any:
    encode = encoder()
    return SimpleNamespace(
        tokenizer=encode.tokenizer,
        layout="single",
        unpaired=True,
        reading=None,
        needs_prompt=False,
        backbone=SimpleNamespace(room=None, frozen=False, pooling="last", both_ways=False),
    )


@cache
def scorer() -> Scorer:
    backbone = Backbone("bundled:tiny-gpt2").eval()
    return Scorer(PreferenceModel(backbone, BTHead(backbone.hidden_size), 1.0, EncodeConfig(), backbone.tokenizer(), {}))


def scored(path: str) -> None:
    """What `prefrep score` and `prefrep eval pairs` do: every record gets numbers."""
    try:
        records = list(read(path))
        pairs = list(comparisons_of(records))
        assert len(list(scorer().compare(pairs))) == len(pairs)
    except PrefrepError as error:
        sentence(error)


QUICK = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("program", [inspected, fitted, scored])
@QUICK
@given(st.lists(rows(), min_size=1, max_size=3))
def test_malformed_rows(program: Callable[[str], object], found: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.jsonl"
        path.write_bytes(b"".join(written(row) + b"\n" for row in found))
        program(str(path))


@pytest.mark.parametrize("program", [inspected, fitted])
@QUICK
@given(files())
def test_malformed_files(program: Callable[[str], object], found: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / found[0]
        path.write_bytes(found[1])
        program(str(path))


@given(rows())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_watching_what_is_read_changes_nothing(row: Any) -> None:
    """`inspect` reads rows that record which of their fields are read: records and sentences are those of `fit`."""
    if not isinstance(row, dict):
        return

    def read_as(watched: dict[str, Any]) -> str:
        try:
            return repr(to_records(watched, detect(watched, "f:1"), "f:1"))
        except PrefrepError as error:
            sentence(error)
            return str(error)

    assert read_as(row) == read_as(Tracked(row))
