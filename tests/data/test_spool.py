"""A sequence on disk is the list it was made of, in any process, and training data lie in one."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from prefrep.data.sources import Source, read_mixed
from prefrep.data.spool import Spool
from prefrep.data.trees import Datum, Tree


def test_it_is_the_list() -> None:
    items = [{"number": i, "text": "x" * random.Random(i).randrange(300)} for i in range(50)]
    spool = Spool(iter(items))
    assert len(spool) == 50 and list(spool) == items and spool[-1] == items[-1] and spool[3:9:2] == items[3:9:2]
    assert list(spool) == items, "as often as one likes"
    for outside in (50, -51):
        with pytest.raises(IndexError):
            spool[outside]
    assert len(Spool([])) == 0 and not Spool([])


def test_another_order_shares_the_file() -> None:
    spool = Spool("abcd")
    other = spool.reordered([3, 0, 0])
    del spool
    assert list(other) == ["d", "a", "a"] and len(other) == 3 and other[-1] == "a"


def test_data_come_back_as_they_were() -> None:
    datum = Datum((Tree((np.arange(5, dtype=np.int32), np.arange(7, dtype=np.int32)), 3),), ((0, 1),), (1.0,), (0.0,), (1.0,))
    (again,) = Spool([datum])
    assert again.pairs == datum.pairs and again.size == datum.size
    assert all(np.array_equal(a, b) for a, b in zip(again.trees[0].sequences, datum.trees[0].sequences, strict=True))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it_at_the_same_time(method: str) -> None:
    """Forked processes share the open file, and its position; others open it again."""
    spool = Spool(range(2000))
    context = multiprocessing.get_context(method)
    if method == "spawn":
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert pool.submit(sum, spool).result() == sum(range(2000))  # type: ignore[arg-type]
        return
    out = context.Queue()
    others = [context.Process(target=lambda: out.put(sum(spool))) for _ in range(2)]
    for other in others:
        other.start()
    assert [sum(spool) for _ in range(5)] == [sum(range(2000))] * 5
    assert [out.get(timeout=60) for _ in others] == [sum(range(2000))] * 2
    for other in others:
        other.join()


def test_the_file_goes_with_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other processes can open a file without a name, it has none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool([1, 2])
    copy = pickle.loads(pickle.dumps(spool))
    assert list(copy) == [1, 2] and not list(tmp_path.iterdir())
    del copy
    assert list(spool) == [1, 2]
    del spool


def test_the_file_has_a_name_where_it_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc, which Linux has."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("prefrep.data.spool.open", _missing, raising=False)
        spool = Spool([1, 2])
    (file,) = tmp_path.iterdir()
    copy = pickle.loads(pickle.dumps(spool))
    del copy
    assert file.exists() and list(spool) == [1, 2]
    del spool
    assert not file.exists()


def _missing(path: str, mode: str) -> None:
    raise FileNotFoundError(path)


def test_a_killed_process_leaves_no_file(tmp_path: Path) -> None:
    script = "import time; from prefrep.data.spool import Spool; spool = Spool(range(9)); print(len(spool), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert process.stdout is not None and process.stdout.readline() == b"9\n"
    process.kill()
    process.wait()
    assert not list(tmp_path.iterdir())


def test_records_do_not_pile_up_in_memory(tmp_path: Path) -> None:
    """What Python allocates while 3000 rows of 1 kB are read, kept and gone through is far below their 3 MB."""
    rows = 3000
    file = tmp_path / "rows.jsonl"

    def lines() -> Iterator[str]:
        for i in range(rows):
            yield json.dumps({"prompt": f"{i}", "chosen": f"{i} " * 100, "rejected": "no " * 150}) + "\n"

    with file.open("w") as out:
        out.writelines(lines())
    size = file.stat().st_size
    read_mixed([Source(str(file), limit=1)])  # imports
    tracemalloc.start()
    records = read_mixed([Source(str(file), weight=1.5)])
    count = sum(1 for _ in records)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == len(records) == rows * 3 // 2 and size > 2.5e6
    assert peak < size / 4
