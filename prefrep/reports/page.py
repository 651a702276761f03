"""From run folders to a report: its sections, and the page and Markdown files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from prefrep.disk import replace_text
from prefrep.errors import DataError
from prefrep.reports import benchmarks, comparison, markdown, rounds, sweep
from prefrep.reports.document import Block, Folded, Section, Text, notes, number, table
from prefrep.reports.figures import Lines, curves
from prefrep.reports.found import Run

TEMPLATE = "page.html.j2"
TITLE = "Report: "


def build(runs: Sequence[Run]) -> Section:
    """Return the report on runs."""
    title = TITLE + (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    blocks: list[Block] = []
    if len(runs) > 1:
        blocks.append(_overview(runs))
        trained: dict[str, Lines] = {run.name: run.metrics for run in runs if run.metrics}
        if len(trained) > 1 and (plot := curves(trained)) is not None:
            blocks.append(Section("Training, side by side", (plot,)))
    if (overalls := comparison.side_by_side(runs)) is not None:
        blocks.append(overalls)
    if (compared := comparison.section(runs)) is not None:
        blocks.append(compared)
    return Section(title, (*blocks, *(_run(run) for run in runs)))


def _run(run: Run) -> Section:
    blocks: list[Block] = [Text(problem, strong=True) for problem in run.problems]
    blocks += notes([f"{name}: {value}" for name, value in _facts(run).items() if value])
    if run.config is not None:
        blocks.append(Folded("Configuration", run.config))
    if (plot := curves({run.name: run.metrics})) is not None:
        blocks.append(Section("Training", (plot,)))
    if run.rounds:
        blocks.append(Section("Rounds of post-training", (*rounds.tables(run.rounds), *rounds.answers(run.folder))))
    blocks += [benchmarks.section(evaluation) for evaluation in run.evaluations]
    blocks += [sweep.section(folder, _sweep_title(run, folder)) for folder in run.sweeps]
    return Section(run.name, tuple(blocks))


def _sweep_title(run: Run, folder: Path) -> str:
    return "Sweep" if folder == run.folder else f"Sweep: {folder.relative_to(run.folder)}"


def _facts(run: Run) -> dict[str, str]:
    """Return the settings by which runs are compared; empty where unknown."""
    head, recipe = run.export.get("head", {}), run.export.get("recipe", {})
    settings = ", ".join(f"{key} {_name(value)}" for key, value in head.items() if key != "class")
    validated = [line for line in run.metrics if "val/loss" in line]
    last = validated[-1] if validated else {}
    return {
        "model": str(recipe.get("module", "")),
        "head": f"{head.get('class', '')}{f' ({settings})' if settings else ''}",
        "backbone": str(run.export.get("backbone", {}).get("path", "")),
        "tau": f"{run.export['tau']:g}" if "tau" in run.export else "",
        "steps": f"{run.metrics[-1]['step']:.0f}" if run.metrics else "",
        "validation loss, last": number(last["val/loss"]) if "val/loss" in last else "",
        "validation accuracy, last": number(last["val/accuracy"]) if "val/accuracy" in last else "",
    }


def _name(value: object) -> str:
    return str(value.get("class", value)) if isinstance(value, Mapping) else str(value)


def _overview(runs: Sequence[Run]) -> Section:
    facts = {run.name: _facts(run) for run in runs}
    keys = [key for key in next(iter(facts.values())) if any(found[key] for found in facts.values())]
    rows = [(name, *(found[key] or "-" for key in keys)) for name, found in facts.items()]
    return Section("Runs", (table(("run", *keys), rows),))


@cache
def _template() -> Template:
    source = files("prefrep.reports").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)


def html(report: Section) -> str:
    """Return the page, which loads nothing and has no scripts."""
    return _template().render(report=report)


def write(report: Section, out: Path) -> list[Path]:
    """Write the page, the same content as Markdown beside it, and the plots of the Markdown.

    Args:
        report: From `build`.
        out: The HTML file; the others have its name with another suffix.

    Returns:
        The page and the Markdown file.

    Raises:
        DataError: The Markdown would replace a file that is not a report.
    """
    beside = out.with_suffix(".md")
    if beside.exists() and not beside.read_text(encoding="utf-8", errors="replace").startswith(f"# {TITLE}"):
        raise DataError(f"{beside} exists and is not a report of prefrep report; name another file with --out")
    markdown.write(report, beside)
    replace_text(out, html(report))
    return [out, beside]
