"""Leaderboards from battles with known truth: formulas, weights, clusters, what cannot be compared, circles and groups."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from prefrep.battles import Battle, Battles
from prefrep.data.battles import gathered
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.leaderboard import circles, groups, rated
from prefrep.evaluation.leaderboard.printed import TESTS, leaderboard_lines, verdict
from prefrep.evaluation.leaderboard.settings import ELO, MEAN, Settings
from prefrep.functional.ratings import fit
from prefrep.reports import leaderboard as board
from prefrep.reports import page


def battles(table: np.ndarray, votes: int = 30, seed: int = 0, judge: str = "j", prompts: int = 0, order: float = 0.0) -> list[Battle]:
    """Votes on all pairs of systems with log-odds s, in both orders."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(len(table)):
        for j in range(len(table)):
            for vote in range(votes if i != j else 0):
                won = float(rng.random() < expit(table[i, j] + order))
                found.append(Battle(f"s{i}", f"s{j}", won, f"p{vote % prompts}" if prompts else "", judge))
    return found


LINE = np.array([1.0, 0.3, -0.2, -1.1])
ORDERED = LINE[:, None] - LINE
ANGLE = 2 * np.pi * np.arange(4) / 4
CIRCLE = 1.5 * np.sin(ANGLE[None, :] - ANGLE[:, None])


def test_ratings_ranks_and_scale() -> None:
    found = rated.evaluate(gathered(battles(ORDERED, 200, order=0.4)), Settings())
    rows = found.results["systems"]
    assert [row["name"] for row in rows] == ["s0", "s1", "s2", "s3"]
    assert [row["ranks95"] for row in rows] == [[1, 1], [2, 2], [3, 3], [4, 4]]
    for row, truth in zip(rows, LINE, strict=True):
        low, high = row["rating"]["ci95"]
        assert low - 40 < truth * ELO + MEAN < high + 40
        assert row["rating"]["value"] == pytest.approx((low + high) / 2)
    assert np.mean([row["rating"]["value"] for row in rows]) == pytest.approx(MEAN)
    assert found.results["judges"][0]["order"]["value"] == pytest.approx(0.4, abs=0.12)
    assert found.results["differ"]["pairs"] == 6
    nats = rated.evaluate(gathered(battles(ORDERED, 200, order=0.4)), Settings(scale="nats")).results["systems"]
    np.testing.assert_allclose([row["rating"]["value"] * ELO + MEAN for row in nats], [row["rating"]["value"] for row in rows])
    # The order effect is estimated, so its wins are expected too: expected and observed wins of a system are equal at the optimum.
    won, expected = np.array(found.results["won"]), np.array(found.results["expected"])
    np.testing.assert_allclose(won.sum(1), expected.sum(1), atol=0.01)


def test_bootstrap_and_sandwich_agree() -> None:
    made = gathered(battles(ORDERED, 60))
    errors = [
        [row["rating"]["se"] for row in rated.evaluate(made, Settings(interval=kind, resamples=300)).results["systems"]]
        for kind in ("sandwich", "bootstrap")
    ]
    np.testing.assert_allclose(errors[1], errors[0], rtol=0.25)


def test_copies_of_a_vote_in_one_cluster_tell_nothing_new() -> None:
    single = battles(ORDERED, 8, prompts=8)
    tripled = gathered(single * 3)
    one = rated.evaluate(gathered(single), Settings(cluster="none", order=False)).results["systems"]
    naive, right = (rated.evaluate(tripled, Settings(cluster=how, order=False)).results["systems"] for how in ("none", "item"))
    ratio = naive[0]["rating"]["se"] / one[0]["rating"]["se"]
    assert ratio == pytest.approx(3**-0.5, rel=1e-6)
    assert right[0]["rating"]["se"] > 1.3 * naive[0]["rating"]["se"]  # both orders of a pair are one item, so not quite 3 ** 0.5


def test_clusters_are_chosen_by_what_is_known() -> None:
    few, many, none = (gathered(battles(ORDERED, 60, prompts=count)) for count in (7, 60, 0))
    assert [rated.clusters(each, "auto")[1] for each in (few, many, none)] == ["item", "prompt", "none"]
    assert len(np.unique(rated.clusters(few, "item")[0])) == 7 * 6
    with pytest.raises(ConfigError, match="--cluster prompt needs prompts"):
        rated.clusters(none, "prompt")


def test_weights_make_prompts_equal() -> None:
    made = gathered([Battle("a", "b", 1.0, "p")] * 9 + [Battle("a", "b", 0.0, "q")] + [Battle("a", "b", 0.5, "q")] * 2)
    weight = rated.weighed(made, "prompt")
    assert weight[:9].sum() == pytest.approx(weight[9:].sum()) and weight.sum() == pytest.approx(12)
    found = rated.evaluate(made, Settings(weigh="prompt", order=False, cluster="none", scale="nats")).results
    assert found["systems"][0]["win_rate"] == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(ConfigError, match="--weigh prompt: some battles name no prompt"):
        rated.weighed(gathered(battles(ORDERED, 1)), "prompt")


def test_style_is_held_equal() -> None:
    """Two equal systems, one of which writes longer answers to a judge who likes length."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(3000):
        a, b = rng.lognormal(0.4, 0.5), rng.lognormal(0.0, 0.5)
        made.append(Battle("long", "short", float(rng.random() < expit(3 * (a - b) / (a + b))), features={"length": (a, b)}))
    features = gathered(made)
    plain = rated.evaluate(replace(features, features={}), Settings(order=False, scale="nats")).results["systems"][0]["rating"]
    found = rated.evaluate(features, Settings(order=False, scale="nats")).results
    held = found["systems"][0]["rating"]
    assert plain["ci95"][0] > 0.1
    assert held["ci95"][0] < 0 < held["ci95"][1] or abs(held["value"]) < 0.1
    deviation = np.sqrt(np.mean([((a - b) / (a + b)) ** 2 for a, b in features.features["length"]]))
    assert found["style"][0]["value"] == pytest.approx(3 * deviation, rel=0.15)
    missing = replace(features, features={"length": np.where(np.arange(3000)[:, None] < 10, np.nan, features.features["length"])})
    assert "10 battles lack a feature" in rated.evaluate(missing, Settings()).results["notes"][0]
    with pytest.raises(ConfigError, match="both answers have as much of it"):
        rated.evaluate(replace(features, features={"length": np.ones((3000, 2))}), Settings())


def test_what_cannot_be_ranked_is_said() -> None:
    undefeated = [Battle("best", f"s{i}", 1.0, judge="j") for i in range(4)]
    apart = [Battle("x", "y", float(n % 2), judge="j") for n in range(10)]
    found = rated.evaluate(gathered(battles(ORDERED, 20) + undefeated + apart), Settings(scale="nats"))
    notes = " ".join(found.results["notes"])
    assert "2 groups of systems never met" in notes and "best never lost" in notes
    rows = {row["name"]: row["rating"] for row in found.results["systems"]}
    assert all(np.isfinite(row["value"]) for row in rows.values())
    assert rows["best"]["value"] == max(row["value"] for row in rows.values())
    # An unknown gap between groups: its interval is as wide as the prior, 3 nats.
    assert np.sqrt(found.spread[0, 0] + found.spread[-1, -1] - 2 * found.spread[0, -1]) > 1.0
    assert found.results["comparable"]["without_a_finite_rating"] == ["best"]
    assert rated.evaluate(gathered(battles(ORDERED, 20)), Settings()).settings.ridge == 0
    # A judge that saw winners on the left only: its order effect has no limit.
    lopsided = rated.evaluate(gathered(battles(ORDERED, 20) + [Battle("s0", "s3", 1.0, judge="new")] * 3), Settings())
    assert "too few votes for an order effect" in lopsided.results["notes"][0] and lopsided.fit.converged


def test_a_line_needs_one_number_and_a_circle_more() -> None:
    line = circles.evaluate(rated.evaluate(gathered(battles(ORDERED, 40)), Settings(resamples=20)), 39)
    assert line["chosen"] == "ratings" or line["forms"][line["chosen"]]["ci95"][1] > -1e-3
    assert line["tests"]["likelihood_ratio"]["p"] > 0.05
    assert line["sets"]["top_cycle_certain"]["members"] == ["s0"] == line["sets"]["uncovered_certain"]["members"]
    assert line["sets"]["maximal_lottery"]["share"]["s0"] == pytest.approx(1, abs=0.02)
    circle = circles.evaluate(rated.evaluate(gathered(battles(CIRCLE, 40)), Settings(resamples=20)), 39)
    assert circle["chosen"] != "ratings" and circle["forms"][circle["chosen"]]["ci95"][1] < 0
    assert circle["tests"]["likelihood_ratio"]["p"] == pytest.approx(1 / 40)
    assert circle["tests"]["hodge_share"]["observed"] > 0.9
    assert len(circle["sets"]["top_cycle_certain"]["members"]) == 4
    assert circle["sets"]["top_cycle_certain"]["probability"]["s0"] > 0.9
    assert all(len(set(each["systems"])) == 3 for each in circle["circles"])
    assert all(a > b for each in circle["circles"] for a, b in each["votes"])


def test_a_system_that_always_stands_first_is_told_from_the_order_effect_by_the_prior() -> None:
    """Both could explain all its wins: the sum alone is known, and r^2 + r^2 + o^2 with 2 r + o given is least at o = r."""
    found = rated.evaluate(gathered([Battle("a", "b", outcome) for outcome in (1.0, 1.0, 0.5, 0.0, 1.0)]), Settings(scale="nats"))
    gap, order = found.fit.ratings[0] - found.fit.ratings[1], found.fit.order[0]
    assert gap + order == pytest.approx(np.log(0.7 / 0.3), rel=0.2) and order == pytest.approx(found.fit.ratings[0])
    assert any("always stands first" in note for note in found.results["notes"])
    assert rated.evaluate(gathered([Battle("a", "b", 0.5)] * 5), Settings()).results["differ"]["pairs"] == 0


def test_intervals_without_a_width_are_said_to_be_none() -> None:
    """One probability, and ties alone, leave no residuals."""
    for battles in ([Battle("a", "b", 0.7, first=0)], [Battle("a", "b", 0.5), Battle("b", "a", 0.5)] * 4):
        assert any("the intervals have no width" in note for note in rated.evaluate(gathered(battles), Settings()).results["notes"])


def test_the_verdict_rests_on_the_tests() -> None:
    """Held-out likelihood is told, but does not decide; and few draws decide nothing."""
    tests = {name: {"p": 0.2, "observed": 1.0, "mean": 1.0, "ci95": [0.0, 2.0]} for name in list(TESTS)[:4]}
    gain = {"log_loss": 0.5, "minus_ratings": -0.02, "ci95": [-0.03, -0.01], "prior": 1.0}
    found = {"chosen": "gpm, D = 2", "forms": {"gpm, D = 2": gain}, "tests": tests, "draws": 200}

    def said(p: float, draws: int = 200) -> tuple[Any, str]:
        decided = circles._decided(tests | {"likelihood_ratio": tests["likelihood_ratio"] | {"p": p}}, draws)
        return decided["suffices"], verdict({"one_number": found | decided | {"draws": draws}})

    assert (
        said(0.2) == (True, said(0.2)[1])
        and "no test confirms" in said(0.2)[1]
        and "better by 0.0200 nats [0.0100, 0.0300]" in said(0.2)[1]
    )
    assert said(0.02)[0] is True and said(0.01)[0] is False and "does not suffice" in said(0.01)[1]  # 0.05 / 4 = 0.0125
    assert said(1 / 79, 78) == (None, "78 draws are too few to tell whether one number per system suffices: set --circles 79 or more.")
    assert said(1 / 80, 79)[0] is False


def test_triples_of_a_prompt() -> None:
    """One circle, one order, and one triple with a tied pair."""

    def three(prompt: str, outcomes: tuple[float, float, float]) -> list[Battle]:
        return [Battle(a, b, y, prompt) for (a, b), y in zip((("a", "b"), ("b", "c"), ("c", "a")), outcomes, strict=True)]

    made = gathered(three("p", (1, 1, 1)) + three("q", (1, 1, 0)) + three("r", (1, 0.5, 0)) + [Battle("a", "b", 1.0, "s")] * 3)
    assert circles._triangles(made.outcome, circles._prompts(made)) == (2, 1, 1)


def test_judges_that_are_sharper_rank_alike_and_others_do_not() -> None:
    base = battles(ORDERED, 40, judge="a")
    sharper = rated.evaluate(gathered(base + battles(2.5 * ORDERED, 40, 1, "b")), Settings())
    other = rated.evaluate(gathered(base + battles(ORDERED[np.ix_([2, 0, 3, 1], [2, 0, 3, 1])], 40, 1, "b")), Settings())
    for found, alike in ((sharper, True), (other, False)):
        test = groups.evaluate(found, "judges", found.battles.judge, found.battles.judges, 39)
        assert test is not None
        assert (test["likelihood_ratio"]["p"] > 0.05) == alike
        alone = replace(found.fit.model, judges=1, sharpness=False, ridge=0.01)
        parts = [found.votes.take(found.votes.judge == j) for j in (0, 1)]
        own = [fit(part._replace(judge=np.zeros(len(part.left), int)), alone).nll for part in parts]
        common = fit(found.votes, replace(found.fit.model, sharpness=True, ridge=0.01)).nll
        assert test["likelihood_ratio"]["observed"] == pytest.approx(2 * (common - sum(own)), rel=1e-6)
    sharp = sharper.results["judges"][1]["sharpness"]
    assert sharp["ci95"][0] < 2.5 < sharp["ci95"][1]
    assert groups.evaluate(sharper, "judges", np.zeros(len(sharper.battles), int), ("one",), 5) is None


def test_a_judge_who_only_ties_has_no_order_of_systems() -> None:
    tied = [replace(each, outcome=0.5, judge="b") for each in battles(ORDERED, 5)]
    found = rated.evaluate(gathered(battles(ORDERED, 5, judge="a") + tied), Settings())
    test = groups.evaluate(found, "judges", found.battles.judge, found.battles.judges, 3)
    assert test is not None and [each["kendall_tau_with_all"] is None for each in test["groups"]] == [False, True]
    assert "rank" in page.html(board.build(found.results | {"one_number": circles.evaluate(found, 3), "groups": [test]}))
    json.dumps(test, allow_nan=False)


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_resamples_without_a_tie_give_numbers(ties: Any) -> None:
    made = gathered([*battles(ORDERED, 4), Battle("s0", "s1", 0.5, judge="j")])
    json.dumps(rated.evaluate(made, Settings(ties=ties, interval="bootstrap", resamples=20)).results, allow_nan=False)


def test_battles_without_weight_are_no_battles() -> None:
    votes = battles(ORDERED, 4, prompts=2)
    idle = [Battle("s0", "other", 1.0, "p9", "j", weight=0.0)]
    found, plain = (rated.evaluate(gathered(each), Settings(weigh="prompt")).results for each in (votes + idle, votes))
    assert found == plain
    with pytest.raises(DataError, match="needs battles"):
        rated.evaluate(gathered(idle), Settings())


def test_the_table_of_the_chosen_form_is_in_the_order_of_the_ratings() -> None:
    order = [2, 0, 3, 1]
    rating = rated.evaluate(gathered(battles(ORDERED[np.ix_(order, order)], 60)), Settings(resamples=2))
    table = np.array(circles.evaluate(rating, 2)["table"]["log_odds"])
    assert (table[np.triu_indices(4, 1)] > 0).all()


@pytest.mark.parametrize("ties", ["half", "davidson", "rao-kupper"])
def test_the_page_and_the_lines(ties: Any) -> None:
    votes = battles(ORDERED, 20, judge="<b>a</b>", prompts=5) + battles(CIRCLE, 20, 1, "$b$", prompts=5)
    made: Battles = gathered([*votes, *[Battle("s0", "s1", 0.5, judge="$b$")] * 5])
    rating = rated.evaluate(made, Settings(ties=ties, resamples=3))
    results = rating.results | {"one_number": circles.evaluate(rating, 5), "groups": [], "data": ["x"]}
    results = json.loads(json.dumps(results, allow_nan=False))
    text = "\n".join(leaderboard_lines(results))
    assert "s0" in text and "transitive judges" in text
    html = page.html(board.build(results))
    assert html.count("data:image/svg+xml") >= 3 and "&lt;b&gt;a&lt;/b&gt;" in html and "<b>a</b>" not in html
