"""Answer files: their exact form, and that an interrupted run ends as an undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefrep.errors import ConfigError, RecordError
from prefrep.evaluation.generation import MT_TEMPERATURES, alpaca_eval, mt_bench, read_instructions, read_questions
from prefrep.generation import Sampled, TransformersSampler
from prefrep.nn.backbone import Backbone
from prefrep.records import Message, Messages


class Echo:
    """Answers with what it was given, so that every prompt, seed and temperature shows in the files; fails after some calls."""

    def __init__(self, temperature: float = 0.7, calls: int = 1000) -> None:
        self.temperature, self.calls = temperature, [calls]

    def at(self, temperature: float) -> Echo:
        other = Echo(temperature)
        other.calls = self.calls
        return other

    def sample(
        self, backbone: Any, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        self.calls[0] -= 1
        if self.calls[0] < 0:
            raise KeyboardInterrupt
        text = [" | ".join(f"{m.role}: {m.content}" for m in prompt) for prompt in prompts]
        return iter([(Sampled(f" <{each}> {seed} {self.temperature}", True),) * responses for each, seed in zip(text, seeds, strict=True)])


INSTRUCTIONS = [{"instruction": f"Say {i}\u2028!", "dataset": "koala"} for i in range(7)]
QUESTIONS: list[dict[str, Any]] = [
    {"question_id": 103, "category": "math", "turns": ["m1", "m2"]},
    {"question_id": 101, "category": "writing", "turns": ["w1", "w2"]},
    {"question_id": 102, "category": "math", "turns": ["n1"]},
    {"question_id": 104, "category": "gossip", "turns": ["g1", "g2"]},
]
BACKBONE: Any = None


def _write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_alpaca_file(tmp_path: Path) -> None:
    path = alpaca_eval(BACKBONE, Echo(), INSTRUCTIONS, tmp_path, "me", {}, batch=3)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "model_outputs.json"
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in INSTRUCTIONS]
    for row in rows:
        assert list(row) == ["instruction", "output", "generator", "dataset"]
        assert row["generator"] == "me" and row["dataset"] == "koala" and f"<user: {row['instruction']}>" in row["output"]
    assert len({row["output"].split()[-2] for row in rows}) == 7, "each instruction has a seed of its own"


def test_mt_bench_file(tmp_path: Path) -> None:
    path = mt_bench(BACKBONE, Echo().at, QUESTIONS, tmp_path, "me", {})
    assert path == tmp_path / "model_answer" / "me.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["question_id"] for row in rows] == [101, 102, 103, 104]
    assert len({row["answer_id"] for row in rows}) == 4
    for row in rows:
        assert list(row) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
        assert row["model_id"] == "me" and isinstance(row["tstamp"], float) and len(row["answer_id"]) == 22
        assert [choice["index"] for choice in row["choices"]] == [0]
    turns = {row["question_id"]: row["choices"][0]["turns"] for row in rows}
    assert {number: float(each[0].split()[-1]) for number, each in turns.items()} == {101: 0.7, 102: 0.0, 103: 0.0, 104: 0.7}
    assert [len(each) for each in turns.values()] == [2, 1, 2, 2]
    first, second = turns[103]
    assert first == first.strip() and second.startswith(f"<user: m1 | assistant: {first} | user: m2>")


def test_later_turns_fill_the_room_that_is_left(llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions are answered together: the first answers fit, and behind them the long question has room for 7 tokens of 24."""
    sampler = TransformersSampler(0, max_new_tokens=24)
    asked = [{"question_id": i, "category": "math", "turns": [text, "And?"]} for i, text in enumerate(["Why?", "word " * 9, "word " * 40])]
    coder, _ = sampler.encoder(llama)

    def turns(path: Path) -> list[list[str]]:
        return [json.loads(line)["choices"][0]["turns"] for line in path.read_text(encoding="utf-8").splitlines()]

    free = turns(mt_bench(llama, sampler.at, asked[:2], tmp_path / "free", "me", {}))
    talks = [
        (Message("user", row["turns"][0]), Message("assistant", first), Message("user", "And?"))
        for row, (first, _) in zip(asked, free, strict=False)
    ]
    short, long = (len(ids) for ids in coder.prompts(talks))
    assert short + 24 <= long + 7
    monkeypatch.setattr(Backbone, "room", long + 7)
    tight = turns(mt_bench(llama, sampler.at, asked[:2], tmp_path / "tight", "me", {}))
    (second,) = next(TransformersSampler(0, max_new_tokens=7).sample(llama, [talks[1]], 1, [0]))
    assert tight == [free[0], [free[1][0], second.text.strip()]] and tight[1][1] != free[1][1]
    with pytest.raises(RecordError, match="word word"):
        mt_bench(llama, sampler.at, asked, tmp_path / "full", "me", {}, batch=2)
    kept = [json.loads(line) for line in (tmp_path / "full" / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["choices"][0]["turns"] for row in kept] == tight, "what was finished stays"


def test_temperatures_are_fastchats() -> None:
    """Open-ended 0.7, knowledge 0.1, right-or-wrong 0."""
    assert {t: sorted(c for c in MT_TEMPERATURES if MT_TEMPERATURES[c] == t) for t in (0.7, 0.1, 0.0)} == {
        0.7: ["roleplay", "writing"],
        0.1: ["humanities", "stem"],
        0.0: ["coding", "extraction", "math", "reasoning"],
    }


def test_forced_temperature(tmp_path: Path) -> None:
    path = mt_bench(BACKBONE, Echo().at, QUESTIONS, tmp_path, "me", {}, temperature=0.3)
    for line in path.read_text(encoding="utf-8").splitlines():
        assert all(turn.endswith(" 0.3") for turn in json.loads(line)["choices"][0]["turns"])


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_interrupted_run_ends_as_an_undisturbed_one(tmp_path: Path, cut: int) -> None:
    whole = alpaca_eval(BACKBONE, Echo(), INSTRUCTIONS, tmp_path / "whole", "me", {}, batch=2)
    with pytest.raises(KeyboardInterrupt):
        alpaca_eval(BACKBONE, Echo(calls=2), INSTRUCTIONS, tmp_path / "cut", "me", {}, batch=2)
    log = tmp_path / "cut" / "answers.jsonl"
    lines = log.read_bytes()
    assert lines.count(b"\n") == 4
    log.write_bytes(lines[: len(lines) - cut])  # 1: a line without its end; 40: half a batch
    again = Echo()
    resumed = alpaca_eval(BACKBONE, again, INSTRUCTIONS, tmp_path / "cut", "me", {}, batch=2)
    assert resumed.read_bytes() == whole.read_bytes()
    assert 1000 - again.calls[0] == (2 if cut == 0 else 3), "answers that are there are not drawn again"


@pytest.mark.parametrize(("change", "named"), [({"seed": 1}, "seed"), ({"batch": 3}, "batch"), ({"identity": {"model": "x"}}, "model")])
def test_answers_of_another_run(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"identity": {}, "batch": 2} | change
    identity = settings.pop("identity")
    alpaca_eval(BACKBONE, Echo(), INSTRUCTIONS, tmp_path, "me", {}, batch=2)
    with pytest.raises(ConfigError, match=named):
        alpaca_eval(BACKBONE, Echo(), INSTRUCTIONS, tmp_path, "me", identity, **settings)
    alpaca_eval(BACKBONE, Echo(), INSTRUCTIONS, tmp_path, "me", identity, **settings, restart=True)


def test_other_questions(tmp_path: Path) -> None:
    alpaca_eval(BACKBONE, Echo(), INSTRUCTIONS, tmp_path, "me", {})
    with pytest.raises(ConfigError, match="questions"):
        alpaca_eval(BACKBONE, Echo(), INSTRUCTIONS[1:], tmp_path, "me", {})


def test_reads_instructions_and_questions(tmp_path: Path) -> None:
    data = _write(tmp_path / "some.jsonl", [{"instruction": "a", "dataset": "x", "output": "-"}, {"prompt": "b"}])
    assert read_instructions(data) == [{"instruction": "a", "dataset": "x"}, {"instruction": "b", "dataset": "some"}]
    assert read_questions(_write(tmp_path / "q.jsonl", QUESTIONS)) == QUESTIONS


@pytest.mark.parametrize("row", [{"instruction": ""}, {"instruction": ["a"]}, {"text": "a"}])
def test_bad_instructions(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=r"some.jsonl:1: no text"):
        read_instructions(_write(tmp_path / "some.jsonl", [row]))


@pytest.mark.parametrize("change", [{"question_id": "101"}, {"turns": []}, {"turns": "a"}, {"turns": [1]}, {"question_id": 101}])
def test_bad_questions(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=r"q.jsonl:2"):
        read_questions(_write(tmp_path / "q.jsonl", [QUESTIONS[1], {"question_id": 1, "turns": ["a"]} | change]))


def test_name_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name"):
        mt_bench(BACKBONE, Echo().at, QUESTIONS, tmp_path, "owner/me", {})
