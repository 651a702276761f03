"""The first wrong step: a planted model finds it, thresholds are the best ones, and files are written and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import program
from scipy.stats import binomtest

from prefrep.data.encode import EncodeConfig
from prefrep.data.sources import Source, read
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.rows import read_scores
from prefrep.evaluation.steps import StepScore, best_threshold, evaluate, first_below, largest_drop, score, solutions
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead
from prefrep.nn.loading import load_tokenizer
from prefrep.records import RankedResponses
from prefrep.scoring import Scorer
from prefrep.scoring.interface import PreferenceScorer

main, report = program("eval"), program("report")


def write(path: Path, n: int, seed: int) -> str:
    """Solutions of three to six steps; two in three have a wrong one, which says so."""
    draw = np.random.default_rng(seed)
    lines = []
    for i in range(n):
        count = int(draw.integers(3, 7))
        wrong = int(draw.integers(count)) if i % 3 else None
        steps = [f"{i} {seed} {k}{' wrong' if k == wrong else ''}" for k in range(count)]
        lines.append(json.dumps({"prompt": f"{seed}?", "steps": steps, "first_wrong": wrong}) + "\n")
    path.write_text("".join(lines))
    return str(path)


class Planted:
    """Rewards that fall by 4 at the wrong step, below all other solutions or not."""

    pairwise = False
    read = 0

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray[Any, Any]]:
        """Noise below 1 on a level for each solution."""
        draw = np.random.default_rng(0)
        for record in records:
            self.read += 1
            texts = [response[-1].content for response in record.responses]
            yield np.array([(-4.0 if "wrong" in text else 0.0) + draw.random() for text in texts], np.float32)


def test_a_planted_model_finds_them(tmp_path: Path) -> None:
    """By the largest drop and by a threshold; each solution is read once, and its prefixes are the responses of one record."""
    planted = Planted()
    found = []
    for name, seed in (("test", 1), ("cal", 2)):
        records = solutions(read(Source(write(tmp_path / f"{name}.jsonl", 30, seed))), name)
        found.append(score(cast(PreferenceScorer, planted), records, tmp_path / name, {}))
    results = evaluate(*found)
    assert planted.read == 60
    assert {name: (each["n"], each["score"]) for name, each in results["subsets"].items()} == {
        "largest drop, wrong solutions": (20, 1.0), "threshold, all solutions": (30, 1.0), "threshold, wrong solutions": (20, 1.0),
        "threshold, right solutions": (10, 1.0), "F1": (30, 1.0),
    }  # fmt: skip
    assert -3 < results["threshold"] < 0 and results["overall"] == results["subsets"]["threshold, all solutions"]
    low, high = binomtest(30, 30).proportion_ci(method="wilson")
    assert results["overall"]["ci95"] == pytest.approx([low, high])
    (note,) = evaluate(found[0])["notes"]
    assert note.startswith("10 solutions without a wrong step are left out")
    assert read_scores(tmp_path / "test" / "scores.jsonl", StepScore) == found[0]
    again = solutions(read(Source(str(tmp_path / "test.jsonl"))), "test")
    assert score(cast(PreferenceScorer, planted), again, tmp_path / "test", {}) == found[0] and planted.read == 60


def test_values_without_a_signal_find_them_by_chance(tmp_path: Path) -> None:
    """The mean of 1 / K over wrong solutions, within four standard errors."""
    draw = np.random.default_rng(3)
    rows = [StepScore(str(i), "", int(draw.integers(4)), tuple(draw.standard_normal(4))) for i in range(4000)]
    results = evaluate(rows)
    assert results["chance"] == 0.25 and results["overall"]["score"] == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


def test_predictions_by_hand() -> None:
    """Drops and thresholds of small solutions."""
    assert [largest_drop(scores, 1.0) for scores in ((0.5, 0.4, -1.0), (-2.0, -1.0, -3.0), (3.0, 1.0, 0.5))] == [2, 0, 1]
    assert [first_below((2.0, 1.0, 3.0, 0.0), t) for t in (0.0, 1.0, 1.5, 9.0)] == [None, 3, 1, 0]


def test_the_threshold_is_the_best_one() -> None:
    """Against a search over all midpoints of all rewards."""
    draw = np.random.default_rng(0)
    for seed in range(20):
        rows = [
            StepScore(str(i), "", int(draw.integers(k + 1)), tuple(draw.standard_normal(k).round(1 + seed % 2)))
            for i, k in enumerate(draw.integers(1, 6, 12))
        ]

        def right(threshold: float, rows: list[StepScore] = rows) -> int:
            return sum(first_below(row.scores, threshold) == row.wrong for row in rows)

        ends = sorted({each for row in rows for each in row.scores})
        tried = [ends[0] - 1, *np.add(ends[:-1], ends[1:]) / 2, ends[-1] + 1]
        assert right(best_threshold(rows)) == max(map(right, tried))
    impossible = [StepScore("a", "", 1, (0.0, 1.0))]
    assert first_below(impossible[0].scores, best_threshold(impossible)) is None


def test_f1_of_processbench_by_hand() -> None:
    """Threshold 0: of four wrong solutions one is found and of two right ones one, in one subset; all in another."""
    first = [
        ("w", 0, (-1.0, 1.0)),
        ("w", 1, (-1.0, -1.0)),
        ("w", 1, (1.0, 1.0)),
        ("w", 0, (1.0, -1.0)),
        ("r", 2, (1.0, 1.0)),
        ("r", 2, (1.0, -1.0)),
    ]
    second = [("w", 1, (1.0, -1.0)), ("r", 2, (1.0, 1.0)), ("r", 2, (1.0, 1.0))]
    rows = [
        StepScore(f"{i}", name, wrong, scores) for name, some in (("a", first), ("b", second)) for i, (_, wrong, scores) in enumerate(some)
    ]
    others = [StepScore("c", "", 0, (-0.5,)), StepScore("d", "", 1, (0.5,))]
    results = evaluate(rows, others)
    assert results["threshold"] == 0.0
    f1 = {name: (value["n"], value["score"]) for name, value in results["subsets"].items() if name.startswith("F1")}
    # a: 1/4 and 1/2; b: 1 and 1; together 2/5 and 3/4.
    assert f1 == {"F1": (9, pytest.approx(12 / 23)), "F1, a": (6, pytest.approx(1 / 3)), "F1, b": (3, 1.0)}
    assert "F1" not in evaluate([row for row in rows if row.wrong is None], others)["subsets"], "no wrong solution: no F1"


def test_trees_are_no_solutions(tmp_path: Path) -> None:
    """Siblings of a tree have values of steps, too, but no first wrong one."""
    path = tmp_path / "tree.jsonl"
    rows = [{"prompt": "p", "prefix": "a", "step": step, "Q": q} for step, q in (("b", 1.0), ("c", 0.0))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="no solution; eval steps needs rows"):
        solutions(read(Source(str(path))), "tree")


def test_nothing_to_find() -> None:
    """Solutions that are right throughout."""
    with pytest.raises(DataError, match="no solution has a wrong step"):
        evaluate([StepScore("a", "", 2, (0.0, 1.0))])


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A reward model and one that compares."""
    folder = tmp_path_factory.mktemp("models")
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    heads = {"bt": BTHead(backbone.hidden_size), "gpm": GPMHead(backbone.hidden_size, dim=4)}
    for name, head in heads.items():
        save(folder / name, backbone, head, 1.0, EncodeConfig(), tokenizer, {})
    return {name: str(folder / name) for name in heads}


def test_the_program(exports: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rewards are those of each beginning read by itself; a report shows the results; what cannot be used is refused."""
    data, other = write(tmp_path / "test.jsonl", 9, 1), write(tmp_path / "val.jsonl", 9, 2)
    out = tmp_path / "out"
    arguments = ["steps", "--model", exports["bt"], "--data", data, "--out", str(out)]
    assert main([*arguments, "--calibrate-on", other]) == 0
    results = json.loads((out / "results.json").read_text())
    rows, others = (read_scores(place / "scores.jsonl", StepScore) for place in (out, out / "calibration"))
    assert results["subsets"] == evaluate(rows, others)["subsets"] and results["model"]["encoded"]["records"] == 18
    scorer = Scorer.from_pretrained(exports["bt"])
    for row, record in zip(rows, solutions(read(Source(data)), data), strict=True):
        alone = [float(next(scorer.rewards([RankedResponses(record.prompt, (each,))]))[0]) for each in record.responses]
        assert row.scores == pytest.approx(alone, abs=1e-4)
    processbench = tmp_path / "processbench.jsonl"
    found = [json.loads(line) for line in Path(data).read_text().splitlines()]
    renamed = [
        {
            "id": f"gsm8k-{i}",
            "problem": row["prompt"],
            "steps": row["steps"],
            "label": -1 if row["first_wrong"] is None else row["first_wrong"],
        }
        for i, row in enumerate(found)
    ]
    processbench.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    assert main([*arguments[:3], "--data", str(processbench), "--out", str(tmp_path / "pb"), "--calibrate-on", other]) == 0
    again = json.loads((tmp_path / "pb" / "results.json").read_text())
    assert again["subsets"] == results["subsets"] and "F1" in again["subsets"]
    assert "threshold, all solutions" in capsys.readouterr().out
    assert report([str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "threshold, right solutions" in (tmp_path / "page.html").read_text()
    with pytest.raises(ConfigError, match="9 of its solutions are in --data too"):
        main([*arguments, "--calibrate-on", data])
    with pytest.raises(ConfigError, match="needs a reward after each step, and this model compares"):
        main(["steps", "--model", exports["gpm"], "--data", data, "--out", str(tmp_path / "gpm")])
