"""Several processes write what one writes: to the last bit, in order, resumable, with the same errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import program

from prefrep.data.encode import EncodeConfig
from prefrep.data.sources import Source, read
from prefrep.errors import CheckpointError, PrefrepError, UsageError
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PairHead
from prefrep.nn.loading import load_tokenizer
from prefrep.scoring.interface import WINDOW
from prefrep.scoring.loading import Scoring
from prefrep.scoring.output import _rest
from prefrep.scoring.workers import Workers

RUBRIC = "Prefer what is true to what is long, and what is long to what is nothing. "
ROWS = [  # a third of them begin alike
    {
        "prompt": f"{'' if i % 3 else RUBRIC}Say {i}",
        "chosen": "it is " * (i % 5 + 1),
        "rejected": f"no {i}",
        "id": f"r{i}",
        "subset": "hep-go",
    }
    for i in range(WINDOW + 30)
]


score, evaluate = program("score"), program("eval")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "pair" / "export"
    backbone = Backbone("bundled:tiny-llama").eval()
    save(folder, backbone, PairHead(backbone.hidden_size), 1.0, EncodeConfig(), load_tokenizer("bundled:tiny-llama"), {})
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as many as this process: kernels of another number of threads round otherwise


def test_score_writes_the_same_file(model: str, data: str, tmp_path: Path) -> None:
    """Also where one process was cut off and several go on."""
    with open(data, "a") as more:
        more.write(json.dumps({"prompt": "hi", "chosen": "a", "rejected": "b", "id": "last"}) + "\n")
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    score(["--model", model, "--data", data, "--out", str(one)])
    assert [json.loads(line)["row"] for line in one.read_text().splitlines()] == list(range(len(ROWS) + 1))
    (tmp_path / "two.jsonl.about.json").write_text((tmp_path / "one.jsonl.about.json").read_text())
    two.write_bytes(one.read_bytes()[: one.read_bytes().index(b'"row": 140') + 3])
    score(["--model", model, "--data", data, "--out", str(two), "--workers", "2"])
    assert two.read_bytes() == one.read_bytes()


def test_score_resumes_windows_of_each_kind(model: str, tmp_path: Path) -> None:
    """Neighbours of one kind are read in windows of their own, which a run that was cut off goes on with."""
    ranked = [{"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"], "so"], "scores": [3, 2, 1]} for row in ROWS]
    data, one, two = (tmp_path / name for name in ("data", "one.jsonl", "two.jsonl"))
    data.mkdir()
    for name, rows in (("a", ROWS[:20]), ("b", ranked)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(["--model", model, "--data", str(data), "--out", str(one)])
    lines = one.read_bytes().splitlines(keepends=True)
    (tmp_path / "two.jsonl.about.json").write_text((tmp_path / "one.jsonl.about.json").read_text())
    for kept, resumed in ((10, 0), (20, 20), (30, 20), (150, 148), (177, 148)):
        two.write_bytes(b"".join(lines[:kept]))
        score(["--model", model, "--data", str(data), "--out", str(two)])
        assert two.read_bytes() == one.read_bytes()
        rest = _rest(iter(read(Source(str(data)))), kept)
        assert rest is not None and (rest[0], len(list(rest[1]))) == (resumed, len(lines) - resumed)


def test_what_is_finished_is_left_alone(model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    score(["--model", model, "--data", data, "--out", str(out)])
    before = out.stat().st_mtime_ns
    score(["--model", model, "--data", data, "--out", str(out), "--workers", "2"])
    assert "all 158 rows are there already" in capsys.readouterr().out and out.stat().st_mtime_ns == before


def test_eval_writes_the_same_results(model: str, data: str, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        options = ["--out", str(out), "--also-swap", "--bootstrap", "50", "--workers", workers]
        assert evaluate(["rewardbench", "--model", model, "--data", data, *options]) == 0
        found.append(json.loads((out / "results.json").read_text()))
    assert (tmp_path / "1" / "scores.jsonl").read_bytes() == (tmp_path / "2" / "scores.jsonl").read_bytes()
    assert found[0] == found[1] and found[0]["swap"]["orders"] == "single" and found[0]["model"]["encoded"]["records"] == len(ROWS)


def test_errors_cross_the_border(model: str, data: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        Workers(model + "-not", Scoring())
    pool = Workers(model, Scoring())
    answers = pool.compare(r for r in read(data))  # type: ignore[misc]
    next(answers)
    for process in pool._pool._processes.values():
        process.kill()
    with pytest.raises(PrefrepError, match="has died"):
        list(answers)
    with pytest.raises(PrefrepError, match="has died"):  # said also when one asks again
        list(pool.compare(r for r in read(data)))  # type: ignore[misc]


@pytest.mark.parametrize("workers", ["0", "two"])
def test_numbers_of_workers(workers: str, model: str, data: str) -> None:
    with pytest.raises(UsageError, match="--workers"):
        score(["--model", model, "--data", data, "--out", "never", "--workers", workers])
