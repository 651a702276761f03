"""What `prefrep label` did, as a section: numbers, distributions and examples of each step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefrep.labels.run import shown
from prefrep.reports.document import Block, Example, Folded, Plot, Section, Text, notes, table
from prefrep.reports.figures import svg
from prefrep.reports.found import Evaluation
from prefrep.sweeps.plots import COLORS


def blocks(evaluation: Evaluation) -> list[Block]:
    """Return the data, and a section for each step."""
    results = evaluation.results
    before, after = results["pairs"]
    said = (
        f"{results['data']} -> {results['out']}: {before} pairs read, {after} written. Heads were trained on states of {results['model']}."
    )
    bad = [Folded(f"{len(results['bad_rows'])} bad rows were left out", "\n".join(results["bad_rows"]))] if results["bad_rows"] else []
    return [Text(said), *bad, *(_step(number, each) for number, each in enumerate(results["found"], 1))]


def _step(number: int, found: Mapping[str, Any]) -> Section:
    step, (before, after) = found["step"], found["rows"]
    settings = ", ".join(f"{key} {value}" for key, value in step.items() if key != "class" and not isinstance(value, dict))
    rows = [(name, shown(value)) for name, value in found["numbers"].items()]
    examples: list[Block] = [Example(each["title"], tuple(each["texts"].items())) for each in found["examples"]]
    return Section(
        f"{number}. {step['class']}",
        (
            Text(f"{before} pairs in, {after} out. {settings}"),
            *((table(("", "found"), rows),) if rows else ()),
            *(_histogram(f"step-{number}-{i}", name, each) for i, (name, each) in enumerate(found["histograms"].items())),
            *notes(found["notes"]),
            *((Section("Examples", tuple(examples)),) if examples else ()),
        ),
    )


def _histogram(file: str, name: str, found: Mapping[str, Any]) -> Plot:
    def draw(path: Path) -> None:
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(5.6, 2.8), layout="constrained")
        axes.stairs(found["counts"], found["edges"], fill=True, color=COLORS[0])
        axes.axvline(0, color="0.3", ls=":", lw=1)
        axes.set(xlabel=name, ylabel="pairs")
        figure.savefig(path)
        plt.close(figure)

    return Plot(file, svg(draw), "svg", f"Distribution of {name}; dotted: 0.")
