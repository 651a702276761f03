"""Whoever writes the answers of a judge: a language model in this process, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from prefrep.judges.writing.asking import Question
from prefrep.judges.writing.reading import Reply

Proceed = Callable[[], bool]
Received = Callable[[int, Reply], None]


def always() -> bool:
    """Return True."""
    return True


def unkept(place: int, reply: Reply) -> None:
    """Do nothing."""


class Writer(Protocol):
    """A language model that answers questions."""

    def ask(self, questions: Sequence[Question], proceed: Proceed = always, received: Received = unkept) -> Generator[tuple[int, Reply]]:
        """Yield the place of each question and its answer, as answers arrive.

        Args:
            questions: The questions.
            proceed: Whether another question may be asked; where it says no, those in flight end.
            received: Called with place and answer the moment the answer is there, before anything else is done with it, perhaps in
                another thread. However asking ends, answers to what was asked are waited for and reach it.

        Raises:
            PrefrepError: No question can be answered: the model is not there, the key is wrong.
        """

    def load(self) -> None:
        """Load what answering needs in this process, if anything. Raises CheckpointError: it cannot be loaded."""

    def who(self) -> dict[str, Any]:
        """Return what tells this model from others: its answers are kept under it."""
