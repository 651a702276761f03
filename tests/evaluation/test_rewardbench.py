"""Scoring with a model that is made up here: each answer is a number, written as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation import rewardbench as rb
from prefrep.evaluation.layout import model_name, versions, write_official
from prefrep.evaluation.rows import PairScore, RankedScore, RewardScore, read_scores
from prefrep.evaluation.scores import encoding_notes
from prefrep.evaluation.summary import Bootstrap, pair_results, ranked_results
from prefrep.io.fingerprint import fingerprint
from prefrep.records import Comparison, Message, Messages, RankedResponses

MODEL = {"path": "m", "dtype": "float32"}
FEW = Bootstrap(200)


def said(number: object) -> Messages:
    return (Message("assistant", str(number)),)


ASKED = (Message("user", "a number?"),)


def pair(chosen: float, rejected: float, subset: str, id: str = "") -> Comparison:
    return Comparison(ASKED, said(chosen), said(rejected), subset=subset, id=id)


def prompt(subset: str, id: str, correct: list[float], incorrect: list[float]) -> RankedResponses:
    scores = (1.0,) * len(correct) + (0.0,) * len(incorrect)
    return RankedResponses(ASKED, tuple(said(x) for x in correct + incorrect), scores, subset=subset, id=id)


class NumberScorer:
    """Log-odds are differences of the numbers."""

    def __init__(self, pairwise: bool = True, dies_after: int | None = None) -> None:
        self.pairwise, self.dies_after, self.asked = pairwise, dies_after, 0

    def _values(self, record: RankedResponses) -> np.ndarray:
        return np.array([float(answer[0].content) for answer in record.responses], np.float32)

    def _count(self) -> None:
        if self.asked == self.dies_after:
            raise KeyboardInterrupt
        self.asked += 1

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        for each in comparisons:
            self._count()
            yield float(each.chosen[0].content) - float(each.rejected[0].content)

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray]:
        for record in records:
            self._count()
            values = self._values(record)
            yield values[:, None] - values[None, :]

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray]:
        assert not self.pairwise
        for record in records:
            self._count()
            yield self._values(record)

    def describe(self) -> dict[str, Any]:
        return dict(MODEL)


class OneOrder(NumberScorer):
    """Prefers the answer that it reads first."""

    bias = 1.5

    def compare_one_order(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        return (score + self.bias for score in self.compare(comparisons))


PAIRS = [
    pair(2, 1, "llmbar-natural", "a"), pair(1, 1, "llmbar-natural", "b"), pair(0, 3, "hep-go", "c"),
    pair(5, 3, "math-prm", "d"), pair(5, 4, "math-prm"),
]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- version 1
def test_pairs_to_results(tmp_path: Path) -> None:
    rows = rb.score_pairs(NumberScorer(), PAIRS, tmp_path, MODEL)
    written = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert written == [
        {"id": "a", "subset": "llmbar-natural", "score": 1.0},
        {"id": "b", "subset": "llmbar-natural", "score": 0.0},
        {"id": "c", "subset": "hep-go", "score": -3.0},
        {"id": "d", "subset": "math-prm", "score": 2.0},
        {"id": "4", "subset": "math-prm", "score": 1.0},  # no id of its own: its place
    ]
    assert read_scores(tmp_path / "scores.jsonl", PairScore) == rows
    results = pair_results(rows, "current", FEW)
    reasoning = 984 / (984 + 164)
    assert results["sections"]["Chat Hard"]["score"] == 0.5  # the equal pair is lost
    assert results["sections"]["Reasoning"]["score"] == pytest.approx(reasoning)
    assert results["overall"]["score"] == pytest.approx((0.5 + reasoning) / 2)
    assert results["accuracy"]["score"] == 3 / 5
    assert {name: value["n"] for name, value in results["subsets"].items()} == {"llmbar-natural": 2, "math-prm": 2, "hep-go": 1}
    assert results["sections"]["Reasoning"]["n"] == 3 and results["overall"]["n"] == 5
    assert results["partial"]
    notes = "\n".join(results["notes"])
    for expected in ("3 of 23 subsets", "llmbar-natural has 2 of 100 rows", "sections without data: Chat, Safety", "1 pairs have equal"):
        assert expected in notes


def test_a_constant_scorer_gets_nothing() -> None:
    assert pair_results([PairScore("1", "llmbar-natural", 0.0)] * 3, "current", FEW)["overall"]["score"] == 0.0


def test_unknown_subsets_are_reported_outside_of_overall() -> None:
    own = [PairScore("1", "mine", 1.0), PairScore("2", "mine", -1.0)]
    alone = pair_results(own, "current", FEW)
    assert alone["overall"]["score"] == 0.5 and alone["sections"] == {}
    assert any("over all rows" in note for note in alone["notes"])
    both = pair_results([*own, PairScore("3", "hep-go", 1.0)], "current", FEW)
    assert both["overall"]["score"] == 1.0 and both["overall"]["n"] == 1
    assert any("in no section" in note and "mine" in note for note in both["notes"])


def test_a_full_benchmark_is_not_called_partial() -> None:
    from prefrep.evaluation.summary import FULL_V1

    assert sum(FULL_V1.values()) == 2985
    rows = [PairScore(str(i), name, 1.0 if i % 3 else -1.0) for name, n in FULL_V1.items() for i in range(n)]
    for weights in ("current", "0.1.2"):
        results = pair_results(rows, weights, FEW)
        assert not results["partial"] and results["notes"] == []
        low, high = results["overall"]["ci95"]
        assert low < results["overall"]["score"] < high


def test_overall_interval_has_the_width_of_its_formula() -> None:
    # Two subsets in two sections: var(overall) = (p q / n1 + p q / n2) / 4.
    rows = [PairScore(str(i), "hep-go", 1.0 if i < 60 else -1.0) for i in range(100)]
    rows += [PairScore(str(i), "donotanswer", 1.0 if i < 120 else -1.0) for i in range(400)]
    results = pair_results(rows, "current", Bootstrap(8000))
    low, high = results["overall"]["ci95"]
    sigma = math.sqrt(0.6 * 0.4 / 100 + 0.3 * 0.7 / 400) / 2
    assert high - low == pytest.approx(2 * 1.96 * sigma, rel=0.06)
    assert pair_results(rows, "current", Bootstrap(8000)) == results
    assert pair_results(list(reversed(rows)), "current", Bootstrap(8000))["overall"] == results["overall"]


# -------------------------------------------------------------------------------------------------------------- interruption
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rb.score_pairs(NumberScorer(dies_after=3), PAIRS, tmp_path, MODEL)
    path = tmp_path / "scores.jsonl"
    assert len(path.read_text().splitlines()) == 3
    with path.open("a") as file:
        file.write('{"id": "d", "subs')  # cut off in the middle of a line
    second = NumberScorer()
    rows = rb.score_pairs(second, PAIRS, tmp_path, {**MODEL, "versions": {"torch": "other"}})
    assert second.asked == 2
    assert [row.id for row in rows] == ["a", "b", "c", "d", "4"]
    assert read_scores(path, PairScore) == rows
    third = NumberScorer(dies_after=0)  # nothing is left to ask
    assert rb.score_pairs(third, PAIRS, tmp_path, MODEL) == rows


def test_scores_of_something_else_are_refused(tmp_path: Path) -> None:
    rb.score_pairs(NumberScorer(), PAIRS, tmp_path, MODEL)
    with pytest.raises(ConfigError, match=r"another model \(differs in dtype\).*--restart"):
        rb.score_pairs(NumberScorer(), PAIRS, tmp_path, {**MODEL, "dtype": "bfloat16"})
    changed = [pair(2, 1.5, "llmbar-natural", "a"), *PAIRS[1:]]  # same ids, another text
    with pytest.raises(ConfigError, match="another data"):
        rb.score_pairs(NumberScorer(), changed, tmp_path, MODEL)
    rows = rb.score_pairs(NumberScorer(), changed, tmp_path, MODEL, restart=True)
    assert rows[0].score == 0.5
    (tmp_path / "scores.meta.json").unlink()
    with pytest.raises(ConfigError, match="unknown model"):
        rb.score_pairs(NumberScorer(), changed, tmp_path, MODEL)


def test_foreign_ids_and_broken_lines_are_refused(tmp_path: Path) -> None:
    rb.score_pairs(NumberScorer(), PAIRS, tmp_path, MODEL)
    path = tmp_path / "scores.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"id": "b"', '"id": "x"'))
    with pytest.raises(ConfigError, match="ids are not those"):
        rb.score_pairs(NumberScorer(), PAIRS, tmp_path, MODEL)
    path.write_text(whole.replace('"score": 0.0}', '"sco'))
    with pytest.raises(RecordError, match=r"scores.jsonl:2: not JSON"):
        rb.score_pairs(NumberScorer(), PAIRS, tmp_path, MODEL)


@pytest.mark.parametrize("score", ["nan", "inf"])
def test_scores_must_be_finite(tmp_path: Path, score: str) -> None:
    with pytest.raises(DataError, match=r"row 'z'.*not finite"):
        rb.score_pairs(NumberScorer(), [pair(float(score), 0, "hep-go", "z")], tmp_path, MODEL)
    assert (tmp_path / "scores.jsonl").read_text() == ""


def test_wrong_and_missing_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rewardbench2"):
        rb.score_pairs(NumberScorer(), [prompt("Math", "1", [1], [0])], tmp_path, MODEL)
    with pytest.raises(DataError, match="need RankedResponses"):
        rb.score_ranked(NumberScorer(), PAIRS, tmp_path, MODEL, "wins")
    with pytest.raises(DataError, match="no rows"):
        rb.score_pairs(NumberScorer(), [], tmp_path, MODEL)
    odd = RankedResponses(ASKED, (said(1), said(2)), (0.0, 1.0), subset="Math", id="1")
    with pytest.raises(DataError, match="correct answers first"):
        rb.score_ranked(NumberScorer(), [odd], tmp_path, MODEL, "wins")


# ---------------------------------------------------------------------------------------------------------------- version 2
PROMPTS = [
    prompt("Math", "1", [3], [2, 1, 0]),
    prompt("Math", "2", [1], [1, 0, 0]),
    prompt("Focus", "3", [0], [2, 1, 0]),
    prompt("Ties", "ref:0", [3], [0]),
    prompt("Ties", "tied:0", [2, 2.5], [0]),
]


def test_rewards_follow_the_official_rule(tmp_path: Path) -> None:
    rows = rb.score_ranked(NumberScorer(pairwise=False), PROMPTS, tmp_path, MODEL, "rewards")
    assert json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[4]) == {
        "id": "tied:0", "subset": "Ties", "num_correct": 2, "scores": [2.0, 2.5, 0.0],
    }  # fmt: skip
    results = ranked_results(rows, "main", "rewards", FEW)
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(2 / 0.5 - 1)
    assert {name: value["score"] for name, value in results["subsets"].items()} == pytest.approx({"Math": 0.75, "Focus": 0.0, "Ties": ties})
    assert results["overall"]["score"] == pytest.approx((0.75 + 0 + ties) / 3)
    assert results["official"] and results["ties"] == "main" and results["partial"]
    assert any("3 of 6 subsets" in note for note in results["notes"])


def test_constant_scores_get_a_quarter() -> None:
    rows = [RankedScore("1", "Safety", 1, (0.0,) * 4)]
    assert ranked_results(rows, bootstrap=FEW)["overall"]["score"] == 0.25


def test_the_ties_rule_matters_where_correct_answers_are_equal() -> None:
    rows = [RankedScore("ref:0", "Ties", 1, (3.0, 0.0)), RankedScore("tied:0", "Ties", 2, (2.0, 2.0, 0.0))]
    assert ranked_results(rows, "main", bootstrap=FEW)["subsets"]["Ties"]["score"] == pytest.approx(1.01)
    assert ranked_results(rows, "0.1.4", bootstrap=FEW)["subsets"]["Ties"]["score"] == pytest.approx(1.0)


def test_subsets_that_end_alike_have_an_interval() -> None:
    """Six prompts of six are lost or won: Wilson's interval is z^2 / (6 + z^2) wide. A quarter of a credit is no share of wins."""
    top, last, equal = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0,) * 4
    given = {"Focus": [top] * 6, "Safety": [last] * 6, "Math": [equal] * 6, "Factuality": [top] * 3 + [last] * 3}
    rows = [RankedScore(f"{name}{i}", name, 1, scores) for name, each in given.items() for i, scores in enumerate(each)]
    results = ranked_results(rows, bootstrap=FEW)
    width = 1.959963984540054**2 / (6 + 1.959963984540054**2)
    assert results["wilson95"]["Safety"] == pytest.approx([0, width]) and results["wilson95"]["Focus"] == pytest.approx([1 - width, 1])
    assert results["wilson95"].keys() == {"Safety", "Focus", "Factuality"}
    (note,) = (note for note in results["notes"] if "have the same outcome" in note)
    assert note.startswith("all prompts of Math, Safety, Focus have the same outcome")
    assert note.endswith("wilson95 has better intervals for Safety, Focus")
    assert not any("have the same outcome" in note for note in ranked_results(rows[-6:], bootstrap=FEW)["notes"])
    ties = [RankedScore(f"{kind}:{i}", "Ties", 1 + (kind == "tied"), (3.0, 2.0, 0.0)) for i in range(4) for kind in ("ref", "tied")]
    results = ranked_results(ties, bootstrap=FEW)
    assert results["wilson95"] == {}
    assert any(note.endswith("Ties have the same outcome, so the bootstrap has no spread there") for note in results["notes"])
    ties[0] = RankedScore("ref:0", "Ties", 1, (0.0, 3.0, 2.0))
    assert not any("have the same outcome" in note for note in ranked_results(ties, bootstrap=FEW)["notes"])


CYCLE = np.array([[0, 2, -1, 4], [-2, 0, 3, 1], [1, -3, 0, 0], [-4, -1, 0, 0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("round-robin", sum(1 / (1 + math.exp(-x)) for x in (2, -1, 4)) / 3),
        ("mean-logit", 5 / 3),
        ("wins", 2.0),
        ("beat-all", -1.0),
    ],
)
def test_scalarisations_by_hand(rule: rb.Scalarisation, first: float) -> None:
    found = rb.scalarise(CYCLE, rule)
    assert found.shape == (4,) and found[0] == pytest.approx(first)
    assert rb.scalarise(np.zeros((1, 1)), rule).tolist() == [0.0]
    if rule == "wins":
        assert found.tolist() == [2.0, 2.0, 1.5, 0.5]  # an equal answer counts half


def test_beat_all_wants_every_comparison(tmp_path: Path) -> None:
    rows = [RankedScore("1", "Math", 1, tuple(rb.scalarise(CYCLE, "beat-all"))), RankedScore("2", "Math", 1, (0.5, -1.0, -2.0, -3.0))]
    rows.append(RankedScore("ref:0", "Ties", 1, (1.0, 0.0)))
    results = ranked_results(rows, "main", "beat-all", FEW)
    # The first row's answer loses to one other: it would be the best by its worst comparison (-1 > -2, -3, -4), but it does not beat all.
    assert rows[0].scores[0] == max(rows[0].scores)
    assert results["subsets"] == {"Math": results["overall"]} and results["overall"]["score"] == 0.5
    assert not results["official"] and any("Ties is left out" in note for note in results["notes"])
    with pytest.raises(DataError, match="only Ties rows"):
        ranked_results(rows[2:], "main", "beat-all", FEW)


def test_round_robin_keeps_the_order_of_rewards(tmp_path: Path) -> None:
    official = rb.score_ranked(NumberScorer(pairwise=False), PROMPTS, tmp_path / "a", MODEL, "rewards")
    robin = rb.score_ranked(NumberScorer(), PROMPTS, tmp_path / "b", MODEL, "round-robin")
    for one, other in zip(official, robin, strict=True):
        assert np.argsort(one.scores, kind="stable").tolist() == np.argsort(other.scores, kind="stable").tolist()
    notes = ranked_results(robin, "main", "round-robin", FEW)["notes"]
    assert any("not official" in note and "round-robin" in note for note in notes)


def test_models_that_compare_have_no_rewards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rewards"):
        rb.score_ranked(NumberScorer(), PROMPTS, tmp_path, MODEL, "rewards")
    assert not (tmp_path / "scores.jsonl").exists()


def test_another_scalarisation_does_not_carry_on(tmp_path: Path) -> None:
    rb.score_ranked(NumberScorer(), PROMPTS, tmp_path, MODEL, "wins")
    with pytest.raises(ConfigError, match="another scalarisation \\(wins, now round-robin\\)"):
        rb.score_ranked(NumberScorer(), PROMPTS, tmp_path, MODEL, "round-robin")


# ------------------------------------------------------------------------------------------------------------------- swapping
def test_averaged_models_are_consistent_and_the_result_says_why() -> None:
    found = rb.swap_consistency(NumberScorer(), PAIRS)
    assert (found["consistent"], found["n"], found["max_abs_sum_of_log_odds"]) == (1.0, 5, 0.0)
    assert "by construction" in found["orders"]


def test_position_bias_is_seen() -> None:
    # Differences 1, 0, -3, 2, 1 with 1.5 for the first answer: forward +, +, -, +, +; swapped +, +, +, -, + (want the opposite).
    found = rb.swap_consistency(OneOrder(), PAIRS)
    assert found["orders"] == "single"
    assert found["consistent"] == pytest.approx(2 / 5)
    assert found["accuracy_chosen_first"] == pytest.approx(4 / 5)
    assert found["accuracy_rejected_first"] == pytest.approx(1 / 5)
    assert found["mean_abs_sum_of_log_odds"] == pytest.approx(3.0)


def test_prompts_are_swapped_pair_by_pair() -> None:
    assert rb.swap_consistency(NumberScorer(), PROMPTS)["n"] == 3 + 3 + 3 + 1 + 1


# ---------------------------------------------------------------------------------------------------------------------- files
def test_official_files_of_version_1(tmp_path: Path) -> None:
    rows = rb.score_pairs(NumberScorer(), PAIRS, tmp_path, MODEL)
    fields = {"model": "me/gpm", "model_type": "Custom Classifier", "chat_template": "tokenizer"}
    paths = write_official(tmp_path, pair_results(rows, "current", FEW), rows, PAIRS, fields)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["eval-set/me/gpm.json", "eval-set-scores/me/gpm.json"]
    assert json.loads(paths[0].read_text()) == {"llmbar-natural": 0.5, "math-prm": 1.0, "hep-go": 0.0} | fields
    columns = json.loads(paths[1].read_text())
    assert set(columns) == {"text_chosen", "text_rejected", "results", "subset", "id", "scores_chosen", "scores_rejected", *fields}
    assert columns["results"] == [1, 0, 0, 1, 1]
    assert [c > r for c, r in zip(columns["scores_chosen"], columns["scores_rejected"], strict=True)] == [True, False, False, True, True]
    assert columns["text_chosen"][0] == "<|user|>\na number?\n<|assistant|>\n2"


def test_official_files_of_version_2(tmp_path: Path) -> None:
    rows = rb.score_ranked(NumberScorer(pairwise=False), PROMPTS, tmp_path, MODEL, "rewards")
    _, path = write_official(tmp_path, ranked_results(rows, bootstrap=FEW), rows, [], {"model": "../../out"})
    assert path.is_relative_to(tmp_path) and path.name == "out.json" and ".." not in str(path.relative_to(tmp_path))
    columns = json.loads(path.read_text())
    assert set(columns) == {"text", "scores", "results", "subset", "id", "num_correct", "model", "model_type", "chat_template"}
    assert columns["scores"][0] == [3.0, 2.0, 1.0, 0.0] and columns["num_correct"] == [1, 1, 1, 1, 2]
    assert columns["results"] == [1.0, 0.5, 0.0, 1.0, 0.0]


def test_names_and_fingerprints(tmp_path: Path) -> None:
    assert model_name("/somewhere/runs/hh-gpm/export") == "hh-gpm/export"
    assert model_name("../m") == "m"
    (tmp_path / "a").write_text("1")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "a").write_text("2")
    assert fingerprint(tmp_path) != before
    assert {"python", "prefrep", "numpy", "torch"} <= versions({"torch": "2"}).keys()


def test_counts_of_a_run_that_was_cut_off_are_said_to_be_parts() -> None:
    assert encoding_notes({"encoded": {"records": 5, "truncated prompts": 2, "dropped": 0}}, 5) == ["while encoding: 2 truncated prompts"]
    (note,) = encoding_notes({"encoded": {"records": 3}}, 5)
    assert "counted for 3 of 5 rows" in note


def test_official_files_carry_both_rewards_and_prior_sets_have_their_own(tmp_path: Path) -> None:
    """A Bradley-Terry model's rewards, so that scripts that average models by them work; prior sets where --pref_sets looks."""

    class Rewards(NumberScorer):
        def compare_rewards(
            self, comparisons: Iterable[Comparison], *, progress: str | None = None
        ) -> Iterator[tuple[float, float, float]]:
            for each in comparisons:
                self._count()
                chosen, rejected = float(each.chosen[0].content), float(each.rejected[0].content)
                yield chosen - rejected, chosen, rejected

    pairs = [pair(3, 1, "hep-cpp", "a"), pair(-2, 5, "hep-cpp", "b"), pair(4, 1, "shp", "c"), pair(1, 2, "mtbench_human", "d")]
    with pytest.raises(KeyboardInterrupt):
        rb.score_pairs(Rewards(pairwise=False, dies_after=2), pairs, tmp_path, MODEL)
    rows = rb.score_pairs(Rewards(pairwise=False), pairs, tmp_path, MODEL)
    assert [row.rewards for row in rows if isinstance(row, RewardScore)] == [(3, 1), (-2, 5), (4, 1), (1, 2)]
    assert read_scores(tmp_path / "scores.jsonl", RewardScore) == rows
    paths = write_official(tmp_path, pair_results(rows, "current", FEW), rows, pairs, {"model": "me/rm", "model_type": "Seq. Classifier"})
    places = ["eval-set", "eval-set-scores", "pref-sets", "pref-sets-scores"]
    assert [str(path.relative_to(tmp_path)) for path in paths] == [f"{place}/me/rm.json" for place in places]
    accuracies, columns, prior, prior_columns = (json.loads(path.read_text()) for path in paths)
    assert (columns["id"], columns["scores_chosen"], columns["scores_rejected"]) == (["a", "b"], [3, -2], [1, 5])
    assert (prior_columns["id"], prior_columns["scores_chosen"], prior_columns["scores_rejected"]) == (["c", "d"], [4, 1], [1, 2])
    assert accuracies["hep-cpp"] == 0.5 and "shp" not in accuracies
    assert prior["shp"] == 1.0 and prior["mtbench_human"] == 0.0 and "hep-cpp" not in prior
    assert prior_columns["text_chosen"][0].endswith("\n4")


def test_pairwise_models_have_no_rewards_in_their_rows(tmp_path: Path) -> None:
    rb.score_pairs(NumberScorer(), [pair(3, 1, "hep-cpp", "a")], tmp_path, MODEL)
    assert json.loads((tmp_path / "scores.jsonl").read_text()) == {"id": "a", "subset": "hep-cpp", "score": 2.0}
