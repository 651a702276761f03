"""Several judges: whether they agree, who follows whom, and what a panel of them says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import ConfigError
from prefrep.evaluation.agreement import share
from prefrep.evaluation.audit.asked import Pair

Floats = NDArray[np.float64]


def several(by_judge: Mapping[str, Sequence[Pair]], quorum: int | None) -> dict[str, Any] | None:
    """Return agreement of judges; None: there is one, or no pair was judged by two.

    Args:
        by_judge: The pairs of each judge.
        quorum: Verdicts that a panel needs; None: more than half of the judges.

    Raises:
        ConfigError: The extra `judge` is not installed, or the quorum cannot be met.
    """
    names = list(by_judge)
    if len(names) < 2:
        return None
    needed = len(names) // 2 + 1 if quorum is None else quorum
    if not 1 <= needed <= len(names):
        raise ConfigError(f"a quorum of {needed} cannot be met by {len(names)} judges")
    units: dict[tuple[str, str, str], dict[str, float]] = {}
    gold: dict[tuple[str, str, str], float | None] = {}
    for name, pairs in by_judge.items():
        for pair in pairs:
            low, high = sorted((pair.one.a, pair.one.b))
            key, sign = (pair.one.prompt, low, high), 1.0 if pair.one.a == low else -1.0
            units.setdefault(key, {})[name] = sign * float(np.sign(pair.log_odds))
            label = pair.one.gold
            if gold.setdefault(key, None) is None and label is not None:
                gold[key] = label if sign > 0 else 1 - label
    table = np.array([[unit.get(name, math.nan) for unit in units.values()] for name in names])
    if not (np.isfinite(table).sum(0) >= 2).any():
        return None
    try:
        import krippendorff
    except ImportError as error:
        raise ConfigError("agreement of judges needs the package krippendorff; install it with pip install 'prefrep[judge]'") from error
    wide = np.isfinite(table).sum(0) >= 2
    values = np.unique(table[np.isfinite(table)])
    alpha = float(krippendorff.alpha(reliability_data=table[:, wide], level_of_measurement="ordinal")) if len(values) > 1 else math.nan
    return {
        "alpha": None if math.isnan(alpha) else alpha,
        "units": int(wide.sum()),
        "agreement": {a: {b: _agreement(table[i], table[j]) for j, b in enumerate(names) if j != i} for i, a in enumerate(names)},
        "follows": _follows(table, names) if len(names) > 2 else None,
        "panel": _panel(table, needed, list(gold.values())),
    }


def _agreement(a: Floats, b: Floats) -> dict[str, Any]:
    both = np.isfinite(a) & np.isfinite(b)
    return share(a[both] == b[both])


def _follows(table: Floats, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how often a judge says what another one says where that one differs from the majority of the rest."""
    found: dict[str, dict[str, Any]] = {}
    for i, follower in enumerate(names):
        for j, leader in enumerate(names):
            if i == j:
                continue
            rest = np.sign(np.nansum(np.delete(table, [i, j], axis=0), axis=0))
            alone = np.isfinite(table[i]) & np.isfinite(table[j]) & (rest != 0) & (table[j] != 0) & (table[j] != rest)
            found.setdefault(follower, {})[leader] = share(table[i][alone] == table[j][alone])
    return found


def _panel(table: Floats, needed: int, gold: Sequence[float | None]) -> dict[str, Any]:
    """Return what the most of the judges say; fewer verdicts than the quorum are no verdict of the panel, which is not right."""
    counted = np.isfinite(table).sum(0) >= needed
    said = np.where(counted, np.sign(np.nansum(table, axis=0)), math.nan)
    found: dict[str, Any] = {"quorum": needed, "no_verdict": share(~counted)}
    known = np.array([each is not None and each != 0.5 for each in gold])
    if known.any():
        wanted = np.array([1.0 if each is not None and each > 0.5 else -1.0 for each in gold])
        found["accuracy"] = share((said == wanted)[known])
    return found
