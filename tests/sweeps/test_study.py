"""The queue of a sweep: real processes, real kills. What trains here only waits, so that no model is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefrep.errors import ConfigError, DataError
from prefrep.sweeps.study import JOURNAL, KILLED, Study
from prefrep.sweeps.worker import work

NAMES = [f"p{i}" for i in range(6)]
# A worker whose points are lines in a log, one at the beginning and one at the end of each, and a moment between.
WORKER = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from prefrep.sweeps.spec import Point
from prefrep.sweeps.study import Study
from prefrep.sweeps.worker import Scored, work

out, wait, storage = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] or None

class Engine:
    name = "wait"
    def run(self, point, folder, lock):
        if point.model == "broken":
            raise RuntimeError("out of luck")
        with open(out / "log", "a") as log:
            log.write(f"begin {point.model} {os.getpid()}\\n")
        while (out / "hold").exists():
            time.sleep(0.05)
        time.sleep(wait)
        (folder / "scores.jsonl").write_text("scores")
        with open(out / "log", "a") as log:
            log.write(f"end {point.model}\\n")
        return Scored([SimpleNamespace(id="0", subset="", score=1.0, probability=1.0)], "digest")

names = sys.argv[4].split(",")
study = Study(out, storage)
study.enlist({f"{name}-seed=0": {"settings": "s"} for name in names})
points = {f"{name}-seed=0": (Point(name, 0, Path("base.yaml"), {}), Engine()) for name in names}
work(study, points, True, lambda progress: None)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a worker; what is left of them ends with the test."""
    children: list[subprocess.Popen[bytes]] = []

    def begin(wait: float, names: list[str] = NAMES, storage: str = "") -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(wait), storage, ",".join(names)]))
        return children[-1]

    yield begin
    for child in children:
        child.kill()
        child.wait()


def lines(out: Path, kind: str) -> list[str]:
    file = out / "log"
    return [line.split()[1] for line in file.read_text().splitlines() if line.startswith(kind)] if file.exists() else []


def until(condition: Callable[[], bool], minutes: int = 2) -> None:
    for _ in range(1200 * minutes):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited for {minutes} minutes")


def done(out: Path) -> dict[str, tuple[int, int, str]]:
    """Finished points with what tells whether their files were touched."""
    files = sorted(out.glob("points/*/point.json"))
    return {file.parent.name: (file.stat().st_mtime_ns, file.stat().st_ino, file.read_text()) for file in files}


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_all_workers_killed_and_started_again(
    kind: str, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]], request: pytest.FixtureRequest
) -> None:
    """No finished point is lost or repeated, what ran runs again, and two workers never take the same."""
    storage = {"journal": "", "sqlite": f"sqlite:///{tmp_path}/study.db"}.get(kind)
    storage = request.getfixturevalue(kind) if storage is None else storage
    workers = [start(0.4, storage=storage) for _ in range(2)]
    until(lambda: len(done(tmp_path)) >= 2 and len(lines(tmp_path, "begin")) > len(lines(tmp_path, "end")))
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    before, begun = done(tmp_path), lines(tmp_path, "begin")
    assert len(before) < len(NAMES), "killed in the middle"
    assert len(begun) == len(set(begun)), "two workers, no point twice"
    workers = [start(0.01, storage=storage) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    after = done(tmp_path)
    assert len(after) == len(NAMES) and all(after[name] == before[name] for name in before)
    again = lines(tmp_path, "begin")[len(begun) :]
    assert sorted(again) == sorted(set(NAMES) - {name.split("-")[0] for name in before})
    assert start(0.01, storage=storage).wait(60) == 0 and done(tmp_path) == after, "a third start has nothing to do"


@pytest.mark.slow  # ten processes start
def test_ten_workers_on_postgresql_of_which_some_are_killed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]], postgresql: str
) -> None:
    """Those that live finish everything; a point runs a second time if its worker was killed, and only then."""
    names = [f"p{i}" for i in range(14)]
    (tmp_path / "hold").touch()
    workers = {worker.pid: worker for worker in (start(0.1, names, postgresql) for _ in range(10))}
    until(lambda: len(lines(tmp_path, "begin")) == 10, 10)
    begun = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    for _, _, pid in begun[:4]:
        workers[int(pid)].kill()
        workers.pop(int(pid)).wait()
    (tmp_path / "hold").unlink()
    assert [worker.wait(600) for worker in workers.values()] == [0] * 6
    killed = [name for _, name, _ in begun[:4]]
    assert Counter(lines(tmp_path, "begin")) == Counter(names + killed) and sorted(lines(tmp_path, "end")) == sorted(names)
    progress = Study(tmp_path, postgresql).progress()
    assert (progress.complete, progress.waiting, progress.running, progress.failed) == (14, 0, 0, 0) and len(done(tmp_path)) == 14


def test_a_killed_workers_point_goes_to_one_that_lives(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    first = start(60, NAMES[:1])
    until(lambda: lines(tmp_path, "begin") == ["p0"])
    second = start(0.01, NAMES[:1])
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(3)  # it waits for the other one
    first.kill()
    assert second.wait(30) == 0 and lines(tmp_path, "begin") == ["p0", "p0"] and lines(tmp_path, "end") == ["p0"]


def test_a_point_that_fails_is_noted_and_the_others_go_on(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    assert start(0.01, ["broken", "p1"]).wait(60) == 0
    about = json.loads((tmp_path / "points" / "broken-seed=0" / "point.json").read_text())
    assert about["state"] == "failed" and about["reason"] == "RuntimeError: out of luck"
    study = Study(tmp_path)
    assert study.reasons() == {"broken-seed=0": "RuntimeError: out of luck"}
    assert (study.progress().complete, study.progress().failed, study.progress().waiting) == (1, 1, 0)
    study.enlist({"broken-seed=0": {"settings": "s"}})
    assert study.progress().waiting == 0, "failed points are left alone"
    study.enlist({"broken-seed=0": {"settings": "s"}}, retry=True)
    assert study.progress().waiting == 1 and study.progress().failed == 0


def test_other_settings_under_an_old_name(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.enlist({"a": {"settings": "1"}})
    study.enlist({"a": {"settings": "1"}, "b": {"settings": "1"}})
    assert study.progress().waiting == 2, "a sweep may grow"
    with pytest.raises(ConfigError, match="'a' was started with other settings"):
        study.enlist({"a": {"settings": "2"}})


def told(settings: str, recipe: str, model: str = "m") -> dict[str, str]:
    return {"settings": settings, "recipe": recipe, "model": model}


def test_seeds_of_one_model_have_one_recipe(tmp_path: Path) -> None:
    """A seed that is added, or runs again, is trained as the others were; what is refused leaves nothing in the queue."""
    Study(tmp_path).enlist({"m0": told("s0", "1"), "other": told("s", "2", "other")})
    for points, words in (
        ({"m1": told("s1", "2")}, "another seed of 'm1' was started with other settings or training data"),
        ({"m0": told("s0", "2")}, "'m0' was started with other settings or training data"),
        ({"n0": told("s", "1", "n"), "n1": told("s", "2", "n")}, "another seed of 'n1'"),
        ({"m1": told("s1", "1"), "m2": told("s2", "2")}, "another seed of 'm2'"),
    ):
        with pytest.raises(ConfigError, match=words):
            Study(tmp_path).enlist(points)
    assert Study(tmp_path).progress().waiting == 2
    Study(tmp_path).enlist({"m1": told("s1", "1")})
    assert Study(tmp_path).progress().waiting == 3


def test_a_point_that_failed_before_it_learnt_anything_may_be_mended(tmp_path: Path) -> None:
    """A broken training file is repaired, and --retry takes it; what left a checkpoint goes on as it was begun."""
    study = Study(tmp_path)
    study.enlist({"m0": told("s0", "broken")})
    claim = study.claim()
    assert claim is not None
    study.fail(claim, "m.jsonl:25: broken JSON")
    again = Study(tmp_path)
    again.enlist({"m0": told("s0", "mended"), "m1": told("s1", "mended")}, retry=True)
    claims = [again.claim(), again.claim()]
    assert sorted((claim.point, claim.recipe) for claim in claims if claim) == [("m0", "mended"), ("m1", "mended")]
    for each in claims:
        assert each is not None
        again.fail(each, "no luck")
    (tmp_path / "points" / "m1" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="another seed of 'm0' was started with other settings"):
        Study(tmp_path).enlist({"m0": told("s0", "third"), "m1": told("s1", "third")}, retry=True)


def test_a_study_from_before_recipes_goes_on(tmp_path: Path) -> None:
    """Its points stay what they were, retried ones too; a report could not tell otherwise that they belong together."""
    old = Study(tmp_path)
    old.enlist({name: {"settings": name, "model": "m"} for name in ("m0", "m1")})
    for reason in ("no luck", None):
        claim = old.claim()
        assert claim is not None and claim.recipe == ""
        old.fail(claim, reason) if reason else old.give_back(claim)
    study = Study(tmp_path)
    study.enlist({"m0": told("m0", "1"), "m1": told("m1", "1"), "m2": told("m2", "1")}, retry=True)
    claims = [study.claim() for _ in range(3)]
    assert sorted((claim.point, claim.recipe) for claim in claims if claim) == [("m0", ""), ("m1", ""), ("m2", "1")]
    assert all("reason" not in claim.trial.user_attrs for claim in claims if claim)
    with pytest.raises(ConfigError, match="'m0' was started with other settings"):
        study.enlist({"m0": told("changed", "1")})


def test_a_point_that_kills_its_workers_ends(tmp_path: Path) -> None:
    """A claim whose lock is free is what a killed worker leaves."""
    Study(tmp_path).enlist({"a": {"settings": "1"}})
    for _ in range(KILLED):
        claim = Study(tmp_path).claim()
        assert claim is not None
        claim.lock.close()
    study = Study(tmp_path)
    assert study.claim() is None and study.progress().failed == 1
    assert study.reasons() == {"a": f"{KILLED} workers were killed while they ran it"}


def test_being_stopped_politely_is_no_kill(tmp_path: Path) -> None:
    for _ in range(KILLED + 2):
        study = Study(tmp_path)
        study.enlist({"a": {"settings": "1"}})
        claim = study.claim()
        assert claim is not None
        study.give_back(claim)
    assert Study(tmp_path).progress().waiting == 1


class Killed(BaseException):
    """What ends a process between two lines of it."""


@pytest.mark.parametrize("stop", ["give_back", "revive"])
def test_killed_between_two_notes(stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back into the queue means two entries in the journal: one trial begins, one ends. A point survives a kill between them, once."""
    study = Study(tmp_path)
    study.enlist({"a": {"settings": "1"}})
    claim = study.claim()
    assert claim is not None
    if stop == "revive":
        claim.lock.close()
    written: list[str] = []

    def once(note: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: Any) -> None:
            if written:
                raise Killed
            note(*args)
            written.append("")

        return noted

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(study, "_enqueue", once(study._enqueue))
        patched.setattr(study, "_tell_failed", once(study._tell_failed))
        if stop == "revive":
            study.claim()
        else:
            study.give_back(claim)
    claim.lock.close()
    study = Study(tmp_path)
    study.enlist({"a": {"settings": "1"}})
    claim = study.claim()
    assert claim is not None and claim.trial.user_attrs["killed"] == (stop == "revive")
    assert study.claim() is None
    study.complete(claim, 1.0)
    assert study.claim() is None and (study.progress().complete, study.progress().waiting, study.progress().running) == (1, 0, 0)


def test_a_training_that_outlives_its_worker_keeps_the_point(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.enlist({"a": {"settings": "1"}})
    claim = study.claim()
    assert claim is not None
    orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[claim.lock.fileno()])
    claim.lock.close()  # as when the worker is killed
    assert study.claim() is None and study.progress().running == 1
    orphan.communicate(b"\n")
    assert study.claim() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_training_ends_with_its_killed_worker(tmp_path: Path) -> None:
    code = "import sys; from prefrep.sweeps.worker import start\nstart([sys.executable, '-c', sys.argv[1], sys.argv[2]]).wait()"
    training = "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", code, training, str(tmp_path / "pid")])
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    pid = int((tmp_path / "pid").read_text())
    worker.kill()
    worker.wait()

    def gone() -> bool:
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"

    until(gone)


def test_a_journal_line_that_was_cut_off(tmp_path: Path) -> None:
    Study(tmp_path).enlist({"a": {"settings": "1"}})
    whole = (tmp_path / JOURNAL).read_bytes()
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 4, "worker')
    study = Study(tmp_path)
    study.enlist({"b": {"settings": "1"}})
    assert Study(tmp_path).progress().waiting == 2 and (tmp_path / JOURNAL).read_bytes().startswith(whole)


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        Study(tmp_path, "sqlite:////nowhere/at/all.db")


def test_nothing_to_do(tmp_path: Path) -> None:
    seen: list[object] = []
    work(Study(tmp_path), {}, True, seen.append)
    assert len(seen) == 1 and os.listdir(tmp_path / "locks")


def test_a_database_without_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, in which nobody reads the password."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"postgresql://me:\*\*\*@host/db: the driver .* pip install 'prefrep\[postgresql\]'"):
        Study(tmp_path, "postgresql://me:secret@host/db")
