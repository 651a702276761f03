"""How intransitive a model or a data set is, from K x K tables: per prompt, and over all prompts with intervals and p-values.

Every number over all prompts is a ratio of sums (cyclic triples by all triples, cyclic energy by all energy), so larger prompts weigh more.
Intervals resample prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.evaluation.summary import Bootstrap
from prefrep.evaluation.tables import TableRow
from prefrep.evaluation.transitive_null import null
from prefrep.functional import feedback_arcs, hodge, intransitivity, rankings
from prefrep.metrics import intervals

Floats = NDArray[np.float64]
Ratio = tuple[float, float]

HELD = 0.95  # share of the energy that `dimension` has to keep
FULL = 1 - 1e-9  # the precision to which fp32 tables determine their rank


def describe(row: TableRow) -> dict[str, Any]:
    """Return the analysis of one table as plain data; entries that need a complete table are null for others.

    Args:
        row: The table.

    Returns:
        `triples`: counts. `feedback_arcs`: the fewest verdicts (and, separately, the least weight) that an order violates, the order of the
        least weight, and whether both are exact. `energy`: shares of gradient, curl and harmonic part. `spectrum`, `rank`,
        `effective_rank`, `dimension`: see `functional.intransitivity`. `condorcet`: index of the winner. `scores`: by ranking rule.
        `hodge_scores`: least-squares scores. `blocks`: of a general preference model, energies by block.
    """
    table, graph = row.array(), row.graph()
    size, complete = len(table), row.compared is None
    arcs = np.maximum(table, 0.0)
    unit, weighted = feedback_arcs.minimum((arcs > 0).astype(np.float64)), feedback_arcs.minimum(arcs)
    parts = hodge.split(table, graph)
    found: dict[str, Any] = {
        "id": row.id,
        "subset": row.subset,
        "responses": size,
        "pairs": int(np.triu(graph, 1).sum()),
        "complete": complete,
        "triples": {name: int(count) for name, count in intransitivity.triples(table, graph)._asdict().items()},
        "arcs": int((arcs > 0).sum()),
        "weight": float(arcs.sum()),
        "feedback_arcs": {
            "arcs": round(unit.weight),
            "weight": weighted.weight,
            "arcs_at_least": math.ceil(unit.lower - 1e-9),
            "weight_at_least": weighted.lower,
            "order": list(weighted.order),
        },
        "energy": {"total": float(hodge.energy(table))}
        | {name: float(hodge.energy(getattr(parts, name))) for name in ("gradient", "curl", "harmonic")},
        "cyclic_dimension": hodge.cyclic_dimension(graph),
        "hodge_scores": parts.scores.tolist(),
        "condorcet": intransitivity.condorcet_winner(table, graph),
    }
    found |= {"spectrum": None, "rank": None, "effective_rank": None, "dimension": None, "scores": None}
    if complete and size > 1:
        scales = intransitivity.spectrum(table)
        margins = rankings.margins(table) if row.kind == "model" else table
        found |= {
            "spectrum": scales.tolist(),
            "rank": intransitivity.dimension(scales, FULL),
            "effective_rank": intransitivity.effective_rank(scales),
            "dimension": intransitivity.dimension(scales, HELD),
            "scores": {name: rule(margins).tolist() for name, rule in rankings.RULES.items()},
        }
    if row.blocks is not None:
        found["blocks"] = _blocks(np.array(row.blocks, dtype=np.float64), parts)
    return found


def _blocks(blocks: Floats, whole: hodge.Hodge) -> list[dict[str, float]]:
    """Return the energies of each block [D/2, K, K], and its inner products with the parts of the whole table, which add up to theirs."""
    split = hodge.split(blocks)
    rows = zip(blocks, split.gradient, split.curl, strict=True)
    return [
        {
            "energy": float(hodge.energy(block)),
            "gradient": float(hodge.energy(gradient)),
            "curl": float(hodge.energy(curl)),
            "in_gradient": float((gradient * whole.gradient).sum() / 2),
            "in_curl": float((curl * whole.curl).sum() / 2),
        }
        for block, gradient, curl in rows
    ]


def ratios(found: dict[str, Any]) -> dict[str, Ratio]:
    """Return the contribution of one prompt to each number over all prompts, as numerator and denominator.

    Args:
        found: The result of `describe`.
    """
    triples, arcs, energy = found["triples"], found["feedback_arcs"], found["energy"]
    count = sum(triples.values())
    values: dict[str, Ratio] = {
        "triples.cyclic": (triples["cyclic"], count),
        "triples.tied_cyclic": (triples["tied_cyclic"], count),
        "triples.tied": (triples["tied"], count),
        "triples.intransitive": (triples["cyclic"] + triples["tied_cyclic"], count),
        "prompts_with_a_cycle": (float(arcs["arcs_at_least"] > 0), float(found["cyclic_dimension"] > 0)),
        "feedback_arcs.arcs": (arcs["arcs"], found["arcs"]),
        "feedback_arcs.weight": (arcs["weight"], found["weight"]),
    }
    values |= {f"energy.{name}": (energy[name], energy["total"]) for name in ("gradient", "curl", "harmonic")}
    values["energy.cyclic"] = (energy["curl"] + energy["harmonic"], energy["total"])
    values["energy.cyclic_of_noise"] = (energy["total"] * found["cyclic_dimension"] / max(found["pairs"], 1), energy["total"])
    if found["spectrum"] is not None:
        values["condorcet_winner"] = (float(found["condorcet"] is not None), 1.0)
        values |= {name: (float(found[name]), 1.0) for name in ("rank", "effective_rank", "dimension")}
        values |= {f"spectrum.{i}": (scale**2, energy["total"]) for i, scale in enumerate(found["spectrum"], 1)}
        scores = {name: np.array(each) for name, each in found["scores"].items()}
        for a, b in combinations(scores, 2):
            tau = rankings.kendall_tau(scores[a], scores[b])
            values[f"kendall_tau.{a}-{b}"] = (0.0, 0.0) if math.isnan(tau) else (tau, 1.0)
            values[f"same_winner.{a}-{b}"] = (float(rankings.winners(scores[a]) == rankings.winners(scores[b])), 1.0)
    total = sum(block["energy"] for block in found.get("blocks", ()))
    for i, block in enumerate(found.get("blocks", ()), 1):
        values |= {
            f"blocks.{i}.energy": (block["energy"], total),
            f"blocks.{i}.cyclic": (block["curl"], block["energy"]),
            f"blocks.{i}.of_transitive_part": (block["in_gradient"], energy["gradient"]),
            f"blocks.{i}.of_cyclic_part": (block["in_curl"], energy["curl"]),
        }
    return values


def evaluate(
    rows: Sequence[TableRow], bootstrap: Bootstrap | None = None, null_draws: int = 1000
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the part of `results.json` that follows from the tables, and the description of each table.

    Args:
        rows: The tables.
        bootstrap: Settings of the bootstrap; its seed also seeds the null.
        null_draws: Number of samples of the transitive null.

    Returns:
        Results and descriptions. In the results each number has `score`, `n` (prompts that contribute), `ci95`; null if none contributes.
    """
    boot = bootstrap or Bootstrap()
    described = [describe(row) for row in rows]
    per_prompt = [ratios(found) for found in described]
    flat = entries(per_prompt, boot, "all")
    results: dict[str, Any] = {
        "benchmark": "intransitivity",
        "overall": flat["triples.cyclic"],
        "subsets": {},
        "tables": {
            "n": len(rows),
            "kinds": dict(Counter(row.kind for row in rows)),
            "complete": sum(found["complete"] for found in described),
            "responses": dict(sorted(Counter(str(found["responses"]) for found in described).items(), key=lambda item: int(item[0]))),
            "triples": {name: sum(found["triples"][name] for found in described) for name in described[0]["triples"]},
            "inexact_feedback_arcs": sum(
                found["feedback_arcs"]["arcs_at_least"] < found["feedback_arcs"]["arcs"]
                or found["feedback_arcs"]["weight_at_least"] < found["feedback_arcs"]["weight"]
                for found in described
            ),
        },
    }
    names = list(dict.fromkeys(row.subset for row in rows))
    if len(names) > 1:
        for name in names:
            group = [each for each, row in zip(per_prompt, rows, strict=True) if row.subset == name]
            results["subsets"][name] = entries(group, boot, f"subset {name}", ["triples.cyclic"])["triples.cyclic"]
    for name, value in flat.items():
        _put(results, name.split("."), value)
    for name in ("blocks", "spectrum"):
        results[name] = list(results.get(name, {}).values())
    results["null"] = null(rows, null_draws, boot.seed)
    results["bootstrap"] = {"draws": boot.draws, "seed": boot.seed}
    results["notes"] = _notes(rows, described)
    return results, described


def entries(
    per_prompt: Sequence[dict[str, Ratio]], boot: Bootstrap, name: str, wanted: Sequence[str] | None = None
) -> dict[str, dict[str, Any] | None]:
    """Return ratios of sums over prompts with intervals that resample prompts.

    Args:
        per_prompt: Numerator and denominator of each number, for each prompt.
        boot: Settings of the bootstrap.
        name: Of the stream of random numbers.
        wanted: Names of the numbers; None: all.

    Returns:
        `score`, `n` (prompts that contribute) and `ci95` of each number; None if no prompt contributes.
    """
    names = wanted or list(dict.fromkeys(key for values in per_prompt for key in values))
    sums = np.array([[values.get(key, (0.0, 0.0)) for key in names] for values in per_prompt])  # [prompts, numbers, 2]
    n, generator = len(sums), intervals.stream(boot.seed, name)
    weights = (generator.multinomial(n, np.full(n, 1 / n)) for _ in range(boot.draws))
    draws = np.array([np.tensordot(weight, sums, 1) for weight in weights])
    total = sums.sum(0)
    found: dict[str, dict[str, Any] | None] = {}
    for i, key in enumerate(names):
        if total[i, 1] <= 0:
            found[key] = None
            continue
        kept = draws[draws[:, i, 1] > 0, i]
        low, high = intervals.percentile_interval(kept[:, 0] / kept[:, 1])
        found[key] = {"score": float(total[i, 0] / total[i, 1]), "n": int((sums[:, i, 1] > 0).sum()), "ci95": [low, high]}
    return found


def _put(results: dict[str, Any], path: list[str], value: object) -> None:
    for part in path[:-1]:
        results = results.setdefault(part, {})
    results[path[-1]] = value


def _notes(rows: Sequence[TableRow], described: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    kinds = {row.kind for row in rows}
    large = sum(len(row.table) > feedback_arcs.EXACT for row in rows)
    if large:
        notes.append(
            f"{large} prompts have more than {feedback_arcs.EXACT} responses: their feedback arcs are the best of a local search, and the "
            "minimum lies between that and the lower bound beside it; there is no null of feedback arcs"
        )
    incomplete = sum(not found["complete"] for found in described)
    if incomplete:
        notes.append(f"{incomplete} tables lack pairs: rankings, spectra and Condorcet winners are of the {len(rows) - incomplete} others")
    if "scores" in kinds:
        notes.append(f"{sum(row.kind == 'scores' for row in rows)} tables come from one score per response and cannot have cycles")
    if "votes" in kinds and not any(row.kind == "votes" and np.max(_pairs(row)) > 1 for row in rows):
        notes.append(
            "no pair was voted on twice, so noise cannot be told from cycles: the null keeps the cyclic triples of complete tables"
        )
    if kinds - {"model"}:
        notes.append("energies are of margins: a strict order has cyclic energy too (1/9 for three responses)")
    if "majority" in kinds:
        notes.append(
            "cyclic energy has no p-value for ratings, since rounding changes it; "
            "those of triples and feedback arcs kept their level in simulations"
        )
    return notes


def _pairs(row: TableRow) -> Floats:
    wins = np.array(row.wins)
    return np.asarray(wins + wins.T)
