"""Who labelled: the annotators that a model has learned, by name, and what is suspicious about their names and numbers of labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from prefrep.errors import ConfigError, DataError
from prefrep.records import Record

NOBODY_IN_PARTICULAR = ""  # annotator of a record that names none
POPULATION = -1  # index of everybody who is not known


@dataclass(frozen=True)
class Annotators:
    """Annotators in the order of their indices. This is all that a model keeps of the people who labelled.

    Args:
        labels: Number of records by name.

    Raises:
        DataError: A name is blank.
    """

    labels: Mapping[str, int]

    def __post_init__(self) -> None:
        if any(not name.strip() for name in self.labels):
            raise DataError("the name of an annotator is blank; name the person, or leave the column out")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in the order of the indices."""
        return tuple(self.labels)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.labels)}

    def index(self, name: str) -> int:
        """Return the index of a name; `POPULATION`: nobody of that name is known."""
        return self._index.get(name, POPULATION)

    def answering(self, name: str) -> Literal["annotator", "population"]:
        """Return who answers where a name is asked."""
        return "population" if self.index(name) == POPULATION else "annotator"

    def indices(self, names: Iterable[str]) -> list[int]:
        """Return the indices of names, see `index`."""
        return [self.index(name) for name in names]

    def joined(self, others: Annotators) -> Annotators:
        """Return these annotators, then the new ones among others; numbers of labels are those of the others where they have one."""
        return Annotators({**self.labels, **others.labels})

    def require(self, name: str) -> None:
        """Refuse an unknown name.

        Raises:
            ConfigError: Nobody of that name is known.
        """
        if self.index(name) == POPULATION:
            near = [known for known in self.labels if known.casefold() == name.casefold()]
            hint = f"; it knows {near[0]!r}" if near else ""
            raise ConfigError(
                f"the model knows no annotator {name!r} among its {len(self)}{hint}; adapt it with prefrep adapt, or let the population "
                "answer with --unknown-annotator population"
            )


def counted(records: Iterable[Record], what: str) -> tuple[Annotators, list[str]]:
    """Return the annotators of records by their first appearance, and what may be wrong with them, as sentences.

    Args:
        records: The records.
        what: Name of the data, for messages.

    Raises:
        DataError: No record names an annotator, or a name is blank.
    """
    labels = Counter(record.annotator for record in records)
    unnamed = labels.pop(NOBODY_IN_PARTICULAR, 0)
    if not labels:
        raise DataError(
            f"{what}: no row names its annotator, and the head asks who judged; add a column 'annotator', or choose another head"
        )
    found = Annotators(labels)
    return found, list(_doubts(found, unnamed, what))


def _doubts(annotators: Annotators, unnamed: int, what: str) -> Iterator[str]:
    rows = sum(annotators.labels.values())
    if unnamed:
        yield f"{what}: {unnamed} of {rows + unnamed} rows name no annotator; they count for the population alone"
    alike: dict[str, list[str]] = defaultdict(list)
    for name in annotators.labels:
        alike[name.strip().casefold()].append(name)
    if twins := [names for names in alike.values() if len(names) > 1]:
        shown = " and ".join(map(repr, twins[0][:2]))
        yield f"{what}: {shown} differ in case or blanks alone and count as two people ({len(twins)} such groups); rename them if not"
    single = sum(count == 1 for count in annotators.labels.values())
    if 2 * single > len(annotators) > 1:
        yield (
            f"{what}: {single} of {len(annotators)} annotators have a single label, which tells nobody's taste from noise; expect the "
            "answers of the population, or group annotators by a column that many share"
        )
