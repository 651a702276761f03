"""One worker of a sweep: takes points until none is left, trains, scores, notes. Other workers may do the same beside it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from prefrep.disk import replace_text
from prefrep.errors import PrefrepError, Stopped
from prefrep.metrics.verdicts import is_right
from prefrep.parts import imported
from prefrep.sweeps.spec import Point
from prefrep.sweeps.study import Claim, Progress, Study
from prefrep.sweeps.table import ABOUT, SCORES, Row, is_done, points_folder, read_about

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
# Found now: between fork and exec a child can take no lock that another thread may have held.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
POLL = 0.5  # seconds between two looks at a training, or at a queue that others may refill


class Scored(NamedTuple):
    """A validation set, judged.

    Args:
        rows: The scores, as they are in the point's folder.
        data: Digest of the comparisons: models are compared on the same ones only.
    """

    rows: Sequence[Row]
    data: str


class Engine(Protocol):
    """How a point comes about."""

    name: str

    def run(self, point: Point, folder: Path, lock: IO[bytes]) -> Scored:
        """Trains and scores a point, going on with what an interrupted attempt left.

        Args:
            point: The point.
            folder: Its folder; the exported model and the scores go there.
            lock: Held as long as somebody works on the point; processes that write into the folder inherit it.
        """


def work(
    study: Study,
    points: Mapping[str, tuple[Point, Engine]],
    keep_models: bool,
    on_change: Callable[[Progress], object],
) -> None:
    """Works until every point is done or failed, also those that other workers die on.

    Args:
        study: The queue, with all points in it.
        points: Each with its engine, by name.
        keep_models: Keep checkpoints and exported models of what is done.
        on_change: Called whenever something has happened, here or elsewhere.
    """
    for name in points:  # a report counts those without results as not finished
        points_folder(study.folder, name).mkdir(parents=True, exist_ok=True)
    while True:
        claim = study.claim()
        if claim is None:
            progress = study.progress()
            on_change(progress)
            if not (progress.running or progress.waiting):  # one may wait again, given back since
                break
            time.sleep(POLL)
            continue
        point, engine = points[claim.point]
        try:
            on_change(study.progress())
            reason = _attempt(point, engine, points_folder(study.folder, claim.point), claim, keep_models)
        except BaseException:  # the worker was stopped, or cannot go on: the point is not to blame
            study.give_back(claim)
            raise
        if reason is None:
            study.complete(claim, float(read_about(points_folder(study.folder, claim.point))["accuracy"]))
        else:
            study.fail(claim, reason)
        on_change(study.progress())
    for name, reason in study.reasons().items():
        point, engine = points[name]
        folder = points_folder(study.folder, name)
        if not read_about(folder):  # no worker lived long enough to say so
            _note(folder, point, engine.name, {"state": "failed", "reason": reason})


def _attempt(point: Point, engine: Engine, folder: Path, claim: Claim, keep_models: bool) -> str | None:
    """Trains and scores a point, unless it is finished; returns why it cannot be done, None where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not is_done(folder):  # killed between the last file and the note of it
            begin = time.monotonic()
            rows, data = engine.run(point, folder, claim.lock)
            verdicts = [won for row in rows if (won := is_right(row.score, row.probability)) is not None]
            if not verdicts:
                raise PrefrepError("the validation set holds ties only, so nothing can be right")
            done = {"accuracy": sum(verdicts) / len(verdicts), "n": len(verdicts), "seconds": time.monotonic() - begin}
            _note(folder, point, engine.name, {"state": "complete", **done, "data": data, "recipe": claim.recipe})
        if not keep_models:
            for name in ("checkpoints", "checkpoints-aside", "export"):
                shutil.rmtree(folder / name, ignore_errors=True)
    except Stopped:  # a signal that came while it trained in this process: the point has not failed
        raise
    except (Exception, SystemExit) as error:  # whatever one point dies of, the others go on
        reason = str(error) if isinstance(error, PrefrepError) else f"{type(error).__name__}: {error}"
        _note(folder, point, engine.name, {"state": "failed", "reason": reason})
        return reason
    return None


def _note(folder: Path, point: Point, engine: str, found: Mapping[str, Any]) -> None:
    """Writes what the point is and what came of it, last of all files: with it, a point is finished."""
    about = {"name": point.name, "model": point.model, "seed": point.seed, "base": str(point.base), "values": dict(point.values),
             "settings": dict(point.settings), "engine": engine}  # fmt: skip
    replace_text(folder / ABOUT, json.dumps(about | dict(found), indent=2) + "\n")


class Fit:
    """A point as a run of `prefrep fit` in a process of its own, scored from the folder that it exports.

    Args:
        score: Scores an exported model (first) on the point's validation set into the point's folder (second).
    """

    name = "fit"

    def __init__(self, score: Callable[[Point, Path, Path], Scored]) -> None:
        self._score = score

    def run(self, point: Point, folder: Path, lock: IO[bytes]) -> Scored:
        """See `Engine`."""
        export = folder / "export"
        if not (export / "prefrep.json").exists():
            # Scores without a model are of an attempt that was thrown away.
            (folder / SCORES).unlink(missing_ok=True)
            code = self._fit(point, folder, lock)
            if code < 0:  # its last words have nothing to do with it
                memory = " (out of memory?)" if -code == signal.SIGKILL else ""
                goes_on = "goes on from its checkpoint" if (folder / "checkpoints" / "last.ckpt").exists() else "begins again"
                raise PrefrepError(f"prefrep fit was killed by signal {-code}{memory}; --retry {goes_on}")
            if code:
                raise PrefrepError(f"prefrep fit ended with code {code}: {_last_words(folder / 'fit.log')}")
            if not (export / "prefrep.json").exists():
                raise PrefrepError(f"{folder}: training left no export/; the base configuration needs the callback Export")
        return self._score(point, export, folder)

    def _fit(self, point: Point, folder: Path, lock: IO[bytes]) -> int:
        """Trains, from a checkpoint where there is one, and once more from the beginning where that does not work; the exit code."""
        checkpoints, aside = folder / "checkpoints", folder / "checkpoints-aside"
        arguments, log, last = point.arguments(folder), folder / "fit.log", checkpoints / "last.ckpt"
        if not last.exists():
            return fit(arguments, log, lock)
        code = fit([*arguments, "--ckpt_path", str(last)], log, lock)
        if not 0 < code < 128:  # done, or ended by a signal, also as shells tell it
            return code
        # A checkpoint that was cut off when the machine went down must not end the point. One that is whole must outlive a full disk.
        shutil.rmtree(aside, ignore_errors=True)
        checkpoints.rename(aside)
        if again := fit(arguments, log, lock):
            shutil.rmtree(checkpoints, ignore_errors=True)
            aside.rename(checkpoints)
            return again
        shutil.rmtree(aside)
        return 0


def fit(arguments: Sequence[str], log: Path, lock: IO[bytes]) -> int:
    """Runs `prefrep fit` to its end; its output goes to a file.

    Args:
        arguments: Of the command line.
        log: The file; older output in it is kept.
        lock: Inherited: it stays locked while the training runs, even when this process is killed.

    Returns:
        The exit code.
    """
    command = [sys.executable, "-m", "prefrep", "fit", *arguments, "--trainer.enable_progress_bar", "false"]
    command += [f"--import={name}" for name in imported()]
    with log.open("ab") as out:
        child = start(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=[lock.fileno()])
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """A child that is killed when this process is. Linux only; elsewhere it works to its end, and keeps the lock that it inherited.

    It has a session of its own: Ctrl-C in a terminal reaches this process alone, whose SIGTERM is then the first signal that it gets.
    """
    parent = os.getpid()

    def together() -> None:
        assert _PRCTL is not None
        _PRCTL(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before we could ask
            os._exit(1)

    return subprocess.Popen(command, preexec_fn=together if sys.platform == "linux" else None, start_new_session=True, **options)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("prefrep: ") for line in lines if line.startswith("prefrep: ")]
    return (said or lines or ["it said nothing"])[-1][:500]
