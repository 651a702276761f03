"""What a preference model offers to whoever scores with it, in this process, in several, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prefrep.annotators import Annotators
    from prefrep.records import Comparison, RankedResponses

# Records that are read together, sorted by size. Scores depend on who shares a batch in their last bits, so those of several processes and
# of resumed files are equal only because all count the same windows.
WINDOW = 128


class PreferenceScorer(Protocol):
    """A preference model as evaluations see it. Scores are log-odds in nats and come in the order of the records."""

    @property
    def annotators(self) -> Annotators | None:
        """Whom the model knows, if records and questions can name who is asked; None: it answers everybody alike."""

    @property
    def pairwise(self) -> bool:
        """Whether a response has no score of its own (pair models, GPM); False for Bradley-Terry."""

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield the log-odds of chosen over rejected."""

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield the log-odds of i over j, [K, K], exactly skew-symmetric."""

    def tables_of(
        self, records: Iterable[RankedResponses], annotators: Sequence[str], *, progress: str | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the tables of U annotators, [U, K, K]."""

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield one score per response, [K]; Bradley-Terry only."""

    def describe(self) -> dict[str, Any]:
        """Return the model's recipe: dtype, batch size, attention, truncation, template, versions, ..."""
