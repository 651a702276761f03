"""Blocks of attention against the mask that they replace."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import random_rows

from prefrep.functional import blocks as functional
from prefrep.functional.blocks import blocks
from prefrep.functional.trees import tree_mask


def spread(until: torch.Tensor) -> torch.Tensor:
    """Who sees whom [T, T] according to the blocks; every token must be one query."""
    found = blocks(until)
    sees = torch.zeros(len(until), len(until), dtype=torch.long)
    asked = torch.zeros(len(until), dtype=torch.long)
    at_q = at_k = at_s = 0
    for n, q, u in found.shapes.tolist():
        queries, keys = found.queries[at_q : at_q + n * q].view(n, q), found.keys[at_k : at_k + n * u].view(n, u)
        seen = found.seen[at_s : at_s + n * q * u].view(n, q, u)
        assert seen.any(-1).all()  # also padding: a softmax without any key is not a number
        for block, row, column in itertools.product(range(n), range(q), range(u)):
            if queries[block, row] >= 0 and seen[block, row, column]:
                assert keys[block, column] >= 0
                sees[queries[block, row], keys[block, column]] += 1
        asked += torch.bincount(queries[queries >= 0], minlength=len(until))
        at_q, at_k, at_s = at_q + n * q, at_k + n * u, at_s + n * q * u
    assert (at_q, at_k, at_s) == (len(found.queries), len(found.keys), len(found.seen))
    assert (asked == 1).all()
    return sees


@pytest.mark.parametrize("aligned", [1, 8])
@pytest.mark.parametrize("queries", [1, 3, 64])
def test_blocks_see_what_the_mask_lets_them(queries: int, aligned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(functional.ALIGNED, "cpu", aligned)
    monkeypatch.setattr(functional, "QUERIES", queries)
    monkeypatch.setattr(functional, "BATCH", 5)
    for seed in range(3):
        _, until, positions = random_rows(torch.Generator().manual_seed(seed), rows=1, length=61)
        until, positions = until[until > 0], positions[until > 0]
        assert len(until) > 50
        assert torch.equal(spread(until), tree_mask(until[None], positions[None])[0, 0].long())
        assert (blocks(until).shapes[:, 2] % 8 == 0).all() == (aligned == 8)


def test_a_branch_without_a_prefix_is_a_sequence() -> None:
    """Two branches of a tree that share nothing, and a next tree that begins with a branch as well."""
    until = torch.tensor([2, 2, 3, 5, 5])
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert spread(until).tolist() == expected


def test_groups_cost_least_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamic programming against all ways to cut the blocks, ordered by keys, into runs."""
    monkeypatch.setattr(functional, "BATCH", 40)
    sizes = np.random.default_rng(0).integers(1, 20, size=(8, 2))

    def cost(groups: list[np.ndarray]) -> int:
        return sum(len(g) * int(sizes[g, 0].max()) * int(sizes[g, 1].max()) + 40 for g in groups)

    order = np.lexsort((sizes[:, 0], sizes[:, 1]))
    every = [
        np.split(order, [i + 1 for i in range(7) if cuts[i]]) for cuts in itertools.product([False, True], repeat=7)
    ]  # fmt: skip
    found = functional._alike(sizes)
    assert sorted(np.concatenate(found).tolist()) == list(range(8))
    assert 1 < len(found) < 8
    assert cost(found) == min(cost(groups) for groups in every)


def test_what_is_computed_is_close_to_what_is_seen() -> None:
    """32 answers of 64 tokens to a prompt of 512: a dense mask would compute 2560 squared pairs."""
    until = torch.cat([torch.full((512,), 2560), 512 + 64 * torch.arange(1, 33).repeat_interleave(64)])
    found = blocks(until)
    least = sum(range(1, 513)) + 32 * sum(range(513, 577))
    assert int(found.seen.sum()) == least
    assert len(found.seen) < 1.2 * least < 0.25 * 2560**2
