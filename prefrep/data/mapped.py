"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from numpy.typing import NDArray

Made = TypeVar("Made")


def _same(item: Any) -> Any:
    return item


class Mapped(Sequence[Made], Generic[Made]):
    """The items of another sequence under a function: of a `data.spool.Spool`, they are never in memory together.

    Args:
        source: The other sequence.
        make: The function; by default items stay as they are.
        places: Places in the other sequence that items come from, in order; None: all.
    """

    def __init__(self, source: Sequence[Any], make: Callable[[Any], Made] = _same, places: NDArray[Any] | None = None) -> None:
        self._source, self._make, self._places = source, make, places

    def __len__(self) -> int:
        return len(self._source if self._places is None else self._places)

    def __iter__(self) -> Iterator[Made]:
        if self._places is None:
            return map(self._make, self._source)
        return (self._make(self._source[place]) for place in map(int, self._places))

    @overload
    def __getitem__(self, index: int) -> Made: ...
    @overload
    def __getitem__(self, index: slice) -> list[Made]: ...
    def __getitem__(self, index: int | slice) -> Made | list[Made]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._make(self._source[index if self._places is None else int(self._places[index])])
