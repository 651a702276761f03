"""One answer for many people: rules that aggregate the tables of annotators.

Letters: `U` annotators, `K` responses. A table holds log-odds, s_u[i, j] > 0 where person u prefers i. A utility r_u[i] is the reward of a
person, or, without rewards, the mean log-odds of i against all (`utilities`), which for transitive preferences is the reward minus the
person's mean. Rules by how they compare people:

* by utilities, which takes a nat to mean the same for all: `power_mean` (mean, log-mean-exp, minimum), `minmax_regret`;
* by verdicts alone, one vote for each pair and person: majority margins, and Borda, Copeland, maximin, maximal lottery on these
  (`functional.rankings`). The majority of transitive people can be a cycle (Condorcet), for which these rules give different answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import ConfigError
from prefrep.functional import rankings

Floats = NDArray[np.float64]
Rule = Literal["mean", "log-mean-exp", "minimum", "majority", "borda", "copeland", "maximin", "maximal-lottery", "minmax-regret"]
RULES: tuple[Rule, ...] = get_args(Rule)


class Social(NamedTuple):
    """What a society prefers.

    Args:
        scores: One number per response, higher is better, [K]. Its unit is the rule's: nats of utility, margins, wins, or probabilities of
            a lottery.
        table: Who beats whom, [K, K], exactly skew: differences of scores; for `majority` log-odds of the share of votes.
    """

    scores: Floats
    table: Floats


def utilities(tables: Floats) -> Floats:
    """Return the mean log-odds of each response against all K: [.., K, K] -> [.., K]."""
    return np.asarray(np.asarray(tables, np.float64).mean(-1))


def power_mean(rewards: Floats, alpha: float) -> Floats:
    """Return Agg_alpha, (1/alpha) log mean_u exp(alpha r_u): [U, K] -> [K] (arXiv:2405.00254, section on aggregation).

    It rises with alpha: -inf is the minimum (the least satisfied person), 0 the mean (utilitarian), inf the maximum.

    Args:
        rewards: [U, K].
        alpha: Any number, or an infinity.
    """
    rewards = np.asarray(rewards, np.float64)
    if alpha == 0:
        return np.asarray(rewards.mean(0))
    if math.isinf(alpha):
        return np.asarray(rewards.max(0) if alpha > 0 else rewards.min(0))
    top = (alpha * rewards).max(0)
    return np.asarray((top + np.log(np.exp(alpha * rewards - top).mean(0))) / alpha)


def majority_margins(tables: Floats) -> Floats:
    """Return the share of people who prefer i minus the share who prefer j: [U, K, K] -> [K, K] in [-1, 1]; indifference is no vote."""
    return np.asarray(np.sign(tables).mean(0))


def majority_log_odds(tables: Floats) -> Floats:
    """Return the log-odds of the vote, log((n_ij + 1/2) / (n_ji + 1/2)), which are finite where all agree: [U, K, K] -> [K, K]."""
    votes = (np.asarray(tables) > 0).sum(0) + 0.5
    odds = np.log(votes) - np.log(votes.T)
    return np.asarray(odds)


def minmax_regret(rewards: Floats) -> Floats:
    """Return the lottery over responses whose largest expected regret among people is least: [U, K] -> [K].

    The regret of person u is max_j r_u[j] - sum_i p_i r_u[i]. It is a linear program. With U policies of latent types as the K options and
    r_u[i] = E_{y ~ pi_i} log pi_u / pi_ref it is the ensemble of arXiv:2405.15065, which solves the same game by optimistic weights.

    Args:
        rewards: [U, K].
    """
    from scipy.optimize import linprog

    rewards = np.asarray(rewards, np.float64)
    people, size = rewards.shape
    regrets = rewards.max(1, keepdims=True) - rewards
    found = linprog(
        np.r_[np.zeros(size), 1.0],
        A_ub=np.c_[regrets, -np.ones(people)],
        b_ub=np.zeros(people),
        A_eq=np.r_[np.ones(size), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * (size + 1),
    )
    lottery = np.maximum(np.asarray(found.x)[:size], 0.0)
    return np.asarray(lottery / lottery.sum(), dtype=np.float64)


def regret(rewards: Floats, lottery: Floats) -> Floats:
    """Return the expected regret of each person under a lottery: [U, K], [K] -> [U]."""
    return np.asarray(rewards.max(1) - rewards @ lottery)


_SCORES: dict[Rule, Callable[[Floats, float], Floats]] = {
    "mean": lambda tables, alpha: power_mean(utilities(tables), 0.0),
    "log-mean-exp": lambda tables, alpha: power_mean(utilities(tables), alpha),
    "minimum": lambda tables, alpha: power_mean(utilities(tables), -math.inf),
    "majority": lambda tables, alpha: utilities(majority_log_odds(tables)),
    "borda": lambda tables, alpha: rankings.borda(majority_margins(tables)),
    "copeland": lambda tables, alpha: rankings.copeland(majority_margins(tables)),
    "maximin": lambda tables, alpha: rankings.maximin(majority_margins(tables)),
    "maximal-lottery": lambda tables, alpha: rankings.maximal_lottery(majority_margins(tables)),
    "minmax-regret": lambda tables, alpha: minmax_regret(utilities(tables)),
}


def check_rule(rule: str, alpha: float) -> Rule:
    """Return a rule of this name.

    Raises:
        ConfigError: There is none, or alpha is no number.
    """
    if math.isnan(alpha):
        raise ConfigError("alpha must be a number or an infinity, got nan")
    for known in RULES:
        if known == rule:
            return known
    raise ConfigError(f"unknown rule {rule!r}; prefrep has {', '.join(RULES)}")


def aggregate(tables: Floats, rule: Rule, alpha: float = -1.0) -> Social:
    """Aggregate the tables of people.

    Args:
        tables: Log-odds, [U, K, K], skew-symmetric.
        rule: Name of the rule.
        alpha: Of `log-mean-exp`, see `power_mean`.

    Returns:
        Scores and a table.

    Raises:
        ConfigError: There is no such rule, or nobody is asked.
    """
    rule = check_rule(rule, alpha)
    if not len(tables):
        raise ConfigError("nobody is asked: aggregation needs the table of one annotator or more")
    scores = np.asarray(_SCORES[rule](np.asarray(tables, np.float64), alpha), np.float64)
    return Social(scores, majority_log_odds(tables) if rule == "majority" else scores[:, None] - scores[None, :])
