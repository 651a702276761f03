"""Where the circles of a society come from: disagreement between annotators, or circles within each of them.

Letters: `U` annotators, `K` responses, s_u the log-odds of annotator u, [K, K]; P the projection on the cyclic part (`functional.hodge`).

Linear pooling cannot make circles: P(mean_u s_u) = mean_u P(s_u), so transitive annotators have a transitive mean, and disagreement only
cancels circles. Votes can (Condorcet). The society is therefore what somebody learns who sees the comparisons and not who made them:

    L_ij = logit(mean_u sigmoid(s_u,ij)),

the log-odds of an annotator drawn at random, to which any pooled preference model of full capacity tends. With g_u = s_u - P(s_u), the
transitive part of each annotator, L0 = logit(mean_u sigmoid(g_u)) is the same society without the circles of its members, and

    |P L|^2 = <P L, P L0> + <P L, P(L - L0)> = between + within.

If all annotators are transitive, within is 0. If all are of one mind, or there is one, L0 = g is transitive and between is 0. The parts are
inner products: one is negative where it works against the circles of the other.

The same in verdicts: cyclic triples of the majority, mean_u sign(s_u), and of the majority of the transitive parts, mean_u sign(g_u). A
cyclic triple needs three strict majorities, and an order gives two votes to them at most: so 2 or 4 orders have none (3 * 3 > 2 * 4).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from prefrep.functional import hodge
from prefrep.functional.intransitivity import Counts, triples

Floats = NDArray[np.float64]

DUST = 1e-6  # of the largest entry: float32 rounds tables, and a transitive part that is zero must not get signs
EXTREME = 700.0  # nats, where the probability of the other verdict is still a number


class Circles(NamedTuple):
    """The circles of a society, each [..].

    Attributes:
        energy: |L|^2.
        cyclic: |P L|^2, between + within.
        between: <P L, P L0>.
        majority: Cyclic triples of the majority.
        of_orders: Cyclic triples of the majority of the transitive parts.
    """

    energy: Floats
    cyclic: Floats
    between: Floats
    majority: Counts
    of_orders: Counts


class Society:
    """Annotators' tables on one prompt, and what becomes of them when all are asked.

    Args:
        tables: s, log-odds, [U, K, K], skew-symmetric.
    """

    def __init__(self, tables: Floats) -> None:
        tables = np.asarray(tables, np.float64)
        self.tables, self.orders = tables, hodge.split(tables).gradient
        largest = np.abs(tables).max((-2, -1), keepdims=True, initial=0.0)
        self.orders[np.abs(self.orders) < DUST * largest] = 0.0
        # [4, U, K, K], which means over annotators turn into a society.
        self._asked = np.stack(
            [
                expit(np.clip(tables, -EXTREME, EXTREME)),
                expit(np.clip(self.orders, -EXTREME, EXTREME)),
                np.sign(tables),
                np.sign(self.orders),
            ]
        )

    def circles(self) -> Circles:
        """Return the circles of the society."""
        return _circles(self._asked.mean(1))

    def relabelled(self, draws: int, generator: np.random.Generator) -> Circles:
        """Return the circles of societies without a shared taste, [draws].

        For each annotator on their own, responses are relabelled at random: everybody keeps the strengths and circles that they have, and
        who agrees with whom is chance (impartial culture, for orders without ties: a cyclic majority in 1/18 of the cases for U = K = 3).

        Args:
            draws: Number of societies.
            generator: Source of randomness.
        """
        people, size = self.tables.shape[:2]
        at_once = max(1, 1_000_000 // self._asked.size)
        found = []
        for start in range(0, draws, at_once):
            count = min(at_once, draws - start)
            order = generator.permuted(np.broadcast_to(np.arange(size), (count, people, size)), axis=-1)
            who = np.arange(people)[:, None, None]
            found.append(_circles(self._asked[:, who, order[..., :, None], order[..., None, :]].mean(2)))
        return Circles(*(np.concatenate(each) for each in zip(*found, strict=True)))


def _circles(asked: Floats) -> Circles:
    """Return the circles of [4, .., K, K]: mean probabilities and votes, of tables and of their transitive parts."""
    chances, of_orders = asked[:2]
    society, orders = (np.log(each) - np.log(np.swapaxes(each, -1, -2)) for each in (chances, of_orders))
    cyclic = hodge.split(society).curl
    return Circles(
        hodge.energy(society),
        hodge.energy(cyclic),
        np.asarray((cyclic * hodge.split(orders).curl).sum((-2, -1)) / 2),
        triples(asked[2]).cyclic,
        triples(asked[3]).cyclic,
    )
