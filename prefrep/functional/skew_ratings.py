"""More than one number per system: the forms of this project's heads, with free embeddings of systems instead of texts.

    s_ij = r_i - r_j + <R v_i, v_j>          hybrid; with D = 2 k the form of mElo_2k (Balduzzi et al., NeurIPS 2018)
    s_ij = <R v_i, v_j>                      gpm (arXiv 2410.02197); with D = 2 it holds r_i - r_j, by v_i = (r_i, 1) up to sign

The log-odds of a battle are gamma_k s_ij + first o_k with the sharpness of a rating fit; ties are half a win of each. A normal prior on
v keeps pairs that were rarely compared near the ratings. Letters: `K` systems, `J` judges, `D` dimension (even), `N` groups of battles.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.battle_votes import Votes
from prefrep.functional.groups import probabilities

Floats = NDArray[np.float64]
Form = Literal["gpm", "hybrid"]


class SkewFit(NamedTuple):
    """Estimates.

    Attributes:
        form: The form.
        ratings: r, [K]; 0 for `gpm`.
        embeddings: v, [K, D].
        order: o, [J].
        nll: Negative log-likelihood, nats.
        value: With the priors, which was minimised.
    """

    form: Form
    ratings: Floats
    embeddings: Floats
    order: Floats
    nll: float
    value: float

    def table(self) -> Floats:
        """Return s, [K, K], exactly skew-symmetric."""
        turned = _turn(self.embeddings) @ self.embeddings.T
        return np.asarray(self.ratings[:, None] - self.ratings + (turned - turned.T) / 2)


def _turn(v: Floats) -> Floats:
    """Return R v: (-v_1, v_0) in each block."""
    return np.asarray(np.stack([-v[:, 1::2], v[:, 0::2]], axis=-1).reshape(v.shape))


def fit(
    votes: Votes,
    systems: int,
    sharpness: Floats,
    form: Form,
    dim: int,
    ratings: Floats,
    order: Floats,
    prior: float = 1.0,
    ridge: float = 0.0,
    start: Floats | None = None,
    offset: Floats | None = None,
) -> SkewFit:
    """Return penalised maximum-likelihood estimates, by L-BFGS from a start that depends on the data alone.

    Args:
        votes: Groups of equal battles; `outcome` may be means.
        systems: K.
        sharpness: gamma, [J].
        form: The form.
        dim: D, even and positive.
        ratings: Ratings to begin with, [K].
        order: Order effects to begin with, [J]; those of judges without known orders stay 0.
        prior: Weight of |v|^2 / 2; 1 is a variance of 1 for each coordinate, and of D nats^2 for <R v_i, v_j>.
        ridge: Weight of |r|^2 / 2.
        start: Embeddings to begin with, [K, D].
        offset: Log-odds of other origin, such as style, [N].
    """
    from scipy.optimize import minimize

    judges, own = len(sharpness), 1.0 if form == "hybrid" else 0.0
    gamma, weight, first = sharpness[votes.judge], votes.weight, votes.first
    free = np.bincount(votes.judge, np.abs(first), judges) > 0
    extra = np.zeros(len(weight)) if offset is None else offset
    pairs = votes.left * systems + votes.right

    def parts(x: Floats) -> tuple[Floats, Floats, Floats]:
        return x[:systems] * own, x[systems : systems + judges] * free, x[systems + judges :].reshape(systems, dim)

    def value(x: Floats) -> tuple[float, Floats]:
        r, o, v = parts(x)
        table = r[:, None] - r + _turn(v) @ v.T
        eta = gamma * table[votes.left, votes.right] + first * o[votes.judge] + extra
        nll = float((weight * (np.logaddexp(0, eta) - votes.outcome * eta)).sum())
        slope = weight * (probabilities(eta) - votes.outcome)
        by_pair = np.bincount(pairs, gamma * slope, systems * systems).reshape(systems, systems)
        by_pair = by_pair - by_pair.T
        grad_r, grad_v = own * (by_pair.sum(1) + ridge * r), -by_pair @ _turn(v) + prior * v
        grad_o = np.bincount(votes.judge, first * slope, judges) * free
        penalty = (ridge * float(r @ r) + prior * float((v * v).sum())) / 2
        return nll + penalty, np.concatenate([grad_r, grad_o, grad_v.ravel()])

    v0 = start
    if v0 is None:
        target = np.zeros((systems, systems)) if form == "hybrid" else ratings[:, None] - ratings
        v0 = _embedded(target + _residuals(votes, systems, gamma, ratings, order), dim)
    found = minimize(
        value, np.concatenate([ratings * own, order * free, v0.ravel()]), jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    r, o, v = parts(np.asarray(found.x))
    penalty = (ridge * float(r @ r) + prior * float((v * v).sum())) / 2
    return SkewFit(form, r - r.mean(), v, o, float(found.fun) - penalty, float(found.fun))


def _residuals(votes: Votes, systems: int, gamma: Floats, ratings: Floats, order: Floats) -> Floats:
    """Return one damped Newton step of each pair from the ratings, [K, K], skew: where the battles disagree with them."""
    eta = gamma * (ratings[votes.left] - ratings[votes.right]) + votes.first * order[votes.judge]
    p = probabilities(eta)
    pairs = votes.left * systems + votes.right
    slope = np.bincount(pairs, gamma * votes.weight * (votes.outcome - p), systems * systems).reshape(systems, systems)
    bend = np.bincount(pairs, gamma**2 * votes.weight * p * (1 - p), systems * systems).reshape(systems, systems)
    return np.asarray((slope - slope.T) / (bend + bend.T + 1.0))


def _embedded(table: Floats, dim: int) -> Floats:
    """Return v with <R v_i, v_j> nearest to a skew table, [K, D] (Schur form; Eckart and Young)."""
    values, vectors = np.linalg.eigh(1j * table)
    found = np.zeros((len(table), dim))
    for block, place in enumerate(np.argsort(-values)[: dim // 2]):
        scale = np.sqrt(2 * max(float(values[place]), 1e-4))
        found[:, 2 * block], found[:, 2 * block + 1] = scale * vectors[:, place].real, scale * vectors[:, place].imag
    turned = _turn(found) @ found.T
    return found if float((turned * table).sum()) >= 0 else found.reshape(len(table), -1, 2)[:, :, ::-1].reshape(found.shape)
