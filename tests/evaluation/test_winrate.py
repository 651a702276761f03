"""Win rates: answers that are read, judges that are asked, numbers that can be said beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import COMPARISONS, comparison
from scipy.special import expit

from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation.rows import PairScore
from prefrep.evaluation.scores import log_pairs
from prefrep.evaluation.summary import Bootstrap
from prefrep.evaluation.winrate import Answers, paired, read_answers, results, sample_rows
from prefrep.judges import RuleJudge
from prefrep.records import Message

QUESTIONS = [{"question_id": 81, "turns": ["q1", "q2"]}]
TALK = {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["a1", "a2"]}]}


def _write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_reads_alpaca_outputs(tmp_path: Path) -> None:
    path = tmp_path / "model_outputs.json"
    path.write_text(json.dumps([{"instruction": "q", "output": "a", "generator": "gpt", "dataset": "x"}]))
    found = read_answers(str(path))
    assert found == Answers("gpt", {"q": ((Message("user", "q"),), (Message("assistant", "a"),))})


def test_reads_two_turns(tmp_path: Path) -> None:
    found = read_answers(_write(tmp_path / "m.jsonl", [TALK]), QUESTIONS)
    prompt, answer = found.found["81"]
    assert found.name == "m" and prompt == (Message("user", "q1"),)
    assert answer == (Message("assistant", "a1"), Message("user", "q2"), Message("assistant", "a2"))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"instruction": "q"}], "no answer"),
        ([{"instruction": "q", "output": "a"}] * 2, "second answer"),
        ([TALK | {"question_id": 82}], "not in --data"),
        ([TALK | {"choices": []}], "not an answer of MT-Bench"),
    ],
)
def test_bad_answers(tmp_path: Path, rows: list[Any], problem: str) -> None:
    with pytest.raises(RecordError, match=problem):
        read_answers(_write(tmp_path / "m.jsonl", rows), QUESTIONS)


def test_talks_need_their_questions(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="--data"):
        read_answers(_write(tmp_path / "m.jsonl", [TALK]))


def _answers(name: str, texts: dict[str, str]) -> Answers:
    return Answers(name, {key: ((Message("user", key),), (Message("assistant", text),)) for key, text in texts.items()})


def test_pairs_prompts_that_both_have_answered() -> None:
    pairs, notes = paired(_answers("A", {"x": "1", "y": "2", "z": "3"}), _answers("B", {"z": "30", "x": "10"}))
    assert [(p.prompt[0].content, p.chosen[0].content, p.rejected[0].content) for p in pairs] == [("x", "1", "10"), ("z", "3", "30")]
    assert notes == ["1 of 3 answers of A are unmatched and were left out"]
    with pytest.raises(DataError, match="in common"):
        paired(_answers("A", {"x": "1"}), _answers("B", {"y": "1"}))


def test_interrupted_judging_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def rule(prompt: str, a: str, b: str) -> float:
        asked.append(prompt)
        if len(asked) == 5:  # two calls per pair: the third pair
            raise ValueError
        return float(len(a) - len(b))

    monkeypatch.setattr("prefrep.judges.rules.function", lambda path: rule)
    pairs, _ = paired(*(_answers(n, {each.prompt[0].content: n * i for i, each in enumerate(COMPARISONS, 1)}) for n in ("A", "BB")))
    with pytest.raises(ConfigError):
        log_pairs(RuleJudge("r"), pairs, tmp_path, PairScore, "winrate", {"path": "r"})
    rows = log_pairs(RuleJudge("r"), pairs, tmp_path, PairScore, "winrate", {"path": "r"})
    assert [row.score for row in rows] == [-1, -2, -3, -4] and len(asked) == 5 + 4
    with pytest.raises(ConfigError, match="another model"):
        log_pairs(RuleJudge("r"), pairs, tmp_path, PairScore, "winrate", {"path": "other"})


def test_numbers() -> None:
    scores = [2.0, -1.0, 0.0, 3.0]
    pairs = [comparison("p", "same", "size") for _ in scores]
    found = results(scores, pairs, Bootstrap(500))
    mean = sum(expit(scores)) / 4
    assert found["win_rate"]["score"] == pytest.approx(mean) == found["length_controlled_minimal"]["score"]
    assert found["strict_wins"]["score"] == 0.5
    assert (found["wins"], found["ties"], found["losses"]) == (2, 1, 1)
    assert found["mean_length"] == {"a": 4.0, "b": 4.0} and found["notes"] == []
    for key in ("win_rate", "strict_wins", "length_controlled_minimal"):
        low, high = found[key]["ci95"]
        assert 0 < low < found[key]["score"] < high < 1
    rows = sample_rows(scores, pairs)
    assert [row["p_a"] for row in rows] == pytest.approx(expit(scores)) and rows[0]["length_b"] == 4
    json.dumps([found, rows], allow_nan=False)


def test_length_counts_assistant_messages_only() -> None:
    talk = (Message("assistant", "12345"), Message("user", "x" * 100), Message("assistant", "678"))
    (row,) = sample_rows([0.0], [comparison("p", "", "b")])
    assert row["length_a"] == 0
    pair = comparison("p", "a", "b")
    assert results([0.0], [type(pair)(pair.prompt, talk, pair.rejected)], Bootstrap(10))["mean_length"] == {"a": 8.0, "b": 1.0}


def test_constant_length_difference_is_said() -> None:
    found = results([1.0, 2.0], [comparison("p", "long", "no"), comparison("q", "more", "to")], Bootstrap(10))
    assert "cannot be controlled" in found["notes"][0]
    assert found["length_controlled_minimal"]["score"] == pytest.approx(found["win_rate"]["score"])


def test_a_length_controlled_win_rate_beyond_belief_is_said() -> None:
    """Short answers that lose where they are shortest: the fit at equal lengths, which never occur, is far from what was seen."""
    pairs = [comparison(f"p{i}", "x" * (100 + 20 * (i % 5)), "y" * 200) for i in range(40)]
    found = results([i % 5 - 4.0 for i in range(40)], pairs, Bootstrap(10))
    raw, controlled = found["win_rate"]["score"], found["length_controlled_minimal"]["score"]
    assert controlled > raw + (1 - raw) / 4 and f"({controlled:.3f} against {raw:.3f})" in found["notes"][0]
