"""Runs as people start them, killed or told to stop: the output is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.reliability import Case, Trials, differences, run  # noqa: E402


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return Trials(tmp_path_factory.mktemp("trials"))


@pytest.mark.parametrize(
    ("case", "number"),
    [
        (Case("lora", 4, "time"), signal.SIGKILL),
        (Case("frozen", 2, "steps", halves=True), signal.SIGTERM),
        (Case("GPOObjective", 1, "steps"), signal.SIGKILL),
        (Case("IPOObjective", 2, "time"), signal.SIGTERM),
    ],
    ids=lambda each: getattr(each, "kind", getattr(each, "name", "")),
)
def test_a_run_interrupted_twice_ends_as_if_nothing_had_happened(case: Case, number: signal.Signals, trials: Trials) -> None:
    _, size = trials.reference(case)
    points = np.random.default_rng([number, case.accumulate]).integers(
        size // 8, size // 2, 2
    )  # behind the last step a signal finds nothing to stop
    interrupted, found = trials.trial(f"{case.kind}-{number.name}", case, [int(point) for point in points], number)
    assert interrupted and not found


def test_more_rounds_go_on_from_where_a_run_ended(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds, killed once, then three: the files of a run of three."""
    case = Case("GPOObjective")
    whole, size = trials.reference(case)
    configuration = Case.configuration

    def shorter(self: Case) -> dict[str, object]:
        found = configuration(self)
        found["trainer"]["max_epochs"] = 2
        return found

    folder = trials.root / "longer"
    with monkeypatch.context() as patch:
        patch.setattr(Case, "configuration", shorter)
        assert run(case, trials.root, folder, size // 3) == -signal.SIGKILL
        assert run(case, trials.root, folder) == 0
    assert run(case, trials.root, folder) == 0
    assert not differences(whole, folder)


def test_the_comparison_sees_what_differs(trials: Trials) -> None:
    whole, _ = trials.reference(Case("frozen", 2))
    other, _ = trials.reference(Case("frozen", 1))
    assert {"export/head.safetensors", "metrics.jsonl", "last.ckpt: state_dict"} <= set(differences(whole, other))


# ---- processes of their own


def command(trials: Trials, folder: Path, *more: str, epochs: int = 2000) -> list[str]:
    configuration = Case("lora", 2).configuration()
    configuration["trainer"]["max_epochs"] = epochs
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(configuration))
    paths = ["--config", str(file), "--data.train", str(trials.root / "train.jsonl"), "--data.val", str(trials.root / "val.jsonl")]
    return [sys.executable, "-m", "prefrep.cli.main", "fit", *paths, "--trainer.default_root_dir", str(folder), *more]


def started(command: list[str], folder: Path, steps: int = 3) -> subprocess.Popen[str]:
    """A run that has taken some steps."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=folder.parent)
    metrics, end = folder / "metrics.jsonl", time.monotonic() + 400
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.05)
    return process


def test_one_run_writes_into_a_folder(trials: Trials, tmp_path: Path) -> None:
    first = started(command(trials, tmp_path / "run"), tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    second = subprocess.run(first.args, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert second.returncode == 1
    last = second.stderr.strip().splitlines()[-1]
    assert re.match(
        rf"prefrep: {tmp_path}/run: process {first.pid} on \S+ \(since .*: main.py fit .*\) is writing there; wait for it, stop", last
    )
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    step = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert first.returncode == 143 and last.startswith(f"prefrep: stopped by SIGTERM at step {step}; to go on, run the same command")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_second_signal_stops_at_once(trials: Trials, tmp_path: Path) -> None:
    """The first one waits for a step that takes ten minutes."""
    (tmp_path / "slow.py").write_text(
        "import time\nimport lightning.pytorch as pl\n\n\nclass Slow(pl.Callback):\n"
        "    def on_train_batch_start(self, trainer, *args):\n"
        "        time.sleep(600 * (trainer.global_step >= 3))\n"
    )
    process = started(command(trials, tmp_path / "run", "--trainer.callbacks+=slow.Slow"), tmp_path / "run")
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


def test_two_processes_stop_at_the_same_step_and_go_on(trials: Trials, tmp_path: Path) -> None:
    """DDP over gloo, started by Lightning; the signal reaches the first process alone."""
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "4"]
    ends = []
    for name in ("whole", "run"):
        folder = tmp_path / name
        if name == "run":
            process = started(command(trials, folder, *two), folder)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 143 and errors.count("prefrep: stopped by SIGTERM at step") == 1, errors[-3000:]
        process = started(command(trials, folder, *two, "--ckpt_path", "last"), folder)
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors[-3000:]
        ends.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
