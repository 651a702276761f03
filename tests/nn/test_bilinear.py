from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from prefrep.errors import ConfigError
from prefrep.nn.bilinear import bilinear
from prefrep.nn.context import Context
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew

HEADS: list[Any] = [
    BTHead,
    *(partial(kind, dim=4, skew=skew) for kind in (GPMHead, HybridHead) for skew in (BlockSkew, GatedSkew, LearnedSkew)),
]


@pytest.mark.parametrize("make", HEADS, ids=str)
def test_one_product_gives_the_table(make: Any) -> None:
    torch.manual_seed(0)
    head = make(8)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    hidden, prompt = torch.randn(5, 8), torch.randn(8)
    e = head.embed(hidden)
    u, a = bilinear(head, e, Context(prompt))
    torch.testing.assert_close(a, -a.T, rtol=0, atol=0)
    torch.testing.assert_close(u @ a @ u.T, head.table(e, Context(prompt)), rtol=1e-5, atol=1e-4)


def test_pairs_have_no_vectors() -> None:
    with pytest.raises(ConfigError, match="PairHead embeds no single response"):
        bilinear(PairHead(8), torch.zeros(2, 1))
