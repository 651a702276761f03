"""Full disks and closed folders: which path, how much is free, what to do, and what was there before stays."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from prefrep import room
from prefrep.disk import replace_text
from prefrep.errors import PrefrepError
from prefrep.io.replacing import replacing
from prefrep.room import explained, require, saving, size


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path, int], None]:
    """Gives disks an amount of free room: `full(path, bytes)`; others have a terabyte. `TMPDIR` is a folder of its own."""
    amounts: dict[Path, int] = {}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmpdir"))
    (tmp_path / "tmpdir").mkdir()
    monkeypatch.setattr(room, "free", lambda path: next((n for disk, n in amounts.items() if path.is_relative_to(disk)), 10**12))
    return amounts.__setitem__


def no_space(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_dev_full_names_the_path(tmp_path: Path, full: Callable[[Path, int], None]) -> None:
    """The kernel's own full disk: the error of `write` names no file."""
    full(tmp_path / "runs", 12_300_000)
    with pytest.raises(OSError) as raised, saving(tmp_path / "runs" / "out.jsonl", 450_000_000), open("/dev/full", "w") as file:
        file.write("x" * 10)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "runs" / "out.jsonl"))
    assert raised.value.strerror == (
        "No space left on device (12.3 MB free, 450.0 MB needed); delete files there or write to another disk, then run the same command, "
        "which keeps what is finished"
    )


def test_the_temporary_folder_is_named_where_it_is_the_full_one(tmp_path: Path, full: Callable[[Path, int], None]) -> None:
    full(tmp_path / "tmpdir", 0)
    with pytest.raises(OSError, match=r"set TMPDIR to a folder on another disk") as raised, saving(tmp_path / "run" / "last.ckpt"):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "tmpdir" / "tmpabc"))
    assert raised.value.filename == str(tmp_path / "tmpdir")
    full(tmp_path / "run", 0)
    full(tmp_path / "tmpdir", 10**9)
    with pytest.raises(OSError) as raised, saving(tmp_path / "run" / "last.ckpt"):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "tmpdir" / "tmpabc"))
    assert raised.value.filename == str(tmp_path / "run" / "last.ckpt")


def _full_database() -> sqlite3.Error:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/7: file write failed"),
     ValueError('I/O error: No space left on device (os error 28)'), OSError(errno.EDQUOT, "Disk quota exceeded"),
     OSError("9 requested and 4 written"), _full_database()],
)  # fmt: skip
def test_errors_of_libraries_are_understood(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="delete files there or") as raised, saving(tmp_path / "x"):
        raise error
    assert raised.value.filename == str(tmp_path / "x")


def test_other_errors_pass(tmp_path: Path) -> None:
    for error in (ValueError("other"), FileNotFoundError(errno.ENOENT, "No such file", "x")):
        with pytest.raises(type(error)) as raised, saving(tmp_path / "x"):
            raise error
        assert raised.value is error


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_closed_folder(number: int, tmp_path: Path, full: Callable[[Path, int], None]) -> None:
    text = explained(number, tmp_path / "no" / "such" / "file")
    assert text == f"{os.strerror(number)}: {tmp_path} cannot be written to; change its permissions, or write to another disk"


@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_failed_replacement_leaves_the_old_file_alone(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="free, 3 bytes needed"):
        patch.setattr(Path if call == "open" else os, call, no_space)
        replace_text(path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_failed_export_leaves_the_old_model_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "export") as folder:
        (folder / "prefrep.json").write_text("old")
    with pytest.raises(OSError, match="delete files there"), replacing(tmp_path / "export") as folder:
        (folder / "prefrep.json").write_text("new")
        no_space()
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["export", "export/prefrep.json"]
    assert (tmp_path / "export" / "prefrep.json").read_text() == "old"


def test_work_that_would_not_fit_is_refused(tmp_path: Path, full: Callable[[Path, int], None]) -> None:
    full(tmp_path / "export", 3 * 10**9)
    require(tmp_path / "export", 3 * 10**9, "the exported model", "set Export.weights to reference")
    with pytest.raises(PrefrepError) as refused:
        require(tmp_path / "export", 14 * 10**9, "the exported model", "set Export.weights to reference")
    assert str(refused.value) == (
        f"{tmp_path}/export: the exported model needs 14.0 GB and its disk has 3.0 GB free; delete 11.0 GB there, write to another disk, "
        "or set Export.weights to reference"
    )


def test_sizes() -> None:
    assert [size(n) for n in (12, 1500, 2_000_000, 14_200_000_000)] == ["12 bytes", "1.5 kB", "2.0 MB", "14.2 GB"]
