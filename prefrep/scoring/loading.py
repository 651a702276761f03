"""How programs load a preference model: the arguments of these classes are options that programs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefrep.errors import require_at_least
from prefrep.scoring.interface import PreferenceScorer


@dataclass(frozen=True)
class Loading:
    """How a model is loaded in this process.

    Args:
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as trained.
        batch_tokens: Tokens read at a time; scores do not depend on it.

    Raises:
        UsageError: A number is out of range.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        require_at_least("--batch-tokens", self.batch_tokens, 1)

    def block_scorer(self, model: str) -> PreferenceScorer:
        """Return a scorer whose tables come by 2 x 2 block where the head of an exported folder has blocks."""
        from prefrep.scoring.blocks import BlockScorer

        return BlockScorer.from_pretrained(model, self.device, self.dtype, batch_tokens=self.batch_tokens)


@dataclass(frozen=True)
class Scoring(Loading):
    """How a model is loaded for scoring, in this process or in several.

    Args:
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as trained.
        batch_tokens: Tokens read at a time; scores do not depend on it.
        attention: Attention kernel.
        layout: Layout of the batches.
        workers: Processes that score, one GPU each where there are any; what is written does not depend on it.

    Raises:
        UsageError: A number is out of range.
    """

    attention: str = "auto"
    layout: Literal["auto", "trees", "padded"] = "auto"
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("--workers", self.workers, 1)

    def here(self, model: str) -> PreferenceScorer:
        """Return a scorer in this process, whatever `workers` is."""
        from prefrep.scoring.scorer import Scorer

        return Scorer.from_pretrained(model, self.device, self.dtype, self.attention, self.batch_tokens, self.layout)
