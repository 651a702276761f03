"""Which pairs to send to the better of two label sources (Hybrid preferences, arXiv:2410.19133)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import pearsonr

from prefrep.data.sources import Source
from prefrep.errors import ConfigError
from prefrep.labels.base import Floats, LabelStep, Outcome, Work, example
from prefrep.labels.features import feature, indicators
from prefrep.labels.heads import log_odds, train
from prefrep.labels.rows import Labelled, read_pairs, swapped, winner_first
from prefrep.labels.states import Spooled, States, digest
from prefrep.nn.heads import BTHead, PreferenceHead
from prefrep.nn.losses import LogisticLoss, PreferenceLoss
from prefrep.parts import recipe
from prefrep.records import Comparison

SHOWN = 8
HELD_OUT = 5  # one mix of so many tells how well the performance model predicts
RIDGE = 1e-3  # of the regression on standardised counts


class Route(LabelStep):
    """Routes pairs to a dear label source, within a budget, and takes the cheap source's label for the others.

    Rows of both sources are pairs with the same texts and different `label_source`. Heads are trained on many random mixes; a linear
    performance model predicts the accuracy of a head on `test` from the counts of routed pairs by feature; the gain of a pair is the sum
    of the coefficients of its features. The pairs with the highest gains are routed. A pair that has no label of the dear source and would
    be routed keeps its label, and says so in its column. (The paper scores heads on RewardBench, and has a quadratic model as well.)

    Columns: `route` (name of the source; `send to NAME` where its label is missing), `route_gain` (accuracy, in shares).

    Args:
        test: Comparisons that heads are measured on, labelled as well as can be: a path, see `data.sources.Source`.
        dear: Name of the source with the better labels, in `label_source`.
        budget: Share of the pairs that may be routed, in (0, 1).
        features: Features of a pair: `prompt_words`, `words`, `length_difference`, `similarity`, `subset`, `criterion`, `tag:NAME`, or the
            dotted path of a function of a `Comparison` that returns a number or a name. The labels are hidden from them: responses come in
            the order of their texts.
        bins: Numbers become so many groups of equal size.
        mixes: Heads to train.
        head: Builds the head that is trained on frozen states.
        loss: Builds its loss.
        steps: Optimizer steps of each head.
        lr: Learning rate.
        seed: Seed of mixes and heads.

    Raises:
        ConfigError: A value is out of range, or a function cannot be imported.
    """

    def __init__(
        self,
        test: str,
        dear: str = "human",
        budget: float = 0.3,
        features: Sequence[str] = ("prompt_words", "words", "length_difference", "similarity"),
        bins: int = 3,
        mixes: int = 100,
        head: Callable[[int], PreferenceHead] = BTHead,
        loss: Callable[[], PreferenceLoss] = LogisticLoss,
        steps: int = 60,
        lr: float = 0.02,
        seed: int = 0,
    ) -> None:
        if not 0 < budget < 1:
            raise ConfigError(f"Route.budget must be above 0 and below 1, got {budget}")
        if bins < 2:
            raise ConfigError(f"Route.bins must be 2 or more, got {bins}")
        if mixes < 2 * HELD_OUT:
            raise ConfigError(f"Route.mixes must be {2 * HELD_OUT} or more, got {mixes}")
        if not features:
            raise ConfigError("Route.features is empty; name one or more")
        self.features = {name: feature(name) for name in features}
        self.test, self.dear, self.budget, self.bins, self.mixes = test, dear, budget, bins, mixes
        self.head, self.loss, self.steps, self.lr, self.seed = head, loss, steps, lr, seed

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:  # noqa: D102
        items = matched(pairs, self.dear)
        both = [i for i, each in enumerate(items) if each.dear is not None]
        if len(both) < 2 * HELD_OUT:
            raise ConfigError(f"Route: {len(both)} pairs have labels of {self.dear!r} and of another source; check the column label_source")
        names, table = indicators(self.features, [each.pair for each in items], self.bins)
        tests = [winner_first(each) for each in read_pairs(Source(self.test)) if each.sign]
        if not tests:
            raise ConfigError(f"Route.test: {self.test} holds no pair with a winner; name other comparisons")
        states, held = work.states([items[i].pair for i in both], self.head(2)), work.states(tests, self.head(2))
        labels = np.array([items[i].probabilities for i in both])
        routed = mixes(table[both], self.mixes, self.seed)
        settings = (routed, labels, digest(states), digest(held), sorted(recipe(self).items()))
        scores = np.concatenate([
            work.kept(f"mix-{m}", partial(self._score, row, m, labels, states, held), m, *settings) for m, row in enumerate(routed)
        ])  # fmt: skip
        model = performance_model(routed @ table[both], scores)
        gain = table @ model.coefficients
        allowed = round(self.budget * len(items))
        order = np.argsort(-gain, kind="stable").tolist()
        sent = set(order[:allowed])
        return Outcome(
            [self._treated(each, i in sent, float(gain[i])) for i, each in enumerate(items)],
            {
                "pairs": len(items),
                "of them with both labels": len(both),
                "the two sources disagree on": float((labels[:, 0] != labels[:, 1]).mean()),
                "routed": len(sent),
                "of them without a label yet": sum(items[i].dear is None for i in sent),
                "accuracy of heads on mixes, mean": float(scores.mean()),
                "correlation of predicted and measured accuracy, held-out mixes": model.correlation,
                **{f"gain of 100 pairs with {name}": 100 * float(each) for name, each in zip(names, model.coefficients, strict=True)},
            },
            {"gain of a pair, accuracy": gain},
            [example(f"routed to {self.dear}, gain {gain[i]:.2g}", items[i].cheap.comparison) for i in order[:SHOWN]],
        )  # fmt: skip

    def _score(self, routed: Floats, number: int, labels: Floats, states: States | Spooled, held: States | Spooled) -> Floats:
        mixed = torch.as_tensor(np.where(routed > 0, labels[:, 1], labels[:, 0]))
        model = train(states, mixed, self.head, self.loss, self.steps, self.lr, self.seed * 1000 + number)
        return np.array([float((log_odds(model, held) > 0).double().mean())])

    def _treated(self, each: Sources, sent: bool, gain: float) -> Labelled:
        label = each.dear if sent and each.dear is not None else each.cheap
        said = self.dear if label is each.dear else f"send to {self.dear}" if sent else each.cheap.comparison.label_source or "cheap"
        return label.noted(route=said, route_gain=float(f"{gain:.6g}"))


class Sources(NamedTuple):
    """A pair with the labels of both sources.

    Args:
        pair: The pair without a label, its responses in the order of their texts, so that no feature can read the label.
        cheap: As the cheap source labelled it.
        dear: As the dear source labelled it; None: it did not.
        probabilities: P(first > second) of `pair` by (cheap, dear).
    """

    pair: Comparison
    cheap: Labelled
    dear: Labelled | None
    probabilities: tuple[float, float]


class Performance(NamedTuple):
    """A linear model of accuracy.

    Args:
        coefficients: Accuracy per routed pair, by feature [F].
        correlation: Of prediction and measurement on held-out mixes.
    """

    coefficients: Floats
    correlation: float


def matched(pairs: Sequence[Labelled], dear: str) -> list[Sources]:
    """Return the pairs that have a label of the cheap source, in the order of first occurrence, with the first label of either source."""
    found: dict[object, tuple[Comparison, dict[bool, tuple[Labelled, float]]]] = {}
    for each in pairs:
        pair = min(each.comparison, swapped(each.comparison), key=lambda side: repr(side.chosen))
        blank = replace(pair, probability=0.5, margin=0.0, strength=None)
        _, labels = found.setdefault((pair.prompt, pair.chosen, pair.rejected), (blank, {}))
        labels.setdefault(each.comparison.label_source == dear, (each, pair.probability))
    items = []
    for blank, labels in found.values():
        if False in labels:
            (cheap, p), (better, q) = labels[False], labels.get(True, (None, labels[False][1]))
            items.append(Sources(blank, cheap, better, (p, q)))
    return items


def mixes(table: Floats, count: int, seed: int) -> Floats:
    """Return which pairs are routed in each mix, 0 or 1, [mixes, P].

    Each mix draws a rate for every feature; the rate of a pair is the mean over its features. The rates of two mixes differ, so that the
    counts of routed pairs by feature vary enough for a regression.

    Args:
        table: Indicators [P, F].
        count: Number of mixes.
        seed: Seed of the draws.
    """
    draw = np.random.default_rng(seed)
    rates = draw.random((count, table.shape[1]))
    shares = rates @ table.T / np.maximum(table.sum(1), 1)
    return np.asarray((draw.random(shares.shape) < shares).astype(np.float64))


def performance_model(counts: Floats, scores: Floats) -> Performance:
    """Fit accuracy linearly to the counts of routed pairs by feature, by ridge regression on standardised counts.

    Args:
        counts: [mixes, F].
        scores: Accuracy of each mix [mixes].
    """
    deviation = counts.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)

    def fit(rows: Any) -> tuple[Floats, float]:
        x = (counts[rows] - counts.mean(0)) / scale
        centre = scores[rows].mean()
        x = x - x.mean(0)
        return np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (scores[rows] - centre)) / scale, float(centre)

    held = np.arange(len(scores)) % HELD_OUT == 0
    coefficients, _ = fit(~held)
    predicted = counts[held] @ coefficients
    known = np.ptp(predicted) > 0 and np.ptp(scores[held]) > 0
    return Performance(fit(slice(None))[0], float(pearsonr(predicted, scores[held]).statistic) if known else 0.0)
