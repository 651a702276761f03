"""Cycle rates over many tables, tested against those of a transitive model with the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import DataError
from prefrep.evaluation.tables import TableRow
from prefrep.functional import feedback_arcs, hodge, intransitivity
from prefrep.functional import transitive_nulls as nulls
from prefrep.functional.votes import majority, vote_margins
from prefrep.metrics import intervals

Floats = NDArray[np.float64]

DUST = 1e-9  # of the energy; float32 rounds scores by 1e-7 of their size, which leaves about 1e-14 in parts that are zero
_ROTATED = (
    "{} r_i - r_j plus independent normal errors, with a variance for each table: the gradient part is kept, the rest is rotated at "
    "random (rotation test)"
)
NAMES = ("triples.cyclic", "triples.intransitive", "feedback_arcs.arcs", "energy.cyclic")
_CELLS = 1 << 21  # numbers of the tables that are drawn at a time where there are many, 16 MB
_HELD = 1 << 23  # numbers of the tables that are drawn at once, 64 MB
_MOST = 50_000_000  # votes times draws up to which votes are reversed; more take minutes
NULLS = {
    "model": _ROTATED.format("log-odds"),
    "probabilities": _ROTATED.format("margins"),
    "votes": "Bradley-Terry votes in which every response wins as often as it did: cycles of votes are reversed at random (exact "
    "conditional test)",
    "many votes": "Bradley-Terry votes drawn anew from the fitted model, since there are too many to reverse cycles of them (approximate)",
    "majority": "ratings = quality of the response + leniency of the aspect + errors: means are kept, the rest is rotated at random and "
    "rounded to the nearest rating (not exact, and for triples and feedback arcs only)",
    "scores": "none: one score per response is transitive",
}


def null(rows: Sequence[TableRow], draws: int, seed: int) -> dict[str, Any]:
    """Return the statistics of a transitive model with the same noise, over all prompts; see `functional.transitive_nulls`.

    Args:
        rows: The tables; the null of each follows from its kind.
        draws: Number of samples of all tables.
        seed: Seed of the samples. The random numbers of a prompt depend on it and on the prompt's subset and id, not on other prompts.

    Returns:
        `models`: the null of each kind in words. For each statistic `observed`, `mean`, `ci95` (the middle 95 % of the null), `p`
        (one-sided) and `draws`. Cyclic energy is in units of the observed tables' energy: noise raises both, and
        their ratio would hide it. It is left out if no table has votes, since the other nulls preserve it, and if one has ratings, since
        rounding them changes it (see `functional.transitive_nulls`). Feedback arcs are left out if
        a table is too large for exact ones.
    """
    names = list(NAMES)
    levels = np.unique([rating for row in rows for line in row.ratings or () for rating in line])
    sums = np.zeros((draws + 1, len(names), 2))
    for row in rows:
        table, graph, done = row.array(), row.graph(), 1
        sums[:1] += _statistics(table[None], graph, table)
        for drawn in _drawn(row, levels, draws, _stream(row, seed)):
            sums[done : done + len(drawn)] += _statistics(drawn, graph, table)
            done += len(drawn)
    if any(len(row.table) > feedback_arcs.EXACT for row in rows):
        names.remove("feedback_arcs.arcs")
    kinds = [row.kind for row in rows]
    if "votes" not in kinds or "majority" in kinds:
        names.remove("energy.cyclic")
    models = dict.fromkeys("many votes" if row.kind == "votes" and not _reversible(row, draws) else row.kind for row in rows)
    found: dict[str, Any] = {"models": {kind: NULLS[kind] for kind in models}, "seed": seed}
    for name in names:
        i = NAMES.index(name)
        shares = np.divide(sums[:, i, 0], sums[:, i, 1], out=np.zeros(draws + 1), where=sums[:, i, 1] > 0)
        found[name] = {
            "observed": float(shares[0]),
            "mean": float(shares[1:].mean()),
            "ci95": list(intervals.percentile_interval(shares[1:])),
            "p": nulls.p_value(float(shares[0]), shares[1:]),
            "draws": [float(share) for share in shares[1:]],
        }
    return found


def agreement(rows: Sequence[TableRow], others: Sequence[TableRow], draws: int, seed: int) -> dict[str, Any]:
    """Test whether two sources have the same cycles: two training seeds, or a model and the data.

    One table cannot show whether its cyclic part is noise; two can, since independent noise does not repeat. The cyclic parts of both
    tables of a prompt are correlated, over all prompts. Null: the first source is transitive plus independent normal errors (see
    `functional.transitive_nulls.rotated`, whose exact test this is), so that every direction of its cyclic part is equally likely,
    independently of the other source. Margins are not an order plus such errors: since they are bounded, the table of an order has a
    cyclic part too, the same in two sources with the same order. So p exists for models only.

    Args:
        rows: Tables of one source; a model, for a p.
        others: Tables of the other source, matched by id and subset; prompts that only one has are skipped.
        draws: Number of samples of the null.
        seed: Seed of the samples, see `null`.

    Returns:
        `n` prompts; `cyclic`: `correlation`, `ci95` of the null, one-sided `p`; `gradient`: `correlation` of the transitive parts. None
        if a source has no such part, that is, less than `DUST` of its energy, which is rounding. `ci95` and `p` are also None if the
        first source has tables other than a model's.

    Raises:
        DataError: The sources share no prompt, or differ in the number of responses to one.
    """
    known = {(row.id, row.subset): row for row in others}
    pairs = [(row, known[row.id, row.subset]) for row in rows if (row.id, row.subset) in known]
    if not pairs:
        raise DataError("the two evaluations have no prompt in common; compare evaluations of the same data")
    products, gradient = np.zeros(draws + 1), 0.0
    totals, cyclic_parts, gradient_parts = np.zeros(2), np.zeros(2), np.zeros(2)
    for row, other in pairs:
        if len(row.table) != len(other.table):
            raise DataError(f"prompt {row.id!r}: {len(row.table)} responses and {len(other.table)}; compare evaluations of the same data")
        graph = row.graph() & other.graph()
        table = row.array() * graph
        drawn = nulls.rotated(table, graph, draws, _stream(row, seed))
        a, b = hodge.split(np.concatenate([table[None], drawn]), graph), hodge.split(other.array(), graph)
        cyclic_a, cyclic_b = a.curl + a.harmonic, b.curl + b.harmonic
        products += (cyclic_a * cyclic_b).sum((1, 2)) / 2
        gradient += float((a.gradient[0] * b.gradient).sum()) / 2
        totals += hodge.energy(table), hodge.energy(other.array() * graph)
        cyclic_parts += hodge.energy(cyclic_a[0]), hodge.energy(cyclic_b)
        gradient_parts += hodge.energy(a.gradient[0]), hodge.energy(b.gradient)
    cyclic: dict[str, Any] = {"correlation": None, "ci95": None, "p": None}
    if (cyclic_parts > DUST * totals).all():
        correlations = products / np.sqrt(cyclic_parts.prod())
        cyclic["correlation"] = float(correlations[0])
        if all(row.kind == "model" for row, _ in pairs):
            cyclic["ci95"] = list(intervals.percentile_interval(correlations[1:]))
            cyclic["p"] = nulls.p_value(float(correlations[0]), correlations[1:])
    there = (gradient_parts > DUST * totals).all()
    return {
        "n": len(pairs),
        "cyclic": cyclic,
        "gradient": {"correlation": float(gradient / np.sqrt(gradient_parts.prod())) if there else None},
    }


def _stream(row: TableRow, seed: int) -> np.random.Generator:
    return intervals.stream(seed, f"{row.subset}/{row.id}")


def _reversible(row: TableRow, draws: int) -> bool:
    """Whether votes are reversed, for which all draws are held at once, so that they are exchangeable with the data."""
    return _at_once(row, draws) and (len(row.table) <= hodge.LARGEST or np.array(row.wins).sum() * draws <= _MOST)


def _at_once(row: TableRow, draws: int) -> bool:
    return len(row.table) <= hodge.LARGEST or len(row.table) ** 2 * draws <= _HELD


def _drawn(row: TableRow, levels: Floats, draws: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Yield tables of the null; of large ones a few at a time."""
    step = draws if _at_once(row, draws) else max(1, _CELLS // len(row.table) ** 2)
    if row.kind == "votes":
        wins, ties = (np.array(each, dtype=np.int64) for each in (row.wins, row.ties))
        if _reversible(row, draws):
            yield vote_margins(nulls.revoted(wins, draws, generator), ties)
        else:
            yield from (vote_margins(votes, ties) for votes in nulls.bradley_terry(wins, draws, generator, step))
        return
    for done in range(0, draws, step):
        count = min(step, draws - done)
        if row.kind == "majority":
            yield majority(nulls.rerated(np.array(row.ratings), levels, count, generator))
        elif row.kind == "scores":
            yield np.repeat(row.array()[None], count, axis=0)
        else:
            yield nulls.rotated(row.array(), row.graph(), count, generator)


def _statistics(tables: Floats, graph: NDArray[np.bool_], observed: Floats) -> Floats:
    """Return numerators and denominators of the four statistics of `null`, [B, 4, 2]; energies are shares of that of the observed table."""
    triples = intransitivity.triples(tables, graph)
    count = np.broadcast_to(sum(triples), triples.cyclic.shape)
    fewest = wins = np.zeros(len(tables))
    if tables.shape[-1] <= feedback_arcs.EXACT:
        arcs = (tables > 0).astype(np.float64)
        fewest, wins = feedback_arcs.minimum_weights(arcs), arcs.sum((1, 2))
    pairs = [
        (triples.cyclic, count),
        (triples.cyclic + triples.tied_cyclic, count),
        (fewest, wins),
        (hodge.energy(tables * graph - hodge.gradient(tables, graph)), np.full(len(tables), hodge.energy(observed))),
    ]
    return np.stack([np.stack(pair, axis=-1) for pair in pairs], axis=1).astype(np.float64)
