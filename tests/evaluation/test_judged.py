"""Benchmarks of judged responses: what models are asked, and numbers against counts by hand, closed forms and published ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation.judged import bestofn, judgebench, ppe, rmb, rmbench
from prefrep.evaluation.judged.estimates import Sample
from prefrep.evaluation.judged.results import best_beats_all, every_pair
from prefrep.evaluation.judged.rows import JudgedScore, prompts_of, score_judged, swap_pairs, worst_pairs
from prefrep.evaluation.registry import JUDGED
from prefrep.evaluation.rows import read_scores
from prefrep.evaluation.summary import Bootstrap
from prefrep.records import Comparison, Message, Messages, RankedResponses

MODEL = {"path": "m", "dtype": "float32"}
FEW = Bootstrap(200)


def said(number: object) -> Messages:
    return (Message("assistant", str(number)),)


ASKED = (Message("user", "a number?"),)


def prompt(gold: Sequence[float], numbers: Sequence[float], subset: str = "", id: str = "", **more: Any) -> RankedResponses:
    """Responses that are numbers, which the models below score."""
    return RankedResponses(ASKED, tuple(map(said, numbers)), tuple(gold), subset=subset, id=id, **more)


class Scores:
    """A model that scores responses alone: the number itself."""

    pairwise = False

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray]:
        for record in records:
            self.asked.append(tuple(each[0].content for each in record.responses))
            yield np.array([float(each[0].content) for each in record.responses], np.float32)


class Tables(Scores):
    """A model that embeds responses: a table of differences in one pass."""

    pairwise = True

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray]:
        raise AssertionError("it gives no rewards")

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray]:
        for values in Scores.rewards(self, records):
            yield values[:, None] - values[None, :]


class Reads(Tables):
    """A model that reads two responses together."""

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray]:
        raise AssertionError("a table costs more passes than the pairs that count")

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        for each in comparisons:
            self.asked.append((each.chosen[0].content, each.rejected[0].content))
            yield float(each.chosen[0].content) - float(each.rejected[0].content)

    def compare_one_order(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        raise AssertionError("benchmarks count the mean of both orders")


def scored(scorer: Any, out: Path, records: Sequence[Any], benchmark: str = "rmbench", **more: Any) -> list[JudgedScore]:
    """Rows of a model on some records."""
    judged = JUDGED[benchmark]
    return score_judged(scorer, prompts_of(records, judged.subset), out, MODEL, benchmark, judged.asked, **more)


def rewarded(gold: Sequence[float], scores: Sequence[float], subset: str = "", id: str = "", prompt: str = "") -> JudgedScore:
    return JudgedScore(id, subset, tuple(gold), tuple(scores), None, prompt)


# ----------------------------------------------------------------------------------------------------------------- rows and models
STYLED = prompt([1, 1, 1, 0, 0, 0], [3, 2, 1, 0, 2, 4], "s", "a", tags={"domain": "chat"})
WINS = [[True, True, False], [True, False, False], [True, False, False]]  # 3, 2, 1 against 0, 2, 4; equal is lost


@pytest.mark.parametrize("kind", [Scores, Tables, Reads])
def test_every_kind_of_model_gives_the_same_verdicts(kind: type[Scores], tmp_path: Path) -> None:
    scorer = kind()
    (row,) = scored(scorer, tmp_path, [STYLED])
    assert rmbench.matrix(row).tolist() == WINS
    assert read_scores(tmp_path / "scores.jsonl", JudgedScore) == [row]
    assert [right for _, right in every_pair(row)] == [win for line in WINS for win in line]
    if kind is Reads:  # the nine comparisons that count, and no others
        assert scorer.asked == [(str(chosen), str(rejected)) for chosen in (3, 2, 1) for rejected in (0, 2, 4)]
    else:
        assert len(scorer.asked) == 1


def test_best_of_n_asks_a_model_that_reads_pairs_about_all_of_them(tmp_path: Path) -> None:
    scorer = Reads()
    (row,) = scored(scorer, tmp_path, [prompt([0, 1, 0], [5, 3, 4])], "bestofn")
    assert sorted(map(sorted, scorer.asked)) == [["3", "4"], ["3", "5"], ["4", "5"]]
    assert row.strengths().tolist() == [1.5, -1.5, 0.0] and row.strengths(2).tolist() == [2.0, -2.0]


def test_rows_lacking_pairs_cannot_choose() -> None:
    row = JudgedScore("a", "s", (1.0, 0.0, 0.0), None, ((0, 1, 1.0), (0, 2, 1.0)))
    assert best_beats_all(row) == [("", True)]
    with pytest.raises(DataError, match=r"row 'a' \(s\): log_odds lack pairs"):
        row.strengths()


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    records = [replace(STYLED, id=str(i)) for i in range(4)]
    rows = scored(Scores(), tmp_path, records)
    path = tmp_path / "scores.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:20])
    second = Scores()
    assert scored(second, tmp_path, records) == rows and len(second.asked) == 2
    assert path.read_text() == "".join(lines)
    with pytest.raises(ConfigError, match="another data"):
        scored(Scores(), tmp_path, [replace(record, prompt=()) for record in records])
    with pytest.raises(ConfigError, match="another benchmark"):
        scored(Scores(), tmp_path, records, "bestofn")


class Windows(Reads):
    """A model whose answers depend on the 128 pairs that are read together, as last bits do."""

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        rest = iter(comparisons)
        while window := list(islice(rest, 128)):
            together = sum(float(each.chosen[0].content) for each in window)
            yield from (value + together for value in super().compare(window))


def test_an_interrupted_run_resumes_in_the_window_of_pairs(tmp_path: Path) -> None:
    """Rows ask for 0 to 6 pairs each, and whole windows of 128 rows are kept."""
    rng = np.random.default_rng(0)
    records = [prompt([1, *[0] * n], rng.random(n + 1).round(3).tolist(), id=str(i)) for i, n in enumerate(rng.integers(0, 4, 300))]

    def run() -> bytes:
        score_judged(Windows(), prompts_of(records, JUDGED["bestofn"].subset), tmp_path, {**MODEL, "batch_tokens": 1}, "bestofn", "all")
        return (tmp_path / "scores.jsonl").read_bytes()

    whole = run()
    lines = whole.splitlines(keepends=True)
    for kept in (5, 128, 200, 290):
        (tmp_path / "scores.jsonl").write_bytes(b"".join(lines[:kept]))
        assert run() == whole


def test_scores_must_be_finite(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 'a'.*not finite"):
        scored(Scores(), tmp_path, [prompt([1, 0], [math.nan, 0], id="a")], "bestofn")


def test_published_shapes_of_saved_scores_are_read(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "domain": "math", "score_chosen": [3.0, 2.0, 1.0], "score_rejected": [0.0, 2.0, 4.0]},
        {"id": 2, "subset": "mmlu-pro-law", "score": -0.5},
        {"id": 3, "subset": "s", "gold": [1, 0.5], "scores": [1.0, 2.0], "prompt": "p"},
    ]
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = read_scores(path, JudgedScore)
    assert rmbench.matrix(first).tolist() == WINS and first.subset == "math"
    assert second.wins().tolist() == [0.0] and third == rewarded([1, 0.5], [1, 2], "s", "3", "p")
    path.write_text('{"id": 1, "subset": "s", "gold": [1, 0], "log_odds": [[0, 1, null]]}')
    (silent,) = read_scores(path, JudgedScore)  # no verdict, which is not right
    assert silent.unanswered == 1 and silent.wins().tolist() == [0.0]
    for broken, message in [
        ({"id": 1, "subset": "s", "gold": [1, 0], "scores": [1]}, "1 scores for 2 responses"),
        ({"id": 1, "subset": "s", "gold": [1, 0], "log_odds": [[0, 2, 1.0]]}, "a response that is not among 2"),
        ({"id": 1, "subset": "s", "gold": [1, 0]}, "no 'scores'"),
        ({"id": 1, "subset": "s", "gold": [1, 0], "scores": [1, "x"]}, "must be a finite number"),
    ]:
        path.write_text(json.dumps(broken))
        with pytest.raises(RecordError, match=message):
            read_scores(path, JudgedScore)


def test_swapping_asks_the_best_against_each_worse_response() -> None:
    pairs = swap_pairs([prompt([0, 0.5, 1, 0.5], [1, 2, 3, 4])])
    assert [(pair.chosen[0].content, pair.rejected[0].content) for pair in pairs] == [("3", "1"), ("3", "2"), ("3", "4")]


def test_mistakes_are_the_worst_pair_of_each_row() -> None:
    records = [STYLED, prompt([1, 0], [2, 1]), prompt([0.5, 0.5], [2, 1]), prompt([1, 0], [1, 1])]
    rows = [rewarded(record.scores or (), [float(each[0].content) for each in record.responses]) for record in records]
    pairs, scores = worst_pairs(rows, records)
    assert scores == [-3.0, 0.0]
    assert [(pair.chosen[0].content, pair.rejected[0].content) for pair in pairs] == [("1", "4"), ("1", "1")]


def test_records_without_quality_are_refused() -> None:
    with pytest.raises(DataError, match=r"f.jsonl:3: responses without scores"):
        prompts_of([RankedResponses(ASKED, (said(1), said(2)), source="f.jsonl:3")], bestofn.subset)
    with pytest.raises(DataError, match="no rows to evaluate"):
        prompts_of([], bestofn.subset)


# ------------------------------------------------------------------------------------------------------------------------ intervals
def test_rows_on_one_prompt_are_resampled_together() -> None:
    # 50 prompts with two equal rows each: the standard error is that of 50 values, not of 100.
    rows = [rewarded([1, 0], [i % 5 != 0, 0.5], prompt=f"p{i}") for i in range(50) for _ in range(2)]
    apart = [replace(row, prompt="") for row in rows]
    values: list[float | None] = [float(row.wins()[0]) for row in rows]
    widths = []
    for each in (rows, apart):
        estimate = Sample(each, Bootstrap(8000)).mean("x", values)
        assert estimate is not None and estimate.score == pytest.approx(0.8) and estimate.n == 100
        low, high = estimate.entry()["ci95"]
        widths.append(high - low)
    for width, n in zip(widths, (50, 100), strict=True):
        assert width == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / n), rel=0.1)


# ------------------------------------------------------------------------------------------------------------------------- RM-Bench
def test_rmbench_by_hand() -> None:
    # Two chat prompts, one of each safety file and two more: safety is pooled before the matrix is taken, not averaged by file.
    lost, won = [0.0] * 6, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    given = {"chat": [[3, 2, 1, 0, 2, 4], won], "safety-refuse": [won, won, lost], "safety-response": [lost]}
    gold = STYLED.scores or ()
    rows = [rewarded(gold, scores, subset, str(i)) for subset, each in given.items() for i, scores in enumerate(each)]
    results = rmbench.results(rows, FEW)
    # WINS has 1 of 3 above the diagonal, 1 of 3 on it and 2 of 3 below: easy is (1,0), (2,0), (2,1).
    chat = {"hard": (1 / 3 + 1) / 2, "normal": (1 / 3 + 1) / 2, "easy": (2 / 3 + 1) / 2}
    assert results["sections"]["chat"]["score"] == pytest.approx(sum(chat.values()) / 3)
    assert results["sections"]["safety"] == {**results["sections"]["safety"], "score": 0.5, "n": 4}
    assert results["matrix"]["chat"] == [[1, 1, 0.5], [1, 0.5, 0.5], [1, 0.5, 0.5]]
    assert results["overall"]["score"] == pytest.approx((sum(chat.values()) / 3 + 0.5) / 2) and results["overall"]["n"] == 6
    levels = {name: value["score"] for name, value in results["tables"]["difficulty"].items()}
    assert levels == pytest.approx({name: (value + 0.5) / 2 for name, value in chat.items()})
    assert results["overall"]["score"] == pytest.approx(sum(levels.values()) / 3)
    assert results["members"] == {"chat": ["chat"], "safety": ["safety-refuse", "safety-response"]}
    notes = "\n".join(results["notes"])
    for expected in ("2 of 4 domains; missing: math, code", "chat has 2 of 129 rows", "overall is the mean of chat, safety only"):
        assert expected in notes
    assert results["partial"] and "19 pairs of a better and a worse response have equal scores" in notes  # two constant rows, and 2 = 2


def test_rmbench_domains_come_from_the_column_or_the_file() -> None:
    record = replace(STYLED, tags={}, source="rm-bench/safety-response_filtered.json.gz:3")
    assert rmbench.subset(record) == "safety-response"
    assert rmbench.subset(replace(record, tags={"domain": "math"})) == "math"
    assert rmbench.subset(replace(record, source="code/total_dataset.json:3")) == "s"  # a folder's name says nothing
    assert rmbench.domain("safety-response") == "safety" and rmbench.domain("chat") == "chat"


def test_rmbench_full_and_repeated() -> None:
    gold = STYLED.scores or ()
    rows = [rewarded(gold, [i % 2, 1, 1, 0, 0, 0], name) for name, n in rmbench.FULL.items() for i in range(n)]
    assert len(rows) == 1327
    full = rmbench.results(rows, FEW)
    assert not full["partial"] and not any("overall is" in note for note in full["notes"])
    assert any("chat has 130 rows and the full benchmark 129" in note for note in rmbench.results([rows[0], *rows], FEW)["notes"])
    with pytest.raises(DataError, match="RM-Bench has 3 chosen and 3 rejected"):
        rmbench.results([rewarded([1, 0], [1, 0])], FEW)


# ------------------------------------------------------------------------------------------------------------------------ JudgeBench
SOURCES = {"Knowledge": "mmlu-pro-law", "Reasoning": "livebench-reasoning", "Math": "livebench-math", "Coding": "livecodebench"}
# Published accuracies in percent: GRM-Gemma-2B, Skywork-Reward-Llama-3.1-8B, internlm2-20b and internlm2-7b on the split gpt.
PUBLISHED = [
    (62.9870, 53.0612, 64.2857, 54.7619, 59.4286),
    (59.0909, 64.2857, 76.7857, 50.0000, 62.2857),
    (62.3377, 69.3878, 66.0714, 50.0000, 63.4286),
    (56.4935, 61.2245, 71.4286, 50.0000, 59.4286),
]


@pytest.mark.parametrize("published", PUBLISHED)
def test_judgebench_overall_is_over_pairs(published: tuple[float, ...]) -> None:
    rows = []
    for (name, n), percent in zip(judgebench.GPT.items(), published, strict=False):
        wins = round(percent / 100 * n)
        rows += [rewarded([1, 0], [i < wins, 0.5], SOURCES[name], f"{name}{i}") for i in range(n)]
    results = judgebench.results(rows, FEW)
    found = [*(value["score"] for value in results["sections"].values()), results["overall"]["score"]]
    assert list(results["sections"]) == list(judgebench.GPT) and results["overall"]["n"] == 350
    assert [100 * value for value in found] == pytest.approx(published, abs=5e-5)
    assert np.mean(found[:4]) != pytest.approx(found[4], abs=1e-3)  # a mean of categories would be another number
    assert not results["partial"]
    part = judgebench.results(rows[:100], FEW)
    assert part["partial"] and any("100 pairs; the splits have 350 (gpt), 270 (claude)" in note for note in part["notes"])


def test_judgebench_equal_scores_are_lost_and_other_sources_count() -> None:
    rows = [rewarded([1, 0], [1, 1], "mmlu-pro-law"), rewarded([0, 1], [1, 2], "mine")]
    results = judgebench.results(rows, FEW)
    assert results["sections"]["Knowledge"]["score"] == 0.0 and results["overall"]["score"] == 0.5
    notes = "\n".join(results["notes"])
    assert "1 pairs of a better and a worse response have equal scores" in notes and "not a category of JudgeBench" in notes
    with pytest.raises(DataError, match="judgebench: no row has a better and a worse response"):
        judgebench.results([rewarded([0.5, 0.5], [1, 2], "mine")], FEW)


# ------------------------------------------------------------------------------------------------------------------------------ RMB
def test_rmb_published_scenario() -> None:
    """ArmoRM-Llama3-8B-v0.1 wins 675 of the 849 pairs of Idea Development."""
    rows = [rewarded([1, 0], [i < 675, 0.5], "pairs/Helpfulness/Brainstorming/Idea Development") for i in range(849)]
    results = rmb.results(rows, FEW)
    assert results["overall"]["score"] == pytest.approx(0.7950530035335689, abs=1e-12)
    assert results["partial"] and any("Helpfulness, pairs has 1 of 37 scenarios" in note for note in results["notes"])


def test_rmb_by_hand() -> None:
    won, tied, lost = [2, 1, 0], [2, 2, 0], [1, 2, 0]
    best = [rewarded([1, 0, 0], scores, "best of N/Harmlessness/S1") for scores in (won, tied, lost)]
    best += [rewarded([1, 0, 0], won, "best of N/Harmlessness/multi")]
    pairs = [rewarded([1, 0], scores, "pairs/Helpfulness/Code/Debug") for scores in ([1, 0], [2, 0], [0, 1])]
    results = rmb.results(best + pairs, FEW)
    found = {name: value["score"] for name, value in results["sections"].items()}
    assert found == pytest.approx({"Helpfulness, pairs": 2 / 3, "Harmlessness, best of N": 0.5})
    assert results["overall"]["score"] == pytest.approx((2 / 3 + 1 / 2) / 2)  # over all rows alike it would be 4/7
    assert results["subsets"]["best of N/Harmlessness/S1"]["score"] == pytest.approx(1 / 3)
    scenarios = results["tables"]["mean over scenarios"]
    assert scenarios["Harmlessness, best of N"]["score"] == pytest.approx((1 / 3 + 1) / 2)
    assert scenarios["overall"]["score"] == pytest.approx(((1 / 3 + 1) / 2 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("source", "category", "name"),
    [
        ("RMB_dataset/Pairwise_set/Helpfulness/Brainstorming/Idea Development.json:3", "", "Helpfulness/Brainstorming/Idea Development"),
        ("RMB_dataset/BoN_set/Harmlessness/S1.json:3", "", "Harmlessness/S1"),
        ("RMB_dataset/BoN_set/Harmlessness/multi.json:3", "", "Harmlessness/multi"),
        ("RMB_dataset/BoN_set/multi.json:3", "", "Harmlessness/multi"),
        ("all.jsonl.gz:3", "RMB/BoN_set/Helpfulness/Code/Debug", "Helpfulness/Code/Debug"),
        ("all.jsonl:3", "", "(no category)"),
    ],
)
def test_rmb_category_is_the_path(source: str, category: str, name: str) -> None:
    ranked = RankedResponses(ASKED, (said(1), said(2)), (1, 0), subset=category, source=source)
    assert rmb.subset(ranked) == f"best of N/{name}"
    assert rmb.subset(Comparison(ASKED, said(1), said(2), subset=category, source=source)) == f"pairs/{name}"
    known = "(no" not in name
    assert rmb.section(f"pairs/{name}") == (f"{name.split('/')[0]}, pairs" if known else f"pairs/{name}")


# ---------------------------------------------------------------------------------------------------------------- best of N and PPE
def test_best_of_n_by_hand() -> None:
    rows = [rewarded([0, 1, 1, 0], [2, 1, 3, 4], id="a"), rewarded([1, 0, 0, 0], [1, 1, 0, 0], id="b"), rewarded([0, 1], [1, 2], id="c")]
    results = bestofn.results(rows, FEW)
    # Choices by k: a picks 0 (of 1 and of 2), then 3 of four; b shares the top of two, and of four; c has two responses only.
    model, chance, oracle = (results["tables"][f"best of k, {name}"] for name in ("model", "random", "oracle"))
    assert {k: value["score"] for k, value in model.items()} == pytest.approx({"1": 1 / 3, "2": (0 + 0.5 + 1) / 3, "4": (0 + 0.5) / 2})
    assert {k: value["score"] for k, value in chance.items()} == pytest.approx({"1": 1 / 3, "2": 1.5 / 3, "4": (0.5 + 0.25) / 2})
    assert {k: value["score"] for k, value in oracle.items()} == pytest.approx({"1": 1 / 3, "2": 1.0, "4": 1.0})
    assert [value["n"] for value in model.values()] == [3, 3, 2]
    assert results["overall"]["score"] == pytest.approx((0 + 0.5 + 1) / 3) and results["overall"]["n"] == 3
    # Pairs: a wins (2,0) of (1,0), (1,3), (2,0), (2,3); b loses the tie and wins two; c wins its one.
    ordering = results["tables"]["ordering"]
    assert ordering["pairs in the right order"]["score"] == pytest.approx((1 / 4 + 2 / 3 + 1) / 3)
    positive, negative = [1, 3, 1, 2], [2, 4, 1, 0, 0, 1]
    area = sum((p > n) + (p == n) / 2 for p in positive for n in negative) / 24
    assert ordering["area under the ROC curve"]["score"] == pytest.approx(area)
    assert results["rule"] == "choice: highest score"
    assert [bestofn.chooses_best(row) for row in rows] == [[("", False)], [("", False)], [("", True)]]


def test_a_constant_model_is_chance_and_a_perfect_one_the_oracle() -> None:
    generator = np.random.default_rng(0)
    gold = [generator.integers(0, 2, 8).astype(float).tolist() for _ in range(20)]
    for scores, equals in (([[0.0] * 8] * 20, "random"), (gold, "oracle")):
        results = bestofn.results([rewarded(g, s) for g, s in zip(gold, scores, strict=True)], FEW)
        tables = results["tables"]
        assert tables["best of k, model"].keys() == {"1", "2", "4", "8"}
        for k, value in tables["best of k, model"].items():
            assert value["score"] == pytest.approx(tables[f"best of k, {equals}"][k]["score"])
        expected = 0.5 if equals == "random" else 1.0
        assert tables["ordering"]["area under the ROC curve"]["score"] == pytest.approx(expected)


def test_grades_are_averaged_and_named() -> None:
    results = bestofn.results([rewarded([-2, -1, -3], [0, 2, 1])], FEW)
    assert results["overall"]["score"] == -1 and any("grades" in note for note in results["notes"])
    assert "area under the ROC curve" not in results["tables"]["ordering"]


def test_models_that_compare_choose_among_the_first_k_anew() -> None:
    # 0 beats 1, 1 beats 2 by more, 2 beats 0: the third response changes who leads.
    row = JudgedScore("a", "", (1.0, 0.0, 0.0), None, ((0, 1, 1.0), (1, 2, 3.0), (2, 0, 2.0)))
    assert [bestofn.choice(row, k) for k in (1, 2, 3)] == [1.0, 1.0, 0.0]
    results = bestofn.results([row], FEW)
    assert "mean log-odds" in results["rule"] and {k: v["score"] for k, v in results["tables"]["best of k, model"].items()}["3"] == 0.0


def test_ppe_by_hand() -> None:
    human = [rewarded([1, 0], [1, 0], ppe.HUMAN), rewarded([1, 0], [0, 1], ppe.HUMAN), rewarded([0.5, 0.5], [0, 1], ppe.HUMAN)]
    gpqa = [rewarded([1, 0, 0], [1, 0, 2], "GPQA"), rewarded([0, 0, 0], [1, 0, 2], "GPQA")]
    results = ppe.results([*human, *gpqa, rewarded([1, 0], [1, 0], "MATH")], FEW)
    assert {name: value["score"] for name, value in results["subsets"].items()} == {ppe.HUMAN: 0.5, "GPQA": 0.5, "MATH": 1.0}
    assert {name: value["score"] for name, value in results["sections"].items()} == {"human preference": 0.5, "correctness": 0.75}
    assert results["overall"]["score"] == 0.625
    assert {k: value["score"] for k, value in results["tables"]["GPQA, best of k, model"].items()} == {"1": 0.5, "2": 0.5, "3": 0.0}
    notes = "\n".join(results["notes"])
    for expected in ("3 of 6 data sets; missing: MMLU-Pro, MBPP-Plus, IFEval", "1 human verdicts are ties", "1 prompts have only correct"):
        assert expected in notes


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("lmarena-ai/PPE-MMLU-Pro-Best-of-K[train]:5", "MMLU-Pro"), ("ppe/mbpp_plus_best_of_k.parquet:5", "MBPP-Plus"),
        ("math/ifeval/data/train-00000-of-00001.parquet:5", "IFEval"), ("mathematics.jsonl:5", "(no data set)"),
    ],
)  # fmt: skip
def test_ppe_data_set_is_the_name_of_the_file_or_the_nearest_folder(source: str, name: str) -> None:
    assert ppe.subset(RankedResponses(ASKED, (said(1),), (1,), source=source)) == name
    assert ppe.subset(Comparison(ASKED, said(1), said(2), source=source)) == ppe.HUMAN
