"""Calibration of a model's probabilities: the numbers, and the reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.evaluation.summary import Bootstrap
from prefrep.metrics import calibration, intervals

PLOT = "reliability.png"
BINS = 10

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """Columns of comparisons.

    Args:
        scores: Log-odds of chosen over rejected [n].
        outcomes: P(chosen wins) according to the data [n].
        prompts: Group numbers from 0 [n], equal for comparisons on one prompt; None: each comparison is a group.
    """

    scores: Floats
    outcomes: Floats
    prompts: intervals.Ints | None


def reliability(rows: Scored, held_out: Scored | None, bootstrap: Bootstrap) -> tuple[dict[str, Any], list[str]]:
    """Return Brier score, log loss, calibration error and bins, before and after temperature scaling, and notes.

    Args:
        rows: Scored comparisons.
        held_out: Other comparisons, on which the temperature is fitted; None: no temperature.
        bootstrap: Settings of the bootstrap, which resamples prompts.
    """
    found, notes = _measure(rows, bootstrap), []
    if (rows.outcomes % 1 != 0).any():
        notes.append("soft labels count as expected outcomes; the calibration error by chance assumes hard outcomes and is too large here")
    found["temperature"] = None
    if held_out is not None:
        n = len(held_out.scores)
        try:
            value, interval = calibration.fit_temperature(*held_out)
        except ValueError as error:
            notes.append(f"no temperature: among the {n} comparisons to fit it on, {error}")
        else:
            after = _measure(rows._replace(scores=rows.scores / value), bootstrap)
            found["temperature"] = {"value": value, "ci95": list(interval), "n": n, "after": after}
    return found, notes


def _measure(rows: Scored, boot: Bootstrap) -> dict[str, Any]:
    """Return Brier score, log loss, calibration error and the bins of the reliability diagram."""
    scores, outcomes, prompts = rows
    score, loss = (float(calibration.each(of, scores, outcomes).mean()) for of in (calibration.brier, calibration.log_loss))
    confidence, outcome = calibration.folded(scores, outcomes)
    bins = calibration.equal_mass(confidence, BINS)
    n = len(scores)
    diagram = []
    for number in range(int(bins.max()) + 1):
        inside = bins == number
        count, mean = int(inside.sum()), float(outcome[inside].mean())
        low, high = float(confidence[inside].min()), float(confidence[inside].max())
        interval = intervals.accuracy_interval(round(mean * count), count)
        diagram.append(
            {"low": low, "high": high, "n": count, "confidence": float(confidence[inside].mean()), "outcome": mean, "ci95": list(interval)}
        )
    error = calibration.calibration_error(confidence, outcome, bins)
    del confidence, outcome  # of a million comparisons they are large
    spread = calibration.bootstrap(scores, outcomes, bins, boot.draws, intervals.stream(boot.seed, "calibration"), prompts)
    chance = {"mean": spread.calibrated_mean, "p95": spread.calibrated_p95}
    return {
        "brier": {"score": score, "n": n, "ci95": list(spread.brier)},
        "log_loss": {"score": loss, "n": n, "ci95": list(spread.log_loss)},
        "ece": {"score": error, "n": n, "if_calibrated": chance},
        "bins": diagram,
    }


def reliability_plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw the reliability diagram of results, before and after temperature scaling."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    measured = results["calibration"]
    figure, axes = plt.subplots(figsize=(6, 5.4), layout="constrained")
    axes.plot([0.5, 1], [0.5, 1], color="0.6", ls="--", lw=1, label="calibrated")
    fitted = measured["temperature"]
    drawn = [("before scaling", measured, "#0072B2", "o")]
    if fitted is not None:
        drawn.append((f"temperature {fitted['value']:.3g}, fitted on {fitted['n']} others", fitted["after"], "#D55E00", "s"))
    for name, each, color, marker in drawn:
        x, y = [[one[key] for one in each["bins"]] for key in ("confidence", "outcome")]
        down, up = ([abs(one["ci95"][side] - one["outcome"]) for one in each["bins"]] for side in (0, 1))
        label = f"{name}: ECE {each['ece']['score']:.3f}, log loss {each['log_loss']['score']:.3f}"
        axes.errorbar(x, y, yerr=[down, up], fmt=f"{marker}-", color=color, capsize=3, lw=1, label=label)
    axes.set(xlabel="confidence, max(p, 1 - p)", ylabel="share of correct verdicts", xlim=(0.49, 1.01))
    n, bins = measured["ece"]["n"], len(measured["bins"])
    axes.set_title(f"{n} comparisons in {bins} bins of about equal size; bars: 95 % intervals", fontsize=10)
    axes.legend(loc="best", fontsize=8, framealpha=0.9)
    axes.grid(color="0.92")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
