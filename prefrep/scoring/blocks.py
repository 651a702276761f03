"""Scores of a general preference model by 2 x 2 block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from prefrep.nn.context import Context
from prefrep.nn.heads import PreferenceHead
from prefrep.scoring.scorer import Scorer


def table_by_block(head: PreferenceHead, e: Tensor, context: Context) -> Tensor | None:
    """Return the scores of K responses by 2 x 2 block [D/2, K, K], not yet divided by tau.

    None: the head has no blocks that add up to its comparisons.

    Args:
        head: The head.
        e: Embeddings, [K, D].
        context: The prompt, and who is asked.
    """
    block_scores: Callable[[Tensor, Tensor, Context], Tensor] | None = getattr(head, "block_scores", None)
    if block_scores is None or not _add_up(type(head)):
        return None
    count = len(e)
    if context.prompt is not None:
        context = context._replace(prompt=context.prompt.expand(count, count, -1))
    return block_scores(e[:, None].expand(-1, count, -1), e[None].expand(count, -1, -1), context).permute(2, 0, 1)


class BlockScorer(Scorer):
    """A scorer whose `tables` yield log-odds by block [D/2, K, K] for heads with `block_scores`; the blocks add up to the table.

    Other heads yield tables [K, K], as with `Scorer`. So do heads that inherit `block_scores` and compare in a way of their own.
    """

    def _table(self, e: Tensor, context: Context) -> Tensor:
        several = context.annotator is not None and context.annotator.ndim > 0
        found = None if several else table_by_block(self.model.head, e, context)
        return super()._table(e, context) if found is None else found


def _add_up(kind: type) -> bool:
    """Return whether no class after the one that defines `block_scores` changes comparisons."""
    owners = {name: next(owner for owner in kind.__mro__ if name in vars(owner)) for name in ("block_scores", "compare", "table")}
    return all(issubclass(owners["block_scores"], owners[name]) for name in ("compare", "table"))
