"""The quickstart's picture: one cycle as a Bradley-Terry model and a general preference model hold it."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prefrep.modules import PreferenceModule
from prefrep.modules.remembered import Reading
from prefrep.records import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = "ABC"
RIGHT, WRONG, DOT = "#1f77b4", "#c0392b", "#f2a33a"


@torch.no_grad()
def draw(path: Path, bt: PreferenceModule, gpm: PreferenceModule, reading: Reading, cycle: list[Comparison]) -> None:
    """Draw rewards on a line beside embeddings on a circle, with an arrow for each comparison of the cycle.

    Args:
        path: PNG to write.
        bt: Bradley-Terry model.
        gpm: General preference model of dimension 2.
        reading: What the language model read.
        cycle: Three comparisons, each chosen response the rejected one of the comparison before.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    batch = reading.batch(cycle)

    def chosen(module: PreferenceModule) -> Tensor:
        return module.embeddings(module.hidden(batch), batch)[0][batch.pairs[:, 0]]

    said = {"bt": bt(batch).tolist(), "gpm": gpm(batch).tolist()}
    figure = plt.figure(figsize=(11, 6.6), layout="constrained")
    line, circle, text = figure.subplot_mosaic([["line", "circle"], ["text", "text"]], height_ratios=[5, 1.9]).values()
    reasons = [f"on {criterion(comparison)}" for comparison in cycle]
    _line(line, chosen(bt)[:, 0].tolist(), said["bt"], reasons)
    _circle(circle, torch.nn.functional.normalize(chosen(gpm), dim=-1).tolist(), said["gpm"], reasons)
    prompt = textwrap.shorten(cycle[0].prompt[-1].content, 110)
    claims = [f"{NAMES[i]} beats {NAMES[(i + 1) % 3]} on {criterion(comparison)}" for i, comparison in enumerate(cycle)]
    answers = [
        f"{NAMES[i]}:  " + "\n      ".join(textwrap.wrap(textwrap.shorten(c.chosen[0].content, 250), 130)) for i, c in enumerate(cycle)
    ]
    figure.suptitle(f"One cycle: {', '.join(claims)}", fontsize=12, weight="bold")
    text.axis("off")
    text.text(0, 1, f"Prompt: {prompt}\n\n" + "\n".join(answers), va="top", fontsize=9, transform=text.transAxes)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def criterion(comparison: Comparison) -> str:
    """Return the aspect that a comparison was made by; `data.cyclic` ends ids in `/<aspect>:<i>><j>`."""
    return comparison.id.rpartition("/")[2].partition(":")[0]


def _line(axes: Axes, rewards: list[float], log_odds: list[float], reasons: list[str]) -> None:
    wrong = sum(value <= 0 for value in log_odds)
    axes.set_title(f"Bradley-Terry: one number per answer\n{3 - wrong} of 3 judgements right; no order on a line has all three")
    low, high = min(rewards), max(rewards)
    width = max(high - low, 1e-6)
    # Rewards of a cycle nearly coincide: answers that would overlap are drawn side by side, in their order.
    order = sorted(range(3), key=lambda i: rewards[i])
    places = {i: max((rewards[i] - low) / width, 0.0) for i in order}
    if width < 1e-3 or min(places[b] - places[a] for a, b in pairwise(order)) < 0.2:
        places = {i: rank / 2 for rank, i in enumerate(order)}
    axes.annotate("", (1.25, 0), (-0.25, 0), arrowprops={"arrowstyle": "-|>", "color": "0.6"})
    axes.text(1.25, 0.06, "reward", ha="right", color="0.4")
    for i in range(3):
        axes.text(places[i], -0.66, f"r = {rewards[i]:.3f}", ha="center", color="0.4", fontsize=9)
        # Seen along an arrow, its arc lies on the right: arrows to the left pass above the line, those to the right below it.
        bend = 1.1 if abs(places[(i + 1) % 3] - places[i]) < 0.7 else 0.7
        _arrow(axes, (places[i], 0), (places[(i + 1) % 3], 0), log_odds[i], bend, reasons[i])
        _dot(axes, (places[i], 0), i)
    axes.set(xlim=(-0.35, 1.35), ylim=(-0.75, 0.75))
    axes.axis("off")


def _circle(axes: Axes, points: list[list[float]], log_odds: list[float], reasons: list[str]) -> None:
    from matplotlib.patches import Circle

    wrong = sum(value <= 0 for value in log_odds)
    axes.set_title(f"General preference model: an embedding per answer\n{3 - wrong} of 3 judgements right; each beats the next one around")
    axes.add_patch(Circle((0, 0), 1, fill=False, color="0.8"))
    for i in range(3):
        _arrow(axes, (points[i][0], points[i][1]), (points[(i + 1) % 3][0], points[(i + 1) % 3][1]), log_odds[i], 0.0, reasons[i])
        _dot(axes, (points[i][0], points[i][1]), i)
    axes.set(aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
    axes.axis("off")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], log_odds: float, bend: float, reason: str) -> None:
    right = log_odds > 0
    style: dict[str, Any] = {
        "arrowstyle": "-|>", "mutation_scale": 18, "lw": 2, "color": RIGHT if right else WRONG, "shrinkA": 15, "shrinkB": 15,
        "linestyle": "-" if right else "--", "connectionstyle": f"arc3,rad={bend}",
    }  # fmt: skip
    axes.annotate("", end, start, arrowprops=style)
    # The middle of the arc: rad is its height as a share of the chord, half of which a quadratic curve reaches.
    (x0, y0), (x1, y1) = start, end
    middle = ((x0 + x1) / 2 + bend * (y1 - y0) / 2, (y0 + y1) / 2 - bend * (x1 - x0) / 2)
    label = f"beats, {reason}" if right else f"should beat, {reason}"
    axes.text(*middle, label, ha="center", va="center", color=style["color"], fontsize=9, bbox={"fc": "w", "ec": "none", "pad": 1.5})


def _dot(axes: Axes, at: tuple[float, float], i: int) -> None:
    axes.plot(*at, "o", ms=20, color=DOT, zorder=3)
    axes.text(*at, NAMES[i], ha="center", va="center", weight="bold", zorder=4)
