"""Plots as SVG: training curves, agreement by group, and the figures that evaluations draw into files."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefrep.reports.document import Plot
from prefrep.sweeps.plots import COLORS

Lines = Sequence[Mapping[str, float]]

# Removed: metadata (the time of day), the document type (a URL that a strict parser would fetch), and comments (texts of the data, with
# characters that SVG does not allow).
_DROPPED = re.compile(rb"<metadata>.*?</metadata>|<!DOCTYPE.*?>|<!--.*?-->", re.DOTALL)
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "prefrep",
    "svg.fonttype": "path",
    "axes.grid": True,
    "grid.color": "0.92",
    "axes.axisbelow": True,
}


class Panel(NamedTuple):
    """One of the training curves.

    Args:
        label: Label of its axis.
        train: Its key in `metrics.jsonl`, logged at training steps.
        val: Its key at validations.
    """

    label: str
    train: str
    val: str = ""


PANELS = (
    Panel("loss", "train/loss", "val/loss"),
    Panel("accuracy", "train/accuracy", "val/accuracy"),
    Panel("gradient norm", "train/grad_norm"),
    Panel("learning rate", "lr"),
)


def svg(draw: Callable[[Path], None]) -> bytes:
    """Return the SVG that a drawing function writes to a path.

    Args:
        draw: Writes the figure to a path with matplotlib.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    with tempfile.TemporaryDirectory() as folder, mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # for scripts that the plot's font lacks; the page holds the texts too
        path = Path(folder) / "plot.svg"
        draw(path)
        return _DROPPED.sub(b"", path.read_bytes())


def window(steps: int) -> int:
    """Return the number of logged steps over which a training curve is smoothed."""
    return max(1, steps // 20)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return means over the last `window` values, fewer at the beginning [n]."""
    width = window(len(values))
    return [float(np.mean(values[max(i + 1 - width, 0) : i + 1])) for i in range(len(values))]


def curves(runs: Mapping[str, Lines]) -> Plot | None:
    """Return loss, accuracy, gradient norm and learning rate of training runs as a plot; None: none of them was logged.

    Args:
        runs: Lines of `metrics.jsonl` by name.
    """
    logged = {key for lines in runs.values() for line in lines for key in line}
    panels = [panel for panel in PANELS if {panel.train, panel.val} & logged]
    if not panels:
        return None
    steps = max(sum(panels[0].train in line for line in lines) for lines in runs.values())

    def draw(path: Path) -> None:
        from matplotlib import pyplot as plt

        columns = min(len(panels), 2)
        rows = -(-len(panels) // columns)
        figure, grid = plt.subplots(rows, columns, figsize=(4.6 * columns, 2.8 * rows), layout="constrained", squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            for color, (name, lines) in zip(_colors(len(runs)), runs.items(), strict=True):
                _curve(axes, panel, name if len(runs) > 1 else "", lines, color)
            axes.set(xlabel="optimizer step", ylabel=panel.label)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        handles = {
            label: handle for axes in grid.flat[: len(panels)] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        figure.savefig(path)
        plt.close(figure)

    said = f", smoothed over {window(steps)} logged steps" if window(steps) > 1 else ""
    return Plot("curves", svg(draw), "svg", f"Training curves{said}; points: validation.")


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _curve(axes: Any, panel: Panel, name: str, lines: Lines, color: str) -> None:
    prefix = f"{plain(name)}, " if name else ""
    x, y = _column(lines, panel.train)
    if x:
        axes.plot(x, smoothed(y) if panel.val else y, color=color, lw=1.2, label=f"{prefix}training")
    x, y = _column(lines, panel.val)
    if x:
        axes.plot(x, y, color=color, ls="--", lw=0.8, marker="o", ms=5, markeredgecolor="black", label=f"{prefix}validation")


def _column(lines: Lines, key: str) -> tuple[list[float], list[float]]:
    found = [(line["step"], line[key]) for line in lines if key in line]
    return [float(step) for step, _ in found], [value for _, value in found]


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is."""
    return text.replace("$", r"\$")  # matplotlib reads text between dollar signs as a formula


def agreement(results: Mapping[str, Any]) -> Plot | None:
    """Return accuracy by length and by margin as a plot, from `results.json` of an evaluation of pairs; None: there are no groups."""
    found = results["agreement"]
    panels = [("length difference, preferred minus other, characters", found["length"]["bins"])]
    if found["margin"] is not None:
        panels.append(("margin of the data", found["margin"]["bins"]))
    panels = [(label, bins) for label, bins in panels if len(bins) > 1]
    if not panels:
        return None

    def draw(path: Path) -> None:
        from matplotlib import pyplot as plt

        figure, grid = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.0), layout="constrained", squeeze=False, sharey=True)
        for axes, (label, bins) in zip(grid.flat, panels, strict=True):
            y = [each["score"] for each in bins]
            spread = [[abs(each["ci95"][side] - each["score"]) for each in bins] for side in (0, 1)]
            axes.errorbar(range(len(bins)), y, yerr=spread, fmt="o", color=COLORS[0], capsize=3)
            axes.axhline(0.5, color="0.4", ls=":", lw=1)
            names = [f"{each['low']:.3g} to\n{each['high']:.3g}\nn = {each['n']}" for each in bins]
            axes.set_xticks(range(len(bins)), names, fontsize=7)
            axes.set(xlabel=label, ylim=(-0.02, 1.02))
        grid[0, 0].set_ylabel("accuracy")
        figure.savefig(path)
        plt.close(figure)

    return Plot("agreement", svg(draw), "svg", "Accuracy in groups of about equal size; bars: 95 % intervals (Wilson); dotted: chance.")
