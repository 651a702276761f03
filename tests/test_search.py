"""Search over steps: exhaustive searches, closed forms of an arithmetic chain, a greedy walk, and the program on tiny models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import program

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import ConfigError, RecordError, UsageError
from prefrep.generation import Sampled, TransformersSampler
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Message, Messages, RankedResponses, text
from prefrep.scoring import Scorer, ranked
from prefrep.scoring.interface import PreferenceScorer
from prefrep.search import StepBeams

main = program("eval")
NONE = cast(Backbone, None)  # rules read no model
ASKED = (Message("user", "?"),)


def begun(prompt: Messages) -> list[str]:
    """Lines of the answer so far."""
    return prompt[-1].content.splitlines() if prompt[-1].role == "assistant" else []


class Tree:
    """A sampler on a full tree with steps 0, 1, ... of fixed depth: children of each beginning in order.

    Like a language model it goes on behind the first step, to the end of the answer: by first children.
    """

    def __init__(self, width: int, depth: int) -> None:
        self.width, self.depth, self.calls = width, depth, 0

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`."""
        self.calls += 1
        for prompt in prompts:
            left = self.depth - len(begun(prompt)) - 1
            yield tuple(Sampled("\n".join([str(k % self.width), *["0"] * left]), True) for k in range(responses))


class Values:
    """Rewards by rule; counts the texts that are read."""

    pairwise = False

    def __init__(self, rule: Any) -> None:
        self.rule, self.read = rule, 0

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[np.ndarray[Any, Any]]:
        """See `PreferenceScorer`."""
        for record in records:
            self.read += len(record.responses)
            yield np.array([self.rule(text(record.prompt), text(each)) for each in record.responses], np.float32)


def drawn_values(seed: int, width: int, depth: int) -> dict[tuple[str, ...], float]:
    """A value for every node of a tree."""
    draw = np.random.default_rng(seed)
    nodes: list[tuple[str, ...]] = [()]
    found: dict[tuple[str, ...], float] = {}
    for _ in range(depth):
        nodes = [(*node, str(k)) for node in nodes for k in range(width)]
        found |= {node: float(draw.standard_normal(dtype=np.float32)) for node in nodes}
    return found


def search(sampler: Any, values: Any, **settings: int) -> StepBeams:
    """A search whose parts are rules."""
    return StepBeams(sampler, cast(PreferenceScorer, values), **settings)


@pytest.mark.parametrize("seed", range(5))
def test_against_exhaustive_searches(seed: int) -> None:
    """All beams: the best leaf. Some: the best nodes of each layer among the children of the last ones."""
    width, depth = 3, 4
    values = drawn_values(seed, width, depth)
    for beams in (1, 2, 5, width**depth):
        layer: list[tuple[str, ...]] = [()]
        for _ in range(depth):
            children = [(*node, str(k)) for node in layer for k in range(width)]
            layer = sorted(children, key=lambda node: -values[node])[:beams]
        rule = Values(lambda _, answer: values[tuple(answer.split("\n"))])
        (found,) = search(Tree(width, depth), rule, beams=beams, candidates=width).search(NONE, [ASKED], [0])
        assert [(tuple(beam.text.split("\n")), beam.value) for beam in found] == [(node, values[node]) for node in layer]
        assert all(beam.finished and beam.ended for beam in found)
    leaves = {node: value for node, value in values.items() if len(node) == depth}
    assert layer[0] == max(leaves, key=leaves.__getitem__)
    assert rule.read == len(values), "every beginning is read once"


def test_one_beam_and_one_candidate_are_the_sampler() -> None:
    """Its own answer, step by step; other proposals are read and chosen from."""
    (whole,), (other,) = (next(Tree(2, 5).sample(NONE, [ASKED], k, [0]))[-1:] for k in (1, 2))
    values = Values(lambda _, answer: answer.count("1"))
    assert list(search(Tree(2, 5), values, beams=1, candidates=1).sample(NONE, [ASKED, ASKED], 1, [0, 0])) == [(whole,), (whole,)]
    ((best,),) = search(Tree(2, 5), values, beams=1, candidates=2).sample(NONE, [ASKED], 1, [0])
    assert whole.text == "0\n0\n0\n0\n0" and other.text == "1\n0\n0\n0\n0" and best.text == "1\n1\n1\n1\n1"


class Sums:
    """A policy that adds numbers one by one and slips: each line is right with probability `right`."""

    def __init__(self, right: float) -> None:
        self.right = right

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`."""
        for prompt, seed in zip(prompts, seeds, strict=True):
            draw = np.random.default_rng(seed)
            numbers, lines = [int(each) for each in prompt[0].content.split(" + ")], begun(prompt)
            total = int(lines[-1]) if lines else numbers[0]
            answers = []
            for _ in range(responses):
                rest = np.cumsum([number + (draw.random() >= self.right) for number in numbers[len(lines) + 1 :]])
                answers.append(Sampled("\n".join(str(total + each) for each in rest), True))
            yield tuple(answers)


def sums_right(prompt: str, answer: str) -> bool:
    """Whether all lines of a beginning are right."""
    numbers, lines = [int(each) for each in prompt.split(" + ")], answer.split("\n")
    return lines == [str(total) for total in np.cumsum(numbers)[1 : len(lines) + 1]]


def test_an_arithmetic_chain_has_closed_forms() -> None:
    """L steps, each right with r: the policy alone r^L, and (1 - (1 - r)^C)^L by exact values of C candidates.

    Only one beginning of each length is right, so that further beams hold wrong ones and change nothing where values are exact.
    They help where values are noisy before the end.
    """
    n, length, r = 600, 4, 0.6
    draw = np.random.default_rng(0)
    prompts = [(Message("user", " + ".join(map(str, draw.integers(1, 90, length + 1)))),) for _ in range(n)]

    def share(beams: int, candidates: int, noise: float = 0.0) -> float:
        noisy = np.random.default_rng(1)

        def value(prompt: str, answer: str) -> float:
            early = answer.count("\n") < length - 1
            return sums_right(prompt, answer) + early * noise * noisy.standard_normal()

        values = Values(value)
        found = search(Sums(r), values, beams=beams, candidates=candidates).sample(NONE, prompts, 1, range(len(prompts)))
        return float(np.mean([sums_right(text(prompt), best.text) for prompt, (best,) in zip(prompts, found, strict=True)]))

    for beams, candidates in ((1, 1), (1, 2), (1, 4), (3, 2)):
        expected = (1 - (1 - r) ** candidates) ** length
        assert share(beams, candidates) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)
    assert share(4, 4, noise=0.5) - 0.1 > share(1, 4, noise=0.5) > share(1, 1) + 0.1


def test_seeds_decide() -> None:
    """Equal seeds draw equal steps, and steps of one search draw different noise."""
    values = Values(lambda _, answer: 0.0)
    prompts = [(Message("user", " + ".join(["1"] * 40)),)]
    answers = [
        [each.text for (each,) in search(Sums(0.5), values, beams=1, candidates=1, steps=39).sample(NONE, prompts, 1, [seed])]
        for seed in (0, 0, 1)
    ]
    assert answers[0] == answers[1] != answers[2]
    slips = np.diff([1, *map(int, answers[0][0].split("\n"))])
    assert 0.2 < np.mean(slips == 1) < 0.8


class Said:
    """Proposals from a list for each beginning; a beginning without one does not fit."""

    def __init__(self, known: dict[str, list[Sampled]]) -> None:
        self.known = known

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`."""
        found = []
        for prompt in prompts:
            key = prompt[-1].content if prompt[-1].role == "assistant" else ""
            if key not in self.known or not (shorten or not key):
                raise RecordError("the prompt", "no room")
            found.append(tuple(self.known[key][k % len(self.known[key])] for k in range(responses)))
        return iter(found)


def test_how_answers_end() -> None:
    """Ends behind blank lines, lines cut at the limit, full contexts, blanks alone, and leads of transcripts."""
    known = {
        "": [Sampled("\n a\nrest", True, " "), Sampled("b\n\n", True), Sampled("c", False)],
        "\n a\n": [Sampled("indented", True, " ")],
        "c": [Sampled("d\nmore", False, " ")],
        "c d\n": [Sampled(" \n", False)],
    }
    (found,) = search(Said(known), Values(lambda _, answer: len(answer)), beams=9, candidates=3).search(NONE, [ASKED], [0])
    ends = {beam.text: (beam.finished, beam.lead, beam.value) for beam in found}
    assert ends == {"\n a\n indented": (True, " ", 13), "b\n\n": (True, "", 1), "c d\n": (False, "", 3)}
    assert [beam.finished for beam in found] == [True, True, False]
    del known["\n a\n"], known["c d\n"]  # their contexts are full: the answers stay as they are, and the others go on
    (found,) = search(Said(known), Values(lambda _, answer: len(answer)), beams=9, candidates=3).search(NONE, [ASKED], [0])
    assert {beam.text: beam.finished for beam in found} == {"b\n\n": True, "c d\n": False, "\n a\n": False}
    ((first, second, third, fourth),) = search(Said(known), Values(lambda _, answer: len(answer)), candidates=3).sample(
        NONE, [ASKED], 4, [0]
    )
    assert third == fourth != second != first
    with pytest.raises(RecordError, match="no room"):
        search(Said({}), Values(len)).search(NONE, [ASKED], [0])


def test_what_is_refused() -> None:
    """Numbers below 1, more answers than beams, and models that compare."""
    values = Values(len)
    for name in ("beams", "candidates", "steps"):
        with pytest.raises(UsageError, match=f"{name} must be at least 1"):
            search(Tree(2, 2), values, **{name: 0})
    with pytest.raises(ConfigError, match="3 responses are more than the 2 beams"):
        list(search(Tree(2, 2), values, beams=2).sample(NONE, [ASKED], 3, [0]))
    values.pairwise = True
    with pytest.raises(ConfigError, match="needs a reward after each step, and this model compares"):
        search(Tree(2, 2), values)


# ---- models


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A reward model and one that compares."""
    folder = tmp_path_factory.mktemp("models")
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    for name, head in {"bt": BTHead(backbone.hidden_size), "gpm": GPMHead(backbone.hidden_size, dim=4)}.items():
        save(folder / name, backbone, head, 1.0, EncodeConfig(), tokenizer, {})
    return {name: str(folder / name) for name in ("bt", "gpm")}


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_response_is_continued_where_it_stands(family: Backbone, template: Any) -> None:
    """What a prompt with the beginning of its response is read as: the beginning of what the whole response is read as."""
    prompt = (Message("system", "Be brief."), *ASKED)
    coder, _ = TransformersSampler(template=template).encoder(family)
    whole = Encoder(family.tokenizer(), coder.config, "single", policy=True)
    ((_, datum),) = whole.encode_tables([ranked(prompt, [coder.lead + "Seven.\nEight."])])
    assert datum is not None
    (read,) = coder.prompts([(*prompt, Message("assistant", "Seven.\n"))])
    assert read.tolist() == datum.trees[0].sequences[0][: len(read)].tolist() and len(read) > datum.trees[0].prompt
    (spelled,) = coder.prompts([(*prompt, Message("assistant", f"Seven.{coder.tokenizer.eos_token}\n"))])
    assert coder.tokenizer.eos_token_id not in spelled[len(coder.prompts([prompt])[0]) :]


def test_a_language_model_searches(llama: Backbone, exports: dict[str, str]) -> None:
    """Values are the rewards of the texts; a context that fills up ends an answer and no search."""
    scorer = Scorer.from_pretrained(exports["bt"])
    sampler = TransformersSampler(1.0, 1.0, 5, "plain")
    prompts = [(Message("user", "Name a prime."),), (Message("user", "x " * 40),)]
    beams = StepBeams(sampler, scorer, beams=2, candidates=3, steps=4)
    found = beams.search(llama, prompts, [3] * len(prompts))
    assert found == beams.search(llama, prompts, [3] * len(prompts)) != beams.search(llama, prompts, [4] * len(prompts))
    for prompt, each in zip(prompts, found, strict=True):
        assert len(each) == 2 and each[0] != each[1]
        rewards = next(scorer.rewards([ranked(prompt, [beam.text.rstrip() for beam in each])]))
        assert [beam.value for beam in each] == pytest.approx(rewards.tolist(), abs=1e-4)
    assert llama.room is not None
    long = (Message("user", "x" * (llama.room - 60)),)
    left = llama.room - len(sampler.encoder(llama)[0].prompts([long])[0])
    assert 5 < left < 60
    (full,) = StepBeams(sampler, scorer, beams=1, candidates=2, steps=60).search(llama, [long], [0])
    assert full[0].ended


def write(path: Path, n: int) -> str:
    """Instructions."""
    path.write_text("".join(json.dumps({"prompt": f"What is {i} + {i}?"}) + "\n" for i in range(n)))
    return str(path)


def test_the_program(exports: dict[str, str], tmp_path: Path) -> None:
    """Resumed, its answers are those of an undisturbed run; other settings and useless ones are refused."""
    data = write(tmp_path / "prompts.jsonl", 5)
    begin = ["generate", "--model", "bundled:tiny-llama", "--benchmark", "alpaca_eval", "--data", data]
    asked = [
        *begin,
        "--value",
        exports["bt"],
        "--beams",
        "2",
        "--candidates",
        "2",
        "--steps",
        "3",
        "--step-tokens",
        "6",
        "--batch-size",
        "2",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*asked, "--out", str(one)]) == 0 and main([*asked, "--out", str(two)]) == 0
    whole = (one / "answers.jsonl").read_bytes()
    assert len(whole.splitlines()) == 5 and (two / "answers.jsonl").read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    (two / "answers.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:9])  # killed within the second batch
    assert main([*asked, "--out", str(two)]) == 0 and (two / "answers.jsonl").read_bytes() == whole
    for changed in (["--beams", "3"], ["--value", exports["bt"] + "/"]):
        with pytest.raises(ConfigError, match=f"differs in {changed[0][2:]}"):
            main([*asked, *changed, "--out", str(two)])
    with pytest.raises(ConfigError, match="needs a reward after each step, and this model compares"):
        main([*begin, "--value", exports["gpm"], "--out", str(tmp_path / "gpm")])
    for wrong, sentence in ((["--temperature", "0"], "proposes the same step again"), (["--beams", "0"], "--beams must be at least 1")):
        with pytest.raises(UsageError, match=sentence):
            main([*asked, *wrong, "--out", str(tmp_path / "wrong")])
    questions = tmp_path / "question.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "category": "math", "turns": ["2 + 2?", "And 3?"]}) + "\n")
    talk = ["generate", "--model", "bundled:tiny-llama", "--benchmark", "mt_bench", "--data", str(questions), *asked[7:]]
    assert main([*talk, "--temperature", "1", "--out", str(tmp_path / "mt")]) == 0
    (row,) = map(json.loads, (tmp_path / "mt" / "model_answer" / "tiny-llama.jsonl").read_text().splitlines())
    assert len(row["choices"][0]["turns"]) == 2
    with pytest.raises(UsageError, match="proposes the same step again"):
        main([*talk, "--out", str(tmp_path / "mt2")])
