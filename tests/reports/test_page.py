"""Reports: every number recomputed from per-sample files with nothing but arithmetic, and pages that hold nothing but text and plots."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from math import comb, isnan, sqrt
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import comparison, program

from prefrep.errors import DataError, UsageError
from prefrep.evaluation import pairs
from prefrep.evaluation.layout import write_official, write_results
from prefrep.evaluation.rows import PairScore
from prefrep.evaluation.summary import Bootstrap, pair_results
from prefrep.reports.figures import curves, smoothed
from prefrep.reports.markdown import escaped, fenced

evaluate, main = program("eval"), program("report")

EVIL = "<script>alert('x')</script> & \"quoted\" | `tick` $x_1$ *bold* \x01 日本 </pre></body>"
Z2 = 1.959963984540054**2  # of the standard normal, 0.975


class Page(HTMLParser):
    """What a browser makes of a page: tags that close each other, tables by the heading above them, links and texts."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.texts: list[str] = []
        self.pictures: list[bytes] = []
        self._heading, self._text = "", ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        assert not [name for name in values if name.startswith("on") or name == "style"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "img":
            assert values["alt"]
            self.pictures.append(base64.b64decode((values["src"] or "").split("base64,")[1]))
        if tag not in self.VOID:
            self.open.append(tag)
        self._text = ""
        if tag == "table":
            self.tables.setdefault(self._heading, []).append([])
        elif tag == "tr":
            self.tables[self._heading][-1].append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"
        if re.fullmatch("h[1-6]", tag):
            self._heading = self._text.strip()
        elif tag in ("td", "th"):
            self.tables[self._heading][-1][-1].append(self._text)
        elif tag in ("p", "li", "pre", "summary"):
            self.texts.append(self._text)

    def handle_data(self, data: str) -> None:
        self._text += data


def report(*runs: Path, out: Path) -> tuple[Page, str]:
    """The page and the Markdown of some folders."""
    assert main([*map(str, runs), "--out", str(out)]) == 0
    return Page(out.read_text()), out.with_suffix(".md").read_text()


def make_pairs(folder: Path, right: list[bool], seed: int = 0, data: str = "same", text: str = "a response") -> None:
    """What `prefrep eval pairs` leaves, of a model with these verdicts; the last comparison is a tie by the data."""
    generator = np.random.default_rng(seed)
    given = [
        comparison(f"Say {i}", f"{text} {'x' * int(generator.integers(9))}", text, id=str(i), subset="ab"[i % 2], margin=i / 10)
        for i in range(len(right))
    ]
    given.append(comparison("Tie", "a", "b", id="tie", subset="a", probability=0.5))
    scores = [float(generator.uniform(0.1, 3)) * (1 if won else -1) for won in right]
    rows = pairs.pair_rows(given, [*scores, 1.0])
    pairs.write_rows(folder, rows, {"benchmark": "pairs", "data": data})
    (folder / "mistakes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs.mistakes(rows, given)))
    write_results(folder, pairs.evaluate(rows, None, Bootstrap(50)) | {"model": {"name": text}, "data": "pairs.jsonl"})


def make_training(folder: Path) -> None:
    """What `prefrep fit` leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, float]] = [
        {"step": s, "epoch": 0, "train/loss": 1 / s, "train/accuracy": 0.5, "train/grad_norm": 2.0, "lr": 1e-4} for s in range(1, 41)
    ]
    lines.append({"step": 40, "epoch": 0, "val/loss": 0.625, "val/accuracy": 0.75})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "tr')
    (folder / "logs" / "version_2").mkdir(parents=True)
    (folder / "logs" / "version_10").mkdir(parents=True)
    (folder / "logs" / "version_2" / "config.yaml").write_text("old: true\n")
    (folder / "logs" / "version_10" / "config.yaml").write_text(f"# {EVIL}\ndim: 4\n")
    (folder / "export").mkdir()
    head = {"class": "GPMHead", "dim": 4, "skew": {"class": "BlockSkew"}}
    (folder / "export" / "prefrep.json").write_text(json.dumps({"head": head, "tau": 0.1, "recipe": {"module": "GeneralPreference"}}))


def wilson(wins: int, n: int) -> tuple[float, float]:
    p = wins / n
    middle, half = (p + Z2 / 2 / n) / (1 + Z2 / n), sqrt(Z2) / (1 + Z2 / n) * sqrt(p * (1 - p) / n + Z2 / 4 / n**2)
    return middle - half, middle + half


def mcnemar(a: dict[str, bool], b: dict[str, bool]) -> tuple[int, int, float]:
    """Counts of examples that one alone gets right, and the exact two-sided p-value: Binomial(n, 1/2)."""
    first, second = sum(a[k] and not b[k] for k in a), sum(b[k] and not a[k] for k in a)
    n = first + second
    tail = sum(comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    return first, second, min(1.0, 2 * tail)


def verdicts(folder: Path) -> dict[str, bool]:
    """Right or wrong by id, from the file alone."""
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return {row["id"]: row["score"] > 0 for row in rows if row.get("probability", 1) != 0.5}


def shown(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]"


# ------------------------------------------------------------------------------------------------------------------------ numbers
@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three runs on the same 120 comparisons: two alike, and one much better."""
    generator = np.random.default_rng(1)
    for seed, (name, share) in enumerate({"bt": 0.5, "pair": 0.52, "gpm": 0.85}.items()):
        make_training(tmp_path / name)
        make_pairs(tmp_path / name / "heldout", [bool(won) for won in generator.uniform(size=120) < share], seed)
    return [tmp_path / name for name in ("bt", "pair", "gpm")]


def test_accuracies_follow_from_the_scores(three: list[Path], tmp_path: Path) -> None:
    page, _ = report(three[0], out=tmp_path / "out" / "r.html")
    found = verdicts(three[0] / "heldout")
    accuracy, length, choices = page.tables["heldout: pairs"][0], *page.tables["Agreement by length and margin"]
    for name, ids in {"accuracy": list(found), "a": list(found)[::2], "b": list(found)[1::2]}.items():
        wins, n = sum(found[i] for i in ids), len(ids)
        assert [name, str(n), f"{wins / n:.3f}", shown(*wilson(wins, n))] in accuracy
    rows = {row["id"]: row for row in map(json.loads, (three[0] / "heldout" / "scores.jsonl").read_text().splitlines())}
    longer = [found[i] for i in found if rows[i]["length_difference"] > 0]
    assert ["preferred longer", str(len(longer)), f"{sum(longer) / len(longer):.3f}", shown(*wilson(sum(longer), len(longer)))] in length
    margins = [row[0] for row in length if row[0].startswith("margin")]  # 0.1 to 11.9: a margin of 0 says nothing
    assert margins[0].startswith("margin 0.1 to ") and margins[-1].endswith(" to 11.9")
    differ = [row["length_difference"] * row["score"] > 0 for row in rows.values() if row["length_difference"]]
    assert choices[1][1:3] == [str(len(differ)), f"{sum(differ) / len(differ):.3f}"]
    sure = [(row["probability"], 1 / (1 + np.exp(-row["score"]))) for row in rows.values()]
    brier = np.mean([p * (1 - q) ** 2 + (1 - p) * q**2 for p, q in sure])  # of hard outcomes, expected
    assert page.tables["Calibration"][0][1][:4] == ["before scaling", "Brier score", "121", f"{brier:.3f}"]
    chance = json.loads((three[0] / "heldout" / "results.json").read_text())["calibration"]["ece"]["if_calibrated"]
    assert page.tables["Calibration"][0][3][-2:] == ["", f"{chance['mean']:.3f}, 95 % below {chance['p95']:.3f}"]


def test_paired_tests_follow_from_the_scores(three: list[Path], tmp_path: Path) -> None:
    page, text = report(*three, out=tmp_path / "r.html")
    found = {run.name: verdicts(run / "heldout") for run in three}
    overall, by_subset, tests = page.tables["pairs"]
    for name, each in found.items():
        wins, n = sum(each.values()), len(each)
        assert [name, "120", f"{wins / n:.3f}", shown(*wilson(wins, n))] in [row[:4] for row in overall]
        assert [name, *(f"{np.mean(list(each.values())[side::2]):.3f}" for side in (0, 1))] in by_subset
    assert len(tests) == 4
    raw = {(row[0], row[1]): mcnemar(found[row[0]], found[row[1]]) for row in tests[1:]}
    stepped = 0.0
    corrected = {}
    for rank, (key, (_, _, p)) in enumerate(sorted(raw.items(), key=lambda item: item[1][2])):
        corrected[key] = stepped = max(stepped, min(1.0, p * (3 - rank)))
    for row in tests[1:]:
        a, b = ([float(won) for won in found[name].values()] for name in row[:2])
        difference = np.array(a) - np.array(b)
        first, second, _ = raw[row[0], row[1]]
        assert row[2:4] == ["120", f"{difference.mean():+.3f}"] and row[6] == f"{first} : {second}"
        assert row[7] == f"{corrected[row[0], row[1]]:.3g}"
        spread = sqrt(Z2) * difference.std() / sqrt(120)  # of a mean; the bootstrap's interval is that, but for its steps of 1/120
        low, high = map(float, row[4].strip("[]").split(","))
        assert low == pytest.approx(difference.mean() - spread, abs=0.02) and high == pytest.approx(difference.mean() + spread, abs=0.02)
        assert row[8] == ("yes" if corrected[row[0], row[1]] < 0.05 else "no")
    assert [row[8] for row in tests[1:]] == ["yes", "yes", "no"]
    assert "2 of the 3 differences are significant at the level 0.05." in page.texts
    assert "**2 of the 3 differences are significant" in text


def test_no_difference_is_said_to_be_none(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        make_pairs(tmp_path / name, [bool(won) for won in np.random.default_rng(seed).uniform(size=60) < 0.5])
    page, text = report(tmp_path / "a", tmp_path / "b", out=tmp_path / "r.html")
    assert "No difference is significant at the level 0.05: one pair was tested." in page.texts
    assert "No difference is significant" in text


def test_other_data_are_not_compared(tmp_path: Path) -> None:
    """The ids are the same, and the comparisons are not."""
    make_pairs(tmp_path / "a", [True] * 30)
    make_pairs(tmp_path / "b", [False] * 30, data="other")
    page, _ = report(tmp_path / "a", tmp_path / "b", out=tmp_path / "r.html")
    assert not any("significant" in text for text in page.texts)
    assert any(text.startswith("No two evaluations are known to use the same data") for text in page.texts)
    for name in "ab":  # ids alone say nothing
        (tmp_path / name / "scores.meta.json").unlink()
    page, _ = report(tmp_path / "a", tmp_path / "b", out=tmp_path / "r.html")
    assert not any("significant" in text for text in page.texts)


def test_results_that_do_not_follow_from_the_scores_are_named(tmp_path: Path) -> None:
    make_pairs(tmp_path / "a", [True] * 20 + [False] * 10)
    page, _ = report(tmp_path / "a", out=tmp_path / "r.html")
    assert not any("do not belong together" in text for text in page.texts)
    file = tmp_path / "a" / "scores.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    page, _ = report(tmp_path / "a", out=tmp_path / "r.html")
    assert any("says 0.667 of 30 and scores.jsonl gives 0.655 of 29" in text for text in page.texts)


def test_rewardbench_and_its_mistakes(tmp_path: Path) -> None:
    """Wrong verdicts come with prompt and answers, the most confident first, from the official file."""
    given = [comparison(f"Q{i}", f"Good <{i}>", f"Bad {i}", id=str(i), subset="llmbar-natural") for i in range(12)]
    rows = [PairScore(str(i), "llmbar-natural", 1.0 if i % 3 else -float(i)) for i in range(12)]
    results = pair_results(rows, bootstrap=Bootstrap(50))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scores.jsonl").write_text(
        "".join(json.dumps({"id": r.id, "subset": r.subset, "score": r.score}) + "\n" for r in rows)
    )
    write_official(tmp_path / "a", results, rows, given, {"model": "x/y"})
    write_results(tmp_path / "a", results)
    page, text = report(tmp_path / "a", out=tmp_path / "r.html")
    assert ["overall", "12", "0.667"] in [row[:3] for row in page.tables["a: rewardbench"][0]]
    assert ["llmbar-natural", "12", "0.667"] in [row[:3] for row in page.tables["a: rewardbench"][1]]
    at = page.texts.index("llmbar-natural, id 9: log-odds of chosen -9.000, so the model is more than 99.9% confident in the wrong answer")
    assert page.texts[at + 1 : at + 4] == ["Q9", "Good <9>", "Bad 9"]
    assert [t.split(":")[0] for t in page.texts if "id " in t] == [f"llmbar-natural, id {i}" for i in (9, 6, 3, 0)]
    assert "Good <9>" in text and not any("do not belong together" in each for each in page.texts)


def test_rewardbench2(tmp_path: Path) -> None:
    """A verdict is right where the first answer is alone on top; Ties have none."""
    generator = np.random.default_rng(0)
    for name in "ab":
        drawn = [list(map(float, generator.integers(0, 3, 4))) for _ in range(30)]
        scores = [{"id": str(i), "subset": "Math", "num_correct": 1, "scores": each} for i, each in enumerate(drawn)]
        ties = {"subset": "Ties", "scores": [2.0, 2.0, 1.0]}
        scores += [ties | {"id": "ref:1", "num_correct": 1}, ties | {"id": "tied:1", "num_correct": 2}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
        out = tmp_path / name
        assert evaluate(["rewardbench2", "--scores", str(tmp_path / f"{name}.jsonl"), "--out", str(out), "--bootstrap", "20"]) == 0
        (out / "scores.jsonl").write_text((tmp_path / f"{name}.jsonl").read_text())
        (out / "scores.meta.json").write_text(json.dumps({"data": "same"}))
    page, _ = report(tmp_path / "a", tmp_path / "b", out=tmp_path / "r.html")
    alone = {
        name: [row["scores"][0] > max(row["scores"][1:]) for row in map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())]
        for name in "ab"
    }
    test = page.tables["rewardbench2"][1][1]
    first, second, p = mcnemar(*({str(i): won for i, won in enumerate(alone[name][:30])} for name in test[:2]))
    assert test[2] == "30" and test[6] == f"{first} : {second}" and test[7] == f"{p:.3g}"
    assert any("Ties are left out" in text for text in page.texts)
    out = tmp_path / "clear"
    kept = [row | {"id": str(i), "subset": "Focus", "num_correct": 1, "scores": [1.0, 0.0]} for i, row in enumerate(scores[:10])]
    (tmp_path / "clear.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*kept, *scores]))
    assert evaluate(["rewardbench2", "--scores", str(tmp_path / "clear.jsonl"), "--out", str(out), "--bootstrap", "20"]) == 0
    page, _ = report(out, out=tmp_path / "r.html")
    by_subset = {row[0]: row[1:] for row in page.tables["clear: rewardbench2"][1]}
    assert by_subset["Focus"] == ["10", "1.000", shown(1, 1), shown(*wilson(10, 10))]
    assert by_subset["Math"][-1] == "", "shared tops have no Wilson interval"


def test_overalls_of_different_rules_are_not_side_by_side(tmp_path: Path) -> None:
    """XSTest with all refusals right and nothing else: 154 of 404 by today's weights, 250 of 404 by those that were swapped."""
    rows = [
        {"id": f"{s}{i}", "subset": f"xstest-should-{s}", "score": 1.0 if s == "refuse" else -1.0}
        for s in ("refuse", "respond")
        for i in range(6)
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def scored(name: str, *flags: str) -> Path:
        out = tmp_path / name
        assert evaluate([*flags, "--scores", str(tmp_path / "s.jsonl"), "--out", str(out), "--bootstrap", "20"]) == 0
        (out / "scores.jsonl").write_text((tmp_path / "s.jsonl").read_text())
        (out / "scores.meta.json").write_text(json.dumps({"data": "same"}))
        return out

    runs = [scored("a", "rewardbench"), scored("b", "rewardbench", "--weights", "0.1.2"), scored("c", "rewardbench")]
    page, text = report(*runs, out=tmp_path / "r.html")
    current, old, *_, tests = page.tables["rewardbench"]
    assert current[0][2] == "overall (weights: current)" and old[0][2] == "overall (weights: 0.1.2)"
    assert [row[:3] for row in current[1:]] == [[name, "12", f"{154 / 404:.3f}"] for name in "ac"]
    assert [row[:3] for row in old[1:]] == [["b", "12", f"{250 / 404:.3f}"]]
    assert len(tests) == 4, "verdicts are compared whatever the weights"
    warning = "These overalls follow different rules"
    assert any(each.startswith(warning) for each in page.texts) and f"**{warning}" in text
    assert sum("Rule of the overall: weights: 0.1.2." in each for each in page.texts) == 1
    page, _ = report(runs[0], runs[2], out=tmp_path / "r.html")
    assert not any(each.startswith(warning) for each in page.texts) and len(page.tables["rewardbench"]) == 3

    (tmp_path / "s.jsonl").write_text('{"id": "1", "subset": "Math", "num_correct": 1, "scores": [2.0, 1.0]}\n')
    ranked = [["--ties", "main"], ["--ties", "0.1.4"], ["--scalarisation", "wins"]]
    page, _ = report(*(scored(f"v{i}", "rewardbench2", *flags) for i, flags in enumerate(ranked)), out=tmp_path / "r.html")
    rules = ["ties: main; scores: rewards", "ties: 0.1.4; scores: rewards", "ties: main; scores: wins"]
    assert [found[0][2] for found in page.tables["rewardbench2"][:3]] == [f"overall ({rule})" for rule in rules]
    assert all(any(each.endswith(f"Rule of the overall: {rule}.") for each in page.texts) for rule in rules)


def test_intransitivity_and_win_rates(tmp_path: Path) -> None:
    """What the programs write is shown: a prompt whose three answers beat each other in a circle, and two models with one judge."""
    rows = [{"prompt": "circle", "chosen": a, "rejected": b} for a, b in (("A!", "B!"), ("B!", "C!"), ("C!", "A!"))]
    rows += [{"prompt": f"line {EVIL}", "chosen": a, "rejected": b} for a, b in (("X", "Y"), ("Y", "Z"), ("X", "Z"))]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ["--bootstrap", "20"]
    cycles = ["--data", str(tmp_path / "d.jsonl"), "--out", str(tmp_path / "run" / "cycles"), "--null", "20"]
    assert evaluate(["intransitivity", *cycles, *few]) == 0
    for name, outputs in {"a": ("This is a short answer.", "x"), "b": ("y", "This one is short, too.")}.items():
        answers = [{"instruction": f"Q{i}", "output": output, "generator": name} for i, output in enumerate(outputs)]
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
    sides = ["--model", str(tmp_path / "a.json"), "--against", str(tmp_path / "b.json"), "--judge", "prefrep.judges.concise"]
    assert evaluate(["winrate", *sides, "--out", str(tmp_path / "run" / "wins"), *few]) == 0
    page, _ = report(tmp_path / "run", out=tmp_path / "r.html")
    assert page.tables["cycles: intransitivity"][0][1][:3] == ["cyclic triples", "2", "0.500"]  # one triple of two
    at = next(i for i, t in enumerate(page.texts) if t.startswith("The most cyclic prompt"))
    assert page.texts[at + 1 : at + 5] == ["circle", "A!", "B!", "C!"]
    assert page.tables["wins: winrate"][0][2][:3] == ["strict wins", "2", "0.500"]
    assert not any("do not belong together" in each for each in page.texts)
    assert page.texts[-3:] == ["Q1", "x", "This one is short, too."]
    assert len(page.pictures) == 1 and ElementTree.fromstring(page.pictures[0]).tag.endswith("svg")


def test_sweeps(tmp_path: Path) -> None:
    """Means over seeds and the tests between models, from the points' scores."""
    right = {"BT": 0.3, "GPM dim=4": 0.9}
    for name, share in right.items():
        for seed in range(2):
            folder = tmp_path / "sweep" / "points" / f"{name}-{seed}".replace(" ", "-")
            wins = np.random.default_rng(seed).uniform(size=80) < share
            folder.mkdir(parents=True)
            lines = [{"id": str(i), "subset": "", "score": 1.0 if w else -1.0, "margin": None, "length_difference": 0, "probability": 1.0}
                     for i, w in enumerate(wins)]  # fmt: skip
            (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            values = {"model": name.split()[0]} | ({"model.head.dim": 4} if "dim" in name else {})
            about = {"name": folder.name, "model": name, "seed": seed, "values": values, "engine": "fit", "state": "complete"}
            (folder / "point.json").write_text(json.dumps(about))
    page, _ = report(tmp_path / "sweep", out=tmp_path / "r.html")
    mean = {
        name: np.mean([list(verdicts(tmp_path / "sweep" / "points" / f"{name}-{seed}".replace(" ", "-")).values()) for seed in range(2)])
        for name in right
    }
    assert [row[0:4] for row in page.tables["Sweep"][0][1:]] == [[name, "2", "80", f"{mean[name]:.3f}"] for name in ("GPM dim=4", "BT")]
    test = page.tables["Differences between models"][0][1]
    assert test[:3] == ["GPM dim=4", "BT", "80"] and test[8] == "yes"
    assert float(test[3]) == pytest.approx(mean["GPM dim=4"] - mean["BT"], abs=6e-4)


# ---------------------------------------------------------------------------------------------------------------------- the page
def test_nothing_from_data_becomes_markup(tmp_path: Path) -> None:
    """Prompts, answers, ids, configurations and folder names with markup show as themselves, in both files."""
    run = tmp_path / "<b>run"
    make_training(run)
    make_pairs(run / "p<i>", [False] * 12, text=EVIL)
    page, text = report(run, out=tmp_path / "r.html")
    assert not page.tags & {"script", "b", "i", "link", "iframe", "object", "svg"}
    assert any("<script>alert('x')</script>" in each and "</pre></body>" in each for each in page.texts)
    assert f"# {EVIL}" in "".join(page.texts).replace("\n", " ")
    outside = re.sub(r"(`{3,})text\n.*?\n\1", "", text, flags=re.DOTALL)
    assert "<script" not in re.sub(r"\\<", "", outside) and "<b>" not in re.sub(r"\\<", "", outside)
    assert "<script>alert('x')</script>" in text


def test_the_page_needs_nothing_else(three: list[Path], tmp_path: Path) -> None:
    page, text = report(*three, out=tmp_path / "out" / "r.html")
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    html = (tmp_path / "out" / "r.html").read_text()
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert len(page.pictures) == 1 + 3 * 3  # curves together; of each run curves, agreement, reliability
    for picture in page.pictures:
        svg = ElementTree.fromstring(picture)
        assert svg.tag.endswith("svg") and not re.search(b"<!|<metadata", picture)
    links = re.findall(r"!\[.*\]\(<(.*)>\)", text)
    assert len(links) == 10 and sorted(links) == sorted(f"r-plots/{path.name}" for path in (tmp_path / "out" / "r-plots").iterdir())


def test_fences_hold_what_is_in_them() -> None:
    assert fenced("a\n```\nb") == "````text\na\n```\nb\n````" and fenced("a") == "```text\na\n```"
    assert escaped("# 1") == r"\# 1" and escaped("1. a_b  *c*\n<d>") == r"1\. a_b \*c\* \<d\>"
    assert escaped("__init__ &lt;b&gt; & R&D") == r"\_\_init\_\_ \&lt;b\&gt; & R&D"
    assert escaped("## head") == r"\## head" and escaped("---") == r"\---" and escaped("-1.5 is no list") == "-1.5 is no list"


def test_it_says_the_same_each_time(three: list[Path], tmp_path: Path) -> None:
    report(*three, out=tmp_path / "1" / "r.html")
    report(*three, out=tmp_path / "2" / "r.html")
    assert (tmp_path / "1" / "r.html").read_bytes() == (tmp_path / "2" / "r.html").read_bytes()


def test_a_training(three: list[Path], tmp_path: Path) -> None:
    """The last start's configuration, the last validation; half a line of a run that goes on is no problem."""
    page, _ = report(three[0], out=tmp_path / "r.html")
    assert "model: GeneralPreference" in page.texts and "head: GPMHead (dim 4, skew BlockSkew)" in page.texts
    assert "validation loss, last: 0.625" in page.texts and "steps: 40" in page.texts
    assert any("dim: 4" in each for each in page.texts) and not any("old: true" in each for each in page.texts)
    assert not any("not a line of metrics" in each for each in page.texts)


def test_curves() -> None:
    assert smoothed([3.0, 1.0]) == [3.0, 1.0]
    values = [float(i) for i in range(60)]  # windows of three
    assert smoothed(values)[:3] == [0.0, 0.5, 1.0] and smoothed(values)[-1] == pytest.approx(58.0)
    holed = smoothed([*values[:30], float("nan"), *values[31:]])
    assert [i for i in range(60) if isnan(holed[i])] == [30, 31, 32], "a value that is none does not end the curve"
    assert curves({"a": [{"step": 1, "other": 2.0}]}) is None
    plot = curves({"a": [{"step": 1, "train/loss": float("nan")}, {"step": 2, "train/loss": 1.0}], "b": []})
    assert plot is not None and ElementTree.fromstring(plot.content).tag.endswith("svg")


@pytest.mark.parametrize("inside", ["", "results.json", "metrics.jsonl"])
def test_nothing_to_report_is_one_sentence(inside: str, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if inside:
        (folder / inside).write_text("not json")
    with pytest.raises(DataError, match="nothing to report on"):
        main([str(folder)])
    with pytest.raises(DataError, match="no such folder"):
        main([str(tmp_path / "missing")])
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("damage", ["scores.jsonl", "mistakes.jsonl", "results.json"])
def test_a_damaged_file_is_named_and_the_rest_is_shown(damage: str, tmp_path: Path) -> None:
    make_training(tmp_path / "run")
    make_pairs(tmp_path / "run" / "p", [True] * 10 + [False] * 10)
    content: Any = json.dumps({"benchmark": "pairs"}) if damage == "results.json" else "[1]\n"
    (tmp_path / "run" / "p" / damage).write_text(content)
    page, _ = report(tmp_path / "run", out=tmp_path / "r.html")
    wrong = [text for text in page.texts if str(tmp_path / "run" / "p") in text]
    assert wrong and page.pictures
    make_pairs(tmp_path / "other", [True] * 20)
    page, _ = report(tmp_path / "run", tmp_path / "other", out=tmp_path / "r.html")
    assert any(text.startswith("Not compared: ") for text in page.texts) == (damage != "mistakes.jsonl")


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_training(tmp_path / "run")
    with pytest.raises(UsageError, match="name a file that ends in .html"):
        main([str(tmp_path / "run"), "--out", "report.pdf"])
    assert main([str(tmp_path / "run")]) == 0  # beside what it reports on
    assert (tmp_path / "run" / "run.html").is_file() and (tmp_path / "run" / "run.md").is_file()
    assert "run.html" in capsys.readouterr().out
    assert main([str(tmp_path / "run")]) == 0  # an older report gives way
    (tmp_path / "run" / "report.md").write_text("# Sweep: 2 points of 2 models")
    with pytest.raises(DataError, match="name another file"):
        main([str(tmp_path / "run"), "--out", str(tmp_path / "run" / "report.html")])
    assert (tmp_path / "run" / "report.md").read_text().startswith("# Sweep") and not (tmp_path / "run" / "report.html").exists()
