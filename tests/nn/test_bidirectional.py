"""Rows of encoders: groups of similar length give the states and gradients of single rows, and little padding; the mask that is read."""

from __future__ import annotations

import encoders
import numpy as np
import pytest
import torch

from prefrep.errors import ConfigError
from prefrep.nn import bidirectional
from prefrep.nn.bidirectional import by_length, pooled, read

LENGTHS = [3, 60, 7, 61, 30, 59, 4, 120]


def rows(lengths: list[int], low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return torch.randint(low, high, mask.shape, generator=generator) * mask, mask


@pytest.mark.parametrize("kind", encoders.ENCODERS)
def test_groups_have_the_states_and_gradients_of_rows_that_are_read_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoders.model(kind, "EncoderModel" if kind == "t5" else "Model")
    ids, mask = rows(LENGTHS, len(encoders.SPECIAL), 200)
    weight = torch.randn(*ids.shape, 32, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *given: calls.append(given[2]["input_ids"].numel()), with_kwargs=True)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return [each for each in torch.autograd.grad(loss, list(named.values()), allow_unused=True) if each is not None]

    alone = [read(model, ids[i : i + 1, :n], mask[i : i + 1, :n], None, "mean")[0] for i, n in enumerate(LENGTHS)]
    expected = gradients(sum((h * weight[i, : len(h)]).sum() for i, h in enumerate(alone)))  # type: ignore[arg-type]
    for call in (0, 8, 10_000):
        monkeypatch.setattr(bidirectional, "CALL", {"cpu": call})
        calls.clear()
        found = read(model, ids, mask, None, "mean")
        assert sum(calls) <= sum(LENGTHS) + call * len(calls) and (len(calls) == 1) == (call == 10_000)
        for i, h in enumerate(alone):
            assert torch.allclose(found[i, : len(h)], h, atol=2e-5)
        for one, other in zip(gradients((found * weight).sum()), expected, strict=True):
            assert (one - other).abs().max() <= 1e-4 * max(1.0, float(other.abs().max()))


def test_batches_of_the_lengths_of_conversations_have_little_padding() -> None:
    """Lengths are log-normal, as those of HH are; every row is read once, and the shortest groups come last."""
    lengths = np.exp(np.random.default_rng(0).normal(4.6, 0.8, 64)).astype(int).tolist()
    groups = by_length(lengths, bidirectional.CALL["cpu"])
    assert sorted(row for group in groups for row in group) == list(range(64))
    padded = sum(lengths[group[0]] * len(group) for group in groups)
    assert 1 - sum(lengths) / padded < 0.1 < 1 - sum(lengths) / (max(lengths) * 64)
    longest = [lengths[group[0]] for group in groups]
    assert longest == sorted(longest, reverse=True) and len(groups) < 32


def test_the_last_mask_is_read() -> None:
    """A text may spell out a mask of its own; the instruction comes after it."""
    ids = torch.tensor([[1, 3, 9, 3, 2, 0], [1, 9, 9, 9, 3, 2], [3, 1, 2, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6, [1, 1, 1, 0, 0, 0]])
    hidden = torch.arange(6.0).expand(3, 6)[..., None]
    assert pooled(hidden, ids, mask, "mask", [3])[:, :, 0].tolist() == [[3.0] * 6, [4.0] * 6, [0.0] * 6]
    with pytest.raises(ConfigError, match="lacks the marked token 7"):
        pooled(hidden, ids, mask, "mask", [7])
