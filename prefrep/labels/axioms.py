"""Pairs by rule, each tagged with its axiom (Axiomatic preference modeling, arXiv:2312.02206).

The paper's list, as far as it needs no generator: usefulness from votes, relevance against answers to other prompts, thoroughness, and
grounding and truthfulness where the rows hold answers with and without evidence. Each axiom is a step; its pairs have the axiom as their
`subset`, so that evaluations report it apart, and a weight.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prefrep.data.firsts import Ints
from prefrep.data.mapped import Mapped
from prefrep.data.spool import Spool
from prefrep.errors import ConfigError
from prefrep.labels.base import LabelStep, Outcome, Work, example
from prefrep.labels.heads import train
from prefrep.labels.rows import Labelled, winner_first
from prefrep.labels.states import parts
from prefrep.labels.strength import groups
from prefrep.modules.models import BradleyTerry
from prefrep.nn.heads import BTHead
from prefrep.nn.losses import LogisticLoss
from prefrep.records import Comparison, Message

Draw = np.random.Generator
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
LIKED = 8  # answers to other prompts of which the most liked is taken


class Usefulness(LabelStep):
    """Margins from votes: log of the ratio of the votes, (1 + v_chosen) / (1 + v_rejected), times a scale.

    Args:
        votes: `scores`: the scores of ranked responses are votes. `ratio`: the published strength is the ratio (Stanford SHP).
        scale: Log-odds per unit of the log ratio.

    Raises:
        ConfigError: The scale is not above 0.
    """

    def __init__(self, votes: Literal["scores", "ratio"] = "scores", scale: float = 1.0) -> None:
        if votes not in ("scores", "ratio"):
            raise ConfigError(f"Usefulness.votes must be scores or ratio, got {votes!r}")
        if scale <= 0:
            raise ConfigError(f"Usefulness.scale must be above 0, got {scale}")
        self.votes, self.scale = votes, scale

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:  # noqa: D102
        ratios = [self._log_ratio(each) for each in pairs]
        known = [ratio for ratio in ratios if ratio is not None]
        if not known:
            where = "ranked responses with scores" if self.votes == "scores" else "pairs with a published strength of 1 or more"
            raise ConfigError(f"Usefulness: no pair has votes; with votes={self.votes} the data must hold {where}")
        done = Spool(
            each if ratio is None else each.relabelled(margin=round(self.scale * ratio, 6))
            for each, ratio in zip(pairs, ratios, strict=True)
        )
        return Outcome(done, {"pairs with a margin by votes": len(known)}, {"margin by votes, log-odds": self.scale * np.array(known)})

    def _log_ratio(self, each: Labelled) -> float | None:
        if self.votes == "ratio":
            strength = each.comparison.strength
            return math.log(strength) if strength is not None and strength >= 1 else None
        if each.scores is None:
            return None
        better, worse = (1 + max(score, 0.0) for score in each.scores)
        return math.log(better / worse)


class Axiom(LabelStep):
    """Base class of axioms that make new pairs.

    Args:
        share: Pairs that get a new one, as a share of those with a prompt and a winner, in (0, 1].
        weight: Weight of the new pairs in the loss.
        margin: Their margin, in log-odds.
        seed: Seed of the draws.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(self, share: float = 0.2, weight: float = 1.0, margin: float = 0.0, seed: int = 0) -> None:
        name = type(self).__name__
        if not 0 < share <= 1:
            raise ConfigError(f"{name}.share must be above 0 and at most 1, got {share}")
        if weight <= 0:
            raise ConfigError(f"{name}.weight must be above 0, got {weight}")
        self.share, self.weight, self.margin, self.seed = share, weight, margin, seed

    @property
    def axiom(self) -> str:
        """Name of the axiom, the `subset` of its pairs."""
        return type(self).__name__.lower()

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:  # noqa: D102
        decided: Mapped[Labelled] = Mapped(pairs, places=np.flatnonzero([bool(each.sign and each.comparison.prompt) for each in pairs]))
        draw = np.random.default_rng(self.seed)
        order = draw.permutation(len(decided))[: max(1, round(self.share * len(decided)))]
        made = self.made(decided, [int(i) for i in order], work, draw) if len(decided) else ()
        new = Spool(Labelled(self._labelled(each)) for each in made)
        if not new:
            raise ConfigError(f"{type(self).__name__}: {self.needs}; leave the step out, or name other data")
        shown = [example(self.axiom, each.comparison) for each in new[:4]]
        return Outcome(Spool(chain(pairs, new)), {f"new pairs, {self.axiom}": len(new), "their weight": self.weight}, examples=shown)

    def _labelled(self, new: Comparison) -> Comparison:
        name = f"{new.id}:{self.axiom}" if new.id else ""
        return replace(new, margin=self.margin, weight=self.weight, probability=1.0, subset=self.axiom, id=name)

    needs = "no pair has a prompt and a winner"

    @abstractmethod
    def made(self, pairs: Sequence[Labelled], chosen: Sequence[int], work: Work, draw: Draw) -> Iterable[Comparison]:
        """Return or yield new pairs, the better answer first.

        Args:
            pairs: All pairs with a prompt and a winner.
            chosen: Indices of those that get a new pair.
            work: See `LabelStep.apply`.
            draw: Random numbers.
        """


class Relevance(Axiom):
    """The answer to the prompt beats the preferred answer to another prompt.

    Reward models of pairs on one prompt alone do not learn it. It has a price: some accuracy on the other pairs.

    Args:
        negatives: Whose answer it is. `random`: any other prompt's. `near`: that of the nearest other prompt, by cosine of the language
            model's states without their mean. `liked`: of eight random ones, that which a reward model of the pairs likes best.
        **options: See `Axiom`.
    """

    needs = "no two pairs have different prompts"

    def __init__(
        self,
        negatives: Literal["random", "near", "liked"] = "random",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if negatives not in ("random", "near", "liked"):
            raise ConfigError(f"Relevance.negatives must be random, near or liked, got {negatives!r}")
        self.negatives = negatives

    def made(self, pairs: Sequence[Labelled], chosen: Sequence[int], work: Work, draw: Draw) -> Iterable[Comparison]:  # noqa: D102
        own = Mapped(pairs, winner_first)
        prompt = groups(own)
        if not prompt.any():
            return ()
        if self.negatives == "near":
            closest = nearest(torch.cat([part.prompts for part in parts(work.states(own))]), prompt)
            others = [closest[i] for i in chosen]
        else:
            count, elsewhere = LIKED if self.negatives == "liked" else 1, _Elsewhere(prompt)
            liked = self._rewards(own, work) if self.negatives == "liked" else np.zeros(len(own))
            candidates = (elsewhere.drawn(i, count, draw) for i in chosen)
            others = [int(each[liked[each].argmax()]) for each in candidates]
        return (replace(own[i], rejected=own[j].chosen) for i, j in zip(chosen, others, strict=True))

    def _rewards(self, own: Sequence[Comparison], work: Work) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        states = work.states(own)
        labels = torch.tensor([each.probability for each in own])
        model = train(states, labels, BTHead, LogisticLoss, steps=200, lr=0.005, seed=self.seed, module=BradleyTerry)
        with torch.no_grad():
            return np.concatenate([model.head.embed(part.ends[:, 0])[:, 0].double().numpy() for part in parts(states)])


class Thoroughness(Axiom):
    """The whole answer beats its first half: the preferred answer, cut behind a sentence.

    Args:
        **options: See `Axiom`.
    """

    needs = "no preferred answer has two sentences"

    def made(self, pairs: Sequence[Labelled], chosen: Sequence[int], work: Work, draw: Draw) -> Iterable[Comparison]:  # noqa: D102
        for each in (winner_first(pairs[i]) for i in chosen):
            if half := _half(each.chosen[-1]):
                yield replace(each, rejected=(*each.chosen[:-1], replace(each.chosen[-1], content=half)))


class Evidence(Axiom):
    """The answer of one column beats that of another.

    Grounding: an answer with evidence beats one without. Truthfulness: one without a context beats one with a wrong context.

    Args:
        better: Column with the better answer, a text.
        worse: Column with the worse answer.
        name: Name of the axiom: `grounding`, `truthfulness`, ...
        **options: See `Axiom`.
    """

    needs = "no row holds a text in both columns"

    def __init__(
        self,
        better: str,
        worse: str,
        name: str = "grounding",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.better, self.worse, self.name = better, worse, name

    @property
    def axiom(self) -> str:  # noqa: D102
        return self.name

    def made(self, pairs: Sequence[Labelled], chosen: Sequence[int], work: Work, draw: Draw) -> Iterable[Comparison]:  # noqa: D102
        for i in chosen:
            answers = [(pairs[i].row or {}).get(name) for name in (self.better, self.worse)]
            if all(isinstance(each, str) and each.strip() for each in answers):
                better, worse = ((Message("assistant", str(each)),) for each in answers)
                yield replace(pairs[i].comparison, chosen=better, rejected=worse)


class _Elsewhere:
    """Draws pairs of other prompts, in a time that does not grow with their number.

    Args:
        prompt: Number of each pair's prompt, [P].
    """

    def __init__(self, prompt: Ints) -> None:
        order = np.argsort(prompt, kind="stable")
        sizes = np.bincount(prompt)
        self._prompt, self._ends = prompt, np.append(0, np.cumsum(sizes))
        within = np.arange(len(order)) - np.repeat(self._ends[:-1], sizes)
        self._before = order - within  # pairs of other prompts before it

    def drawn(self, pair: int, count: int, draw: Draw) -> Ints:
        """Return different pairs whose prompt is not that of a pair, fewer where there are no more."""
        begin, end = self._ends[self._prompt[pair] :][:2]
        there = len(self._prompt) - int(end - begin)
        index = draw.choice(there, min(count, there), replace=False)  # among pairs of other prompts alone
        return np.asarray(index + np.searchsorted(self._before[begin:end], index, side="right"))


def nearest(states: Tensor, groups: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    """Return the nearest state of another group for each state, by cosine without the mean.

    Args:
        states: [P, H].
        groups: Group of each, [P].
    """
    centred = torch.nn.functional.normalize(states - states.mean(0), dim=-1)
    group = torch.as_tensor(groups)
    found: list[int] = []
    for i in range(0, len(states), 1024):
        cosine = centred[i : i + 1024] @ centred.T
        found += cosine.masked_fill(group[i : i + 1024, None] == group, -2.0).argmax(1).tolist()
    return found


def _half(message: Message) -> str | None:
    ends = [match.start() for match in _SENTENCE.finditer(message.content.strip())]
    text = message.content.strip()
    return text[: min(ends, key=lambda end: abs(end - len(text) / 2))] if ends else None
