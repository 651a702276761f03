"""K x K tables, one per prompt, of a model or of the data themselves; `tables.jsonl` is written table by table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import DataError, RecordError
from prefrep.evaluation.rows import read_scores
from prefrep.evaluation.scores import ScoreLog, distinct
from prefrep.functional import hodge
from prefrep.functional.votes import majority, vote_margins
from prefrep.records import Comparison, Messages, RankedResponses, Record

Kind = Literal["model", "votes", "probabilities", "majority", "scores"]
Matrix = tuple[tuple[float, ...], ...]

LARGEST = 1000  # responses to a prompt; tables of more take gigabytes as text


class Tables(Protocol):
    """A model that makes tables, such as a `BlockScorer`."""

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield log-odds [K, K], or by block [D/2, K, K]."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """The table of one prompt.

    Args:
        id: Id of the prompt.
        subset: Subset of the prompt.
        kind: Origin of the entries. `model`: log-odds in nats. The others are margins in [-1, 1], P(i beats j) - P(j beats i).
            `votes`: of hard comparisons; `probabilities`: of soft or weighted ones; `majority`: of aspects that rate all responses;
            `scores`: 1 or -1 by one score per response, which cannot have cycles.
        table: [K, K], skew-symmetric.
        compared: [K, K] of 0 and 1; None: all pairs.
        wins: [K, K], votes for i against j (`votes`).
        ties: [K, K], votes that were ties (`votes`).
        ratings: [A, K], by aspect (`majority`).
        blocks: [D/2, K, K], the table by block (`model`, of a general preference model).
    """

    form: ClassVar[str] = '{"id", "subset", "kind", "table": [[...]], ...}'

    id: str
    subset: str
    kind: Kind
    table: Matrix
    compared: Matrix | None = None
    wins: Matrix | None = None
    ties: Matrix | None = None
    ratings: Matrix | None = None
    blocks: tuple[Matrix, ...] | None = None

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of `tables.jsonl`. Raises ValueError or KeyError: it is not one."""
        parts = {name: row.get(name) for name in ("compared", "wins", "ties", "ratings")}
        blocks = row.get("blocks")
        found = cls(
            str(row["id"]),
            str(row["subset"]),
            row["kind"],
            _matrix(row["table"]),
            blocks=None if blocks is None else tuple(_matrix(block) for block in blocks),
            **{name: None if value is None else _matrix(value) for name, value in parts.items()},
        )
        if any(len(line) != len(found.table) for line in found.table):
            raise ValueError("a table must be square")
        return found

    def array(self) -> NDArray[np.float64]:
        """The table, [K, K]."""
        return np.array(self.table, dtype=np.float64)

    def graph(self) -> NDArray[np.bool_]:
        """Which pairs were compared, [K, K]."""
        return hodge.everywhere(len(self.table)) if self.compared is None else np.array(self.compared, dtype=bool)


class TableLog(ScoreLog[Any]):
    """`tables.jsonl` of one evaluation, open for appending."""

    name: ClassVar[str] = "tables.jsonl"

    @staticmethod
    def _numbers(row: TableRow) -> Sequence[float]:
        return [number for line in row.table for number in line]


class Verdict(NamedTuple):
    """One comparison among the responses of a prompt: response `first` against `second`."""

    first: int
    second: int
    probability: float
    weight: float


class PromptTable(NamedTuple):
    """A prompt with all responses to it that were compared; `verdicts` is empty if a row held all responses."""

    record: RankedResponses
    verdicts: tuple[Verdict, ...]


def gather(records: Iterable[Record]) -> list[PromptTable]:
    """Group comparisons that share a prompt (and a subset); rows with K responses stay as they are.

    Equal responses to one prompt are one response. Comparisons without a prompt are not grouped.

    Raises:
        RecordError: A prompt has more than LARGEST responses.
    """
    found: dict[object, tuple[Record, dict[Messages, int], list[Verdict]]] = {}
    for number, record in enumerate(records):
        if isinstance(record, RankedResponses) or not record.prompt:
            key: object = number
        else:
            key = (record.prompt, record.subset)
        _, responses, verdicts = found.setdefault(key, (record, {}, []))
        if isinstance(record, Comparison):
            first, second = (responses.setdefault(each, len(responses)) for each in (record.chosen, record.rejected))
            if first != second:
                verdicts.append(Verdict(first, second, record.probability, record.weight))
    prompts = []
    for number, (record, responses, verdicts) in enumerate(found.values()):
        if isinstance(record, Comparison):
            record = RankedResponses(
                record.prompt, tuple(responses), subset=record.subset, id=record.id or str(number), source=record.source
            )
        if len(record.responses) > LARGEST:
            problem = f"{len(record.responses)} responses to one prompt, but a table has at most {LARGEST}"
            raise RecordError(record.source or "a record", problem, "remove some of them")
        prompts.append(PromptTable(record, tuple(verdicts)))
    return prompts


def named(prompts: Sequence[PromptTable]) -> list[tuple[str, str]]:
    """Return a unique (id, subset) for each table; a row without an id is named by its number, from 0."""
    ids = distinct(prompt.record.id or str(number) for number, prompt in enumerate(prompts))
    return [(name, prompt.record.subset) for name, prompt in zip(ids, prompts, strict=True)]


def own_table(prompt: PromptTable, name: str) -> TableRow | None:
    """Return the table of the data themselves; None: they have no verdicts on this prompt.

    Args:
        prompt: The prompt.
        name: Id of the table.
    """
    record, size = prompt.record, len(prompt.record.responses)
    if prompt.verdicts:
        return _of_verdicts(prompt, name)
    ratings = np.array([each for each in record.ratings.values() if not any(map(math.isnan, each))], dtype=np.float64)
    if len(ratings):
        return TableRow(name, record.subset, "majority", _rows(majority(ratings)), ratings=_rows(ratings))
    if record.scores is None:
        return None
    scores = np.array(record.scores)
    return TableRow(name, record.subset, "scores", _rows(np.sign(np.subtract.outer(scores, scores)).reshape(size, size)))


def _of_verdicts(prompt: PromptTable, name: str) -> TableRow:
    size = len(prompt.record.responses)
    wins, ties, sums, weights = np.zeros((4, size, size))
    hard = all(verdict.probability in (0.0, 0.5, 1.0) and verdict.weight == 1 for verdict in prompt.verdicts)
    for i, j, probability, weight in prompt.verdicts:
        wins[i, j] += probability == 1
        wins[j, i] += probability == 0
        ties[i, j] += probability == 0.5
        ties[j, i] += probability == 0.5
        sums[i, j] += weight * (2 * probability - 1)
        sums[j, i] -= weight * (2 * probability - 1)
        weights[i, j] += weight
        weights[j, i] += weight
    graph = weights > 0
    compared = None if (graph == hodge.everywhere(size)).all() else _rows(graph.astype(np.float64))
    if hard:
        margins = vote_margins(wins.astype(np.int64), ties.astype(np.int64))
        return TableRow(name, prompt.record.subset, "votes", _rows(margins), compared, _rows(wins), _rows(ties))
    margins = np.divide(sums, weights, out=np.zeros_like(sums), where=graph)
    return TableRow(name, prompt.record.subset, "probabilities", _rows(margins), compared)


def model_table(found: NDArray[np.float32], name: str, subset: str) -> TableRow:
    """Return the row of a model's log-odds, [K, K] or by block [D/2, K, K]."""
    if found.ndim == 2:
        return TableRow(name, subset, "model", _rows(found))
    blocks = (found - np.swapaxes(found, -1, -2)).astype(np.float64) / 2  # exactly skew, whatever the basis of the blocks
    return TableRow(name, subset, "model", _rows(blocks.sum(0)), blocks=tuple(_rows(block) for block in blocks))


def write(
    prompts: Sequence[PromptTable], out: Path, identity: Mapping[str, Any], model: Tables | None = None, restart: bool = False
) -> list[TableRow]:
    """Make the tables of all prompts that a folder does not hold yet, and append them to `tables.jsonl`.

    Args:
        prompts: The prompts.
        out: The folder.
        identity: What the tables depend on, see `ScoreLog`.
        model: The model that compares; None: the data themselves, where prompts without verdicts are skipped.
        restart: Discard the tables that the folder holds.

    Returns:
        All rows.

    Raises:
        ConfigError: The folder holds tables with another identity.
        DataError: No prompt has enough pairs for a cycle, or a number is not finite.
    """
    names = named(prompts)
    if model is None:
        own = [row for prompt, (name, _) in zip(prompts, names, strict=True) if (row := own_table(prompt, name)) is not None]
        if not own:
            raise DataError("the data have neither ratings nor scores of their responses; name a --model that compares them")
        _check([row.graph() for row in own])
        names = [(row.id, row.subset) for row in own]
    else:
        _check([hodge.everywhere(len(prompt.record.responses)) for prompt in prompts])
    with TableLog(out, TableRow, identity, names, restart) as log:
        done = len(log.rows)
        if model is None:
            rest: Iterable[TableRow] = own[done:]
        else:
            scored = model.tables((prompt.record for prompt in prompts[done:]), progress="tables") if done < len(prompts) else ()
            rest = (model_table(table, *name) for table, name in zip(scored, names[done:], strict=True))
        for row in rest:
            log.append(row)
        return list(log.rows)


def read_tables(folder: Path) -> list[TableRow]:
    """Return the tables of an earlier evaluation.

    Raises:
        DataError: There are none.
        RecordError: A row is no table.
    """
    path = folder / TableLog.name
    if not path.is_file():
        raise DataError(f"{path}: no such file; name the --out of an earlier `prefrep eval intransitivity`")
    return read_scores(path, cast(Any, TableRow))


def _check(graphs: Iterable[NDArray[np.bool_]]) -> None:
    if not any(hodge.cyclic_dimension(graph) for graph in graphs):
        raise DataError(
            "no prompt has three responses that were compared with each other, so there can be no cycles; "
            "give ranked or rated responses, or comparisons that share their prompt"
        )


def _matrix(value: Any) -> Matrix:
    rows = tuple(tuple(float(number) for number in line) for line in value)
    if not all(math.isfinite(number) for line in rows for number in line):
        raise ValueError("a table must hold finite numbers")
    return rows


def _rows(matrix: NDArray[Any]) -> Matrix:
    return tuple(tuple(float(number) for number in line) for line in matrix)
