"""The kernel for trees against a dense mask, head by head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import random_rows
from transformers import PretrainedConfig

from prefrep.functional import blocks
from prefrep.functional.trees import tree_mask
from prefrep.nn import attention, masks

HEADS, GROUPS, WIDTH, OF_VALUES = 6, 3, 4, 5


def tokens(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """`until` and position of each token, without padding."""
    _, until, positions = random_rows(torch.Generator().manual_seed(seed), rows=1, length=67)
    return until[until > 0], positions[until > 0]


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Attention [T, H, d] by the formula; each group of heads shares a key head."""
    found = []
    for head in range(HEADS):
        group = head // (HEADS // GROUPS)
        logits = query[0, head] @ key[0, group].T * 0.7
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        found.append(logits.masked_fill(~mask, float("-inf")).softmax(-1) @ value[0, group])
    return torch.stack(found, 1)


@pytest.mark.parametrize("kept", [0, 2**26])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 3])
def test_blocks_are_attention_under_the_mask(kept: int, softcap: float | None, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KEPT", kept)
    monkeypatch.setattr(blocks, "QUERIES", 4)
    until, positions = tokens()
    config = PretrainedConfig(num_attention_heads=HEADS, num_key_value_heads=GROUPS, sliding_window=window)
    biases, index = masks.tree_biases(config, until, positions, torch.float64)
    mask = tree_mask(until[None], positions[None], window)[0, 0]
    generator = torch.Generator().manual_seed(1)

    def draw(heads: int, width: int) -> torch.Tensor:
        return torch.randn(1, heads, len(until), width, generator=generator, dtype=torch.float64).requires_grad_()

    given = [draw(HEADS, WIDTH), draw(GROUPS, WIDTH), draw(GROUPS, OF_VALUES)]
    weight = torch.randn(len(until), HEADS, OF_VALUES, generator=generator, dtype=torch.float64)

    def both(read: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        out = read()
        return out.detach(), list(torch.autograd.grad((out * weight).sum(), given))

    expected, slopes = both(lambda: dense(*given, mask, softcap))
    found, ours = both(lambda: attention.tree_attention(torch.nn.Module(), *given, biases, 0.7, softcap, block_index=index)[0][0])
    torch.testing.assert_close(found, expected)
    for slope, other in zip(ours, slopes, strict=True):
        torch.testing.assert_close(slope, other)
    with torch.no_grad():  # scoring goes another way
        alone = attention.tree_attention(torch.nn.Module(), *given, biases, 0.7, softcap, block_index=index)[0][0]
    torch.testing.assert_close(alone, expected)


def test_every_query_sees_a_key_under_a_window() -> None:
    """Padding, too: a row of the lowest numbers would be the lowest plus a logit, which fp16 does not hold."""
    until, positions = tokens(2)
    config = PretrainedConfig(num_attention_heads=1, sliding_window=2)
    biases, index = masks.tree_biases(config, until, positions, torch.float32)
    at = 0
    for n, q, u in index.shapes.tolist():
        assert (biases.flatten()[at : at + n * q * u].view(n * q, u) == 0).any(1).all()
        at += n * q * u
    assert at == biases.numel() and len(index.padding)


def test_sinks_are_refused() -> None:
    x = torch.zeros(1, 1, 1, 2)
    with pytest.raises(ValueError, match="does not support attention sinks"):
        attention.tree_attention(torch.nn.Module(), x, x, x, None, s_aux=torch.zeros(1))
