"""Strength on pairs whose wrong labels are known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from prefrep.errors import ConfigError
from prefrep.labels import Labelled, Outcome, Strength
from prefrep.labels.strength import folds_of, groups
from prefrep.nn.heads import BTHead, GPMHead
from prefrep.nn.losses import LogisticLoss
from tests.labels.synthetic import Given, linear, pair


def _apply(pairs: list[Labelled], vectors: dict[str, Any], tmp_path: Path, **options: Any) -> Outcome:
    return Strength(**{"members": 1, "steps": 60, "lr": 0.05, **options}).apply(pairs, Given(vectors, tmp_path))


def auc(wrong: np.ndarray[Any, Any], score: np.ndarray[Any, Any]) -> float:
    """P(the score of a wrong label exceeds that of a right one)."""
    ranks, n = rankdata(score), int(wrong.sum())
    return float((ranks[wrong].sum() - n * (n + 1) / 2) / (n * (len(wrong) - n)))


def test_planted_flips_are_weak(tmp_path: Path) -> None:
    """At ten pairs per dimension, out-of-fold strength tells flipped labels from right ones (AUC at least 0.85, related.md 2.15)."""
    pairs, vectors, wrong = linear(200, 20, 0.2, seed=0)
    found = _apply(pairs, vectors, tmp_path, members=2)
    mean = np.array([each.columns["strength_mean"] for each in found.pairs])
    assert auc(wrong, -mean) >= 0.85


@pytest.mark.parametrize("head", [BTHead, partial(GPMHead, dim=2, normalize=False)], ids=["bt", "gpm"])
def test_margins_against_folds_by_hand(tmp_path: Path, head: Any) -> None:
    """Each pair's margin is that of a model of the other folds; two pairs on one prompt are in one fold."""
    pairs, vectors, _ = linear(30, 4, 0.2, seed=1)
    pairs += [pair("p0", "a1", "b2"), pair("p3", "a2", "b1", probability=0.0)]
    found = _apply(pairs, vectors, tmp_path, folds=3, head=head)
    fold = folds_of(groups([each.comparison for each in pairs]), 3, seed=0)
    assert (fold[0], fold[3]) == (fold[30], fold[31])
    assert sorted(np.bincount(fold[:30])) == [10, 10, 10]
    differences = torch.tensor(np.array([[vectors[s[0].content] for s in (e.comparison.chosen, e.comparison.rejected)] for e in pairs]))
    for number in range(3):
        # The same model trained without Lightning: AdamW with its cosine and warm-up on the mean logistic loss.
        torch.manual_seed(0)
        model, seen = head(4), torch.as_tensor(fold != number)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, betas=(0.9, 0.95), weight_decay=0.0)
        from transformers import get_scheduler

        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=round(0.03 * 60), num_training_steps=60)
        signs = torch.tensor([e.sign for e in pairs])

        def log_odds(index: torch.Tensor) -> torch.Tensor:
            ends = differences[index].float()
            return model.compare(model.embed(ends[:, 0]), model.embed(ends[:, 1]))  # noqa: B023

        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.softplus(-log_odds(seen) * signs[seen]).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        expected = (log_odds(~seen) * signs[~seen]).detach().numpy()
        written = [each.columns["strength_mean"] for each, other in zip(found.pairs, ~seen, strict=True) if other]
        np.testing.assert_allclose(written, expected, atol=2e-4)


def test_actions(tmp_path: Path) -> None:
    """The weakest fifth is flipped, softened or left out; margins go to all."""
    pairs, vectors, _ = linear(40, 4, 0.2, seed=2)
    plain = _apply(pairs, vectors, tmp_path)
    mean = np.array([each.columns["strength_mean"] for each in plain.pairs])
    weak = np.zeros(40, bool)
    weak[np.argsort(mean)[:8]] = True
    assert all(each.comparison == before.comparison for each, before in zip(plain.pairs, pairs, strict=True))
    flipped = _apply(pairs, vectors, tmp_path, action="flip")
    assert [each.comparison.probability for each in flipped.pairs] == [0.0 if w else 1.0 for w in weak]
    soft = _apply(pairs, vectors, tmp_path, action="soft", smoothing=0.3)
    assert [each.comparison.probability for each in soft.pairs] == [0.7 if w else 1.0 for w in weak]
    dropped = _apply(pairs, vectors, tmp_path, action="drop")
    assert [each.comparison for each in dropped.pairs] == [each.comparison for each, w in zip(pairs, weak, strict=True) if not w]
    margin = _apply(pairs, vectors, tmp_path, action="margin")
    assert [each.comparison.margin for each in margin.pairs] == list(mean)
    assert len(flipped.examples) == 8 and flipped.numbers["flipped"] == 8 and not margin.examples


def test_margin_and_smoothing_of_zero_are_plain() -> None:
    """-log sigmoid(s - 0) and no smoothing are Bradley-Terry's loss exactly."""
    scores, p = torch.randn(9), torch.ones(9)
    plain = LogisticLoss()(scores, p, torch.zeros(9))
    assert torch.equal(plain, LogisticLoss(smoothing=0.0)(scores, p, torch.zeros(9)))
    torch.testing.assert_close(plain, torch.nn.functional.softplus(-scores))


def test_in_sample_members_see_half(tmp_path: Path) -> None:
    """Under folds: 1, each member is trained on half of the pairs and scores all: margins of what it saw are larger on average."""
    pairs, vectors, _ = linear(40, 60, 0.2, seed=3)
    inside = _apply(pairs, vectors, tmp_path, folds=1, members=6)
    outside = _apply(pairs, vectors, tmp_path, folds=5, members=2)
    assert inside.numbers["mean strength, log-odds"] > outside.numbers["mean strength, log-odds"] + 0.5


def test_ties_have_no_strength(tmp_path: Path) -> None:
    """A tie is never flipped; only ties are refused."""
    pairs, vectors, _ = linear(20, 4, 0.2, seed=4)
    tied = [each.relabelled(probability=0.5) for each in pairs]
    found = _apply([*pairs[:10], *tied[10:]], vectors, tmp_path, action="flip", share=0.5)
    assert sum(each.comparison.probability == 0.0 for each in found.pairs) == 5
    assert all(each.comparison.probability == 0.5 for each in found.pairs[10:])
    with pytest.raises(ConfigError, match="all pairs are ties"):
        _apply(tied, vectors, tmp_path)


@pytest.mark.parametrize("wrong", [{"action": "turn"}, {"share": 0.0}, {"share": 1.0}, {"smoothing": 0.6}, {"members": 0}, {"folds": 0}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    """Out of range."""
    with pytest.raises(ConfigError, match=f"Strength.{next(iter(wrong))}"):
        Strength(**wrong)


def test_more_folds_than_prompts(tmp_path: Path) -> None:
    """Five folds of three prompts."""
    pairs, vectors, _ = linear(3, 4, 0.0, seed=5)
    with pytest.raises(ConfigError, match="only 3 prompts"):
        _apply(pairs, vectors, tmp_path)
