"""Paired tests against closed forms, slow references, another library, and simulated truths."""

from __future__ import annotations

from itertools import combinations, permutations
from math import comb, sqrt

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from prefrep.metrics.paired import bootstrap_difference, holm, mcnemar, t_interval


def table(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    a = [True] * both + [True] * first + [False] * second + [False] * neither
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    return a, b


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 0), (0, 6), (3, 3), (9, 2), (40, 61)])
def test_mcnemar_is_a_fair_coin_on_disagreements(first: int, second: int) -> None:
    found = mcnemar(*table(30, first, second, 7))
    n, k = first + second, min(first, second)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert (found.first, found.second) == (first, second) and found.p == pytest.approx(expected)
    theirs = their_mcnemar([[30, first], [second, 7]], exact=True)
    assert found.p == pytest.approx(min(float(theirs.pvalue), 1.0))


def test_mcnemar_does_not_see_what_both_get_right_or_wrong() -> None:
    assert mcnemar(*table(0, 8, 1, 0)).p == mcnemar(*table(500, 8, 1, 90)).p
    a, b = table(3, 8, 1, 2)
    assert mcnemar(b, a).p == mcnemar(a, b).p and mcnemar(b, a).first == 1


def test_a_group_counts_once_for_who_is_right_more_often() -> None:
    """Five groups: 2 to 1, 0 to 1, 1 to 1, 1 to 0, 1 to 0 right: three for the first model, one for the second, p of a fair coin."""
    groups = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    first = [True, True, False, False, True, False, True, True]
    second = [False, False, True, True, False, True, False, False]
    assert mcnemar(first, second, groups) == (3, 1, pytest.approx(2 * (1 + 4) / 2**4))
    assert mcnemar(first, second, np.arange(8)) == mcnemar(first, second)


def test_groups_are_resampled_whole() -> None:
    """Against the slow way: whole groups of 1 to 5 examples are drawn, and the mean is over all examples that came."""
    generator = np.random.default_rng(6)
    sizes = generator.integers(1, 6, 40)
    groups = np.repeat(np.arange(40), sizes)
    a = (generator.uniform(size=len(groups)) < np.repeat(generator.choice([0.05, 0.95], 40), sizes)).astype(float)
    b = (generator.uniform(size=len(groups)) < 0.4).astype(float)
    parts = [(a - b)[groups == g] for g in range(40)]
    slow = np.array([np.concatenate([parts[g] for g in generator.integers(0, 40, 40)]).mean() for _ in range(20_000)])
    found = bootstrap_difference(a, b, 20_000, np.random.default_rng(7), groups)
    assert found.mean == pytest.approx((a - b).mean())
    noise = 8 * slow.std() / sqrt(20_000)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=noise)
    alone = bootstrap_difference(a, b, 20_000, np.random.default_rng(7))
    assert found.high - found.low > (alone.high - alone.low) + 3 * noise, "groups matter here"
    renamed = bootstrap_difference(a, b, 500, np.random.default_rng(7), 39 - groups)
    assert renamed == bootstrap_difference(a, b, 500, np.random.default_rng(7), groups)
    one_each = bootstrap_difference(a, b, 500, np.random.default_rng(7), np.arange(len(a)))
    assert one_each == bootstrap_difference(a, b, 500, np.random.default_rng(7))


def test_examples_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="same examples"):
        mcnemar([True, False], [True])
    with pytest.raises(ValueError, match="same examples"):
        bootstrap_difference([1.0], [1.0, 0.0], 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_difference([], [], 10, np.random.default_rng(0))


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; the last may not fall below the third."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []
    for order in permutations([0.01, 0.02, 0.04]):
        assert dict(zip(order, holm(order), strict=True)) == pytest.approx({0.01: 0.03, 0.02: 0.04, 0.04: 0.04})


def test_holm_is_that_of_another_library() -> None:
    p = np.random.default_rng(0).uniform(size=50) ** 3
    assert holm(list(p)) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_the_bootstrap_is_the_slow_one() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.integers(0, 4, (2, 60)) / 3  # shares of three seeds
    found = bootstrap_difference(a, b, 20_000, np.random.default_rng(2))
    slow = np.array([(a[at] - b[at]).mean() for at in (generator.integers(0, 60, 60) for _ in range(20_000))])
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found.mean == pytest.approx((a - b).mean())
    noise = 6 * slow.std() / sqrt(20_000)  # of a quantile in the tail, generously; and the grid of 1 / 180
    assert abs(found.low - low) <= noise + 1 / 180 and abs(found.high - high) <= noise + 1 / 180
    p = 2 * min((slow <= 1e-12).mean(), (slow >= -1e-12).mean())
    assert found.p == pytest.approx(min(p, 1.0), abs=4 * sqrt(p / 20_000) + 1e-3)


def test_the_bootstrap_interval_covers_a_known_difference() -> None:
    """The first model is right on 0.75, the second on 0.6, dependent; 95 % of intervals hold 0.15."""
    generator, covered, trials = np.random.default_rng(3), 0, 400
    for _ in range(trials):
        u = generator.uniform(size=200)
        first = u < 0.75
        second = np.where(generator.uniform(size=200) < 0.5, u, generator.uniform(size=200)) < 0.6
        found = bootstrap_difference(first, second, 400, generator)
        covered += found.low <= 0.15 <= found.high
    assert abs(covered / trials - 0.95) < 4 * sqrt(0.95 * 0.05 / trials)


def test_equal_and_opposite_models() -> None:
    generator = np.random.default_rng(4)
    same = bootstrap_difference([1, 0, 1], [1, 0, 1], 100, generator)
    assert same == (0.0, 0.0, 0.0, 1.0)
    all_better = bootstrap_difference([1] * 5, [0] * 5, 99, generator)
    assert all_better == (1.0, 1.0, 1.0, 2 / 100), "no p-value below what the draws can tell"


def test_false_alarms_in_a_family_are_rare() -> None:
    """Six models, equally good on dependent examples, 15 pairs: each test corrected, any alarm in at most 5 % of 200 studies."""
    generator, studies = np.random.default_rng(5), 200
    alarms = {"exact": 0, "bootstrap": 0}
    uncorrected = dict(alarms)
    for _ in range(studies):
        hardness = generator.uniform(size=150)
        right = generator.uniform(size=(6, 150)) < hardness
        pairs = list(combinations(range(6), 2))
        found = {
            "exact": [mcnemar(right[i], right[j]).p for i, j in pairs],
            "bootstrap": [bootstrap_difference(right[i], right[j], 1000, generator).p for i, j in pairs],
        }
        for name, p in found.items():
            alarms[name] += min(holm(p)) < 0.05
            uncorrected[name] += min(p) < 0.05
    for name in alarms:
        assert alarms[name] / studies <= 0.05 + 3 * sqrt(0.05 * 0.95 / studies), name
        assert uncorrected[name] / studies > 0.2, "the study is one in which correcting matters"


def test_pairs_of_one_prompt_raise_no_false_alarms() -> None:
    """Two equally good models score 8 answers to each of 40 prompts, and all 28 pairs are judged: they are not 1120 examples."""
    generator, studies = np.random.default_rng(8), 150
    groups, (better, worse) = np.repeat(np.arange(40), 28), np.array(list(combinations(range(8), 2))).T
    alarms = {"grouped": 0, "alone": 0}
    for _ in range(studies):
        first, second = generator.normal(size=(2, 40, 8)) + np.linspace(0.7, 0, 8)
        a, b = ((scores[:, better] > scores[:, worse]).ravel() for scores in (first, second))
        for name, codes in (("grouped", groups), ("alone", None)):
            p = max(mcnemar(a, b, codes).p, bootstrap_difference(a, b, 500, generator, codes).p)
            alarms[name] += p < 0.05
    assert alarms["grouped"] / studies <= 0.05 + 3 * sqrt(0.05 * 0.95 / studies)
    assert alarms["alone"] / studies > 0.1, "taken for independent, they would"


def test_t_interval() -> None:
    """Two values a, b: mean, and half width 12.706 |a - b| / 2 (tan(0.475 pi), the quantile of Cauchy's distribution)."""
    low, high = t_interval([0.5, 0.7]) or (0, 0)
    half = np.tan(0.475 * np.pi) * 0.1
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half))
    assert t_interval([0.5]) is None and t_interval([]) is None


def test_ties_have_no_t_interval() -> None:
    """Three seeds of a model that is right on 0.6 of 20 tie every so often; their mean is rarely exactly 0.6."""
    assert t_interval([0.6, 0.6, 0.6]) is None and t_interval([0.7 - 0.6, 0.6 - 0.5]) is None
    assert t_interval([0.6, 0.6, 0.601]) is not None
