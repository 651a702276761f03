"""Circles of a society over many prompts: between annotators and within them, with intervals and a null without a shared taste."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.evaluation.intransitivity import Ratio, entries
from prefrep.evaluation.summary import Bootstrap
from prefrep.functional import hodge
from prefrep.functional.disagreement import Circles, Society
from prefrep.functional.intransitivity import triples
from prefrep.functional.transitive_nulls import p_value
from prefrep.metrics import intervals

Floats = NDArray[np.float64]

DUST = 1e-6  # of the energy: what rounding in float32 leaves of parts that are zero


def evaluate(tables: Iterable[tuple[tuple[str, str], NDArray[np.float32]]], bootstrap: Bootstrap, null_draws: int) -> dict[str, Any]:
    """Split the circles of the society of all annotators, see `functional.disagreement`.

    Args:
        tables: (id, subset) of each prompt, and the log-odds of U annotators, [U, K, K].
        bootstrap: Settings of the bootstrap over prompts; its seed also seeds the null.
        null_draws: Samples of the null.

    Returns:
        `annotators`: U. Shares with `score`, `n`, `ci95`, or None: `society.cyclic`, `society.between`, `society.within` of the energy of
        the society (the last two add up to the first); cyclic triples `majority.cyclic`, `majority.of_orders` (of the transitive parts);
        `annotators.cyclic` and `annotators.energy`, cyclic triples and cyclic energy of the annotators themselves. `null`: `mean`, `ci95`
        and one-sided `p` of those that change if responses are relabelled for each annotator, which leaves everybody's own circles as they
        are and makes agreement chance. A share below the null's is the rule where people share a taste. Whether differences between
        annotators are noise of the training, one model cannot show.
    """
    per_prompt: list[dict[str, Ratio]] = []
    drawn: dict[str, Floats] = {}
    people = 0
    for (name, subset), each in tables:
        people, size = each.shape[:2]
        society, count = Society(each.astype(np.float64)), comb(size, 3)
        own = hodge.split(society.tables).curl
        found = {key: (float(top), float(bottom)) for key, (top, bottom) in _shares(society.circles(), count).items()}
        found["annotators.cyclic"] = (float(triples(society.tables).cyclic.mean()), float(count))
        found["annotators.energy"] = (
            _clean(hodge.energy(own).mean(), hodge.energy(society.tables).mean()),
            float(hodge.energy(society.tables).mean()),
        )
        per_prompt.append(found)
        generator = intervals.stream(bootstrap.seed, f"annotators {subset}/{name}")
        for key, pair in _shares(society.relabelled(null_draws, generator), count).items():
            drawn[key] = drawn.get(key, 0.0) + np.stack(np.broadcast_arrays(*pair)).astype(np.float64)
    results: dict[str, Any] = {"annotators": people, **entries(per_prompt, bootstrap, "annotators")}
    results["null"] = {
        key: _against(results[key], np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0))
        for key, (top, bottom) in drawn.items()
        if results[key] is not None
    }
    return results


def _shares(found: Circles, count: int) -> dict[str, tuple[Any, Any]]:
    """Return numerators and denominators; cycles need three responses, and energies of others do not count."""
    energy = found.energy if count else np.zeros_like(found.energy)
    cyclic, between = _clean(found.cyclic, energy), _clean(found.between, energy)
    return {
        "society.cyclic": (cyclic, energy),
        "society.between": (between, energy),
        "society.within": (_clean(cyclic - between, energy), energy),
        "majority.cyclic": (found.majority, count),
        "majority.of_orders": (found.of_orders, count),
    }


def _clean(part: Any, energy: Any) -> Any:
    return np.where(np.abs(part) > DUST * energy, part, 0.0)


def _against(found: dict[str, Any], drawn: Floats) -> dict[str, Any]:
    return {
        "mean": float(drawn.mean()),
        "ci95": list(intervals.percentile_interval(drawn)),
        "p": p_value(found["score"], drawn),
    }
