"""A league of policies: all against all by one judge, prompt by prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import DataError
from prefrep.evaluation.entrants import Entrant
from prefrep.evaluation.summary import Bootstrap, entry
from prefrep.evaluation.tables import TableLog, TableRow
from prefrep.judges import Comparer
from prefrep.metrics import intervals
from prefrep.metrics.league import league
from prefrep.records import Messages, RankedResponses

Floats = NDArray[np.float64]
SHOWN = 20  # cycles


def shared(entrants: Sequence[Entrant]) -> tuple[list[Messages], list[str]]:
    """Return the prompts that all policies answered, in the order of the first one, and notes on answers that are left out.

    Raises:
        DataError: There is none.
    """
    prompts = [prompt for prompt in entrants[0].answers if all(prompt in each.answers for each in entrants)]
    if not prompts:
        names = ", ".join(each.name for each in entrants)
        raise DataError(f"{names} have no prompt in common; give answers to the same prompts")
    notes = [
        f"{len(each.answers) - len(prompts)} of {len(each.answers)} prompts of {each.name} were not answered by all and are left out"
        for each in entrants
        if len(each.answers) > len(prompts)
    ]
    return prompts, notes


def judge(
    referee: Comparer,
    entrants: Sequence[Entrant],
    prompts: Sequence[Messages],
    out: Path,
    described: Mapping[str, Any],
    restart: bool = False,
) -> list[TableRow]:
    """Compare the answers to each prompt into `out/tables.jsonl`, resuming an interrupted run.

    Each row has the margins between policies [K, K]: means over their answers of P(row wins) - P(column wins).

    Args:
        referee: The judge.
        entrants: The policies.
        prompts: The prompts.
        out: Output folder.
        described: Identity of the judge.
        restart: Discard the tables that the folder holds.

    Raises:
        ConfigError: The folder holds tables of another judge or of other answers.
    """
    records = [RankedResponses(prompt, tuple(answer for each in entrants for answer in each.answers[prompt])) for prompt in prompts]
    said = json.dumps([[each.name, [[m.content for m in a] for p in prompts for a in each.answers[p]]] for each in entrants])
    identity = {"benchmark": "league", "model": dict(described), "data": hashlib.sha256(said.encode()).hexdigest()}
    with TableLog(out, TableRow, identity, [(str(number), "") for number in range(len(prompts))], restart) as log:
        done = len(log.rows)
        found = referee.tables(records[done:], progress="league") if done < len(records) else ()
        for number, table in enumerate(found, start=done):
            sizes = [len(each.answers[prompts[number]]) for each in entrants]
            between = _between(table.sum(0) if table.ndim == 3 else table, sizes)
            log.append(TableRow(str(number), "", "probabilities", tuple(tuple(float(each) for each in row) for row in between)))
        return list(log.rows)


def _between(log_odds: NDArray[np.float32], sizes: Sequence[int]) -> Floats:
    """Return mean margins of groups of answers, of the given sizes: log-odds [A, A] -> [K, K]."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    means = (of == np.arange(len(sizes))[:, None]) / np.array(sizes, np.float64)[:, None]  # [K, A]
    found = means @ np.tanh(log_odds.astype(np.float64) / 2) @ means.T
    return np.asarray((found - found.T) / 2)


def results(rows: Sequence[TableRow], entrants: Sequence[Entrant], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the table of the league with 95 % intervals over prompts.

    Args:
        rows: From `judge`.
        entrants: The policies in the order of the tables.
        bootstrap: Settings of the bootstrap.

    Returns:
        `win`: win rate of each policy against each other one. `mean`: its mean win rate against the others. `lottery`: its probability in
        the maximal lottery. `kl`: nats per answer to the initial policy, where its runs measured it; null otherwise. `cycles`: of three
        policies. Also counts and notes.
    """
    names, n = [each.name for each in entrants], len(rows)
    found = league(np.stack([row.array() for row in rows]), bootstrap.draws, intervals.stream(bootstrap.seed, "league"))
    size = len(names)
    wins, draws = (1 + found.margins) / 2, (1 + found.draws) / 2
    means, mean_draws = ((each.sum(-1) - 0.5) / (size - 1) for each in (wins, draws))
    cycles = [
        {
            "policies": [names[member] for member in cycle.members],
            "win": [(1 + margin) / 2 for margin in cycle.margins],
            "share_of_resamples": cycle.share,
            "each_beyond_chance": cycle.sure,
        }
        for cycle in found.cycles
    ]
    return {
        "policies": names,
        "n": n,
        "answers": {each.name: len(next(iter(each.answers.values()))) for each in entrants},
        "win": {a: {b: entry(wins[i, j], n, draws[:, i, j]) for j, b in enumerate(names) if i != j} for i, a in enumerate(names)},
        "mean": {name: entry(means[i], n, mean_draws[:, i]) for i, name in enumerate(names)},
        "lottery": {name: entry(found.lottery[i], n, found.lottery_draws[:, i]) for i, name in enumerate(names)},
        "kl": {each.name: float(np.mean(each.kl)) if each.kl else None for each in entrants},
        "cycles": cycles[:SHOWN],
        "triples": {"cyclic": len(cycles), "each_beyond_chance": sum(cycle.sure for cycle in found.cycles), "n": found.triples},
        "bootstrap": {"draws": bootstrap.draws, "seed": bootstrap.seed},
        "notes": [f"intervals are over the {n} prompts alone, not over seeds of training"],
    }
