"""A worker of a sweep: takes points until none is left, trains and scores them and records the results, concurrently with other workers."""

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
# Resolved now: between fork and exec a child must not wait for a lock that another thread held.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
POLL = 0.5  # seconds between checks of a training process, or of a queue that others can refill


class Scored(NamedTuple):
    """A scored validation set.

    Args:
        rows: The scores in the point's folder.
        data: Digest of the comparisons: models are only compared on the same ones.
    """

    rows: Sequence[Row]
    data: str


class Engine(Protocol):
    """Trains and scores points."""

    name: str

    def run(self, point: Point, folder: Path, lock: IO[bytes]) -> Scored:
        """Train and score a point, resuming an interrupted attempt.

        Args:
            point: The point.
            folder: Its folder; the exported model and the scores go there.
            lock: Held while the point is being worked on; processes that write into the folder inherit it.
        """


def work(
    study: Study,
    points: Mapping[str, tuple[Point, Engine]],
    keep_models: bool,
    on_change: Callable[[Progress], object],
) -> None:
    """Work until every point is complete or failed, including those whose workers are killed.

    Args:
        study: The queue, with all points in it.
        points: Each with its engine, by name.
        keep_models: Keep checkpoints and exported models of finished points.
        on_change: Called after every change, in this process or another one.
    """
    for name in points:  # reports count points without results as not finished
        points_folder(study.folder, name).mkdir(parents=True, exist_ok=True)
    while True:
        claim = study.claim()
        if claim is None:
            progress = study.progress()
            on_change(progress)
            if not (progress.running or progress.waiting):  # a point may have returned to the queue
                break
            time.sleep(POLL)
            continue
        point, engine = points[claim.point]
        try:
            on_change(study.progress())
            reason = _attempt(point, engine, points_folder(study.folder, claim.point), claim, keep_models)
        except BaseException:  # the worker was stopped or cannot continue; the point has not failed
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
        if not read_about(folder):  # all their workers were killed
            _note(folder, point, engine.name, {"state": "failed", "reason": reason})


def _attempt(point: Point, engine: Engine, folder: Path, claim: Claim, keep_models: bool) -> str | None:
    """Train and score a point unless it is finished; return why it failed, or None."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not is_done(folder):  # killed after the last file and before it was recorded
            begin = time.monotonic()
            rows, data = engine.run(point, folder, claim.lock)
            verdicts = [won for row in rows if (won := is_right(row.score, row.probability)) is not None]
            if not verdicts:
                raise PrefrepError("the validation set holds only ties, so no verdict can be correct")
            done = {"accuracy": sum(verdicts) / len(verdicts), "n": len(verdicts), "seconds": time.monotonic() - begin}
            _note(folder, point, engine.name, {"state": "complete", **done, "data": data, "recipe": claim.recipe})
        if not keep_models:
            for name in ("checkpoints", "checkpoints-aside", "export"):
                shutil.rmtree(folder / name, ignore_errors=True)
    except Stopped:  # a signal received while it trained in this process: the point has not failed
        raise
    except (Exception, SystemExit) as error:  # an error of one point must not stop the others
        reason = str(error) if isinstance(error, PrefrepError) else f"{type(error).__name__}: {error}"
        _note(folder, point, engine.name, {"state": "failed", "reason": reason})
        return reason
    return None


def _note(folder: Path, point: Point, engine: str, found: Mapping[str, Any]) -> None:
    """Write the values and the outcome of a point; this last file marks it as finished."""
    about = {"name": point.name, "model": point.model, "seed": point.seed, "base": str(point.base), "values": dict(point.values),
             "settings": dict(point.settings), "engine": engine}  # fmt: skip
    replace_text(folder / ABOUT, json.dumps(about | dict(found), indent=2) + "\n")


class Fit:
    """Runs a point as `prefrep fit` in a separate process and scores its exported folder.

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
            # scores without a model belong to a discarded attempt
            (folder / SCORES).unlink(missing_ok=True)
            code = self._fit(point, folder, lock)
            if code < 0:  # the last lines of its log are unrelated
                memory = " (out of memory?)" if -code == signal.SIGKILL else ""
                goes_on = "resumes from its checkpoint" if (folder / "checkpoints" / "last.ckpt").exists() else "starts again"
                raise PrefrepError(f"prefrep fit was killed by signal {-code}{memory}; --retry {goes_on}")
            if code:
                raise PrefrepError(f"prefrep fit ended with code {code}: {_last_words(folder / 'fit.log')}")
            if not (export / "prefrep.json").exists():
                raise PrefrepError(f"{folder}: training left no export/; the base configuration needs the callback Export")
        return self._score(point, export, folder)

    def _fit(self, point: Point, folder: Path, lock: IO[bytes]) -> int:
        """Train from a checkpoint if there is one, and from the beginning if that fails; return the exit code."""
        checkpoints, aside = folder / "checkpoints", folder / "checkpoints-aside"
        arguments, log, last = point.arguments(folder), folder / "fit.log", checkpoints / "last.ckpt"
        if not last.exists():
            return fit(arguments, log, lock)
        code = fit([*arguments, "--ckpt_path", str(last)], log, lock)
        if not 0 < code < 128:  # finished, or ended by a signal, also as shells report it
            return code
        # A checkpoint that was truncated by a crash of the machine must not fail the point; an intact one must survive a full disk.
        shutil.rmtree(aside, ignore_errors=True)
        checkpoints.rename(aside)
        if again := fit(arguments, log, lock):
            shutil.rmtree(checkpoints, ignore_errors=True)
            aside.rename(checkpoints)
            return again
        shutil.rmtree(aside)
        return 0


def fit(arguments: Sequence[str], log: Path, lock: IO[bytes]) -> int:
    """Run `prefrep fit` to its end with its output in a file.

    Args:
        arguments: Command line.
        log: File to which the output is appended.
        lock: Inherited by the training, so that it stays locked while that runs, even if this process is killed.

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
    """Start a child process that is killed with this process (Linux only; elsewhere it runs to its end and keeps its inherited lock).

    It has its own session, so Ctrl-C in a terminal reaches this process alone, whose SIGTERM is the first signal that the child receives.
    """
    parent = os.getpid()

    def together() -> None:
        assert _PRCTL is not None
        _PRCTL(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # this process was killed before the call
            os._exit(1)

    return subprocess.Popen(command, preexec_fn=together if sys.platform == "linux" else None, start_new_session=True, **options)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("prefrep: ") for line in lines if line.startswith("prefrep: ")]
    return (said or lines or ["no output"])[-1][:500]
