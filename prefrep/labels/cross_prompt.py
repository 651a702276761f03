"""Comparisons between answers to different prompts (arXiv:2411.04991, arXiv:2404.00530), for models with a reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from prefrep.data.mapped import Mapped
from prefrep.data.spool import Spool
from prefrep.errors import ConfigError
from prefrep.functional.groups import probabilities
from prefrep.judges.base import Judge
from prefrep.labels.base import LabelStep, Outcome, Work, example
from prefrep.labels.rows import Labelled, winner_first
from prefrep.records import Comparison

SUBSET = "cross-prompt"


class CrossPrompt(LabelStep):
    """Pairs of answers to different prompts, each with its own prompt.

    A judge gives P(chosen > rejected). Without one, the winner of one prompt is preferred to the loser of another, which is an assumption:
    a loser can be better than the winner of a harder prompt. Such pairs help where the answers to one prompt are nearly identical, and do
    not help at normal diversity. A pair is written as two conversations that share no turn; reward models read each as they read an answer
    after its prompt. Models that only compare can read them, but no published method trains them so; heads that are gated by the prompt
    refuse them.

    Args:
        share: New pairs, as a share of the pairs with a winner; 1: as many.
        judge: Judges the new pairs; None: see above.
        alone: Leave out the pairs that were there.
        seed: Seed of the draws.

    Raises:
        ConfigError: The share is not above 0.
    """

    def __init__(self, share: float = 1.0, judge: Judge | None = None, alone: bool = False, seed: int = 0) -> None:
        if share <= 0:
            raise ConfigError(f"CrossPrompt.share must be above 0, got {share}")
        self.share, self.judge, self.alone, self.seed = share, judge, alone, seed

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:  # noqa: D102
        usable = (each.sign and each.comparison.prompt and not each.comparison.template_kwargs for each in pairs)
        decided = Mapped(pairs, winner_first, np.flatnonzero(np.fromiter(map(bool, usable), bool)))
        prompts = (each.prompt for each in decided)
        first = next(prompts, None)
        if all(prompt == first for prompt in prompts):
            raise ConfigError("CrossPrompt needs pairs with a winner on two prompts or more; name data with prompts")
        drawn = Spool(self._drawn(decided))
        if self.judge is not None:
            odds = np.fromiter(self.judge.compare(drawn), np.float64)
            drawn = Spool(replace(each, probability=p) for each, p in zip(drawn, map(float, probabilities(odds)), strict=True))
        told = "a judge" if self.judge is not None else "the winner of one prompt against the loser of another"
        return Outcome(
            Spool(chain(() if self.alone else pairs, map(Labelled, drawn))),
            {"pairs across prompts": len(drawn), "labels": told},
            examples=[example("across prompts", each) for each in drawn[:4]],
        )

    def _drawn(self, decided: Sequence[Comparison]) -> Iterator[Comparison]:
        """Draw pairs: (winner, loser) of different prompts, or with a judge any two answers."""
        draw = np.random.default_rng(self.seed)
        drawn = 0
        while drawn < max(1, round(self.share * len(decided))):
            first, second = (decided[int(i)] for i in draw.integers(0, len(decided), 2))
            if first.prompt == second.prompt:
                continue
            a, b = (0, 1) if self.judge is None else draw.integers(0, 2, 2)
            sides = [each.prompt + (each.chosen, each.rejected)[k] for each, k in ((first, a), (second, b))]
            yield Comparison((), sides[0], sides[1], subset=SUBSET, source=f"{first.source}, {second.source}".strip(", "))
            drawn += 1
