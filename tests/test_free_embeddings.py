"""Free embeddings hold what theory says they hold; the study of cycles runs."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import common, cyclic  # noqa: E402
from benchmarks.free_embeddings import fit, fits, rank_bound, scores, smallest, structure  # noqa: E402


def tournaments(answers: int, count: int) -> Tensor:
    return torch.stack([structure(answers, "tournament", torch.Generator().manual_seed(i)) for i in range(count)])


@pytest.mark.parametrize("answers", range(3, 9))
def test_structures(answers: int) -> None:
    """All are skew and hold the cycle; a tournament of ones has the rank that the bound names, which none exceeds."""
    ring = structure(answers, "cycle", torch.Generator())
    successors = torch.eye(answers).roll(1, 1)
    assert torch.equal(ring, successors - successors.T)
    for table in tournaments(answers, 5):
        assert torch.equal(table, -table.T) and torch.equal(table.abs(), 1 - torch.eye(answers))
        assert bool((table * successors >= 0).all())
        assert int(torch.linalg.matrix_rank(table.double())) == rank_bound(answers)


@pytest.mark.parametrize("answers", [3, 4, 5])
def test_values_need_the_rank(answers: int) -> None:
    assert smallest(tournaments(answers, 3), (2, 4), "value", restarts=3) == [rank_bound(answers)] * 3


def test_what_is_left_below_the_rank_is_known() -> None:
    """The best table of rank 2 leaves the smaller eigenvalues (Eckart and Young, for skew tables: Theorem 4.5 of arXiv:2410.02197)."""
    table = tournaments(5, 1)
    eigenvalues = torch.linalg.eigvals(table[0].double()).imag.abs().sort(descending=True).values
    # Zeros on the diagonal are not compared, and every skew table has them.
    errors = ((scores(fit(table, 2, "value", restarts=4)) - table[:, None]) ** 2).sum((-1, -2))
    assert float(errors.min()) == pytest.approx(float((eigenvalues[2:] ** 2).sum()), rel=1e-3)


def test_a_circle_holds_any_cycle() -> None:
    """Answers at equal angles each beat the next; trained embeddings need no more dimensions than that, in sign and in value."""
    for answers in (3, 6, 8):
        ring = structure(answers, "cycle", torch.Generator())[None]
        angles = torch.arange(answers) * 2 * math.pi / answers
        circle = torch.stack([angles.cos(), angles.sin()], -1) / math.sqrt(math.sin(2 * math.pi / answers))
        assert bool(fits(ring, circle[None, None], "value").all())
    assert smallest(ring, (2,), "sign", restarts=4) == smallest(ring, (2,), "value", restarts=4) == [2]


def locally_transitive(table: Tensor) -> bool:
    """No cycle of three among those that one answer beats, nor among those that beat it: tournaments that fit on a circle."""
    for answer in table:
        for side in (answer > 0, answer < 0):
            for a, b, c in itertools.combinations(side.nonzero().flatten().tolist(), 3):
                if abs(float(table[a, b] + table[b, c] + table[c, a])) == 3:
                    return False
    return True


def test_signs_fit_in_two_dimensions_where_the_tournament_is_locally_transitive() -> None:
    tables = tournaments(5, 12)
    expected = [locally_transitive(table) for table in tables]
    assert 2 <= sum(expected) <= 10
    assert [dim == 2 for dim in smallest(tables, (2,), "sign", restarts=8)] == expected


def test_numbers_hold_all_but_one_comparison_of_a_cycle() -> None:
    for answers in (3, 5):
        ring = structure(answers, "cycle", torch.Generator())[None]
        found = scores(fit(ring, 1, "value", restarts=16, steps=5))
        right = ((found * ring[:, None] > 0) & (ring[:, None] > 0)).sum((-1, -2))
        assert int(right.max()) == answers - 1
        assert torch.equal(found, -found.mT)


def test_hidden_comparisons_follow_from_the_rank() -> None:
    """Nine answers in two dimensions have 9 * 2 - 3 degrees of freedom, and 28 of 36 log-odds are seen."""
    generator = torch.Generator().manual_seed(0)
    table = scores(torch.randn(1, 9, 2, generator=generator))
    hidden = torch.zeros(9, 9, dtype=torch.bool)
    for i in range(8):
        hidden[i, (i + 3) % 9] = hidden[(i + 3) % 9, i] = True
    found = scores(fit(table * ~hidden, 2, "value", restarts=6))[0]
    errors = (((found - table[0]) ** 2) * ~hidden).sum((-1, -2))
    assert float((found[errors.argmin()] - table[0])[hidden].abs().max()) < 0.05


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "QUICK_RESULTS", tmp_path)
    monkeypatch.setenv("PREFREP_CACHE", str(tmp_path / "cache"))
    cyclic.main(["--quick"])
    result = json.loads((tmp_path / "cyclic.json").read_text())
    assert len(result["tables"]) == len(cyclic.PARTS) + 4 and len(result["goals"]) == 2
    for table in result["tables"]:
        assert table["rows"] and all(len(row) == len(table["head"]) for row in table["rows"])
    accuracy = result["raw"]["accuracy"]
    assert all(runs[0] <= 2 / 3 for name, runs in accuracy.items() if name.endswith("prompts/bt"))
