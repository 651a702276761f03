"""Ratings of systems from battles: Bradley-Terry with order effects, sharpness of judges, style and ties, by maximum likelihood.

    eta = gamma_k (r_i - r_j + x . b) + first o_k                                                        nats, positive: left is better

* r_i: rating of a system, with sum 0; the ratings are those at equal style.
* o_k: order effect of judge k, in favour of the answer that is shown first; `first` is 1, -1 or 0 (unknown).
* gamma_k: sharpness of judge k, 1 for the first judge; below 0, a judge prefers the worse (arXiv 2601.21817; 2602.16610 has
  sigma = 1/gamma).
* x . b: differences of features, as LMArena's style control has them.
* ties: see `functional.outcomes`; with a parameter for each judge.

A ridge adds ridge/2 (sum r^2 + sum b^2 + sum o^2 + sum (gamma - 1)^2): normal priors with variance 1/ridge, which keep ratings of systems
that never lose finite, and what is said of judges with few votes.

Letters: `N` battles or groups of equal ones, `K` systems, `J` judges, `F` features, `P` parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.battle_votes import Cells, Votes, cells_of
from prefrep.functional.outcomes import Ties, terms

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

ENOUGH = 1e-12  # nats
_STEPS = 100  # Newton steps at most
NO_TIES = -40.0  # stands for t = -inf


@dataclass(frozen=True)
class Model:
    """What the log-odds are made of.

    Args:
        systems: K.
        judges: J.
        features: F.
        ties: How ties are treated.
        order: Whether judges lean to the first answer, or the second.
        sharpness: Whether judges differ in sharpness.
        ridge: Strength of the prior, 1 / variance in nats^2.
    """

    systems: int
    judges: int = 1
    features: int = 0
    ties: Ties = "half"
    order: bool = True
    sharpness: bool = False
    ridge: float = 0.0

    @property
    def size(self) -> int:
        """P: ratings, order effects, style, sharpness, ties."""
        return self.systems + 3 * self.judges + self.features

    def parts(self, theta: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Return ratings [K], order effects [J], style [F], sharpness [J] and ties [J] of parameters [P]."""
        k, j, f = self.systems, self.judges, self.features
        return theta[:k], theta[k : k + j], theta[k + j : k + j + f], theta[k + j + f : k + 2 * j + f], theta[k + 2 * j + f :]


class Fit(NamedTuple):
    """Estimates.

    Attributes:
        model: What was fitted.
        theta: All parameters, [P].
        free: Which of them were fitted, [P].
        nll: Negative log-likelihood without the ridge, nats.
        hessian: Of the likelihood with the ridge, [P, P]; rows and columns of fixed parameters are zero.
        converged: Whether Newton's method ended.
    """

    model: Model
    theta: Floats
    free: NDArray[np.bool_]
    nll: float
    hessian: Floats
    converged: bool

    @property
    def ratings(self) -> Floats:
        """r, [K]."""
        return self.model.parts(self.theta)[0]

    @property
    def order(self) -> Floats:
        """o, [J]."""
        return self.model.parts(self.theta)[1]

    @property
    def style(self) -> Floats:
        """b, [F]."""
        return self.model.parts(self.theta)[2]

    @property
    def sharpness(self) -> Floats:
        """gamma, [J]."""
        return self.model.parts(self.theta)[3]

    @property
    def tie(self) -> Floats:
        """t, [J]; -inf for judges without ties."""
        return self.model.parts(self.theta)[4]


def log_odds(model: Model, theta: Floats, votes: Votes) -> Floats:
    """Return eta, [N]."""
    rating, order, style, sharpness, _ = model.parts(theta)
    gap = rating[votes.left] - rating[votes.right] + votes.features @ style
    return np.asarray(sharpness[votes.judge] * gap + votes.first * order[votes.judge])


def fit(votes: Votes | Cells, model: Model, start: Floats | None = None, enough: float = ENOUGH) -> Fit:
    """Return maximum-likelihood estimates, by Newton's method.

    Args:
        votes: The battles.
        model: The formula.
        start: Parameters to begin with, [P].
        enough: Decrease of the likelihood in nats, by Newton's own estimate, that ends the search.
    """
    cells = votes if isinstance(votes, Cells) else cells_of(votes, model.ties)
    theta, free = _start(cells, model)
    if start is not None:
        theta = np.where(free, start, theta)
    if model.sharpness and start is None:
        ties = model.size - model.judges
        theta[:ties] = np.where(free, _signed(cells, model), theta)[:ties]
    value, gradient, hessian, gauss = _value(cells, model, theta, free)
    converged = False
    for _ in range(_STEPS):
        step = _step(gradient, hessian, gauss, free, model.systems)
        decrease = float(-gradient @ step)
        if decrease < enough:
            converged = True
            break
        length = 1.0
        while length > 1e-6:
            new = _value(cells, model, theta + length * step, free)
            if new[0] <= value - 1e-4 * length * decrease:
                break
            length /= 2
        else:
            break
        theta = theta + length * step
        value, gradient, hessian, gauss = new
    penalty = float(prior(model) @ _from_prior(model, theta) ** 2) / 2
    return Fit(model, theta, free, value - penalty, hessian, converged)


def _start(cells: Cells, model: Model) -> tuple[Floats, NDArray[np.bool_]]:
    theta, free = np.zeros(model.size), np.zeros(model.size, dtype=bool)
    k, j, f = model.systems, model.judges, model.features
    theta[k + j + f : k + 2 * j + f] = 1.0
    free[:k] = True
    judge = cells.votes.judge
    if model.order:  # a judge whose orders are not known has none
        free[k : k + j] = np.bincount(judge, np.abs(cells.votes.first), j) > 0
    free[k + j : k + j + f] = True
    if model.sharpness:
        free[k + j + f + 1 : k + 2 * j + f] = np.bincount(judge, minlength=j)[1:] > 0
    theta[k + 2 * j + f :] = -np.inf
    if model.ties != "half":
        tied, rest = (np.bincount(judge, column, j) for column in (cells.share[:, 1], cells.share[:, 0] + cells.share[:, 2]))
        with np.errstate(divide="ignore"):
            ratio = (
                np.log(2 * tied / np.maximum(rest, 0.5)) if model.ties == "davidson" else np.log(np.log1p(2 * tied / np.maximum(rest, 0.5)))
            )
        theta[k + 2 * j + f :] = ratio
        free[k + 2 * j + f :] = tied > 0
    return theta, free


def _signed(cells: Cells, model: Model) -> Floats:
    """Return a start for sharpness: the ratings of the judge with most votes, and 1 or -1 for each judge, whichever agrees with them.

    The likelihood of judges who contradict each other has two valleys.
    """
    judge = cells.votes.judge
    main = int(np.argmax(np.bincount(judge, cells.share.sum(1), model.judges)))
    alone = cells.weighed((judge[cells.group] == main).astype(np.float64))
    theta = fit(alone, replace(model, sharpness=False, order=False, ridge=max(model.ridge, 0.01))).theta
    gap = log_odds(replace(model, order=False), theta, cells.votes)
    agreement = np.bincount(judge, gap * (cells.share[:, 0] - cells.share[:, 2]), model.judges)
    sign = np.where(agreement < 0, -1.0, 1.0)
    k, j, f = model.systems, model.judges, model.features
    if sign[0] < 0:  # the first judge has 1, so that the ratings turn
        theta[:k], sign = -theta[:k], -sign
    theta[k + j + f : k + 2 * j + f] = sign
    return theta


def _step(gradient: Floats, hessian: Floats, gauss: Floats, free: NDArray[np.bool_], systems: int) -> Floats:
    """Return Newton's step; where the likelihood is not convex, that of Gauss and Newton."""
    from scipy.linalg import cho_solve

    step = np.zeros_like(gradient)
    for matrix in (hessian, gauss):
        try:
            root = np.linalg.cholesky(_pinned(matrix, systems)[np.ix_(free, free)])
        except np.linalg.LinAlgError:
            continue
        step[free] = -cho_solve((root, True), gradient[free])
        return step
    step[free] = -np.linalg.lstsq(_pinned(gauss, systems)[np.ix_(free, free)], gradient[free], rcond=1e-10)[0]
    return step


def _pinned(matrix: Floats, systems: int) -> Floats:
    """Add the direction in which all ratings rise, which the likelihood does not see."""
    pinned = matrix.copy()
    pinned[:systems, :systems] += 1.0
    return pinned


def jacobian(model: Model, theta: Floats, votes: Votes) -> tuple[Floats, list[tuple[int, Floats]]]:
    """Return the derivatives of eta: gamma [N], by r_i (minus that by r_j), and by the other parameters as (place, [N]).

    Args:
        model: The formula.
        theta: Parameters, [P].
        votes: The battles.
    """
    rating, _, style, sharpness, _ = model.parts(theta)
    k, j, f = model.systems, model.judges, model.features
    gamma = sharpness[votes.judge]
    others = []
    gap = rating[votes.left] - rating[votes.right] + votes.features @ style
    for judge in range(j):
        mine = (votes.judge == judge).astype(np.float64) if j > 1 else np.ones(len(gamma))
        if model.order:
            others.append((k + judge, mine * votes.first))
        if model.sharpness and judge:
            others.append((k + j + f + judge, mine * gap))
    others += [(k + j + place, gamma * votes.features[:, place]) for place in range(f)]
    return gamma, others


def _value(cells: Cells, model: Model, theta: Floats, free: NDArray[np.bool_]) -> tuple[float, Floats, Floats, Floats]:
    """Return the penalised likelihood, its gradient [P], its Hessian [P, P], and the Gauss-Newton part of that."""
    votes, k, j, f = cells.votes, model.systems, model.judges, model.features
    tie = np.maximum(model.parts(theta)[4][votes.judge], NO_TIES)
    found = terms(log_odds(model, theta, votes), tie, cells.share, model.ties)
    gamma, others = jacobian(model, theta, votes)
    gradient = np.zeros(model.size)
    gradient[:k] = _on_systems(votes, gamma * found.g, k)
    for place, column in others:
        gradient[place] = column @ found.g
    gradient[k + 2 * j + f :] = np.bincount(votes.judge, found.g_tie, j)
    gauss = quadratic(votes, model, theta, found.h, found.h_both, found.h_tie)
    hessian = gauss.copy()
    for judge in range(1, j) if model.sharpness else ():  # eta is bilinear in sharpness and ratings, and in sharpness and style
        place, mine = k + j + f + judge, votes.judge == judge
        for columns, values in (
            (slice(0, k), _on_systems(votes, found.g * mine, k)),
            (slice(k + j, k + j + f), (found.g * mine) @ votes.features),
        ):
            hessian[place, columns] += values
            hessian[columns, place] += values
    weight = prior(model)
    kept = _from_prior(model, theta)
    for matrix in (hessian, gauss):
        matrix *= np.outer(free, free)
        matrix[np.diag_indices(model.size)] += weight
    return float(found.nll.sum()) + float(weight @ kept**2) / 2, np.where(free, gradient + weight * kept, 0.0), hessian, gauss


def prior(model: Model) -> Floats:
    """Return the weight of the ridge on each parameter, [P]."""
    k, j, f = model.systems, model.judges, model.features
    weight = np.zeros(model.size)
    weight[: k + 2 * j + f] = model.ridge
    return weight


def _from_prior(model: Model, theta: Floats) -> Floats:
    """Return the parameters minus the means of their priors, [P]; 0 for those without one."""
    k, j, f = model.systems, model.judges, model.features
    away = theta.copy()
    away[k + j + f : k + 2 * j + f] -= 1.0
    away[k + 2 * j + f :] = 0.0
    return away


def quadratic(votes: Votes, model: Model, theta: Floats, h: Floats, h_both: Floats, h_tie: Floats) -> Floats:
    """Return the sum over battles of J'(h, h_both; h_both, h_tie)J, where J holds the derivatives of eta and of the parameter of ties.

    It is the Gauss-Newton part of the Hessian, and, of squared gradients, the middle of the sandwich.

    Args:
        votes: The battles.
        model: The formula.
        theta: Parameters, [P].
        h: Weights of eta, [N].
        h_both: Of eta and t, [N].
        h_tie: Of t, [N].

    Returns:
        [P, P].
    """
    k, j, f = model.systems, model.judges, model.features
    gamma, others = jacobian(model, theta, votes)
    found = np.zeros((model.size, model.size))
    pairs = np.bincount(votes.left * k + votes.right, gamma**2 * h, k * k).reshape(k, k)
    pairs = pairs + pairs.T
    found[:k, :k] = np.diag(pairs.sum(1)) - pairs
    for number, (place, column) in enumerate(others):
        weighed = column * h
        found[place, :k] = _on_systems(votes, gamma * weighed, k)
        for other, values in others[: number + 1]:
            found[max(place, other), min(place, other)] = weighed @ values
    for judge in range(j) if model.ties != "half" else ():
        place, mine = k + 2 * j + f + judge, votes.judge == judge
        found[place, place] = h_tie[mine].sum()
        found[place, :k] = _on_systems(votes, gamma * h_both * mine, k)
        for other, values in others:
            found[place, other] = values[mine] @ h_both[mine]
    return np.asarray(np.tril(found) + np.tril(found, -1).T)


def _on_systems(votes: Votes, values: Floats, systems: int) -> Floats:
    return np.asarray(np.bincount(votes.left, values, systems) - np.bincount(votes.right, values, systems))
