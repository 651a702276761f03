"""Whoever writes the answers of a judge: a language model in this process, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from prefrep.judges.writing.asking import Question
from prefrep.judges.writing.reading import Reply

Proceed = Callable[[], bool]


def always() -> bool:
    """Return True."""
    return True


class Writer(Protocol):
    """A language model that answers questions."""

    def ask(self, questions: Sequence[Question], proceed: Proceed = always) -> Iterator[tuple[int, Reply]]:
        """Yield the place of each question and its answer, as answers arrive.

        Args:
            questions: The questions.
            proceed: Whether another question may be asked; where it says no, those in flight end.

        Raises:
            PrefrepError: No question can be answered: the model is not there, the key is wrong.
        """

    def who(self) -> dict[str, Any]:
        """Return what tells this model from others: its answers are kept under it."""
