"""Every number of a sweep's report, recomputed from the per-sample files with nothing but arithmetic."""

from __future__ import annotations

import csv
import json
from math import comb, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest

from prefrep.cli.sweep import main, read_rows
from prefrep.errors import DataError
from prefrep.sweep.report import write
from prefrep.sweep.table import compare, models, read_runs

T2, T1 = 4.302652729911275, 12.706204736432095  # quantiles 0.975 of Student's t with 2 and 1 degrees of freedom
ACCURACY = {"BT": 0.55, "GPM dim=2": 0.6, "GPM dim=8": 0.9}


def make(out: Path, model: str, seed: int, scores: list[float], /, **values: Any) -> None:
    folder = out / "points" / f"{model}-seed={seed}".replace(" ", "-")
    folder.mkdir(parents=True)
    rows = [
        {
            "id": str(i), "subset": "ab"[i % 3 == 0], "score": score, "margin": None, "length_difference": 3,
            "probability": 0.5 if i == 7 else 0.0 if i == 8 else 1.0,
        }
        for i, score in enumerate(scores)
    ]  # fmt: skip
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"name": folder.name, "model": model, "seed": seed, "values": values, "engine": "frozen", "state": "complete", "seconds": 1.0}
    (folder / "point.json").write_text(json.dumps(about))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three models, three seeds, 90 comparisons: one is a tie by the data, one prefers the rejected answer, one score is zero."""
    generator = np.random.default_rng(0)
    for model, share in ACCURACY.items():
        values = {"model": model.split()[0]} | ({"model.head.dim": int(model[-1])} if "dim" in model else {})
        for seed in range(3):
            scores = np.where(generator.uniform(size=90) < share, 1.0, -1.0) * generator.uniform(0.1, 2, 90)
            scores[9] = 0.0
            make(tmp_path, model, seed, list(map(float, scores)), **values)
    broken = tmp_path / "points" / "broken-seed=0"
    broken.mkdir()
    about = {"name": "broken-seed=0", "model": "broken", "seed": 0, "values": {}, "engine": "fit", "state": "failed", "reason": "no | luck"}
    (broken / "point.json").write_text(json.dumps(about))
    (tmp_path / "points" / "running-seed=0").mkdir()
    write(tmp_path, read_rows)
    return tmp_path


def verdicts(out: Path, model: str, seed: int) -> dict[str, bool]:
    """Right or wrong by id, from the file alone."""
    file = out / "points" / f"{model}-seed={seed}".replace(" ", "-") / "scores.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {r["id"]: r["score"] > 0 if r["probability"] == 1 else r["score"] < 0 for r in rows if r["probability"] != 0.5}


def share(right: dict[str, bool]) -> float:
    return sum(right.values()) / len(right)


def cells(out: Path, title: str) -> list[list[str]]:
    """The table below a heading of the report."""
    text = (out / "report.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if not row[0].startswith("---")]


def test_accuracies(out: Path) -> None:
    head, *rows = cells(out, "Accuracy")
    assert head[:6] == ["model", "seeds", "n", "accuracy", "95 %", "sd over seeds"]
    assert {row[0] for row in rows} == set(ACCURACY)
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)
    for name, seeds, n, accuracy, interval, sd, *_ in rows:
        values = [share(verdicts(out, name, seed)) for seed in range(3)]
        half = T2 * stdev(values) / sqrt(3)
        low, high = max(mean(values) - half, 0), min(mean(values) + half, 1)
        assert (seeds, n, accuracy, sd) == ("3", "89", f"{mean(values):.3f}", f"{stdev(values):.3f}")
        assert interval == f"[{low:.3f}, {high:.3f}]"


def test_subsets(out: Path) -> None:
    head, *rows = cells(out, "Accuracy by subset")
    assert head == ["model", "a", "b"]
    for name, *found in rows:
        for subset, cell in zip("ab", found, strict=True):
            inside = [{k: v for k, v in verdicts(out, name, seed).items() if "ab"[int(k) % 3 == 0] == subset} for seed in range(3)]
            assert cell == f"{mean(map(share, inside)):.3f}"


def test_the_table_has_a_line_for_each_point(out: Path) -> None:
    with (out / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    for line in lines:
        if line["model"] == "broken":
            assert (line["state"], line["reason"], line["accuracy"]) == ("failed", "no | luck", "")
            continue
        right = verdicts(out, line["model"], int(line["seed"]))
        p, n, z = share(right), len(right), 1.959963984540054
        centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        assert float(line["accuracy"]) == pytest.approx(p) and int(line["n"]) == 89
        assert (float(line["low"]), float(line["high"])) == pytest.approx((centre - half, centre + half))
        assert line["model.head.dim"] == (line["model"][-1] if "dim" in line["model"] else "")


def test_pairs_and_their_correction(out: Path) -> None:
    with (out / "pairs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3
    exact = {}
    for line in lines:
        a, b = ([verdicts(out, line[key], seed) for seed in range(3)] for key in ("first", "second"))
        assert float(line["difference"]) == pytest.approx(mean(map(share, a)) - mean(map(share, b))) and float(line["difference"]) >= 0
        major = [{k: sum(right[k] for right in side) >= 2 for k in side[0]} for side in (a, b)]
        first, second = (sum(x[k] and not y[k] for k in x) for x, y in (major, major[::-1]))
        assert (int(line["only_first_right"]), int(line["only_second_right"])) == (first, second)
        n, k = first + second, min(first, second)
        exact[line["first"], line["second"]] = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
        assert float(line["mcnemar_p"]) == pytest.approx(exact[line["first"], line["second"]])
        gaps = [share(x) - share(y) for x, y in zip(a, b, strict=True)]
        half = T2 * stdev(gaps) / sqrt(3)
        assert (float(line["seeds_low"]), float(line["seeds_high"])) == pytest.approx((mean(gaps) - half, mean(gaps) + half))
        each = np.array([mean(right[k] for right in a) - mean(right[k] for right in b) for k in a[0]])
        error = 1.96 * each.std() / sqrt(len(each))  # the normal interval is near the bootstrap's
        assert (float(line["low"]), float(line["high"])) == pytest.approx((each.mean() - error, each.mean() + error), abs=0.02)
    running = 0.0
    for i, (pair, p) in enumerate(sorted(exact.items(), key=lambda item: item[1])):
        running = max(running, min(p * (3 - i), 1.0))
        line = next(line for line in lines if (line["first"], line["second"]) == pair)
        assert float(line["mcnemar_p_holm"]) == pytest.approx(running)
        assert line["significant"] == str(running < 0.05 and float(line["bootstrap_p_holm"]) < 0.05)


def test_the_report_says_what_is_real(out: Path) -> None:
    text = (out / "report.md").read_text()
    assert "**2 of 3 differences are significant**" in text and "- GPM dim=8 is better than BT by" in text
    assert "# Sweep: 9 points of 3 models" in text and "no \\| luck" in text and "running" not in text
    assert "Student's t over seeds" in text and "Wilson" not in text
    assert sorted(path.name for path in out.glob("*.png")) == ["accuracy-dim.png", "accuracy-subsets.png"]
    for path in out.glob("*.png"):
        assert f"![{path.name}]({path.name})" in text and path.read_bytes().startswith(b"\x89PNG")


def test_nothing_real(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for model in "xyz":
        make(tmp_path, model, 0, list(generator.normal(0.2, 1, 60)))
    write(tmp_path, read_rows)
    text = (tmp_path / "report.md").read_text()
    assert "**No difference is significant**: none of the 3 pairs" in text
    assert "Wilson's interval over examples; one seed has no spread" in text and "Student's t over seeds:" not in text


def test_two_seeds_that_disagree_are_left_out(tmp_path: Path) -> None:
    for seed, sign in ((0, 1.0), (1, -1.0)):
        make(tmp_path, "torn", seed, [sign] * 6 + [1.0, 1.0])
        make(tmp_path, "sure", seed, [-1.0] * 6 + [1.0, -1.0])
    (test,) = compare(models(read_runs(tmp_path, read_rows)))
    assert (test.first, test.n, test.mcnemar) == ("torn", 7, (0, 0, 1.0)), "of the seven, six split torn's seeds; the tie is left out"
    assert test.difference.mean == pytest.approx(3 / 7)
    assert test.seeds == pytest.approx((3 / 7 - T1 * 3 / 7, 3 / 7 + T1 * 3 / 7))


def test_models_on_other_examples_are_not_compared(tmp_path: Path) -> None:
    make(tmp_path, "x", 0, [1.0] * 5)
    make(tmp_path, "y", 0, [1.0] * 5)
    file = tmp_path / "points" / "y-seed=0" / "scores.jsonl"
    file.write_text(file.read_text().replace('"id": "', '"id": "other'))
    write(tmp_path, read_rows)
    assert "No two models have scores for the same examples" in (tmp_path / "report.md").read_text()


def test_report_only(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".md", ".csv")}
    for name in before:
        (out / name).unlink()
    assert main(["--report-only", str(out)]) == 0
    assert {name: (out / name).read_bytes() for name in before} == before
    assert capsys.readouterr().out.strip() == before["report.md"].decode().strip()


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the folder of a sweep"):
        main(["--report-only", str(tmp_path)])


def test_nothing_finished_yet(tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    write(tmp_path, read_rows)
    assert "No point is finished" in (tmp_path / "report.md").read_text() and (tmp_path / "table.csv").read_text() == ""
