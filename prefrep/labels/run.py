"""One run of `prefrep label`: read, apply the steps, write the rows and what was done to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prefrep.data.sources import Source
from prefrep.data.spool import Spool
from prefrep.disk import claim, replace_json, replace_lines
from prefrep.errors import DataError, RecordError
from prefrep.labels.base import LabelStep, Outcome, Work
from prefrep.labels.rows import Labelled, read_pairs, written
from prefrep.parts import recipe

RESULTS = "results.json"
BINS = 30  # of a histogram


def folder_of(out: Path) -> Path:
    """Return the folder beside an output that holds what was done: `pairs.jsonl` -> `pairs.label/`."""
    return out.with_suffix(".label")


def run(
    source: Source, out: Path, steps: Sequence[LabelStep], model: str, on_bad_row: Literal["error", "skip"] = "error"
) -> dict[str, Any]:
    """Label the pairs of a source.

    Args:
        source: The data.
        out: The JSONL file to write.
        steps: The steps, in order.
        model: Language model whose frozen states heads are trained on.
        on_bad_row: What to do about bad rows.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: The data or a model cannot be read, the output belongs to something else, or what a step raises.
    """
    if out.name.endswith((".gz", ".zst")):
        raise DataError(f"{out}: the output is plain JSON lines; drop the last ending from its name")
    skipped: list[RecordError] = []
    pairs = read_pairs(source, on_bad_row, skipped)
    if not pairs:
        raise DataError(f"{source.path}: no row holds a preference; see prefrep inspect {source.path}")
    folder = folder_of(out)
    recipes = [recipe(step) for step in steps]
    about = {"data": source.path, "content": _digest(pairs), "model": model, "steps": recipes, "versions": _versions()}
    claim(out, folder / "about.json", about, f"name another --out, or delete it and {folder}")
    (folder / RESULTS).unlink(missing_ok=True)  # of an output that somebody deleted
    work, found, count = Work(model, folder), [], len(pairs)
    for step, described in zip(steps, recipes, strict=True):
        before = len(pairs)
        outcome = step.apply(pairs, work)
        ours = isinstance(outcome.pairs, Spool) and type(step).__module__.startswith("prefrep.labels.")
        pairs = outcome.pairs if ours else Spool(_checked(outcome.pairs, described["class"]))
        if not pairs:
            raise DataError(f"{described['class']}: leaves no pair; change its arguments, or name other data, and delete {folder}")
        found.append({"step": described, "rows": [before, len(pairs)], **_plain(outcome)})
    results = {
        "benchmark": "label", **about, "out": str(out), "pairs": [count, len(pairs)],
        "bad_rows": [str(error) for error in skipped], "found": found,
    }  # fmt: skip
    replace_lines(out, written(pairs, source.format))
    replace_json(folder / RESULTS, results)
    return results


def _checked(pairs: Iterable[Labelled], step: str) -> Iterator[Labelled]:
    """Yield the pairs of a step that somebody else may have written. Raises DataError: a column is no plain data."""
    for each in pairs:
        try:
            json.dumps(dict(each.columns))
        except (TypeError, ValueError) as error:
            where = each.comparison.source or each.comparison.id or "a pair"
            raise DataError(f"{step}: its columns of {where} cannot be written as JSON ({error}); give texts, numbers or lists") from None
        yield each


def _digest(pairs: Sequence[Labelled]) -> str:
    digest = hashlib.sha256()
    for each in pairs:  # one by one: as one text they would be in memory twice
        digest.update(repr((each.comparison, each.row)).encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("prefrep", "torch", "transformers", "lightning", "numpy")}


def _plain(outcome: Outcome) -> dict[str, Any]:
    histograms = {}
    for name, values in outcome.histograms.items():
        counts, edges = np.histogram(values, BINS)
        histograms[name] = {"counts": counts.tolist(), "edges": edges.tolist()}
    examples = [{"title": each.title, "texts": dict(each.texts)} for each in outcome.examples]
    return {"numbers": outcome.numbers, "histograms": histograms, "examples": examples, "notes": outcome.notes}


def summary(results: dict[str, Any]) -> list[str]:
    """Return what was done as lines for the terminal."""
    lines = []
    for each in results["found"]:
        options = [f"{key}={value}" for key, value in each["step"].items() if key != "class" and isinstance(value, str | int | float)]
        lines.append(" ".join([each["step"]["class"], *options]))
        width = max(map(len, each["numbers"]), default=0)
        lines += [f"  {name:{width}}  {shown(value)}" for name, value in each["numbers"].items()]
        lines += [f"  {note}" for note in each["notes"]]
    before, after = results["pairs"]
    return [*lines, f"{results['out']}: {before:,} pairs read, {after:,} written"]


def shown(value: Any) -> str:
    """Return a number, an estimate with its interval, or a text as people read it."""
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)
