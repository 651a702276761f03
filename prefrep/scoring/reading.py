"""What a preference model reads of one record, and every answer that follows from it without reading again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.nn.bilinear import bilinear
from prefrep.nn.context import Context
from prefrep.scoring.forward import Floats, skew_table
from prefrep.scoring.scorer import Scorer


@dataclass(frozen=True)
class Reading:
    """Embeddings of the sequences of one record.

    Args:
        scorer: The model that read them.
        count: K, the number of responses.
        embeddings: [K, D]; of a pair model, both orders of each pair i < j, [K (K - 1), 1].
        prompt: State of the prompt, [H], where the head has a gate.
        annotator: Who is asked; the population answers for names that the model does not know.
    """

    scorer: Scorer
    count: int
    embeddings: Tensor
    prompt: Tensor | None
    annotator: str = ""

    @property
    def context(self) -> Context:
        """The prompt, and who is asked."""
        known = self.scorer.annotators
        if known is None:
            return Context(self.prompt)
        return Context(self.prompt, torch.tensor(known.index(self.annotator), device=self.embeddings.device))

    @torch.inference_mode()
    def table(self) -> Floats:
        """Return log-odds [K, K] that row beats column, exactly skew-symmetric."""
        head, tau = self.scorer.model.head, self.scorer.model.tau
        if head.layout == "pair":
            first, second = self.embeddings[0::2], self.embeddings[1::2]
            scores = (head.alone(first) if self.scorer.orders == "first" else head.compare(first, second)) / tau
            return skew_table(scores.cpu().numpy(), self.count)
        return _numbers(head.table(self.embeddings, self.context) / tau)

    @torch.inference_mode()
    def blocks(self) -> Floats | None:
        """Return log-odds by 2 x 2 block [D/2, K, K] where the head has blocks; they add up to the table."""
        from prefrep.scoring.blocks import table_by_block

        found = table_by_block(self.scorer.model.head, self.embeddings, self.context)
        return None if found is None else _numbers(found / self.scorer.model.tau)

    @torch.inference_mode()
    def rewards(self) -> Floats:
        """Return the rewards [K] of a Bradley-Terry model, divided by tau.

        Raises:
            ConfigError: The model gives no rewards.
        """
        if self.scorer.pairwise:
            raise ConfigError("this model compares responses and gives no reward to a single one; use rule group or anchor, or tables")
        return _numbers(self.scorer.model.head.alone(self.embeddings, self.context) / self.scorer.model.tau)

    @torch.inference_mode()
    def bilinear(self) -> tuple[Floats, Floats]:
        """Return vectors u [K, U] and a matrix A [U, U], with log-odds u A u^T; see `nn.bilinear`.

        Raises:
            ConfigError: The model reads pairs.
        """
        vectors, matrix = bilinear(self.scorer.model.head, self.embeddings, self.context)
        return _numbers(vectors), _numbers(matrix / self.scorer.model.tau)


def _numbers(tensor: Tensor) -> Floats:
    return np.asarray(tensor.float().cpu().numpy())
