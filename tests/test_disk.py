"""Files of lines: written whole, and cut where a killed process left them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefrep.disk import keep_lines, replace_lines, replace_path


def test_lines_are_rows(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\nc é", "n": 1.5}, [1, None], "x"]
    file = tmp_path / "new" / "folder" / "rows.jsonl"
    replace_lines(file, iter(rows))
    lines = file.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows and lines[-1] == "" and "é" in lines[0]
    replace_lines(file, [])
    assert file.read_bytes() == b"" and [path.name for path in file.parent.iterdir()] == ["rows.jsonl"]


def test_rows_that_fail_leave_the_old_file(tmp_path: Path) -> None:
    def rows() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    file = tmp_path / "rows.jsonl"
    replace_lines(file, [7])
    with pytest.raises(KeyboardInterrupt):
        replace_lines(file, rows())
    assert file.read_text() == "7\n"


@pytest.mark.parametrize("tail", [b"", b"half", b"h\xc3"])
@pytest.mark.parametrize("count", [None, 0, 1, 3, 4, 9])
def test_lines_are_kept_from_the_first(count: int | None, tail: bytes, tmp_path: Path) -> None:
    lines = [b"one\n", b"\n", b"three\r\x85\xe2\x80\xa8\n"]
    file = tmp_path / "log"
    file.write_bytes(b"".join(lines) + tail)
    keep_lines(file, count)
    assert file.read_bytes() == b"".join(lines[:count])


@pytest.mark.parametrize("folder", [False, True])
def test_a_draft_takes_the_place_of_what_is_there(folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed before the last move leaves the older one: a file in its place, a folder under the name `last-0`."""

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        if folder:
            path.mkdir()
        (path / "shard" if folder else path).write_text(text)
        return path

    def read(path: Path) -> str:
        return (path / "shard" if folder else path).read_text()

    last, draft = make("last.ckpt", "old"), make("draft.ckpt", "new")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("prefrep.disk.os.replace", die)
        replace_path(draft, last)
    assert read(tmp_path / "last-0.ckpt" if folder else last) == "old"
    replace_path(draft, last)
    assert read(last) == "new" and [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def die(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_file_that_is_not_there_stays_so(tmp_path: Path) -> None:
    keep_lines(tmp_path / "log", 3)
    assert not list(tmp_path.iterdir())
