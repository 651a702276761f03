"""What a worker makes of points that succeed, fail, or are not its own, and of checkpoints that a training left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from prefrep.errors import PrefrepError
from prefrep.sweeps import worker
from prefrep.sweeps.spec import Point
from prefrep.sweeps.study import Study
from prefrep.sweeps.worker import Engine, Fit, Scored, work

ROW: Any = SimpleNamespace(id="0", subset="", score=1.0, probability=1.0)


class Engines:
    """Points that are done at once; those in `broken` fail."""

    name = "fake"

    def __init__(self, broken: Sequence[str] = ()) -> None:
        self.broken = broken
        self.ran: list[str] = []

    def run(self, point: Point, folder: Path, lock: IO[bytes]) -> Scored:
        self.ran.append(point.model)
        if point.model in self.broken:
            raise RuntimeError("out of luck")
        (folder / "scores.jsonl").write_text("scores")
        return Scored([ROW], "digest")


def run(out: Path, names: Sequence[str], engine: Engine, on_change: Callable[[Any], object] = lambda progress: None) -> Study:
    """A start of a sweep with these points."""
    study = Study(out)
    study.enlist({f"{name}-seed=0": {"settings": "s"} for name in names})
    points: dict[str, tuple[Point, Engine]] = {f"{name}-seed=0": (Point(name, 0, Path("base.yaml"), {}), engine) for name in names}
    work(study, points, True, on_change)
    return study


def about(out: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((out / "points" / f"{name}-seed=0" / "point.json").read_text()))


def test_points_that_the_sweep_file_no_longer_has(tmp_path: Path) -> None:
    """One of them waits, in front of all others, one has failed without a word, and somebody else's is running: none is touched."""
    before = Study(tmp_path)
    before.enlist({"gone-seed=0": {"settings": "s"}, "lost-seed=0": {"settings": "s"}, "theirs-seed=0": {"settings": "s"}})
    claims = [before.claim() for _ in range(3)]
    assert all(claims)
    before.fail(claims[1], "")  # type: ignore[arg-type]
    before.give_back(claims[0])  # type: ignore[arg-type]
    engine = Engines(["b"])
    seen: list[Any] = []
    study = run(tmp_path, ["a", "b", "c"], engine, seen.append)
    assert engine.ran == ["a", "b", "c"] and study.reasons() == {"b-seed=0": "RuntimeError: out of luck"}
    assert (seen[-1].complete, seen[-1].failed, seen[-1].waiting, seen[-1].running) == (2, 1, 0, 0)
    everything = Study(tmp_path)
    assert (everything.progress().waiting, everything.progress().running) == (1, 1)
    found = everything.claim()
    assert found is not None and found.point == "gone-seed=0", "it is still in the queue"
    assert not (tmp_path / "points" / "lost-seed=0").exists()


def test_a_study_that_cannot_be_written_does_not_undo_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, pytest.raises(OSError, match="gone away"):
        patched.setattr(Study, "complete", lambda *_: (_ for _ in ()).throw(OSError("gone away")))
        run(tmp_path, ["a"], Engines())
    assert about(tmp_path, "a")["state"] == "complete" and about(tmp_path, "a")["data"] == "digest"
    engine = Engines()
    assert run(tmp_path, ["a"], engine).progress().complete == 1 and engine.ran == [], "it is not trained again"


@pytest.mark.parametrize("gone", ["", "scores.jsonl", "point.json"])
def test_points_whose_results_were_removed_run_again(gone: str, tmp_path: Path) -> None:
    """The remedy for damaged files is to delete the folder and to start again."""
    run(tmp_path, ["a", "b"], Engines())
    removed = tmp_path / "points" / "a-seed=0" / gone
    shutil.rmtree(removed) if removed.is_dir() else removed.unlink()
    engine = Engines()
    assert run(tmp_path, ["a", "b"], engine).progress().complete == 2
    assert engine.ran == ["a"] and about(tmp_path, "a")["state"] == "complete" and removed.exists()
    run(tmp_path, ["a", "b"], engine)
    assert engine.ran == ["a"], "once"


def test_a_point_that_is_given_back_while_others_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits, and a moment later nothing runs: another worker was stopped politely in between."""
    theirs = Study(tmp_path)
    theirs.enlist({"a-seed=0": {"settings": "s"}})
    claims, look = [theirs.claim()], Study.claim

    def claim(study: Study) -> Any:
        found = look(study)
        if found is None and claims:
            theirs.give_back(claims.pop())  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(Study, "claim", claim)
    engine = Engines()
    assert run(tmp_path, ["a"], engine).progress().complete == 1 and engine.ran == ["a"]


def test_points_that_wait_have_folders(tmp_path: Path) -> None:
    """So that a report knows how many are missing, which reads folders alone."""
    found: list[int] = []
    run(tmp_path, ["a", "b", "c"], Engines(), lambda progress: found.append(len(list((tmp_path / "points").iterdir()))))
    assert found[0] == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_goes_wrong_beside_a_point_is_not_its_fault(error: type[BaseException], tmp_path: Path) -> None:
    """A report that cannot be written, or Ctrl-C while it is: the point waits again, and was not killed."""

    def report(progress: Any) -> None:
        if progress.running:
            raise error

    with pytest.raises(error):
        run(tmp_path, ["a"], Engines(), report)
    claim = Study(tmp_path).claim()
    assert claim is not None and claim.trial.user_attrs["killed"] == 0 and not (tmp_path / "points" / "a-seed=0" / "point.json").exists()


# -------------------------------------------------------------------------------------------------------------------- checkpoints
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A point whose training was interrupted."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("precious")
    return tmp_path


def train(folder: Path, monkeypatch: pytest.MonkeyPatch, codes: Sequence[int], reason: str = "no luck") -> list[bool]:
    """Trains with processes that end with these codes, and fails for a reason; which of them went on from the checkpoint."""
    left, resumed = list(codes), []

    def fit(arguments: Sequence[str], log: Path, lock: IO[bytes]) -> int:
        resumed.append("--ckpt_path" in arguments)
        (folder / "checkpoints").mkdir(exist_ok=True)
        if not resumed[-1]:
            (folder / "checkpoints" / "last.ckpt").write_text("new")
        if left[0] == 0:
            (folder / "export").mkdir()
            (folder / "export" / "prefrep.json").write_text("{}")
        else:
            log.write_text("prefrep: no luck\n")
        return left.pop(0)

    monkeypatch.setattr(worker, "fit", fit)
    with (folder / "lock").open("wb") as lock:
        engine = Fit(lambda point, export, folder: Scored([ROW], "digest"))
        if codes[-1] == 0:
            assert engine.run(Point("a", 0, Path("base.yaml"), {}), folder, lock).data == "digest"
        else:
            with pytest.raises(PrefrepError, match=reason):
                engine.run(Point("a", 0, Path("base.yaml"), {}), folder, lock)
    return resumed


@pytest.mark.parametrize(
    ("codes", "resumed", "kept", "reason"),
    [
        ([0], [True], "precious", ""),
        ([-9], [True], "precious", r"fit was killed by signal 9 \(out of memory\?\); --retry resumes from its checkpoint$"),
        ([-11], [True], "precious", "fit was killed by signal 11; --retry resumes from its checkpoint$"),
        ([143], [True], "precious", "code 143: no luck"),  # by a termination signal
        ([1, 0], [True, False], "new", ""),  # a broken checkpoint
        ([1, 1], [True, False], "precious", "code 1: no luck"),  # a full disk
        ([1, -9], [True, False], "precious", "signal 9"),
    ],
)
def test_good_checkpoints_are_kept(
    codes: list[int], resumed: list[bool], kept: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(folder, monkeypatch, codes, reason) == resumed
    assert (folder / "checkpoints" / "last.ckpt").read_text() == kept and not (folder / "checkpoints-aside").exists()


def test_without_a_checkpoint_there_is_one_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code, reason in (("a", 1, "no luck"), ("b", 0, "")):
        (tmp_path / name).mkdir()
        assert train(tmp_path / name, monkeypatch, [code], reason) == [False]


def test_killed_before_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object) -> int:
        return -9

    monkeypatch.setattr(worker, "fit", fit)
    with (tmp_path / "lock").open("wb") as lock, pytest.raises(PrefrepError, match=r"memory\?\); --retry starts again$"):
        Fit(lambda *_: Scored([ROW], "digest")).run(Point("a", 0, Path("base.yaml"), {}), tmp_path, lock)
