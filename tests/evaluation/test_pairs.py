"""Comparisons of any source: rows, and the numbers that follow from them."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import COMPARISONS, comparison
from scipy.special import expit

from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation.agreement import groups
from prefrep.evaluation.pairs import (
    PairRow,
    comparisons_of,
    evaluate,
    mistakes,
    pair_rows,
    score,
    shared,
    write_rows,
)
from prefrep.evaluation.reliability import reliability_plot
from prefrep.evaluation.rows import PairScore, read_scores
from prefrep.evaluation.scores import Names, described, distinct, log_pairs
from prefrep.evaluation.summary import Bootstrap
from prefrep.metrics import calibration
from prefrep.records import Message, RankedResponses

FEW = Bootstrap(50)


def row(score: float, length: int = 0, margin: float | None = None, p: float = 1.0, subset: str = "", id: str = "") -> PairRow:
    return PairRow(id, subset, score, margin, length, p)


def generated(n: int, factor: float = 1.0, seed: int = 0) -> list[PairRow]:
    generator = np.random.default_rng(seed)
    true = generator.normal(0, 1.5, n)
    first = generator.random(n) < expit(true)  # the preferred one is called chosen, as data sets do
    return [row(float(s if won else -s) * factor, int(generator.integers(-50, 50))) for s, won in zip(true, first, strict=True)]


def ranked(scores: tuple[float, ...] | None, id: str = "") -> RankedResponses:
    answers = tuple((Message("assistant", "x" * (i + 1)),) for i in range(3))
    return RankedResponses((Message("user", "q"),), answers, scores, subset="s", id=id)


def test_all_pairs_of_scored_responses_that_differ() -> None:
    found = comparisons_of([ranked((1.0, 3.0, 1.0), "a"), comparison("p", "c", "r")])
    assert [(pair.id, pair.subset, pair.margin) for pair in found] == [("a:1-0", "s", 2.0), ("a:1-2", "s", 2.0), ("1", "", 0.0)]
    assert [(pair.chosen[0].content, pair.rejected[0].content) for pair in found] == [("xx", "x"), ("xx", "xxx"), ("c", "r")]
    with pytest.raises(RecordError, match="without scores"):
        comparisons_of([ranked(None)])
    with pytest.raises(DataError, match="no comparisons"):
        comparisons_of([ranked((1.0, 1.0, 1.0))])


def test_ids_are_unique() -> None:
    found = comparisons_of([comparison("p", "c", "r", id=name) for name in ("a", "a", "", "b", "a")])
    assert [pair.id for pair in found] == ["a", "a#2", "2", "b", "a#3"]


def test_ids_that_are_not_remembered_are_the_same() -> None:
    """Names that look like ids that other names get, against a memory of every name."""
    names = [base + mark for base in "abc" for mark in ("", "#2", "#3", "#2#2", "#", "#x", "##2")] + ["#2", "2", ""]
    for seed in range(300):
        draw = random.Random(seed)
        some = draw.choices(names, k=draw.randint(1, 25)) if seed % 2 else draw.sample(names, draw.randint(1, len(names)))
        known = Names(np.array([hash(name) for name in some]))
        assert known.differ == (len(set(some)) == len(some))
        assert list(distinct(some, known)) == list(distinct(some))
        given = [name for name in some if name] or ["a"]
        assert [pair.id for pair in comparisons_of(comparison("p", "c", "r", id=name) for name in given)] == list(distinct(given))
    known = Names(np.array([hash(name) for name in ("a", "b", "a")]))
    assert [name for name in ("a", "b", "a#7#2", "b#2") if known.recurs(name)] == ["a", "a#7#2"], "the others need no memory"
    assert not known.holds("a#2"), "nor do ids that no name is"


def test_memory_hardly_grows_with_comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of bytes for each; a comparison and its row take 2000."""
    monkeypatch.setattr(calibration, "BLOCK", 64)

    def run(n: int) -> None:
        pairs = comparisons_of(comparison(f"Question {i}", f"{i} " * 20, f"{i}. " * 20, id=f"row {i}") for i in range(n))
        rows, _ = score(cast(Any, Counting()), pairs, tmp_path / str(n), {"path": "m"}, False)
        assert len(mistakes(rows, pairs)) == 0 and len(rows) == n
        del pairs
        evaluate(rows, None, Bootstrap(2))

    def peak(n: int) -> int:
        tracemalloc.start()
        run(n)
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    run(1700)  # imports, and what is made once
    assert 8 < (peak(1700) - peak(200)) / 1500 < 100


def test_rows_stay_in_their_file(tmp_path: Path) -> None:
    pairs = comparisons_of(comparison("p", "c" * (i % 7 + 1), "r", id=f"{i}\u2028") for i in range(300))
    rows = log_pairs(cast(Any, Counting()), pairs, tmp_path, PairRow, "pairs", {"path": "m"})
    every = read_scores(tmp_path / "scores.jsonl", PairRow)
    assert list(rows) == every == pair_rows(pairs, [row.score for row in every]) and len(rows) == 300
    assert [rows[i] for i in (0, 127, 128, 129, 299, -1, -300)] == [every[i] for i in (0, 127, 128, 129, 299, -1, -300)]
    assert rows[126:131] == every[126:131] and rows[290:] == every[290:]
    with pytest.raises(IndexError):
        rows[300]
    lines = (tmp_path / "scores.jsonl").read_bytes().split(b"\n")
    (tmp_path / "scores.jsonl").write_bytes(b"\n".join([*lines[:150], b""]))
    with pytest.raises(DataError, match="another program changed it"):
        evaluate(rows, None, Bootstrap(2))
    (tmp_path / "scores.jsonl").write_bytes(b"\n".join([*lines[:200], b"{", *lines[201:]]))
    with pytest.raises(RecordError, match=r"scores.jsonl:201: not JSON"):
        list(rows)


def test_prompts_are_numbered_in_order() -> None:
    """Intervals depend on it, since resamples draw numbers."""
    found = groups(np.array([7, -3, 7, 9, -3, 0]))
    assert found is not None and found.tolist() == [0, 1, 0, 2, 1, 3]
    assert groups(np.array([3, 1, 2])) is None and groups(np.array([4, 4, 4])) is None


def test_rows_of_scores_from_anywhere(tmp_path: Path) -> None:
    talk = (Message("assistant", "12345"), Message("user", "x" * 100), Message("assistant", "678"))
    pairs = [comparison("p", "abc", "d", id="1", margin=0.5, probability=0.75), comparison("p", "a", "bc", id="2", subset="s")]
    pairs.append(replace(pairs[0], chosen=talk, id="3"))
    rows = pair_rows(pairs, np.array([1.5, -2.0, 0.0], np.float32))
    assert len({each.prompt for each in rows}) == 1 and rows[0].prompt, "all three are on one prompt"
    assert PairRow.of(comparison("q", "c", "r", id="4"), 1.0).prompt != rows[0].prompt
    assert PairRow.of(replace(pairs[0], prompt=()), 1.0).prompt == "", "texts without a prompt share none"
    bare = [replace(each, prompt="") for each in rows]
    assert bare == [row(1.5, 2, 0.5, 0.75, id="1"), row(-2.0, -1, None, 1.0, "s", "2"), row(0.0, 7, 0.5, 0.75, id="3")]
    path = write_rows(tmp_path / "point", rows, {"benchmark": "pairs", "data": "d"})
    assert described(tmp_path / "point") == {"benchmark": "pairs", "data": "d"} and described(tmp_path) == {}
    assert read_scores(path, PairRow) == rows
    assert read_scores(path, PairScore) == [PairScore(each.id, each.subset, each.score) for each in rows]
    keys = {"id", "subset", "score", "margin", "length_difference", "probability", "prompt"}
    assert set(json.loads(path.read_text().splitlines()[0])) == keys
    with pytest.raises(ValueError, match="argument"):
        pair_rows(pairs, [1.0])


@pytest.mark.parametrize("change", [{"probability": 2}, {"score": "x"}, {"margin": "y"}])
def test_bad_rows(change: dict[str, Any], tmp_path: Path) -> None:
    good = {"id": "1", "subset": "", "score": 1.0, "margin": None, "length_difference": 0, "probability": 1.0}
    (tmp_path / "s.jsonl").write_text(json.dumps(good | change) + "\n")
    with pytest.raises(RecordError, match=r's.jsonl:1.*"length_difference"'):
        read_scores(tmp_path / "s.jsonl", PairRow)


def test_comparisons_on_one_prompt_are_said_to_be() -> None:
    def notes(*prompts: str) -> list[str]:
        rows = [replace(row(1.0, 0, id=str(i)), prompt=prompt) for i, prompt in enumerate(prompts)]
        return [note for note in evaluate(rows, None, Bootstrap(10))["notes"] if "prompts" in note]

    assert notes("a", "b", "", "") == []
    (note,) = notes("a", "b", "a", "", "")
    assert note.startswith("5 comparisons on 4 prompts")
    assert [note for note in evaluate([row(1.0, id="1")] * 2, None, FEW)["notes"] if "prompt" in note] == []
    (note,) = (note for note in evaluate([replace(row(1.0), prompt="a")] * 2, None, FEW)["notes"] if "prompt" in note)
    assert note.startswith("all 2 comparisons are on one prompt")


def test_intervals_of_calibration_go_by_prompts() -> None:
    """Copies of a comparison under its prompt make no interval narrower; under prompts of their own they would, by the root of 3."""
    rows, others = ([replace(each, prompt=f"p{i}") for i, each in enumerate(generated(100, 2.0, seed))] for seed in (0, 1))
    once, copied = (evaluate(rows * n, others * n, Bootstrap(1000)) for n in (1, 3))
    a, b = once["calibration"], copied["calibration"]
    for before, after in ((a, b), (a["temperature"]["after"], b["temperature"]["after"])):
        for measure in ("brier", "log_loss"):
            assert np.diff(after[measure]["ci95"]) == pytest.approx(np.diff(before[measure]["ci95"]), rel=0.15)
    assert b["temperature"]["ci95"] == pytest.approx(a["temperature"]["ci95"])
    notes = [note for note in copied["notes"] if "prompts" in note]
    assert len(notes) == 2 and notes[1].startswith("the temperature is fitted on 300 comparisons on 100 prompts")
    assert not any("prompt" in note for note in once["notes"])
    same = evaluate(rows, [replace(each, prompt="p") for each in others], FEW)
    assert same["calibration"]["temperature"]["ci95"] == a["temperature"]["ci95"], "one prompt has nothing else to go by"
    assert any("100 comparisons on one prompt" in note for note in same["notes"])


def test_accuracy_by_hand() -> None:
    rows = [
        row(1.0, 5, subset="a"), row(-1.0, -5, subset="a"), row(0.0, 0, subset="b"), row(2.0, -9, subset="b"),
        row(-1.0, 4, p=0.2, subset="b"), row(3.0, 2, p=0.5, subset="b"),
    ]  # fmt: skip
    found = evaluate(rows, bootstrap=FEW)
    # Right: 1, 4, and 5, where the other answer is preferred and the score says so; 6 has no right verdict.
    assert (found["overall"]["score"], found["overall"]["n"]) == (3 / 5, 5)
    assert {name: (v["score"], v["n"]) for name, v in found["subsets"].items()} == {"a": (1 / 2, 2), "b": (2 / 3, 3)}
    length = found["agreement"]["length"]
    # The preferred answers are longer by 5, -5, 0, -9, -4 characters.
    assert [(length[key]["score"], length[key]["n"]) for key in ("preferred_longer", "same_length", "preferred_shorter")] == [
        (1.0, 1), (0.0, 1), (2 / 3, 3),
    ]  # fmt: skip
    assert (length["data_choose_longer"]["score"], length["data_choose_longer"]["n"]) == (1 / 4, 4)
    # Of lengths 5, -5, -9, 4 the model takes: the longer, the longer, the shorter, the shorter.
    assert (length["model_chooses_longer"]["score"], length["model_chooses_longer"]["n"]) == (1 / 2, 4)
    assert found["agreement"]["margin"] is None
    assert any("1 comparisons are ties" in note for note in found["notes"]) and any("1 pairs have equal" in note for note in found["notes"])
    low, high = found["overall"]["ci95"]
    assert 0 < low < 3 / 5 < high < 1
    json.dumps(found, allow_nan=False)


def test_accuracy_by_margin() -> None:
    """Right exactly where the margin is above 5: groups of two among ten margins."""
    rows = [row(1.0 if margin > 5 else -1.0, margin=float(margin)) for margin in range(1, 11)] + [row(1.0)]
    found = evaluate(rows, bootstrap=FEW)["agreement"]["margin"]
    assert [group["score"] for group in found["bins"]] == [0, 0, 0.5, 1, 1] and [group["n"] for group in found["bins"]] == [2] * 5
    assert (found["bins"][0]["low"], found["bins"][-1]["high"]) == (1, 10)
    assert (found["known"], found["unknown"]["n"], found["unknown"]["score"]) == (10, 1, 1.0)


def test_which_answer_is_called_chosen_does_not_matter() -> None:
    rows = generated(300)
    other = [
        replace(r, score=-r.score, length_difference=-r.length_difference, probability=0.0) if i % 2 else r for i, r in enumerate(rows)
    ]
    a, b = evaluate(rows, bootstrap=FEW), evaluate(other, bootstrap=FEW)
    assert a["overall"] == b["overall"] and a["agreement"] == b["agreement"]
    for key in ("brier", "log_loss", "ece"):
        assert a["calibration"][key]["score"] == pytest.approx(b["calibration"][key]["score"])


def test_calibration_against_a_slow_reference() -> None:
    rows = generated(200, 2.0)
    found = evaluate(rows, bootstrap=FEW)["calibration"]
    p = [1 / (1 + math.exp(-each.score)) for each in rows]
    assert found["brier"]["score"] == pytest.approx(sum((1 - each) ** 2 for each in p) / 200)
    assert found["log_loss"]["score"] == pytest.approx(-sum(math.log(each) for each in p) / 200)
    ordered = sorted((max(each, 1 - each), float(each > 0.5)) for each in p)
    groups = [ordered[start : start + 20] for start in range(0, 200, 20)]
    error = sum(abs(sum(c for c, _ in group) - sum(right for _, right in group)) for group in groups) / 200
    assert found["ece"]["score"] == pytest.approx(error)
    assert [each["n"] for each in found["bins"]] == [20] * 10
    assert [each["outcome"] for each in found["bins"]] == pytest.approx([sum(right for _, right in group) / 20 for group in groups])
    assert found["temperature"] is None


def test_temperature_from_others_mends_what_was_too_sure() -> None:
    rows, others = generated(3000, 3.0), generated(3000, 3.0, seed=1)
    found = evaluate(rows, others, FEW)
    before, fitted = found["calibration"], found["calibration"]["temperature"]
    assert fitted["value"] == pytest.approx(3.0, rel=0.1) and fitted["ci95"][0] < 3.0 < fitted["ci95"][1] and fitted["n"] == 3000
    after = fitted["after"]
    assert after["ece"]["score"] < 0.04 < 0.1 < before["ece"]["score"]
    assert before["ece"]["score"] > before["ece"]["if_calibrated"]["p95"]
    assert after["log_loss"]["score"] < before["log_loss"]["score"] and after["brier"]["score"] < before["brier"]["score"]
    for each in (before, after):  # no verdict changes
        assert sum(one["outcome"] * one["n"] for one in each["bins"]) == pytest.approx(found["overall"]["score"] * 3000)
    # What is fitted does not look at what is measured.
    assert evaluate(rows[:10], others, FEW)["calibration"]["temperature"]["value"] == fitted["value"]


def test_a_temperature_that_cannot_be_fitted_is_said() -> None:
    found = evaluate(generated(50), [row(1.0), row(2.0)], FEW)
    assert found["calibration"]["temperature"] is None
    assert found["notes"] == ["no temperature: among the 2 comparisons to fit it on, no verdict is wrong, "
                              "so the smaller the temperature, the better"]  # fmt: skip


def test_an_error_of_chance_is_told_from_miscalibration() -> None:
    """Confidences of 1/2 and a little, and verdicts that are right half of the time: whatever error there is, is noise."""
    rows = [row(0.01 * (1 + i / 200) * (1 if i % 2 else -1)) for i in range(200)]
    found = evaluate(rows, bootstrap=Bootstrap(200))
    assert found["calibration"]["ece"]["score"] < found["calibration"]["ece"]["if_calibrated"]["p95"]
    assert "ci95" not in found["calibration"]["ece"] and not found["notes"]


def test_ties_alone() -> None:
    found = evaluate([row(1.0, p=0.5), row(-1.0, p=0.5)], bootstrap=FEW)
    assert found["overall"] == {"score": None, "n": 0, "ci95": [0.0, 1.0]} and found["subsets"] == {}
    assert found["calibration"]["brier"]["score"] == pytest.approx((expit(1) ** 2 + expit(-1) ** 2) / 2)
    json.dumps(found, allow_nan=False)
    with pytest.raises(DataError):
        evaluate([])


class Counting:
    """Says a number, and dies at the third question where it is told to."""

    @staticmethod
    def describe() -> dict[str, Any]:
        return {}

    def __init__(self, dies: bool = False) -> None:
        self.asked, self.dies = 0, dies

    def compare(self, comparisons: Any, *, progress: str | None = None) -> Any:
        for pair in comparisons:
            self.asked += 1
            if self.dies and self.asked == 3:
                raise KeyboardInterrupt
            yield float(len(pair.chosen[0].content))


def test_interrupted_scoring_goes_on(tmp_path: Path) -> None:
    pairs, whole = comparisons_of(COMPARISONS), tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        log_pairs(Counting(True), pairs, tmp_path / "cut", PairRow, "pairs", {"path": "m"})
    again = Counting()
    rows = list(log_pairs(again, pairs, tmp_path / "cut", PairRow, "pairs", {"path": "m"}))
    assert again.asked == 2 and rows == list(log_pairs(Counting(), pairs, whole, PairRow, "pairs", {"path": "m"}))
    assert (tmp_path / "cut" / "scores.jsonl").read_bytes() == (whole / "scores.jsonl").read_bytes()
    finished = Counting()
    assert list(log_pairs(finished, pairs, whole, PairRow, "pairs", {"path": "m"})) == rows and finished.asked == 0
    with pytest.raises(ConfigError, match="another model"):
        log_pairs(Counting(), pairs, whole, PairRow, "pairs", {"path": "other"})
    with pytest.raises(ConfigError, match="another data"):
        log_pairs(Counting(), pairs[1:], whole, PairRow, "pairs", {"path": "m"})


def test_mistakes_come_worst_first() -> None:
    pairs = comparisons_of([replace(pair, probability=p) for pair, p in zip(COMPARISONS, (1.0, 1.0, 0.0, 0.5), strict=True)])
    rows = pair_rows(pairs, [-1.0, 2.0, 3.0, -9.0])
    found = mistakes(rows, pairs)
    assert [(each["id"], each["score"]) for each in found] == [("2", 3.0), ("0", -1.0)]
    assert (found[1]["prompt"], found[1]["chosen"], found[1]["rejected"]) == ("Name a prime", "7", "9")
    assert found[1]["p_chosen"] == pytest.approx(expit(-1))
    assert len(mistakes(rows, pairs, 1)) == 1


def test_shared_comparisons_are_found_in_either_order() -> None:
    first, second, *_ = COMPARISONS
    assert shared([first, second], [replace(first, chosen=first.rejected, rejected=first.chosen, id="other")]) == 1
    assert shared([first], [replace(first, prompt=second.prompt)]) == 0


def test_plot(tmp_path: Path) -> None:
    for name, others in (("without", None), ("with", generated(100, 3.0, 1))):
        reliability_plot(evaluate(generated(100, 3.0), others, FEW), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
