"""Mixtures: people are of a few latent types, each with a head of its own (EM, arXiv:2405.15065)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prefrep.errors import ConfigError
from prefrep.nn.context import ANYBODY, Context
from prefrep.nn.heads import BTHead, PreferenceHead
from prefrep.nn.people import Types


class MixtureHead(PreferenceHead):
    """Latent types with a head each: s_u = sum_z p(z | u) s_z, the mean score over the types that a person may be of.

    Heads learn in `modules.MixturePreference`, each from the labels of its type; `callbacks.ExpectTypes` says who is of which.

    Args:
        hidden_size: Hidden size H of the backbone.
        types: Number Z of types.
        head: Builds the head of a type; any head that reads single responses.
        start: Concentration of the responsibilities to begin with, see `nn.people.Types`.

    Raises:
        ConfigError: Heads read pairs, there is no type, or the start is uniform.
    """

    def __init__(self, hidden_size: int, types: int = 2, head: Callable[[int], PreferenceHead] = BTHead, start: float = 0.3) -> None:
        super().__init__()
        self.types = Types(types, start)
        self.heads = nn.ModuleList(head(hidden_size) for _ in range(types))
        if any(each.layout == "pair" for each in self._heads):
            raise ConfigError("MixtureHead.head must read single responses, which all types share; choose BTHead, GPMHead or HybridHead")
        self.dim = sum(each.dim for each in self._heads)

    @property
    def _heads(self) -> list[PreferenceHead]:
        return [each for each in self.heads if isinstance(each, PreferenceHead)]

    @property
    def needs_prompt(self) -> bool:
        """Whether the head of a type does."""
        return any(each.needs_prompt for each in self._heads)

    def embed(self, hidden: Tensor) -> Tensor:
        """Return the embeddings of all types side by side, [.., sum of their D]."""
        return torch.cat([each.embed(hidden) for each in self._heads], -1)

    def _split(self, e: Tensor) -> tuple[Tensor, ...]:
        return torch.split(e, [each.dim for each in self._heads], -1)

    def by_type(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return the score of each type, [.., Z]; arguments as in `compare`."""
        asked = Context(context.prompt)
        return torch.stack([each.compare(i, j, asked) for each, i, j in zip(self._heads, self._split(a), self._split(b), strict=True)], -1)

    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return (self.by_type(a, b, context) * self.types.of(context.annotator)).sum(-1)

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        asked = Context(context.prompt)
        tables = torch.stack([each.table(i, asked) for each, i in zip(self._heads, self._split(e), strict=True)], -1)
        return (tables * self.types.of(context.annotator)[..., None, None, :]).sum(-1)
