"""When checkpoints are written, that they replace each other whole, and how signals end a run."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from fsspec.implementations.local import LocalFileOpener
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment

from prefrep.callbacks import Checkpoints, MetricsFile
from prefrep.data.preference import PreferenceData
from prefrep.disk import replace_path
from prefrep.errors import ConfigError, PrefrepError, Stopped
from prefrep.modules import GeneralPreference, Schedule
from prefrep.nn.backbone import Backbone
from prefrep.training.provenance import Provenance


class At(Callback):
    """Calls a function in a hook, at its n-th call."""

    def __init__(self, hook: str, call: int, action: Callable[[], object]) -> None:
        self.calls = 0

        def act(*args: Any, **options: Any) -> None:
            self.calls += 1
            if self.calls == call:
                action()

        setattr(self, hook, act)


def interrupt(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


class Saved(Checkpoints):
    """Notes after how many batches of which epoch it saves which step."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(str(folder), **options)
        self.notes: list[tuple[int, int, str]] = []

    def _save_checkpoint(self, run: Trainer, filepath: str) -> None:
        super()._save_checkpoint(run, filepath)
        done = int(run.fit_loop.epoch_loop.batch_progress.total.processed)
        self.notes.append((done, run.global_step, Path(filepath).name))


def fit(folder: Path, *callbacks: Callback, resume: Path | None = None, **options: Any) -> LightningModule:
    """Seven batches an epoch, two epochs, four steps an epoch."""
    seed_everything(0, verbose=False)
    folder.mkdir(exist_ok=True)
    data = folder / "data.jsonl"
    rows = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks"} for i in range(14)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    module = GeneralPreference(
        partial(Backbone, "bundled:tiny-llama"), optimizer=partial(torch.optim.AdamW, lr=3e-3), schedule=Schedule("linear", 0.1)
    )
    length = {"max_epochs": 2, "accumulate_grad_batches": 2, **options}
    trainer = Trainer(
        accelerator="cpu", log_every_n_steps=1, default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[MetricsFile(), *callbacks], **length,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )  # fmt: skip
    trainer.fit(module, PreferenceData(str(data), val=str(data), batch_size=2), ckpt_path=resume and str(resume))
    return module


def same(one: LightningModule, two: LightningModule) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_saves_between_steps_and_after_what_follows_them(tmp_path: Path) -> None:
    """Steps end at batches 2, 4, 6, 7 of 7; validation and the end of the epoch come before the save of the last one."""
    saved = Saved(tmp_path / "kept", train_time_interval=timedelta(0))
    fit(tmp_path, saved)
    assert saved.notes == [(done, step, "last.ckpt") for step, done in enumerate((2, 4, 6, 7, 9, 11, 13, 14), start=1)]
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["last.ckpt"]
    loops = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    assert loops["epoch_progress"]["current"]["processed"] == 2


def test_intervals_in_steps_and_epochs(tmp_path: Path) -> None:
    saved = Saved(tmp_path / "kept", every_n_train_steps=3, every_n_epochs=2)
    fit(tmp_path, saved)
    assert [step for _, step, _ in saved.notes] == [3, 6, 8]


def test_the_end_is_saved_whatever_the_intervals_are(tmp_path: Path) -> None:
    saved = Saved(tmp_path / "kept")
    fit(tmp_path, saved)
    assert [step for _, step, _ in saved.notes] == [8]


def test_the_best_is_kept(tmp_path: Path) -> None:
    saved = Saved(tmp_path / "kept", monitor="val/loss")
    fit(tmp_path, saved)
    losses = {line["step"]: line["val/loss"] for line in metrics(tmp_path) if "val/loss" in line}
    best = min(losses, key=lambda step: losses[step])
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == [f"best-step{best}.ckpt", "last.ckpt"]
    assert saved.best_model_path.endswith(f"best-step{best}.ckpt") and float(saved.best_model_score or 0) == pytest.approx(losses[best])


def test_a_resumed_run_does_not_save_its_step_again(tmp_path: Path) -> None:
    fit(tmp_path, Saved(tmp_path / "kept", every_n_train_steps=3), max_steps=3, max_epochs=-1)
    again = Saved(tmp_path / "kept", every_n_train_steps=3)
    fit(tmp_path, again, resume=tmp_path / "kept" / "last.ckpt")
    assert [step for _, step, _ in again.notes] == [6, 8]


def test_a_failed_save_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefrep.callbacks.checkpoints.replace_path", Once(2, full, replace_path))
    with pytest.raises(OSError, match="No space"):
        fit(tmp_path, Saved(tmp_path / "kept", every_n_train_steps=1))
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["global_step"] == 1


class Once:
    """A function that is another one at its n-th call."""

    def __init__(self, call: int, other: Callable[..., Any], function: Callable[..., Any]) -> None:
        self.left, self.other, self.function = call, other, function

    def __call__(self, *args: Any) -> Any:
        self.left -= 1
        return (self.function if self.left else self.other)(*args)


# ---- resuming: what Lightning alone does not get right


MOMENTS = [("on_train_batch_end", call) for call in (1, 2, 7, 14)]
MOMENTS += [("on_train_epoch_start", 2), ("on_validation_batch_end", 3), ("on_validation_end", 2), ("on_train_epoch_end", 1)]
LENGTHS: list[dict[str, Any]] = [{}, {"max_steps": 10, "max_epochs": -1}, {"val_check_interval": 3, "accumulate_grad_batches": 3}]


@pytest.mark.parametrize("options", LENGTHS, ids=["epochs", "steps", "validation within epochs"])
@pytest.mark.parametrize(("hook", "call"), MOMENTS)
def test_a_checkpoint_of_any_moment_resumes_exactly(hook: str, call: int, options: dict[str, Any], tmp_path: Path) -> None:
    """Whoever saves it, also within a step; and one that the resumed run saves after its first batch does, too."""
    whole = fit(tmp_path / "whole", **options)
    run, place = tmp_path / "run", tmp_path / "run" / "moment.ckpt"

    class Save(At):
        """Saves at a moment of the run."""

        def __init__(self, hook: str, call: int, more: Callable[[], object] = lambda: None) -> None:
            super().__init__(hook, call, lambda: (self.trainer.save_checkpoint(place), more()))

        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.trainer = trainer

    def die() -> None:
        raise KeyError("dead")

    with pytest.raises(KeyError, match="dead"):
        fit(run, Save(hook, call, die), **options)
    resumed = fit(run, Save("on_train_batch_end", 1), resume=place, **options)
    assert same(whole, resumed)
    again = fit(run, resume=place, **options)
    assert same(whole, again)
    assert metrics(tmp_path / "whole") == metrics(run), "no validation is left out, or written twice"


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize(
    ("hook", "call", "step"),
    [("on_train_batch_start", 1, 1), ("on_train_batch_end", 3, 2), ("on_train_batch_start", 7, 4), ("on_validation_batch_end", 3, 4)],
)
def test_a_signal_ends_the_step_and_saves(hook: str, call: int, step: int, number: signal.Signals, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", Checkpoints(str(tmp_path / "whole" / "kept")))
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    kept = tmp_path / "run" / "kept"
    with pytest.raises(
        Stopped, match=f"stopped by {number.name} at step {step}; to go on, run the same command with --ckpt_path last"
    ) as stop:
        fit(tmp_path / "run", At(hook, call, interrupt(number)), Checkpoints(str(kept)))
    assert stop.value.code == 128 + number
    assert torch.load(kept / "last.ckpt", weights_only=True)["global_step"] == step
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    resumed = fit(tmp_path / "run", Checkpoints(str(kept)), resume=kept / "last.ckpt")
    assert same(whole, resumed) and metrics(tmp_path / "whole") == metrics(tmp_path / "run")


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    stop = At("on_train_batch_start", 4, interrupt(signal.SIGTERM))
    fit(tmp_path, stop, Checkpoints(str(tmp_path)), max_steps=2, max_epochs=-1)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_slurm_requeues_at_the_end_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning saves a checkpoint of its own and calls `scontrol`, which is stood in for; alone it would do so within the step."""
    whole = fit(tmp_path / "whole")
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "fit", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    kept, plugins = tmp_path / "run" / "kept", {"plugins": [SLURMEnvironment()]}
    with pytest.raises(Stopped) as stop:
        fit(tmp_path / "run", At("on_train_batch_start", 3, interrupt(signal.SIGUSR1)), Checkpoints(str(kept)), **plugins)
    assert stop.value.code == 128 + signal.SIGUSR1 and (tmp_path / "calls").read_text() == "requeue 7\n"
    assert torch.load(tmp_path / "run" / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"] == 2
    assert same(whole, fit(tmp_path / "run", Checkpoints(str(kept)), **plugins))


# ---- the warning


@pytest.mark.parametrize(("accumulate", "kind", "warned"), [(2, ModelCheckpoint, 1), (1, ModelCheckpoint, 0), (2, Checkpoints, 0)])
def test_a_plain_model_checkpoint_that_may_save_within_a_step_is_named(
    accumulate: int, kind: type[ModelCheckpoint], warned: int, tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(tmp_path, kind(str(tmp_path)), accumulate_grad_batches=accumulate, max_epochs=1)
    words = [str(each.message) for each in found if "within an optimizer step" in str(each.message)]
    assert len(words) == warned and all("prefrep.callbacks.Checkpoints" in each for each in words)


def test_intervals_are_checked() -> None:
    with pytest.raises(ConfigError, match="must be 1 or more, got 0"):
        Checkpoints(every_n_train_steps=0)


# ---- faults between any two calls of a save that touch files

TOUCHES: list[tuple[Any, str]] = [
    (os, "replace"), (os, "rename"), (os, "fsync"), (os, "remove"), (shutil, "move"), (LocalFileOpener, "write"), (Path, "write_text"),
    (Path, "unlink"),
]  # fmt: skip


class Faulty(Checkpoints):
    """Acts at the n-th of the calls that touch files while it saves its second checkpoint; 0: counts them."""

    def __init__(self, folder: Path, call: int, action: Callable[[], object]) -> None:
        super().__init__(str(folder), every_n_train_steps=1)
        self.calls, self._call, self._action = 0, call, action

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != 2:
            return super()._save(trainer)

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def touch(*args: Any, **options: Any) -> Any:
                self.calls += 1
                if self.calls == self._call:
                    self._action()
                return function(*args, **options)

            return touch

        with pytest.MonkeyPatch.context() as patch:
            for owner, name in TOUCHES:
                patch.setattr(owner, name, watched(getattr(owner, name)))
            super()._save(trainer)


def test_whatever_ends_a_save_the_last_good_checkpoint_is_found(tmp_path: Path) -> None:
    """A kill, a full disk or a closed folder before each of the calls: what a resumed run ends with is the same."""
    length: dict[str, Any] = {"max_steps": 3, "max_epochs": -1}

    def settled() -> Provenance:
        return Provenance({"a": 1})

    count = Faulty(tmp_path / "whole" / "kept", 0, lambda: None)
    whole = fit(tmp_path / "whole", count, settled(), **length)
    assert count.calls >= 4, "writing, moving, syncing and replacing"

    def fail(number: int) -> Callable[[], NoReturn]:
        def action() -> NoReturn:
            raise OSError(number, os.strerror(number), "draft")

        return action

    for call in range(1, count.calls + 1):
        for number in (0, errno.ENOSPC, errno.EACCES):
            run = tmp_path / f"{call}-{number}"
            if number:
                try:  # a move that may not rename copies
                    fit(run, Faulty(run / "kept", call, fail(number)), settled(), **length)
                except OSError as error:
                    assert ("delete files there" if number == errno.ENOSPC else "cannot be written to") in str(error)
            else:
                killed = Faulty(run / "kept", call, interrupt(signal.SIGKILL))
                process = multiprocessing.get_context("fork").Process(target=lambda: fit(run, killed, settled(), **length))  # noqa: B023
                process.start()
                process.join(60)
                assert process.exitcode == -signal.SIGKILL
            last = run / "kept" / "last.ckpt"
            assert torch.load(last, weights_only=True)["global_step"] in ((1, 2, 3) if number else (1, 2))
            assert same(whole, fit(run, Checkpoints(str(run / "kept")), settled(), resume=last, **length)), (call, number)
            assert [file.name for file in (run / "kept").iterdir() if file.suffix == ".ckpt"] == ["last.ckpt"]


# ---- full disks


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full from the second save on."""
    saves, save = 0, Trainer.save_checkpoint

    def full(self: Trainer, filepath: Any, *args: Any, **options: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 1:
            return save(self, filepath, *args, **options)
        Path(filepath).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"free, \d.* needed\); delete files there") as raised:
        fit(tmp_path, Checkpoints(str(tmp_path / "kept"), every_n_train_steps=1))
    last = Path(raised.value.filename)
    assert last.name == "last.ckpt" and not list(last.parent.glob("draft*"))
    assert torch.load(last, weights_only=True)["global_step"] == 1


def test_a_run_whose_checkpoints_have_no_room_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.room.free", lambda path: 100)
    with pytest.raises(PrefrepError, match=r"last.ckpt: a checkpoint needs .* and its disk has 100 bytes free; delete .* there"):
        fit(tmp_path, Checkpoints(str(tmp_path / "kept"), every_n_train_steps=1))
