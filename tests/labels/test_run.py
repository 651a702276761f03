"""`prefrep label` from the command line: killed and started again, steps of others, the page, and what is refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prefrep import parts
from prefrep.data.sources import Source, read
from prefrep.errors import ConfigError, DataError, PrefrepError, Stopped, UsageError
from prefrep.labels import Labelled, LabelStep, Outcome, Work, run
from prefrep.parts import parse
from prefrep.records import Comparison
from prefrep.scoring import Scorer
from tests.conftest import program
from tests.exports import exported

label = program("label")
WORDS = "red green blue one two three hot cold big small".split()


class Shout(LabelStep):
    """A step of somebody else: counts the capitals of the chosen answer.

    Args:
        least: Pairs with fewer capitals are left out.
    """

    def __init__(self, least: int = 0) -> None:
        self.least = least

    def apply(self, pairs: list[Labelled], work: Work) -> Outcome:  # type: ignore[override]
        """See `LabelStep`."""
        counted = [each.noted(capitals=sum(c.isupper() for c in each.comparison.chosen[0].content)) for each in pairs]
        kept = [each for each in counted if each.columns["capitals"] >= self.least]
        return Outcome(kept, {"left out": len(pairs) - len(kept)}, notes=["Somebody counts."])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seventy pairs, more than two windows."""
    path = tmp_path / "pairs.jsonl"
    rows = ({"prompt": f"Say {WORDS[i % 10]} {i}", "chosen": WORDS[(i + 1) % 10].upper(), "rejected": WORDS[i * 7 % 10]} for i in range(70))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def kept(features: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept is not shared with other tests."""
    monkeypatch.setattr("prefrep.labels.reading.cache_folder", lambda: features.parent)
    return features.parent / "pairs"


def _options(data: Path, out: Path, *more: str) -> list[str]:
    steps = ["--step", "Duplicates", "--step", "Strength action=soft members=2 folds=2 steps=5"]
    return [str(data), "--out", str(out), "--model", "bundled:tiny-llama", *(more or steps)]


def test_interrupted_at_every_point(data: Path, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped behind every window and every member, the program goes on, computes nothing twice, and writes the same bytes."""
    assert label(_options(data, tmp_path / "whole.jsonl")) == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()
    windows = {path.name: (path / "states.safetensors").read_bytes() for path in kept.iterdir()}
    assert len(windows) == 3
    for path in kept.iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    steps: list[int] = []

    def stop_at(number: int) -> Iterator[None]:
        for _ in range(number):
            yield
        raise Stopped("stopped", 143)

    out = tmp_path / "out.jsonl"
    for stop in range(1, 20):
        points = stop_at(stop - 1)
        for place in ("prefrep.labels.reading.leave", "prefrep.labels.base.leave"):
            monkeypatch.setattr(place, lambda: next(points))  # noqa: B023
        try:
            label(_options(data, out))
        except Stopped:
            steps.append(stop)
            assert not out.exists()
            continue
        break
    assert steps == list(range(1, len(steps) + 1)) and len(steps) == 5  # three windows, two members
    assert out.read_bytes() == whole
    assert {path.name: (path / "states.safetensors").read_bytes() for path in kept.iterdir()} == windows


def test_a_step_of_somebody_else(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Named by its import path after --import; its numbers, notes and columns are shown like those of our own."""
    module = ModuleType("loud")
    Shout.__module__, Shout.__qualname__ = "loud", "Shout"
    module.Shout = Shout  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "loud", module)
    monkeypatch.setitem(parts._classes, "loud.Shout", Shout)
    out = tmp_path / "out.jsonl"
    assert label(_options(data, out, "--import", "loud", "--step", "loud.Shout least=4")) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = [json.loads(line) for line in data.read_text().splitlines()]
    assert rows == [row | {"capitals": len(row["chosen"])} for row in expected if len(row["chosen"]) >= 4]
    assert "Somebody counts." in capsys.readouterr().out
    results = json.loads((tmp_path / "out.label" / "results.json").read_text())
    assert results["found"][0]["step"] == {"class": "loud.Shout", "least": 4}


def test_what_steps_return(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their input itself is fine; nothing, and what is no plain data, are refused by name."""

    class Same(Shout):
        def apply(self, pairs: list[Labelled], work: Work) -> Outcome:  # type: ignore[override]
            return Outcome(pairs)

    class Odd(Shout):
        def apply(self, pairs: list[Labelled], work: Work) -> Outcome:  # type: ignore[override]
            return Outcome([each.noted(path=tmp_path) for each in pairs])

    source = Source(str(data))
    assert run.run(source, tmp_path / "same.jsonl", [Same()], "none")["pairs"] == [70, 70]
    assert [json.loads(line) for line in data.open()] == [json.loads(line) for line in (tmp_path / "same.jsonl").open()]
    with pytest.raises(DataError, match="Odd: its columns of .*pairs.jsonl:1 cannot be written as JSON"):
        run.run(source, tmp_path / "odd.jsonl", [Odd()], "none")
    with pytest.raises(DataError, match="Shout: leaves no pair"):
        run.run(source, tmp_path / "none.jsonl", [Shout(least=1000)], "none")


def test_the_page(data: Path, tmp_path: Path) -> None:
    """The folder beside the output is something to report on: numbers, histogram, examples."""
    assert label(_options(data, tmp_path / "out.jsonl")) == 0
    assert program("report")([str(tmp_path / "out.label"), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "Strength" in page and "share with a negative mean" in page and "softened, strength" in page
    assert list((tmp_path / "page-plots").glob("*.svg"))


def test_what_is_refused(data: Path, tmp_path: Path) -> None:
    """Outputs of something else, unknown steps and arguments, and data without preferences."""
    taken = tmp_path / "taken.jsonl"
    taken.write_text("{}\n")
    with pytest.raises(DataError, match="it is not known what wrote it"):
        label(_options(data, taken))
    assert taken.read_text() == "{}\n"
    out = tmp_path / "out.jsonl"
    with pytest.raises(PrefrepError, match="unknown .*'Strenght'; prefrep has .*Strength"):
        label(_options(data, out, "--step", "Strenght"))
    with pytest.raises(PrefrepError, match="shares"):
        label(_options(data, out, "--step", "Strength shares=0.1"))
    with pytest.raises(ConfigError, match=r"Strength\.share"):
        label(_options(data, out, "--step", "Strength share=1.5"))
    with pytest.raises(DataError, match="plain JSON lines"):
        label(_options(data, tmp_path / "out.jsonl.gz"))
    assert label(_options(data, out, "--step", "Duplicates")) == 0
    with pytest.raises(DataError, match="begun with other steps"):
        label(_options(data, out, "--step", "Duplicates near=0.5"))
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text(json.dumps({"prompt": "?", "responses": ["a", "b"]}) + "\n")
    with pytest.raises(DataError, match="no row holds a preference"):
        label(_options(unlabelled, tmp_path / "other.jsonl"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text(data.read_text() + '{"prompt": "?", "chosen": "a"}\n')
    with pytest.raises(PrefrepError, match="bad.jsonl:71"):
        label(_options(bad, tmp_path / "other.jsonl", "--step", "Duplicates"))
    assert label(_options(bad, tmp_path / "other.jsonl", "--step", "Duplicates", "--on-bad-row", "skip")) == 0
    assert len((tmp_path / "other.jsonl").read_text().splitlines()) == 70


def test_steps_on_the_command_line() -> None:
    """Values are YAML, dots reach parts inside."""
    assert parse("Strength action=flip share=0.1 models=[a,b] head.class=GPMHead head.dim=4") == {
        "class": "Strength", "action": "flip", "share": 0.1, "models": ["a", "b"], "head": {"class": "GPMHead", "dim": 4},
    }  # fmt: skip
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse("Strength flip")
    with pytest.raises(UsageError, match="cannot be read"):
        parse("Strength 'action=[a'")
    with pytest.raises(UsageError, match=r"head\.class"):
        parse("Strength head=GPMHead head.dim=4")


def test_exported_models_and_pair_models_give_margins(data: Path, tmp_path: Path) -> None:
    """Exported folders are members, with the log-odds of `Scorer`; a pair model reads both orders."""
    models = [str(exported(tmp_path / name)) for name in ("a", "b")]
    out = tmp_path / "out.jsonl"
    assert label(_options(data, out, "--limit", "8", "--step", f"Strength models=[{','.join(models)}]")) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    pairs = [each for each in read(Source(str(data), limit=8)) if isinstance(each, Comparison)]
    expected = list(Scorer.from_pretrained(models[0]).compare(pairs))
    assert [row["strength_mean"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert [row["strength_std"] for row in rows] == [0.0] * 8, "two equal models agree"
    step = "Strength head.class=PairHead members=1 folds=2 steps=3"
    assert label(_options(data, tmp_path / "pair.jsonl", "--limit", "12", "--step", step)) == 0
    assert len({json.loads(line)["strength_mean"] for line in (tmp_path / "pair.jsonl").read_text().splitlines()}) == 12


def test_the_step_of_the_readme(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package on the page of `prefrep.labels` works as it stands."""
    page = (Path(__file__).parents[2] / "prefrep" / "labels" / "README.md").read_text()
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").touch()
    (tmp_path / "mypkg" / "steps.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "out.jsonl"
    assert label(_options(data, out, "--import", "mypkg.steps", "--step", "mypkg.steps.Shorter characters=1")) == 0
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    assert len(out.read_text().splitlines()) == sum(len(row["chosen"]) - len(row["rejected"]) <= 1 for row in rows) < 70


@pytest.mark.slow
def test_killed_at_random(data: Path, tmp_path: Path) -> None:
    """SIGKILL at times drawn by seed, until a process ends by itself: the same bytes as of one that was left alone."""

    def process(out: Path, cache: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefrep", "label", *_options(data, out)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env={**os.environ, "PREFREP_CACHE": str(cache)}, **quiet)  # type: ignore[call-overload]

    began = time.monotonic()
    assert process(tmp_path / "whole.jsonl", tmp_path / "cache").wait(300) == 0
    lasted, draw, kills = time.monotonic() - began, random.Random(0), 0
    for trial in range(4):
        out, cache = tmp_path / f"{trial}.jsonl", tmp_path / f"cache-{trial}"
        while True:
            running = process(out, cache)
            try:
                assert running.wait(draw.uniform(0.4, 1.3) * lasted) == 0
                break
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                kills += 1
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    print(f"{kills} kills")
