"""Programs other than fit, told to stop or killed: the same command goes on and ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import prefrep.programs.eval  # noqa: F401  forked processes share what is imported
from prefrep.cli import friendly
from prefrep.cli.main import main
from prefrep.data.encode import EncodeConfig
from prefrep.generation import TransformersSampler
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.nn.loading import load_tokenizer
from prefrep.scoring import Scorer
from prefrep.scoring.interface import WINDOW

ROWS = 2 * WINDOW + 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, 316 pairs, and two answer files to the same prompts."""
    folder = tmp_path_factory.mktemp("stopping")
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    save(folder / "export", backbone, GPMHead(backbone.hidden_size, dim=4), 0.1, EncodeConfig(), tokenizer, {})
    rows = [{"id": f"r{i}", "prompt": f"Q{i}?", "chosen": "word " * (i % 5 + 1), "rejected": f"No {i}."} for i in range(ROWS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ranked = [{"id": f"r{i}", "prompt": f"Q{i}?", "responses": ["word " * (i % 5 + 1), f"No {i}.", "Yes."]} for i in range(ROWS)]
    (folder / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ranked))
    (folder / "benchmarks").mkdir()
    for file in (folder / "subsets.jsonl", folder / "benchmarks" / "rewardbench.jsonl"):
        file.write_text("".join(json.dumps(row | {"subset": ("hep-go", "llmbar-natural")[i % 2]}) + "\n" for i, row in enumerate(rows)))
    (folder / "few.json").write_text(json.dumps([{"instruction": row["prompt"]} for row in rows[:19]]))
    for side, field in (("a", "chosen"), ("b", "rejected")):
        answers = [{"instruction": row["prompt"], "output": row[field], "generator": side} for row in rows]
        (folder / f"{side}.json").write_text(json.dumps(answers))
    return folder


def arguments(root: Path, name: str, out: Path) -> list[str]:
    model = ["--model", str(root / "export")]
    return {
        "score": ["score", *model, "--data", str(root / "pairs.jsonl"), "--out", str(out / "scores.jsonl")],
        "pairs": ["eval", "pairs", *model, "--data", str(root / "pairs.jsonl"), "--out", str(out), "--bootstrap", "50"],
        "intransitivity": ["eval", "intransitivity", *model, "--data", str(root / "ranked.jsonl"), "--out", str(out), "--bootstrap", "20",
                           "--null", "2"],
        "winrate": ["eval", "winrate", "--model", str(root / "a.json"), "--against", str(root / "b.json"), "--judge",
                    str(root / "export"), "--out", str(out), "--bootstrap", "50"],
        "rewardbench": ["eval", "rewardbench", *model, "--data", str(root / "subsets.jsonl"), "--out", str(out), "--bootstrap", "50"],
        "all": ["eval", "all", *model, "--data", str(root / "benchmarks"), "--out", str(out), "--bootstrap", "50"],
        "generate": ["eval", "generate", "--model", "bundled:tiny-llama", "--benchmark", "alpaca_eval", "--data", str(root / "few.json"),
                     "--out", str(out), "--max-new-tokens", "4", "--batch-size", "4"],
    }[name]  # fmt: skip


def run(command: list[str], log: Path, number: int = 0) -> int:
    """Run the command in a process of its own, which gets a signal while it scores the second window, or answers the third batch."""

    def interrupted(ask: Any) -> Any:
        def asked(self: Scorer, *args: Any, **options: Any) -> Iterator[Any]:
            for row, answer in enumerate(ask(self, *args, **options)):
                if row == WINDOW + 7 and number:
                    os.kill(os.getpid(), number)
                yield answer

        return asked

    def answering(sample: Any) -> Any:
        calls = iter(range(100))

        def sampled(*args: Any, **options: Any) -> Any:
            if next(calls) == 2 and number:
                os.kill(os.getpid(), number)
            return sample(*args, **options)

        return sampled

    def child() -> None:
        sys.stderr = log.open("w", buffering=1)
        for name in ("compare", "tables"):
            setattr(Scorer, name, interrupted(getattr(Scorer, name)))
        TransformersSampler.sample = answering(TransformersSampler.sample)  # type: ignore[method-assign]
        friendly.run(lambda: main(command))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize(
    ("name", "number", "file", "kept"),
    [("score", signal.SIGTERM, "scores.jsonl", 2 * WINDOW), ("pairs", signal.SIGINT, "scores.jsonl", 2 * WINDOW),
     ("winrate", signal.SIGUSR1, "scores.jsonl", 2 * WINDOW), ("intransitivity", signal.SIGTERM, "tables.jsonl", 2 * WINDOW),
     ("rewardbench", signal.SIGTERM, "scores.jsonl", 2 * WINDOW), ("all", signal.SIGTERM, "rewardbench/scores.jsonl", 2 * WINDOW),
     ("generate", signal.SIGTERM, "answers.jsonl", 12), ("score", signal.SIGKILL, "scores.jsonl", 0)],
)  # fmt: skip
def test_stopped_behind_a_batch_and_resumed(name: str, number: signal.Signals, file: str, kept: int, root: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    assert run(arguments(root, name, tmp_path / "whole"), log) == 0, log.read_text()
    code = run(arguments(root, name, out), log, number)
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        said = log.read_text().splitlines()[-1]
        assert code == 128 + number and f"prefrep: stopped by {number.name}; {out}" in said and said.endswith("run the same command")
        assert len((out / file).read_text().splitlines()) == kept
        assert not list(out.glob(".*lock*"))
    assert run(arguments(root, name, out), log) == 0, log.read_text()
    assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_workers_stop_with_their_process(root: Path, tmp_path: Path) -> None:
    """The whole process group is terminated, as `timeout` and schedulers do."""
    rows = (root / "pairs.jsonl").read_text() * 40
    (tmp_path / "pairs.jsonl").write_text(rows)
    command = [*arguments(root, "score", tmp_path), "--data", str(tmp_path / "pairs.jsonl"), "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "prefrep", *command], stderr=subprocess.PIPE, text=True, start_new_session=True)
    out = tmp_path / "scores.jsonl"
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        pass
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and errors.count(f"prefrep: stopped by SIGTERM; {out} holds what is finished") == 1
    assert "Traceback" not in errors
