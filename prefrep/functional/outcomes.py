"""Likelihoods of a win, a tie or a loss, given log-odds: three treatments of ties.

With eta the log-odds of the left one and t a parameter of ties:

* `half`: P(left) = sigmoid(eta), and a tie is half a win of each. A quasi-likelihood: it has no probability of a tie.
* `davidson`: P(left) : P(tie) : P(right) = e^(eta/2) : e^t : e^(-eta/2) (Davidson, JASA 65, 1970; nu = e^t).
* `rao-kupper`: P(left) = sigmoid(eta - e^t), P(right) = sigmoid(-eta - e^t), the rest ties (Rao and Kupper, JASA 62, 1967; threshold e^t).

Outcomes are shares of a win, a tie and a loss, so that a judge's probability p is p of a win and 1 - p of a loss. Letters: `N` battles.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.groups import probabilities

Floats = NDArray[np.float64]
Ties = Literal["half", "davidson", "rao-kupper"]


class Terms(NamedTuple):
    """Negative log-likelihood of each battle and its derivatives, each [N].

    Attributes:
        nll: In nats.
        g: By eta.
        g_tie: By t.
        h: Twice by eta.
        h_both: By eta and t.
        h_tie: Twice by t.
    """

    nll: Floats
    g: Floats
    g_tie: Floats
    h: Floats
    h_both: Floats
    h_tie: Floats


def shares(outcome: Floats, ties: Ties) -> Floats:
    """Return shares of win, tie and loss: [N] -> [N, 3]. A half is a tie unless ties are halves; all else is a probability."""
    tie = np.zeros_like(outcome) if ties == "half" else (outcome == 0.5).astype(np.float64)
    won = np.where(tie > 0, 0.0, outcome)
    return np.stack([won, tie, 1 - tie - won], axis=-1)


def terms(eta: Floats, tie: Floats, share: Floats, ties: Ties) -> Terms:
    """Return likelihood and derivatives.

    Args:
        eta: Log-odds of the left ones, [N].
        tie: t, [N]; not read for `half`.
        share: See `shares`, [N, 3]; may be sums over battles with the same eta and t.
        ties: How ties are treated.
    """
    won, tied, lost = share.T
    if ties == "half":
        p, zero = probabilities(eta), np.zeros_like(eta)
        count = won + lost
        return Terms(count * np.logaddexp(0, eta) - won * eta, count * p - won, zero, count * p * (1 - p), zero, zero)
    if ties == "davidson":
        return _davidson(eta / 2, tie, won, tied, lost)
    return _rao_kupper(eta, np.exp(tie), won, tied, lost)


def _davidson(half: Floats, tie: Floats, won: Floats, tied: Floats, lost: Floats) -> Terms:
    total = np.logaddexp(np.logaddexp(half, -half), tie)
    p, q, t = np.exp(half - total), np.exp(-half - total), np.exp(tie - total)
    count = won + tied + lost
    return Terms(
        count * total - half * (won - lost) - tie * tied,
        (count * (p - q) - (won - lost)) / 2,
        count * t - tied,
        count * (p + q - (p - q) ** 2) / 4,
        -count * t * (p - q) / 2,
        count * t * (1 - t),
    )


def _rao_kupper(eta: Floats, threshold: Floats, won: Floats, tied: Floats, lost: Floats) -> Terms:
    # P(tie) = (e^(2 threshold) - 1) P(left) P(right), so that a tie adds a win, a loss and a term of the threshold alone.
    up, down = eta - threshold, -eta - threshold
    p, q = probabilities(up), probabilities(down)
    ups, downs = won + tied, lost + tied
    g_up, g_down, h_up, h_down = -ups * (1 - p), -downs * (1 - q), ups * p * (1 - p), downs * q * (1 - q)
    rest = -np.expm1(-2 * threshold)  # 1 - e^(-2 threshold)
    by_threshold = -g_up - g_down - 2 * tied / rest
    twice = h_up + h_down + 4 * tied * np.exp(-2 * threshold) / rest**2
    return Terms(
        ups * np.logaddexp(0, -up) + downs * np.logaddexp(0, -down) - tied * (2 * threshold + np.log(rest)),
        g_up - g_down,
        threshold * by_threshold,
        h_up + h_down,
        threshold * (h_down - h_up),
        threshold**2 * twice + threshold * by_threshold,
    )


def expected_shares(eta: Floats, tie: Floats, ties: Ties) -> Floats:
    """Return P(left), P(tie) and P(right), [N, 3]; for `half` the middle one is 0."""
    if ties == "half":
        p = probabilities(eta)
        return np.stack([p, np.zeros_like(p), 1 - p], axis=-1)
    if ties == "davidson":
        total = np.logaddexp(np.logaddexp(eta / 2, -eta / 2), tie)
        return np.stack([np.exp(eta / 2 - total), np.exp(tie - total), np.exp(-eta / 2 - total)], axis=-1)
    p, q = probabilities(eta - np.exp(tie)), probabilities(-eta - np.exp(tie))
    return np.stack([p, 1 - p - q, q], axis=-1)
