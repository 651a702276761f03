"""Figures of intransitivity: the verdicts on one prompt as a graph, and the cycle rate against those of a transitive model."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.evaluation.tables import TableRow

# Okabe and Ito's palette, which is distinguishable with red-green blindness and in greyscale.
FORWARD, BACK, NEUTRAL = "#0072B2", "#D55E00", "#999999"
ARROWS = 26  # responses that are drawn with arrows; more are a picture of the table
_MATRIX = (
    "Blue: the row beats the column; orange: loses; grey: not compared. Rows and columns are in the best order,\n"
    "so that orange above the diagonal goes against it."
)


def label(i: int) -> str:
    """Return the label of a response: A, B, ..., Z, A1, B1, ..."""
    return chr(65 + i % 26) + (str(i // 26) if i >= 26 else "")


def most_cyclic(described: Sequence[Mapping[str, Any]]) -> int:
    """Return the prompt with the largest share of cyclic triples, then with most triples that are cyclic but for a tie, then the first.

    Args:
        described: Results of `intransitivity.describe`, one per prompt.
    """

    def rank(i: int) -> tuple[float, float, int]:
        found = described[i]
        count = max(sum(found["triples"].values()), 1)
        return found["triples"]["cyclic"] / count, found["triples"]["tied_cyclic"] / count, -i

    return max(range(len(described)), key=rank)


def cycle_graph(axes: Any, table: NDArray[np.float64], compared: NDArray[np.bool_], order: Sequence[int]) -> None:
    """Draw responses on a circle, in the best order clockwise from the top, with arrows from winner to loser whose width is the margin.

    Args:
        axes: Axes of matplotlib.
        table: [K, K], skew-symmetric.
        compared: [K, K]; ties among these are grey lines.
        order: The responses, best first: arrows against it are dashed and have another colour.
    """
    size = len(table)
    angles = np.pi / 2 - 2 * np.pi * np.arange(size) / size
    place = {response: np.array([np.cos(angle), np.sin(angle)]) for response, angle in zip(order, angles, strict=True)}
    largest = float(np.abs(table).max()) or 1.0
    for better, worse in combinations(order, 2):
        strength = table[better, worse]
        if not compared[better, worse]:
            continue
        if strength == 0:
            axes.plot(*zip(place[better], place[worse], strict=True), color=NEUTRAL, lw=0.8, zorder=1)
            continue
        winner, loser = (better, worse) if strength > 0 else (worse, better)
        arrow = {
            "arrowstyle": "-|>",
            "color": FORWARD if strength > 0 else BACK,
            "linestyle": "-" if strength > 0 else (0, (4, 2)),
            "lw": 0.8 + 2.4 * abs(strength) / largest,
            "mutation_scale": 16,
            "shrinkA": 14,
            "shrinkB": 14,
            "connectionstyle": "arc3,rad=0.08",
        }
        axes.annotate("", place[loser], place[winner], arrowprops=arrow)
    for response, (x, y) in place.items():
        axes.plot(x, y, "o", ms=24, color="white", markeredgecolor="black", zorder=3)
        axes.annotate(label(response), (x, y), ha="center", va="center", weight="bold", zorder=4)
    axes.set(aspect="equal", xlim=(-1.35, 1.35), ylim=(-1.35, 1.35))
    axes.axis("off")


def matrix(axes: Any, table: NDArray[np.float64], compared: NDArray[np.bool_], order: Sequence[int]) -> None:
    """Draw a table in the best order as a picture; arguments as in `cycle_graph`."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("beats", [BACK, "#f7f7f7", FORWARD], bad="#c9c9c9")
    largest = float(np.abs(table).max()) or 1.0
    shown = np.ma.masked_array(table, ~compared)[np.ix_(order, order)]
    axes.imshow(shown, cmap=colors, vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def draw(path: Path, row: TableRow, found: Mapping[str, Any], texts: Sequence[str], results: Mapping[str, Any]) -> None:
    """Draw the figure of an evaluation.

    Args:
        path: The PNG.
        row: The table of the most cyclic prompt.
        found: Its description.
        texts: Its prompt, then its responses.
        results: Those of `intransitivity.evaluate`.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6), width_ratios=[1, 1.1])
    figure.subplots_adjust(left=0.03, right=0.97, top=0.93, bottom=0.33, wspace=0.12)
    drawn = len(row.table) <= ARROWS
    (cycle_graph if drawn else matrix)(left, row.array(), row.graph(), found["feedback_arcs"]["order"])
    triples, count = found["triples"], sum(found["triples"].values())
    tied = f", {triples['tied_cyclic']} but for a tie" if triples["tied_cyclic"] else ""
    title = f"The most cyclic prompt: {triples['cyclic']} of {count} triples are cyclic{tied}"
    left.set_title(title if triples["cyclic"] or tied else "No triple is cyclic; the first prompt", fontsize=11)
    lines = [f"Prompt {found['id']}: {_short(texts[0], 88)}"]
    lines += [f"{label(i)}: {_short(text, 88)}" for i, text in list(enumerate(texts[1:]))[:8]]
    lines += [f"... and {len(texts) - 9} more"] if len(texts) > 9 else []
    caption = (
        _MATRIX
        if not drawn
        else "Arrow: beats; width: margin; dashed: against the best order, which runs clockwise from the top.\nGrey line: a tie."
    )
    figure.text(0.03, 0.29, "\n".join([caption, *lines]), fontsize=8, va="top")

    held = results["null"]["triples.intransitive"]
    draws, observed = np.array(held["draws"]), held["observed"]
    right.hist(
        draws,
        bins=_bins(draws, observed, sum(results["tables"]["triples"].values())),
        color=NEUTRAL,
        edgecolor="white",
        label="a transitive model with the same noise",
    )
    right.axvline(observed, color=BACK, lw=2, label=f"observed, {observed:.3f} (p = {held['p']:.3g})")
    strict = results["null"]["triples.cyclic"]
    right.set(xlabel="share of intransitive triples (cyclic, or cyclic but for a tie)", ylabel=f"draws of {len(draws)}")
    title = f"{results['tables']['n']} prompts, {sum(results['tables']['triples'].values())} triples"
    right.set_title(f"{title}; strictly cyclic: {strict['observed']:.3f} (p = {strict['p']:.3g})", fontsize=11)
    right.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2)
    if max(observed, float(draws.max())) < 0.005:
        right.set_xlim(-0.002, 0.05)  # all zeros: there is no scale
    right.spines[["top", "right"]].set_visible(False)
    figure.text(0.53, 0.14, "Null: " + _wrapped("; ".join(results["null"]["models"].values()), 92), fontsize=8, va="top")
    figure.savefig(path, dpi=130, facecolor="white", bbox_inches="tight")
    plt.close(figure)


def _bins(draws: NDArray[np.float64], observed: float, count: int) -> NDArray[np.float64]:
    """Return bin edges between the possible shares n / count: bins that hold unequal numbers of them would look jagged."""
    low, high = (round(count * edge) for edge in (min(float(draws.min()), observed), max(float(draws.max()), observed)))
    width = max(1, -(-(high - low + 1) // 30))
    return (np.arange(low, high + 1 + width, width) - 0.5) / max(count, 1)


def _short(text: str, width: int) -> str:
    # Matplotlib reads text between dollar signs as a formula.
    return textwrap.shorten(text, width, placeholder=" ...").replace("$", r"\$")


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
