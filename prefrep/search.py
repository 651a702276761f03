"""Search over the steps of answers: a policy proposes them, and a model of their values chooses (step-level beam search, arXiv:2406.10858).

A step is a line, as in the data of `prefrep.data.formats.steps`, and a value is the reward after it, which `ValueLoss` trains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from prefrep.errors import ConfigError, RecordError, require_at_least
from prefrep.generation import Sampled, Sampler
from prefrep.metrics.intervals import stream
from prefrep.nn.backbone import Backbone
from prefrep.records import Message, Messages, RankedResponses
from prefrep.scoring.interface import PreferenceScorer

_STEP = re.compile(r"\s*\S[^\n]*\n?")  # blank lines before a step belong to it


@dataclass(frozen=True, slots=True)
class Beam:
    """The beginning of an answer, or a whole one.

    Args:
        text: Its text, in the policy's own spelling.
        value: Reward of the value model after the last step; -inf before the first one.
        finished: Whether the policy ended it.
        ended: Whether nothing can follow: it is finished, or the policy's context is full, or it wrote nothing but blanks.
        lead: See `Sampled`.
    """

    text: str = ""
    value: float = -inf
    finished: bool = False
    ended: bool = False
    lead: str = ""

    def longer(self, drawn: Sampled) -> Beam | None:
        """Return the beam with the first step of what was drawn to follow it, not yet valued; None: that has no step."""
        whole = drawn.lead + drawn.text if self.text else drawn.text
        match = _STEP.match(whole)
        if match is None and not drawn.finished:
            return None
        step = whole if match is None or not whole[match.end() :].strip() else match[0]
        finished = drawn.finished and step == whole
        return Beam(self.text + step, finished=finished, ended=finished, lead=self.lead if self.text else drawn.lead)


class StepBeams:
    """A sampler that searches: of all steps that another sampler proposes, the beginnings with the highest values go on.

    With one beam and one candidate it is the other sampler, which then draws step by step. Answers depend on the seed, and those of a
    sampler whose draws depend on its batch also on the other prompts of the call.

    Args:
        sampler: Proposes steps; its longest response is the longest step. What it draws behind the first step is not used.
        values: Gives the value of a beginning: a model with a reward.
        beams: Beginnings that are kept for each prompt, finished answers among them.
        candidates: Steps that are proposed for each beginning.
        steps: Longest answer in steps.

    Raises:
        UsageError: A number is below 1.
        ConfigError: The value model only compares.
    """

    def __init__(self, sampler: Sampler, values: PreferenceScorer, beams: int = 4, candidates: int = 4, steps: int = 32) -> None:
        for name, number in (("beams", beams), ("candidates", candidates), ("steps", steps)):
            require_at_least(name, number, 1)
        if values.pairwise:
            raise ConfigError(
                "a search by value needs a reward after each step, and this model compares responses; use a Bradley-Terry model"
            )
        self.sampler, self.values, self.beams, self.candidates, self.steps = sampler, values, beams, candidates, steps

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`. The K best answers of each search, K at most `beams`; the last one again where fewer differ."""
        if responses > self.beams:
            raise ConfigError(f"{responses} responses are more than the {self.beams} beams of the search; raise beams")
        for found in self.search(backbone, prompts, seeds, shorten):
            best = [Sampled(beam.text, beam.finished, beam.lead) for beam in found[:responses]]
            yield (*best, *[best[-1]] * (responses - len(best)))

    def search(self, backbone: Backbone, prompts: Sequence[Messages], seeds: Sequence[int], shorten: bool = False) -> list[list[Beam]]:
        """Search for answers to N prompts.

        Args:
            backbone: The language model.
            prompts: N conversations up to the response.
            seeds: Seed of the draws of each prompt.
            shorten: See `Sampler`, for first steps. Later ones are as long as the context allows, and an answer that fills it ends there.

        Returns:
            The last beams of each prompt, at most `beams`: finished ones first, then by value. Equal values keep the order of the draws.

        Raises:
            RecordError: A prompt leaves no room for a first step, or is too long for the value model.
            DataError: A value is not finite.
        """
        held = [[Beam()] for _ in prompts]
        for depth in range(self.steps):
            asked = [(n, beam) for n, beams in enumerate(held) for beam in beams if not beam.ended]
            if not asked:
                break
            begun = [(*prompts[n], Message("assistant", beam.text)) if beam.text else prompts[n] for n, beam in asked]
            own = [int(stream(seeds[n], f"step {depth}, {place}").integers(2**31)) for n, place in _places(asked)]
            drawn = self._drawn(backbone, begun, own, shorten, depth == 0)
            pools = [[beam for beam in beams if beam.ended] for beams in held]
            for (n, beam), proposals in zip(asked, drawn, strict=True):
                longer = [each for proposal in proposals if (each := beam.longer(proposal)) is not None]
                pools[n] += dict.fromkeys(longer) if longer else [replace(beam, ended=True)]
            held = [sorted(pool, key=lambda beam: -beam.value)[: self.beams] for pool in self._valued(prompts, pools)]
        return [sorted(beams, key=lambda beam: not beam.finished) for beams in held]

    def _drawn(
        self, backbone: Backbone, begun: Sequence[Messages], seeds: Sequence[int], shorten: bool, first: bool
    ) -> Sequence[tuple[Sampled, ...]]:
        """Return the proposals for each beginning; none where its context is full."""
        try:
            return list(self.sampler.sample(backbone, begun, self.candidates, seeds, shorten or not first))
        except RecordError:
            if first:
                raise
            if len(begun) == 1:
                return [()]
            alone = (self._drawn(backbone, [each], [seed], shorten, first) for each, seed in zip(begun, seeds, strict=True))
            return [proposals for (proposals,) in alone]

    def _valued(self, prompts: Sequence[Messages], pools: Sequence[Sequence[Beam]]) -> Iterator[list[Beam]]:
        """Yield the pools with the values of their new beams; beginnings of one answer are read as responses of one record."""
        texts = [list(dict.fromkeys(beam.text.rstrip() for beam in pool if beam.value == -inf and beam.text)) for pool in pools]
        answers = [tuple((Message("assistant", text),) for text in own) for own in texts]
        records = [RankedResponses(prompt, own) for prompt, own in zip(prompts, answers, strict=True) if own]
        rewards = iter(self.values.rewards(records) if records else ())
        for pool, own in zip(pools, texts, strict=True):
            known = dict(zip(own, map(float, next(rewards)), strict=True)) if own else {}
            yield [replace(beam, value=known.get(beam.text.rstrip(), beam.value)) for beam in pool]


def _places(asked: Sequence[tuple[int, Beam]]) -> Iterator[tuple[int, int]]:
    """Yield the prompt of each beginning, and its place among those of the prompt."""
    counts = Counter[int]()
    for n, _ in asked:
        yield n, counts[n]
        counts[n] += 1
