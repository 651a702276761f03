"""Plots of a sweep: accuracy against each numeric key, and by subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from prefrep.sweeps.spec import short_names
from prefrep.sweeps.table import Model, subsets

# Okabe and Ito's colours, which are distinguishable with colour blindness; markers distinguish them in greyscale.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"


def draw(found: Sequence[Model], out: Path) -> list[str]:
    """Draw all plots for which there are data.

    Args:
        found: Models with finished runs.
        out: Folder for PNG files.

    Returns:
        Names of the files.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    written = []
    short = short_names(list(dict.fromkeys(key for model in found for key in model.values)))
    for key in short:
        if len({model.values[key] for model in found if _number(model.values.get(key))}) > 1:
            figure = _against(plt, found, key, short)
            name = f"accuracy-{short[key]}.png"
            figure.savefig(out / name, dpi=150)
            plt.close(figure)
            written.append(name)
    if names := subsets(found):
        figure = _by_subset(plt, found, names)
        figure.savefig(out / "accuracy-subsets.png", dpi=150)
        plt.close(figure)
        written.append("accuracy-subsets.png")
    return written


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)  # infinity cannot be drawn


def _against(plt: Any, found: Sequence[Model], key: str, short: Mapping[str, str]) -> Any:
    """Draw accuracy against one key: a line for each setting of the others; models without the key are horizontal lines."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    lines: dict[str, list[Model]] = {}
    for model in found:
        if _number(model.values.get(key)):
            rest = {other: value for other, value in model.values.items() if other != key}
            said = [str(value) if other == "model" else f"{short[other]} {value}" for other, value in rest.items()]
            lines.setdefault(", ".join(said) or "accuracy", []).append(model)
    xs = sorted({model.values[key] for model in found if _number(model.values.get(key))})
    step = min(np.diff(xs))
    for i, (label, group) in enumerate(sorted(lines.items())):
        group.sort(key=lambda model: model.values[key])
        shift = 0.06 * step * (i - (len(lines) - 1) / 2)  # error bars of different lines side by side
        _bars(axes, [model.values[key] + shift for model in group], group, None, i, label)
    for i, model in enumerate([model for model in found if key not in model.values]):
        color = COLORS[-1 - i % len(COLORS)]
        axes.axhline(float(np.mean(model.accuracies())), color=color, ls=":", lw=1.5, label=model.name)
        if band := model.interval():
            axes.axhspan(*band, color=color, alpha=0.08)
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.set(xlabel=short[key], ylabel="accuracy (share of comparisons)")
    _finish(figure, axes, found)
    return figure


def _by_subset(plt: Any, found: Sequence[Model], names: Sequence[str]) -> Any:
    shown = found[: len(COLORS)]  # the best ones
    figure, axes = plt.subplots(figsize=(max(7.5, 1.1 * len(names)), 5), layout="constrained")
    for i, model in enumerate(shown):
        there = [(x, name) for x, name in enumerate(names) if model.accuracies(name)]
        shift = 0.7 * (i - (len(shown) - 1) / 2) / len(shown)
        _bars(axes, [x + shift for x, _ in there], [model] * len(there), [name for _, name in there], i, model.name, line="")
    counts = [next(iter(found[0].runs.values())).accuracy(name)[1] for name in names]
    labels = [f"{name or '(no subset)'}\nn = {n}" for name, n in zip(names, counts, strict=True)]
    axes.set_xticks(range(len(names)), labels, rotation=30 if len(names) > 4 else 0, ha="right" if len(names) > 4 else "center", fontsize=8)
    axes.set(ylabel="accuracy (share of comparisons)", xlim=(-0.6, len(names) - 0.4))
    _finish(figure, axes, shown, f"; the best {len(shown)} of {len(found)} models" if len(shown) < len(found) else "")
    return figure


def _bars(axes: Any, x: Sequence[float], group: Sequence[Model], names: Sequence[str] | None, i: int, label: str, line: str = "-") -> None:
    """Draw means with their intervals, by subset or, if `names` is None, over all examples."""
    means, spread = [], []
    for at, model in enumerate(group):
        subset = None if names is None else names[at]
        mean = float(np.mean(model.accuracies(subset)))
        low, high = model.interval(subset) or (np.nan, np.nan)  # equal accuracies of all seeds have no interval
        means.append(mean)
        spread.append(np.maximum((mean - low, high - mean), 0.0))
    color = COLORS[i % len(COLORS)]
    for at, model in enumerate(group):  # the accuracies of the seeds, if there are several
        values = model.accuracies(None if names is None else names[at])
        if len(values) > 1:
            axes.plot([x[at]] * len(values), values, ls="", marker="_", ms=7, color=color, alpha=0.6)
    axes.errorbar(
        x, means, yerr=np.transpose(spread), fmt=MARKERS[i % len(MARKERS)], ls=line, color=color, capsize=3, lw=1.2, ms=5, label=label
    )


def _finish(figure: Any, axes: Any, found: Sequence[Model], more: str = "") -> None:
    seeds = sorted({len(model.runs) for model in found})
    n = max(len(model.by_example) for model in found)
    over = "over examples" if seeds[-1] == 1 else "Student's t over seeds" + ("; of one seed: over examples" if seeds[0] == 1 else "")
    dashes = "; dashes: seeds" if seeds[-1] > 1 else ""
    axes.set_title(
        f"{n} comparisons, {'-'.join(map(str, seeds))} seed(s); bars and bands: 95 % intervals ({over}){dashes}{more}", fontsize=9
    )
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
