"""Scores of a general preference model by 2 x 2 block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from prefrep.scoring.scorer import Scorer


class BlockScorer(Scorer):
    """A scorer whose `tables` yield log-odds by block [D/2, K, K] for heads with `block_scores`; the blocks add up to the table.

    Other heads yield tables [K, K], as with `Scorer`.
    """

    def _table(self, e: Tensor, prompt: Tensor | None) -> Tensor:
        block_scores: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = getattr(self.model.head, "block_scores", None)
        if block_scores is None:
            return super()._table(e, prompt)
        count = len(e)
        context = None if prompt is None else prompt.expand(count, count, -1)
        return block_scores(e[:, None].expand(-1, count, -1), e[None].expand(count, -1, -1), context).permute(2, 0, 1)
