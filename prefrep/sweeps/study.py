"""The queue of a sweep: an Optuna study that several processes share and that survives their being killed.

Optuna records which trials are waiting, running, complete and failed, but with a journal file not whether a running trial still has a
process. So a worker holds a file lock (`flock`) while it works on a point: the kernel releases it when the worker and the training that
inherits the lock have ended for any reason. A running trial whose lock is free was killed and returns to the queue.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from uuid import uuid4

from prefrep.disk import replace_text
from prefrep.errors import ConfigError, DataError, first_line
from prefrep.sweeps.table import is_done, points_folder

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "study.journal"
KILLED = 5  # times that the worker of a point may be killed: a point that always runs out of memory must end


@dataclass
class Claim:
    """A point that this process works on.

    Args:
        point: Name of the point.
        trial: Trial of the study.
        lock: The lock, held while the file is open; a training process inherits it.
    """

    point: str
    trial: Trial
    lock: IO[bytes]

    @property
    def recipe(self) -> str:
        """See `Study.enlist`; empty for a point of an older study."""
        return str(self.trial.user_attrs.get("recipe", ""))


@dataclass(frozen=True)
class Progress:
    """Numbers of points by state."""

    waiting: int
    running: int
    complete: int
    failed: int


class Study:
    """The queue of a sweep.

    Args:
        folder: The sweep's folder, shared by all workers.
        storage: URL of a database for Optuna; None: a journal in the folder.

    Raises:
        DataError: The storage cannot be opened.
        ConfigError: The driver of a database is not installed.
    """

    def __init__(self, folder: Path, storage: str | None = None) -> None:
        self.folder = folder
        self._ours: set[str] | None = None
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = re.sub(":[^:@/]+@", ":***@", storage) if storage else folder / JOURNAL  # without the password
        with self.alone():
            try:
                # Nothing is sampled: every trial is enqueued with its values.
                self._study: OptunaStudy = optuna.create_study(
                    storage=storage or _journal(folder / JOURNAL), study_name=self._name(), load_if_exists=True,
                    direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0),
                )  # fmt: skip
            except ImportError as error:
                raise ConfigError(
                    f"{place}: the driver of this database is not installed; pip install 'prefrep[postgresql]' for postgresql://, or leave "
                    "--storage out"
                ) from error
            except Exception as error:  # errors of databases have no common base class
                raise DataError(f"{place}: the study cannot be opened ({first_line(error)})") from error

    def _name(self) -> str:
        """The study's name, unique in a database that several sweeps use."""
        file = self.folder / "study.name"
        if not file.exists():
            replace_text(file, f"{self.folder.resolve().name}-{uuid4().hex[:8]}")
        return file.read_text()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the other workers wait."""
        with alone(self.folder, "study"):
            yield

    def enlist(self, points: Mapping[str, Mapping[str, Any]], retry: bool = False) -> None:
        """Enqueue points that are new, or whose results were removed.

        From now on this process ignores other points in the queue, which belong to earlier or other versions of the sweep file.

        Args:
            points: Plain data about each point by name. `settings`, a digest, must not change; nor may `recipe`, a digest of settings
                without the seed and of the training data, differ between the seeds of a `model`. Older studies have no recipes.
            retry: Also enqueue failed points.

        Raises:
            ConfigError: A point of this name, or another seed of its model, was started with other settings or training data.
            DataError: The file of a finished point is damaged.
        """
        with self.alone():
            self._ours = (self._ours or set()) | points.keys()
            latest = {
                _point(trial): trial for trial in self._study.get_trials(deepcopy=False)
            }  # also points that are no longer in the sweep file
            begun = {name: trial.user_attrs for name, trial in latest.items() if not self._left_nothing(trial)}
            recipes = {about["model"]: about["recipe"] for about in begun.values() if "recipe" in about}
            changed = "other settings or training data (its configuration, --set or a file has changed); name another --out"
            for name, about in points.items():  # check all before any is enqueued
                before = begun.get(name, about)
                if before["settings"] != about["settings"] or before.get("recipe", about.get("recipe")) != about.get("recipe"):
                    raise ConfigError(f"{self.folder}: '{name}' was started with {changed}")
                if "recipe" in about and recipes.setdefault(about["model"], about["recipe"]) != about["recipe"]:
                    raise ConfigError(f"{self.folder}: another seed of '{name}' was started with {changed}")
            for name, about in points.items():
                trial = latest.get(name)
                state = trial.state.name if trial else None
                removed = state == "COMPLETE" and not is_done(points_folder(self.folder, name))
                if trial is None or removed or (retry and state == "FAIL"):
                    kept = {key: begun[name][key] for key in about if key in begun[name]} if name in begun else about
                    self._enqueue({"point": name, **kept, "killed": 0})

    def _left_nothing(self, trial: FrozenTrial) -> bool:
        """Return whether a point failed before training began, so that it may be repaired and run with other settings."""
        folder = points_folder(self.folder, _point(trial))
        learnt = any((folder / name).exists() for name in ("checkpoints", "export"))
        return trial.state.name == "FAIL" and "recipe" in trial.user_attrs and not learnt

    def claim(self) -> Claim | None:
        """Return the next point for this process; None: none is waiting."""
        with self.alone():
            self._revive()
            if not any(self._is_ours(trial) for trial in self._trials("WAITING")):
                return None
            while not self._is_ours(trial := self._study.ask()):  # takes the first waiting trial while other workers are locked out
                self._requeue(trial, {})
            name = _point(trial)
            lock = self._lock(name)
            assert lock is not None, f"{name} is waiting, but a worker holds its lock"
            return Claim(name, trial, lock)

    def complete(self, claim: Claim, accuracy: float) -> None:
        """Record that a point is complete."""
        with self.alone():
            self._study.tell(claim.trial, accuracy)
            claim.lock.close()

    def fail(self, claim: Claim, reason: str) -> None:
        """Record that a point failed."""
        with self.alone():
            claim.trial.set_user_attr("reason", reason)
            self._tell_failed(claim.trial.number)
            claim.lock.close()

    def give_back(self, claim: Claim) -> None:
        """Return to the queue the point at which this worker was stopped."""
        with self.alone():
            self._requeue(claim.trial, {})
            claim.lock.close()

    def progress(self) -> Progress:
        """Return the numbers of points by state."""
        states = [trial.state.name for trial in self._latest().values()]
        return Progress(*(states.count(state) for state in ("WAITING", "RUNNING", "COMPLETE", "FAIL")))

    def _revive(self) -> None:
        """Return to the queue the points whose workers were killed."""
        latest = {_point(trial): trial.number for trial in self._study.get_trials(deepcopy=False)}
        for trial in self._trials("RUNNING"):
            lock = self._lock(_point(trial))
            if lock is None:
                continue
            lock.close()
            killed = int(trial.user_attrs["killed"]) + 1
            if killed < KILLED and latest[_point(trial)] == trial.number:
                self._requeue(trial, {"killed": killed})
            else:
                self._tell_failed(trial.number)

    def _requeue(self, trial: Trial | FrozenTrial, changed: Mapping[str, Any]) -> None:
        """Move the point of a running trial to the end of the queue."""
        # Enqueue before ending the trial: a process killed in between leaves a point twice, which `_revive` detects, and loses none.
        self._enqueue({**trial.user_attrs, **changed})
        self._tell_failed(trial.number)

    def _tell_failed(self, number: int) -> None:
        import optuna

        self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    def reasons(self) -> dict[str, str]:
        """Return why points failed, by name."""
        failed = {name: trial.user_attrs for name, trial in self._latest().items() if trial.state.name == "FAIL"}
        return {
            name: str(said.get("reason") or f"{said['killed'] + 1} workers were killed while they ran it") for name, said in failed.items()
        }

    def _enqueue(self, about: dict[str, Any]) -> None:
        self._study.enqueue_trial({}, user_attrs=about)

    def _trials(self, state: str) -> Sequence[Any]:
        import optuna

        return self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState[state],))

    def _latest(self) -> dict[str, Any]:
        """Return the last trial of each point; earlier ones were killed or retried."""
        return {_point(trial): trial for trial in self._study.get_trials(deepcopy=False) if self._is_ours(trial)}

    def _is_ours(self, trial: Trial | FrozenTrial) -> bool:
        return self._ours is None or _point(trial) in self._ours

    def _lock(self, name: str) -> IO[bytes] | None:
        """Return the lock of a point; None: another process holds it."""
        lock = (self.folder / "locks" / f"point {name}").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock


def _point(trial: Trial | FrozenTrial) -> str:
    """Return the point of a trial."""
    return str(trial.user_attrs["point"])


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Hold a lock of the sweep's folder, so that workers do one thing at a time."""
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    with (folder / "locks" / what).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _JournalLock:
    """The lock of the journal: the kernel releases it when its holder is killed, while Optuna's own lock files block for half a minute.

    An incomplete last line of a killed writer is removed: the next line would be appended to it and make the journal unreadable.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = self._journal.with_name(self._journal.name + ".lock").open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        with self._journal.open("rb+") as journal:
            size = journal.seek(0, os.SEEK_END)
            journal.seek(max(size - 1, 0))
            if size and journal.read(1) != b"\n":
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release the lock."""
        assert self._file is not None
        self._file.close()


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path), lock_obj=cast(Any, _JournalLock(path))))
