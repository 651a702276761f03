"""Numbers over all prompts against sums by hand, block shares against known embeddings, p-values on data with and without cycles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefrep.errors import DataError
from prefrep.evaluation.intransitivity import describe, evaluate, ratios
from prefrep.evaluation.intransitivity_plot import draw, label, most_cyclic
from prefrep.evaluation.printed import intransitivity_lines
from prefrep.evaluation.summary import Bootstrap
from prefrep.evaluation.tables import TableRow, gather, model_table, own_table
from prefrep.evaluation.transitive_null import agreement, null
from prefrep.functional import skew
from prefrep.functional.votes import vote_margins
from prefrep.records import Message, RankedResponses

FEW = Bootstrap(200, 0)
CIRCLE = np.array([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]])


def row(table: Any, name: str = "0", subset: str = "", **more: Any) -> TableRow:
    return TableRow(name, subset, more.pop("kind", "model"), tuple(tuple(map(float, line)) for line in np.asarray(table)), **more)


def order(*r: float) -> Any:
    return np.subtract.outer(np.array(r), np.array(r))


def rated(rng: np.random.Generator, shift: bool, name: str) -> TableRow:
    """One quality and three aspects with noise; or Condorcet's three orders."""
    ratings = rng.normal(3, 1, 3) + rng.normal(0, 1, (3, 3))
    ratings = np.array([[3.0, 2, 1], [1, 3, 2], [2, 1, 3]]) if shift else np.clip(np.round(ratings), 1, 5)
    names = {f"aspect{i}": tuple(map(float, line)) for i, line in enumerate(ratings)}
    record = RankedResponses((Message("user", "?"),), tuple((Message("assistant", x),) for x in "abc"), ratings=names)
    found = own_table(gather([record])[0], name)
    assert found is not None
    return found


def test_sums_over_prompts_by_hand() -> None:
    rows = [row(2 * CIRCLE), row(order(1, 0, -1), "1", "s"), row(order(3, 1, 0, -4), "2", "s")]
    results, described = evaluate(rows, FEW, null_draws=9)
    assert results["overall"] == results["triples"]["cyclic"]
    assert results["overall"]["score"] == pytest.approx(1 / 6) and results["overall"]["n"] == 3
    assert results["subsets"]["s"]["score"] == 0 and results["subsets"][""]["score"] == 1
    # One of the three verdicts of the circle, of 3 + 3 + 6; its weight, 2, of (2 + 2 + 2) + (1 + 1 + 2) + (2 + 3 + 7 + 1 + 5 + 4).
    assert results["feedback_arcs"]["arcs"]["score"] == pytest.approx(1 / 12)
    assert results["feedback_arcs"]["weight"]["score"] == pytest.approx(2 / 32)
    # Energies: 12 in the curl; gradients of 1 + 1 + 4 and 4 + 9 + 49 + 1 + 25 + 16.
    assert results["energy"]["curl"]["score"] == pytest.approx(12 / 122)
    assert results["energy"]["gradient"]["score"] == pytest.approx(110 / 122)
    assert results["energy"]["harmonic"]["score"] == pytest.approx(0, abs=1e-12)
    assert results["energy"]["cyclic_of_noise"]["score"] == pytest.approx((12 / 3 + 6 / 3 + 104 / 2) / 122)
    assert results["condorcet_winner"]["score"] == pytest.approx(2 / 3)
    assert results["rank"]["score"] == pytest.approx(2), "circles of three and orders have one block"
    # Rules agree on orders; on the circle they all tie everybody, which has no Kendall tau and the same winners.
    assert results["kendall_tau"]["copeland-borda"] == {"score": pytest.approx(1), "n": 2, "ci95": [pytest.approx(1)] * 2}
    assert results["same_winner"]["copeland-von_neumann"]["score"] == 1
    assert results["tables"]["triples"] == {"cyclic": 1, "ordered": 5, "tied_cyclic": 0, "tied": 0}
    assert results["blocks"] == [] and results["prompts_with_a_cycle"]["score"] == pytest.approx(1 / 3)
    assert described[0]["hodge_scores"] == pytest.approx([0, 0, 0])
    json.dumps(results, allow_nan=False)


def test_intervals_resample_prompts() -> None:
    """n circles and n orders: the bootstrap of a share of 1/2 over 2n prompts has the binomial's width."""
    n = 50
    rows = [row(CIRCLE if i % 2 else order(2, 1, 0), str(i)) for i in range(2 * n)]
    low, high = evaluate(rows, Bootstrap(2000, 1), 1)[0]["overall"]["ci95"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / (2 * n)), rel=0.1)


def test_incomplete_tables_keep_out_of_rankings() -> None:
    ring = np.zeros((4, 4))
    for i in range(4):
        ring[i, (i + 1) % 4], ring[(i + 1) % 4, i] = 1, -1
    compared = tuple(tuple(map(float, line)) for line in ring != 0)
    results, described = evaluate([row(ring, kind="probabilities", compared=compared)], FEW, 9)
    assert results["overall"] is None and "condorcet_winner" not in results
    assert results["energy"]["harmonic"]["score"] == pytest.approx(1) and results["prompts_with_a_cycle"]["score"] == 1
    assert described[0]["feedback_arcs"]["arcs"] == 1 and described[0]["scores"] is None
    assert any("lack pairs" in note for note in results["notes"])


def test_blocks_carry_what_they_were_made_of() -> None:
    """Block 1 holds (r, 1): r_j - r_i up to sign, an order; block 2 three points of a circle: all cyclic."""
    r, angle = np.array([1.0, -0.5, 0.25]), 2 * np.pi * np.arange(3) / 3
    e = torch.from_numpy(np.stack([r, np.ones(3), np.cos(angle), np.sin(angle)], axis=1))
    blocks = skew.block_scores(e[:, None], e[None]).permute(2, 0, 1).numpy()
    results, _ = evaluate([model_table(blocks, "0", "")], FEW, 9)
    first, second = results["blocks"]
    energies = [1.5**2 + 0.75**2 + 0.75**2, 3 * 0.75]
    assert first["energy"]["score"] == pytest.approx(energies[0] / sum(energies))
    assert [first["cyclic"]["score"], second["cyclic"]["score"]] == pytest.approx([0, 1], abs=1e-9)
    assert [first["of_transitive_part"]["score"], second["of_transitive_part"]["score"]] == pytest.approx([1, 0], abs=1e-9)
    assert [first["of_cyclic_part"]["score"], second["of_cyclic_part"]["score"]] == pytest.approx([0, 1], abs=1e-9)
    assert results["energy"]["cyclic"]["score"] == pytest.approx(energies[1] / sum(energies))


def test_shares_of_the_blocks_add_up() -> None:
    rng = np.random.default_rng(0)
    rows = [model_table((b := rng.standard_normal((3, 5, 5))) - np.swapaxes(b, 1, 2), str(i), "") for i in range(4)]
    results, described = evaluate(rows, FEW, 9)
    for name in ("energy", "of_transitive_part", "of_cyclic_part"):
        assert sum(block[name]["score"] for block in results["blocks"]) == pytest.approx(1)
    assert sum(each["score"] for each in results["spectrum"]) == pytest.approx(1)
    assert all(ratios(each)["energy.cyclic"][1] == pytest.approx(each["energy"]["total"]) for each in described)


def test_null_finds_circles_in_ratings_and_none_in_noise() -> None:
    rng = np.random.default_rng(3)
    cyclic = null([rated(rng, True, str(i)) for i in range(15)], 99, 0)
    assert cyclic["triples.cyclic"]["p"] == 0.01
    noisy = null([rated(rng, False, str(i)) for i in range(40)], 99, 0)
    assert noisy["triples.intransitive"]["p"] > 0.05 and noisy["triples.intransitive"]["mean"] > 0


def test_null_of_votes() -> None:
    wins = np.array([[0, 5, 1], [1, 0, 5], [5, 1, 0]])
    matrix = tuple(tuple(map(float, line)) for line in wins)
    zeros = tuple((0.0,) * 3 for _ in range(3))
    rows = [row((wins - wins.T) / 6, str(i), kind="votes", wins=matrix, ties=zeros) for i in range(5)]
    assert null(rows, 199, 0)["energy.cyclic"]["p"] <= 0.01
    mixed = [*rows, rated(np.random.default_rng(0), False, "r")]
    assert "energy.cyclic" not in null(mixed, 9, 0), "rounding of ratings moves it, whatever else there is"
    assert any("no p-value for ratings" in note for note in evaluate(mixed, FEW, 9)[0]["notes"])
    assert not any("voted on twice" in note for note in evaluate(rows, FEW, 9)[0]["notes"])
    single = tuple(tuple(map(float, line)) for line in (CIRCLE > 0))
    results, _ = evaluate([row(CIRCLE, kind="votes", wins=single, ties=zeros)], FEW, 49)
    assert results["null"]["triples.cyclic"]["p"] == 1 and any("voted on twice" in note for note in results["notes"])


def test_a_bradley_terry_model_has_nothing() -> None:
    rng = np.random.default_rng(4)
    rows = [row(order(*rng.standard_normal(5)).astype(np.float32), str(i)) for i in range(6)]
    results, _ = evaluate(rows, FEW, 49)
    assert results["overall"]["score"] == 0 and results["null"]["triples.cyclic"]["p"] == 1
    assert results["energy"]["cyclic"]["score"] < 1e-12 and results["rank"]["score"] == 2
    assert "energy.cyclic" not in results["null"], "the rotation keeps it as it is"


def test_many_responses_get_bounds() -> None:
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((16, 16))
    results, described = evaluate([row(noise - noise.T)], FEW, 5)
    arcs = described[0]["feedback_arcs"]
    assert 0 < arcs["arcs_at_least"] <= arcs["arcs"] and arcs["weight_at_least"] <= arcs["weight"]
    assert results["tables"]["inexact_feedback_arcs"] == 1 and any("local search" in note for note in results["notes"])
    assert "feedback_arcs.arcs" not in results["null"]


def test_results_follow_from_seed_and_rows() -> None:
    rng = np.random.default_rng(6)
    noise = rng.standard_normal((8, 4, 4))
    rows = [row(each - each.T, str(i)) for i, each in enumerate(noise)]
    assert evaluate(rows, FEW, 20) == evaluate(rows, FEW, 20)
    assert evaluate(rows, FEW, 20)[0]["null"] != evaluate(rows, Bootstrap(200, 1), 20)[0]["null"]


def test_the_plot_shows_the_most_cyclic_prompt(tmp_path: Path) -> None:
    rows = [row(order(2, 1, 0)), row(CIRCLE, "1"), row(np.array([[0, 1, 0], [-1, 0, 1], [0, -1, 0]]), "2")]
    results, described = evaluate(rows, FEW, 30)
    assert most_cyclic(described) == 1 and most_cyclic([described[0], described[2]]) == 1
    draw(tmp_path / "plot.png", rows[2], described[2], ["a prompt with $5", "x" * 500, "b\nc", ""], results)
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert [label(i) for i in (0, 25, 26)] == ["A", "Z", "A1"]


def test_describe_is_plain_data() -> None:
    found = describe(row(np.zeros((1, 1))))
    assert found["responses"] == 1 and found["triples"]["cyclic"] == 0 and found["spectrum"] is None
    json.dumps(found, allow_nan=False)


def test_draws_of_a_prompt_do_not_depend_on_the_others() -> None:
    """Shares over five prompts of ten triples each are those of the first two and of the other three, weighted by their number."""
    rng = np.random.default_rng(9)
    noise, others = rng.standard_normal((2, 5, 5, 5))
    rows = [row(each - each.T, str(i % 3), "ab"[i // 3]) for i, each in enumerate(noise)]
    together, first, rest = (np.array(null(part, 50, 1)["triples.cyclic"]["draws"]) for part in (rows, rows[:2], rows[2:]))
    np.testing.assert_allclose(together, (2 * first + 3 * rest) / 5)
    alone = [null([row(noise[0] - noise[0].T, *name)], 50, 1)["triples.cyclic"]["draws"] for name in (("0", "a"), ("0", "b"), ("1", "a"))]
    assert len({tuple(draws) for draws in alone}) == 3, "prompts have random numbers of their own"
    against = [row(each - each.T, one.id, one.subset) for one, each in zip(rows, others, strict=True)]
    found, turned = (agreement(each, against, 50, 1)["cyclic"] for each in (rows, rows[::-1]))
    assert found["ci95"] == pytest.approx(turned["ci95"])


def noisy(rng: np.random.Generator, circles: float, count: int = 30) -> list[TableRow]:
    """Orders of four, each with a circle of three of its own, and normal errors."""
    rows = []
    for i in range(count):
        noise = rng.standard_normal((4, 4))
        table = order(*np.random.default_rng(i).standard_normal(4)) + (noise - noise.T) / 2
        table[:3, :3] += circles * CIRCLE * (-1) ** i
        rows.append(row(table, str(i)))
    return rows


def test_circles_that_two_sources_share_are_told_from_noise() -> None:
    rng = np.random.default_rng(7)
    shared = agreement(noisy(rng, 1.0), noisy(rng, 1.0), 199, 0)
    assert shared["n"] == 30 and shared["cyclic"]["p"] == 0.005 and shared["cyclic"]["correlation"] > 0.3
    itself = noisy(rng, 0.0)
    assert agreement(itself, itself, 19, 0)["cyclic"]["correlation"] == pytest.approx(1)
    assert agreement(itself, itself, 19, 0)["gradient"]["correlation"] == pytest.approx(1)


def test_level_of_the_agreement() -> None:
    rng = np.random.default_rng(8)
    found = [agreement(noisy(rng, 0.0, 4), noisy(rng, 1.0, 4), 39, seed)["cyclic"]["p"] for seed in range(200)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 / 200))


def test_agreement_needs_the_same_prompts() -> None:
    with pytest.raises(DataError, match="no prompt in common"):
        agreement([row(CIRCLE, "a")], [row(CIRCLE, "b")], 9, 0)
    with pytest.raises(DataError, match="3 responses and 2"):
        agreement([row(CIRCLE, "a")], [row(np.zeros((2, 2)), "a")], 9, 0)


def test_rankings_of_a_model_are_by_win_rates() -> None:
    s = order(2, 1, 0) + 0.5 * CIRCLE
    p = 1 / (1 + np.exp(-s))
    expected = [(p[i].sum() - 0.5) - (p[:, i].sum() - 0.5) for i in range(3)]
    assert describe(row(s))["scores"]["borda"] == pytest.approx(np.array(expected) / 2)
    assert describe(row(s / 10, kind="probabilities"))["scores"]["borda"] == pytest.approx((s / 10).sum(1) / 2)


def test_what_a_source_has_not_cannot_agree() -> None:
    """Rounding leaves a transitive model a cyclic part of its own direction, and a circle a transitive one: neither means anything."""
    rounded = order(0.11, 0.37, -1.73).astype(np.float32)
    assert float(rounded[0, 1]) + float(rounded[1, 2]) != float(rounded[0, 2])
    found = agreement([row(rounded.astype(np.float64))], [row(CIRCLE + 1e-6 * order(1, 0, -1))], 9, 0)
    assert found == {"n": 1, "cyclic": {"correlation": None, "ci95": None, "p": None}, "gradient": {"correlation": None}}
    assert agreement([row(CIRCLE)], [row(CIRCLE + 1e-3 * order(1, 0, -1))], 9, 0)["cyclic"]["correlation"] == pytest.approx(1)


def test_orders_that_agree_are_no_shared_circles() -> None:
    """Margins of an order without a doubt, twice: their cyclic parts are equal, and nothing runs in circles."""
    sure = [row(np.sign(order(2, 1, 0)), str(i), kind="majority") for i in range(20)]
    found = agreement(sure, sure, 99, 0)["cyclic"]
    assert found == {"correlation": pytest.approx(1), "ci95": None, "p": None}
    model = [row(order(2, 1, 0) + 0.1 * CIRCLE, str(i)) for i in range(20)]
    assert agreement(model, sure, 99, 0)["cyclic"]["p"] == 0.01, "a model's errors need no margins"


def test_correlations_by_hand() -> None:
    """The same circle above opposite orders, and a source that compared three of four."""
    found = agreement([row(order(1, 0, -1) + CIRCLE)], [row(3 * CIRCLE - order(1, 0, -1))], 9, 0)
    assert found["cyclic"]["correlation"] == pytest.approx(1) and found["gradient"]["correlation"] == pytest.approx(-1)
    partial, whole = np.zeros((4, 4)), order(1, 0, 5, 2.0)
    partial[:3, :3] = CIRCLE + order(2.0, 0, 0.5)
    whole[:3, :3] -= CIRCLE
    compared = tuple(tuple(map(float, line)) for line in partial != 0)
    found = agreement([row(whole)], [row(partial, compared=compared)], 9, 0)
    assert found["cyclic"]["correlation"] == pytest.approx(-1)


def test_large_tables_have_a_null_of_triples_and_none_of_feedback_arcs() -> None:
    """Fifty responses in an order with noise: drawn a few at a time, and no null is printed where there is none."""
    rng = np.random.default_rng(0)
    truth = np.linspace(2, -2, 50)
    votes = np.triu(np.full((50, 50), 2), 1)
    wins = rng.binomial(votes, 1 / (1 + np.exp(truth - truth[:, None])))
    wins = wins + (votes - wins).T
    wins = np.triu(wins, 1) + np.tril(wins, -1)
    table = tuple(map(tuple, vote_margins(wins, 0 * wins).tolist()))
    row = TableRow("a", "", "votes", table, None, tuple(map(tuple, wins.tolist())), tuple(map(tuple, (0 * wins).tolist())))
    found = null([row], 40, 0)
    assert "feedback_arcs.arcs" not in found
    assert 0.02 < found["triples.cyclic"]["p"]
    results, _ = evaluate([row], Bootstrap(10), 20)
    line = next(line for line in intransitivity_lines(results) if line.startswith("verdicts that the best order"))
    assert line.count("[") == 1  # the interval over prompts, and no null
