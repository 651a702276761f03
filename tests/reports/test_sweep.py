"""Every number of a sweep's report, recomputed from the per-sample files with nothing but arithmetic."""

from __future__ import annotations

import csv
import json
import os
import threading
from math import comb, inf, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from conftest import program

from prefrep.errors import DataError
from prefrep.evaluation.pairs import PairRow
from prefrep.evaluation.rows import read_scores
from prefrep.locks import writing
from prefrep.metrics.verdicts import Outcome
from prefrep.reports.sweep import write
from prefrep.sweeps import table
from prefrep.sweeps.plots import draw
from prefrep.sweeps.table import Difference, Model, Run, compare, models, read_runs

main = program("sweep")

Z2 = 1.959963984540054**2  # of the standard normal, 0.975
T2, T1 = 4.302652729911275, 12.706204736432095  # quantiles 0.975 of Student's t with 2 and 1 degrees of freedom
ACCURACY = {"BT": 0.55, "GPM dim=2": 0.6, "GPM dim=8": 0.9}


def make(out: Path, model: str, seed: int, scores: list[float], /, data: str = "same", per_prompt: int = 1, **values: Any) -> None:
    folder = out / "points" / f"{model}-seed={seed}".replace(" ", "-")
    folder.mkdir(parents=True)
    rows = [
        {
            "id": str(i), "subset": "ab"[i % 3 == 0], "score": score, "margin": None, "length_difference": 3,
            "probability": 0.5 if i == 7 else 0.0 if i == 8 else 1.0, "prompt": f"p{i // per_prompt}",
        }
        for i, score in enumerate(scores)
    ]  # fmt: skip
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"name": folder.name, "model": model, "seed": seed, "values": values, "engine": "frozen", "state": "complete", "seconds": 1.0}
    (folder / "point.json").write_text(json.dumps(about | {"data": data}))


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
    write(tmp_path)
    return tmp_path


def verdicts(out: Path, model: str, seed: int) -> dict[str, bool]:
    """Right or wrong by id, from the file alone."""
    file = out / "points" / f"{model}-seed={seed}".replace(" ", "-") / "scores.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {r["id"]: r["score"] > 0 if r["probability"] == 1 else r["score"] < 0 for r in rows if r["probability"] != 0.5}


def share(right: dict[str, bool]) -> float:
    return sum(right.values()) / len(right)


def resampled(values: list[float]) -> Any:
    """Means of resamples, the slow way."""
    generator = np.random.default_rng(5)
    return np.array(values)[generator.integers(0, len(values), (20_000, len(values)))].mean(1)


def noise(draws: Any) -> float:
    """Of a quantile in the tail of so many draws, generously, and a step of the shares of three seeds over 89 examples."""
    return float(6 * draws.std() / sqrt(len(draws)) + 1 / (3 * 89))


def stepped(p: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """P-values of three pairs after Holm's correction, by hand."""
    found, running = {}, 0.0
    for i, (pair, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        found[pair] = running = max(running, min(value * (3 - i), 1.0))
    return found


def cells(out: Path, title: str) -> list[list[str]]:
    """The table below a heading of the report."""
    text = (out / "report.md").read_text().split(f"# {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if not row[0].startswith("---")]


def test_accuracies(out: Path) -> None:
    head, *rows = cells(out, "Sweep")
    assert head == ["model", "seeds", "n", "accuracy", "95 %", "sd over seeds", "95 % over examples"]
    assert {row[0] for row in rows} == set(ACCURACY)
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)
    for name, seeds, n, accuracy, interval, sd, over in rows:
        values = [share(verdicts(out, name, seed)) for seed in range(3)]
        half = T2 * stdev(values) / sqrt(3)
        low, high = max(mean(values) - half, 0), min(mean(values) + half, 1)
        assert (seeds, n, accuracy, sd) == ("3", "89", f"{mean(values):.3f}", f"{stdev(values):.3f}")
        assert interval == f"[{low:.3f}, {high:.3f}]"
        found = [verdicts(out, name, seed) for seed in range(3)]
        draws = resampled([mean(right[k] for right in found) for k in found[0]])
        near = pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=noise(draws) + 5e-4)
        assert [float(end) for end in over.strip("[]").split(", ")] == near


def test_subsets(out: Path) -> None:
    head, *rows = cells(out, "By subset, means over seeds")
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
    exact, bootstrap = {}, {}
    for line in lines:
        pair = line["first"], line["second"]
        a, b = ([verdicts(out, name, seed) for seed in range(3)] for name in pair)
        assert float(line["difference"]) == pytest.approx(mean(map(share, a)) - mean(map(share, b))) and float(line["difference"]) >= 0
        major = [{k: sum(right[k] for right in side) >= 2 for k in side[0]} for side in (a, b)]
        first, second = (sum(x[k] and not y[k] for k in x) for x, y in (major, major[::-1]))
        assert (int(line["only_first_right"]), int(line["only_second_right"])) == (first, second)
        n, k = first + second, min(first, second)
        exact[pair] = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
        assert float(line["mcnemar_p"]) == pytest.approx(exact[pair])
        gaps = [share(x) - share(y) for x, y in zip(a, b, strict=True)]
        half = T2 * stdev(gaps) / sqrt(3)
        assert (float(line["seeds_low"]), float(line["seeds_high"])) == pytest.approx((mean(gaps) - half, mean(gaps) + half))
        draws = resampled([mean(right[k] for right in a) - mean(right[k] for right in b) for k in a[0]])
        ends = pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=noise(draws))
        assert [float(line["low"]), float(line["high"])] == ends
        p = min(1.0, 2 * min((draws <= 1e-9).mean(), (draws >= -1e-9).mean()))
        bootstrap[pair] = float(line["bootstrap_p"])
        assert bootstrap[pair] == pytest.approx(p, abs=10 * sqrt(p / 20_000) + 2e-4)
    corrected, by_bootstrap = stepped(exact), stepped(bootstrap)
    for line in lines:
        pair = line["first"], line["second"]
        assert float(line["mcnemar_p_holm"]) == pytest.approx(corrected[pair])
        assert float(line["bootstrap_p_holm"]) == pytest.approx(by_bootstrap[pair])
        assert line["significant"] == str(corrected[pair] < 0.05 and by_bootstrap[pair] < 0.05)
    head, *rows = cells(out, "Differences between models")
    names = [
        "better",
        "than",
        "n",
        "by",
        "95 % over examples",
        "bootstrap p",
        "only one correct",
        "McNemar p",
        "significant",
        "95 % over seeds",
    ]
    assert head == names and len(rows) == 3
    for row in rows:
        line = next(line for line in lines if [line["first"], line["second"]] == row[:2])
        number = {key: float(line[key]) for key in ("difference", "low", "high", "seeds_low", "seeds_high")}
        assert row[2:5] == ["89", f"{number['difference']:+.3f}", f"[{number['low']:.3f}, {number['high']:.3f}]"]
        assert row[5] == f"{by_bootstrap[row[0], row[1]]:.3g}" and row[7] == f"{corrected[row[0], row[1]]:.3g}"
        assert row[6] == f"{line['only_first_right']} : {line['only_second_right']}"
        assert row[8] == {"True": "yes", "False": "no"}[line["significant"]]
        assert row[9] == f"[{number['seeds_low']:.3f}, {number['seeds_high']:.3f}]"


def test_the_report_says_what_is_real(out: Path) -> None:
    text = (out / "report.md").read_text()
    assert "**2 of the 3 differences are significant at the level 0.05.**" in text and "- GPM dim=8 is better than BT by" in text
    assert "Not all" not in text, "one recipe, one validation set"
    assert "9 points of 3 models" in text and "no \\| luck" in text and "running" not in text
    assert "**Points that are not finished yet: 1." in text, "one has failed, one is running"
    assert "Student's t over seeds" in text and "Wilson" not in text and "pairs.csv" not in text
    plots = sorted(path.name for path in (out / "report-plots").iterdir())
    assert plots == ["01-accuracy-dim.png", "02-accuracy-subsets.png"]
    for name in plots:
        assert f"](<report-plots/{name}>)" in text and (out / "report-plots" / name).read_bytes().startswith(b"\x89PNG")


def test_nothing_real(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for model in "xyz":
        make(tmp_path, model, 0, list(generator.normal(0.2, 1, 60)))
    write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "**No difference is significant at the level 0.05: 3 pairs were tested.**" in text
    assert "Wilson's interval over examples; one seed has no spread" in text and "Student's t over" not in text


def test_equal_models_differ_by_a_zero_without_a_sign(tmp_path: Path) -> None:
    """Three examples that a third of the seeds gets right against one that all do: 3 x 0.333333333333 - 1 is below zero."""
    for seed in range(3):
        make(tmp_path, "x", seed, [1.0 if i == seed else -1.0 for i in range(6)])
        make(tmp_path, "y", seed, [1.0 if i == 3 else -1.0 for i in range(6)])
    (test,) = compare(models(read_runs(tmp_path, lambda path: read_scores(path, PairRow))))
    assert test.difference.mean < 0
    write(tmp_path)
    (_, row) = cells(tmp_path, "Differences between models")
    assert row[3] == "+0.000"


def test_comparisons_of_one_prompt_count_together(tmp_path: Path) -> None:
    """24 comparisons on 6 prompts; x is right on all of two prompts more, y on none: two prompts speak for x, not eight examples."""
    for model, right in (("x", 16), ("y", 8)):
        make(tmp_path, model, 0, [-1.0 if (i < right) == (i == 8) else 1.0 for i in range(24)], per_prompt=4)
    (test,) = compare(models(read_runs(tmp_path, lambda path: read_scores(path, PairRow))))
    assert (test.n, test.prompts, test.mcnemar) == (23, 6, (2, 0, 0.5)), "one is a tie by the data; a fair coin falls so half of the time"
    ends = np.random.default_rng(9).choice([0.0, 8 / 23], (20_000, 6), p=[4 / 6, 2 / 6]).mean(1) * 3
    assert test.difference.low == 0 and test.difference.high == pytest.approx(np.quantile(ends, 0.975), abs=0.08)
    write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Several comparisons on one prompt" in text and "resampling prompts" in text and "counting each prompt once" in text
    with (tmp_path / "pairs.csv").open() as file:
        assert [(line["n"], line["prompts"]) for line in csv.DictReader(file)] == [("23", "6")]
    make(tmp_path, "z", 0, [1.0] * 8 + [-1.0] + [1.0] * 15, per_prompt=4)
    best = models(read_runs(tmp_path, lambda path: read_scores(path, PairRow)))[0]
    assert best.name == "z" and best.interval() == pytest.approx((6 / (6 + Z2), 1.0)), "all right, on six prompts: Wilson's 6 of 6"
    for folder in (tmp_path / "points").glob("[xy]-*"):  # written before rows said so: whoever knows the prompts tells
        rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
        (folder / "scores.jsonl").write_text("".join(json.dumps({k: v for k, v in row.items() if k != "prompt"}) + "\n" for row in rows))
    tests = compare(models(read_runs(tmp_path, lambda path: read_scores(path, PairRow))))
    assert {(test.first, test.second): test.prompts for test in tests} == {("z", "x"): 6, ("z", "y"): 6, ("x", "y"): 23}


def test_more_pairs_than_a_table_shows(tmp_path: Path) -> None:
    for i in range(7):
        make(tmp_path, f"m{i}", 0, [1.0] * i + [-1.0] * (20 - i))
    write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "The 20 smallest p-values of 21." in text and "pairs.csv has all pairs" in text
    assert len(cells(tmp_path, "Differences between models")) == 1 + 20 and len((tmp_path / "pairs.csv").read_text().splitlines()) == 1 + 21


def test_two_seeds_that_disagree_are_left_out(tmp_path: Path) -> None:
    for seed, sign in ((0, 1.0), (1, -1.0)):
        make(tmp_path, "torn", seed, [sign] * 6 + [1.0, 1.0])
        make(tmp_path, "sure", seed, [-1.0] * 6 + [1.0, -1.0])
    (test,) = compare(models(read_runs(tmp_path, lambda path: read_scores(path, PairRow))))
    assert (test.first, test.n, test.mcnemar) == ("torn", 7, (0, 0, 1.0)), "of the seven, six split torn's seeds; the tie is left out"
    assert test.difference.mean == pytest.approx(3 / 7)
    assert test.seeds == pytest.approx((3 / 7 - T1 * 3 / 7, 3 / 7 + T1 * 3 / 7))


def test_models_on_other_examples_are_not_compared(tmp_path: Path) -> None:
    make(tmp_path, "x", 0, [1.0] * 5)
    make(tmp_path, "y", 0, [1.0] * 5)
    file = tmp_path / "points" / "y-seed=0" / "scores.jsonl"
    file.write_text(file.read_text().replace('"id": "', '"id": "other'))
    write(tmp_path)
    assert "No two of them have scores for the same examples" in (tmp_path / "report.md").read_text()


def test_equal_ids_of_other_comparisons_are_not_compared(tmp_path: Path) -> None:
    """Rows without an id are numbered, so the ids of a file that changed are the same; x has a seed on either side of the change."""
    for seed, data in ((0, "before"), (1, "after")):
        make(tmp_path, "x", seed, [1.0] * 30, data=data)
    make(tmp_path, "y", 0, [-1.0] * 30, data="after")
    make(tmp_path, "z", 0, [-1.0] * 30, data="before")
    write(tmp_path)
    with (tmp_path / "pairs.csv").open() as file:
        tested = {(line["first"], line["second"]) for line in csv.DictReader(file)}
    assert tested == {("x, data after", "y"), ("x, data before", "z")}
    assert "**Not all points were evaluated on the same comparisons" in (tmp_path / "report.md").read_text()


def test_seeds_of_other_recipes_are_other_models(tmp_path: Path) -> None:
    """Their mean would be one of two models; a seed of an older version has no recipe."""
    for seed, recipe in ((0, "aaaabbbbcccc"), (1, "aaaabbbbcccc"), (2, "ddddeeeeffff"), (3, "")):
        make(tmp_path, "x", seed, [1.0] * 20 + [-1.0] * seed)
        file = tmp_path / "points" / f"x-seed={seed}" / "point.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | ({"recipe": recipe} if recipe else {})))
    make(tmp_path, "y", 0, [1.0] * 20)
    write(tmp_path)
    seeds = {row[0]: row[1] for row in cells(tmp_path, "Sweep")[1:]}
    assert seeds == {"x, recipe aaaabbbb": "2", "x, recipe ddddeeee": "1", "x, recipe unknown": "1", "y": "1"}
    assert "**Not all seeds of a model were trained with the same settings and data" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("count", [3, 40])
def test_resamples_are_enough_for_the_correction_and_no_more(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that every resample has must be found among all pairs."""
    asked: list[int] = []

    def bootstrap(first: Any, second: Any, draws: int, generator: Any, groups: Any) -> Difference:
        asked.append(draws)
        return Difference(0.0, 0.0, 0.0, 1.0)

    monkeypatch.setattr(table, "bootstrap_difference", bootstrap)
    compare([Model(str(i), {}, {0: Run({}, {("", "a"): Outcome(True)})}) for i in range(count)])
    pairs = count * (count - 1) // 2
    assert len(asked) == pairs and 2 / (asked[0] + 1) * pairs < 0.05 and asked[0] <= max(20_000, 100 * pairs)


def test_keys_of_one_last_name_have_plots_of_their_own(tmp_path: Path) -> None:
    found = [
        Model(f"{a} {b}", {"model.a.dim": a, "model.b.dim": b}, {0: Run({}, {("", "x"): Outcome(True), ("", "y"): Outcome(False)})})
        for a, b in ((2, 4), (4, 8))
    ]
    assert draw(found, tmp_path) == ["accuracy-model.a.dim.png", "accuracy-model.b.dim.png"] and len(list(tmp_path.iterdir())) == 2


def test_infinity_is_on_no_axis(tmp_path: Path) -> None:
    run = Run({}, {("", "x"): Outcome(True), ("", "y"): Outcome(False)})
    assert draw([Model(str(clip), {"clip": clip}, {0: run}) for clip in (1.0, inf)], tmp_path) == [], "one number is no plot"


def test_plots_of_an_older_report_go(out: Path) -> None:
    for folder in (out / "points").glob("GPM*"):
        (folder / "point.json").unlink()
    write(out)
    assert [path.name for path in (out / "report-plots").iterdir()] == ["01-accuracy-subsets.png"]


def test_a_point_whose_scores_were_removed_is_not_finished(out: Path) -> None:
    (out / "points" / "BT-seed=1" / "scores.jsonl").unlink()
    write(out)
    assert [row[1] for row in cells(out, "Sweep") if row[0] == "BT"] == ["2"]
    assert "not finished yet: 2." in (out / "report.md").read_text()
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 9


def test_seeds_that_tie_have_no_interval(tmp_path: Path) -> None:
    """Nine comparisons without a tie by the data (8 prefers the rejected one): 6 of 8 for every seed of y, 7, 6 and 7 of 8 for x."""
    for seed in range(3):
        make(tmp_path, "y", seed, [1.0] * 6 + [-1.0, 1.0, 1.0], **{"model.dim": 2})
        make(tmp_path, "x", seed, [1.0] * (6 + (seed != 1)) + [-1.0] * (seed == 1) + [1.0, 1.0], **{"model.dim": inf})
        make(tmp_path, "z", seed, [1.0] * 5 + [-1.0] * 2 + [1.0, 1.0], **{"model.dim": 4})
    write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    rows = {row[0]: row for row in cells(tmp_path, "Sweep")[1:]}
    assert rows["y"][3:6] == ["0.750", "-", "0.000"] and rows["z"][4] == "-"
    values = [7 / 8, 6 / 8, 7 / 8]
    half = T2 * stdev(values) / sqrt(3)
    assert rows["x"][4] == f"[{mean(values) - half:.3f}, {min(mean(values) + half, 1):.3f}]"
    assert "95 % is a dash if all seeds have the same accuracy" in text
    over_seeds = {(row[0], row[1]): row[9] for row in cells(tmp_path, "Differences between models")[1:]}
    assert over_seeds["y", "z"] == "-" and over_seeds["x", "y"].startswith("[")
    with (tmp_path / "pairs.csv").open() as file:
        assert [(line["first"], line["second"]) for line in csv.DictReader(file) if not line["seeds_low"]] == [("y", "z")]
    assert [path.name for path in (tmp_path / "report-plots").iterdir() if "dim" in path.name] == ["01-accuracy-dim.png"]


def test_report_only(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".md", ".csv")}
    for name in before:
        (out / name).unlink()
    assert main(["--report-only", str(out)]) == 0
    assert {name: (out / name).read_bytes() for name in before} == before
    assert capsys.readouterr().out.strip() == before["report.md"].decode().strip()


def test_report_only_waits_for_a_worker_that_writes(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("prefrep.locks.log.warning", lambda text, *values: said.append(text % values))
    written: list[Path] = []
    monkeypatch.setattr("prefrep.reports.sweep.write", written.append)
    other = threading.Thread(target=main, args=(["--report-only", str(out)],))
    with writing(out / "report.md"):
        other.start()
        other.join(0.5)
        assert not written
    assert len(said) == 1 and f"{out}/report.md: process {os.getpid()} on " in said[0] and said[0].endswith("there; waiting for it")
    other.join(30)
    assert written == [out]


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the folder of a sweep"):
        main(["--report-only", str(tmp_path)])


def test_nothing_finished_yet(tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "No point is finished" in text and "not finished yet" not in text and (tmp_path / "table.csv").read_text() == ""
