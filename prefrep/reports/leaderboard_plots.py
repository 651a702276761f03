"""Plots of a leaderboard: ratings with intervals, who beats whom, where battles disagree with the ratings, and the clearest circles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prefrep.evaluation.intransitivity_plot import cycle_graph, label
from prefrep.reports.document import Plot
from prefrep.reports.figures import plain, svg
from prefrep.sweeps.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

NAMED = 70  # systems whose names fit beside a picture
BARS = 60  # systems of the plot of ratings
WON = "share of battles that the row wins"
CIRCLED = 8  # systems of the drawing of circles


def _names(results: Mapping[str, Any]) -> list[str]:
    return [plain(row["name"]) for row in results["systems"]]


def shares_of(results: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """Return how often the system of a row beats that of a column, NaN where they never met, and the weight of their battles."""
    won = np.array(results["won"], dtype=np.float64)
    total = won + won.T
    return np.where(total > 0, won / np.where(total > 0, total, 1), np.nan), total


def ratings(results: Mapping[str, Any]) -> Plot:
    """Return ratings with intervals, best first."""
    rows = results["systems"][:BARS]

    def draw(path: Path) -> None:
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(8.0, 0.9 + 0.19 * len(rows)), layout="constrained")
        draw_ratings(axes, rows, results["scale"])
        figure.savefig(path)
        plt.close(figure)

    more = f"; the first {BARS} of {len(results['systems'])}" if len(results["systems"]) > BARS else ""
    return Plot("ratings", svg(draw), "svg", f"Ratings with 95 % intervals; behind each name, the ranks that are not excluded{more}.")


def draw_ratings(axes: Axes, rows: Sequence[Mapping[str, Any]], scale: str) -> None:
    """Draw ratings with intervals, best first."""
    places = np.arange(len(rows))
    values = np.array([row["rating"]["value"] for row in rows])
    low, high = np.array([row["rating"]["ci95"] for row in rows]).T
    axes.errorbar(values, places, xerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)], fmt="o", ms=4, color=COLORS[0], lw=1.2)
    axes.set_yticks(places, [f"{plain(row['name'])}   {_ranks(row)}" for row in rows], fontsize=7)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="rating, Elo points" if scale == "elo" else "rating, nats")
    axes.grid(axis="y", visible=False)


def _ranks(row: Mapping[str, Any]) -> str:
    low, high = row["ranks95"]
    return f"{low}" if low == high else f"{low}-{high}"


def wins(results: Mapping[str, Any]) -> Plot:
    """Return win rates as a heat map, in the order of the ratings."""
    shares, _ = shares_of(results)
    return _heat(
        "wins", shares, _names(results), (0.0, 1.0), WON,
        "Who beats whom, in the order of the ratings: blue where the row wins, orange where it loses, grey where the two never met.",
    )  # fmt: skip


def surprises(results: Mapping[str, Any]) -> Plot:
    """Return where battles disagree with the ratings, in an order that puts systems with like surprises side by side."""
    shares, total = shares_of(results)
    expected = np.array(results["expected"], dtype=np.float64) / np.where(total > 0, total, 1)
    errors = np.sqrt(np.maximum(expected * (1 - expected), 1e-6) / np.where(total > 0, total, 1))
    scores = np.where(total > 0, (np.nan_to_num(shares) - expected) / errors, np.nan)
    order = _order(np.nan_to_num(scores))
    names = _names(results)
    return _heat(
        "surprises", scores[np.ix_(order, order)], [names[i] for i in order], (-3.0, 3.0), "standard errors above the ratings",
        "Where battles disagree with the ratings: blue where the row wins more often than its rating says. Systems with like surprises are "
        "side by side, so that groups which beat each other in turn show as blocks; without circles, this is noise.",
    )  # fmt: skip


def _order(scores: Floats) -> list[int]:
    """Return an order with like rows side by side (average linkage, optimal leaves)."""
    from scipy.cluster.hierarchy import linkage, optimal_leaf_ordering
    from scipy.spatial.distance import pdist

    if len(scores) < 3:
        return list(range(len(scores)))
    distances = pdist(np.clip(scores, -4, 4))
    tree = linkage(distances, "average")
    if len(scores) <= 200:
        tree = optimal_leaf_ordering(tree, distances)
    from scipy.cluster.hierarchy import leaves_list

    return [int(i) for i in leaves_list(tree)]


def _heat(name: str, values: Floats, names: Sequence[str], limits: tuple[float, float], bar: str, caption: str) -> Plot:
    def draw(path: Path) -> None:
        from matplotlib import pyplot as plt

        size = len(values)
        side = min(2.6 + 0.16 * size, 11.5) if size <= NAMED else 8.5
        figure, axes = plt.subplots(figsize=(side + 0.9, side), layout="constrained")
        draw_heat(axes, values, names, limits, bar)
        figure.savefig(path, dpi=150)
        plt.close(figure)

    return Plot(name, svg(draw), "svg", caption)


def draw_heat(axes: Axes, values: Floats, names: Sequence[str], limits: tuple[float, float], bar: str) -> None:
    """Draw a table [K, K] of systems as colours: blue above the middle of the limits, orange below, grey for NaN."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("wins", [COLORS[1], "#f7f7f7", COLORS[0]], bad="#c9c9c9")
    shown = values.copy()
    np.fill_diagonal(shown, np.nan)
    picture = axes.imshow(np.ma.masked_invalid(shown), cmap=colors, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    if len(values) <= NAMED:
        axes.set_xticks(range(len(values)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(values)), names, fontsize=6)
    axes.grid(visible=False)
    axes.figure.colorbar(picture, ax=axes, shrink=0.6, label=bar)


def circles(results: Mapping[str, Any]) -> Plot | None:
    """Return the clearest circles as a drawing; None: there are none."""
    found = results["one_number"]["circles"]
    chosen: dict[str, None] = {}
    for circle in found:
        if len(chosen | dict.fromkeys(circle["systems"])) <= CIRCLED:
            chosen |= dict.fromkeys(circle["systems"])
    if not chosen:
        return None
    place = {row["name"]: i for i, row in enumerate(results["systems"])}
    members = sorted(place[name] for name in chosen)
    won = np.array(results["won"], dtype=np.float64)[np.ix_(members, members)]
    total = won + won.T
    table = (won - won.T) / np.where(total > 0, total, 1)

    def draw(path: Path) -> None:
        from matplotlib import pyplot as plt

        figure, (axes, beside) = plt.subplots(1, 2, figsize=(9.5, 5.0), layout="constrained", width_ratios=[1.1, 1])
        cycle_graph(axes, table, total > 0, list(range(len(members))))
        beside.axis("off")
        lines = [f"{label(i)}   {plain(results['systems'][member]['name'])}" for i, member in enumerate(members)]
        beside.text(0.0, 0.98, "\n".join(lines), va="top", fontsize=9, linespacing=1.6)
        figure.savefig(path)
        plt.close(figure)

    return Plot(
        "circles", svg(draw), "svg",
        "Systems of the clearest circles, best rated at the top and then clockwise. Arrows run from winner to loser, as wide as the "
        "margin; orange and dashed: the lower rated one wins.",
    )  # fmt: skip
