"""Who is asked: names of annotators as a model's indices, and what becomes of names that it does not know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from prefrep.annotators import POPULATION, Annotators
from prefrep.errors import ConfigError

UnknownAnnotator = Literal["population", "error"]

log = logging.getLogger(__name__)


class Asking:
    """The annotators of a model as its users name them.

    Args:
        head: Name of the head, for messages.
        annotators: Whom the model knows; None: it answers everybody alike.
        unknown: Who answers for the others: the `population`, which is logged once for each of the first ten names, or nobody (`error`).
    """

    def __init__(self, head: str, annotators: Annotators | None, unknown: UnknownAnnotator) -> None:
        self._head, self.annotators, self.unknown = head, annotators, unknown
        self._said: set[str] = set()

    def known(self) -> Annotators:
        """Return whom the model knows.

        Raises:
            ConfigError: It answers everybody alike.
        """
        if self.annotators is None:
            raise ConfigError(f"{self._head} answers everybody alike, so no annotator can be asked; leave annotators out")
        return self.annotators

    def refuses(self, name: str) -> bool:
        """Return whether nobody answers for a name."""
        return bool(name) and self.unknown == "error" and self.annotators is not None and self.annotators.index(name) == POPULATION

    def index(self, name: str) -> int:
        """Return the index of who answers for a name; empty: nobody in particular.

        Raises:
            ConfigError: The name is not known, under `error`.
        """
        if self.annotators is None or not name:
            return POPULATION
        found = self.annotators.index(name)
        if found == POPULATION:
            if self.refuses(name):
                self.annotators.require(name)
            if name not in self._said and len(self._said) < 10:
                self._said.add(name)
                log.warning("the model does not know annotator %r: the population answers", name)
        return found

    def indices(self, names: Sequence[str]) -> list[int]:
        """Return the indices of names; errors as in `index` and `known`."""
        self.known()
        return [self.index(name) for name in names]
