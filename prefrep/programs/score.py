"""Scores of any number of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.scoring.loading import Scoring
from prefrep.writers import writes


@writes("out", stops=True)
def score(*, model: str, data: str, out: str, format: str = "auto", tables: bool = False, **loading: Any) -> Path:
    """Score a file of any length with an exported model.

    A pair gives {"row", "id", "score"}: the log-odds of chosen over rejected. K responses give {"row", "id", "scores", "order"}: the mean
    log-odds of each response against all K (itself included, as in GPO), and the indices from best to worst. `row` counts from 0. A
    killed run resumes where it stopped and writes the same file as an uninterrupted one.

    Examples:
        prefrep score --model runs/mine/export --data pairs.jsonl --out scores.jsonl

    Args:
        model: Exported folder, its id on the hub (owner/name or owner/name@revision), or URL of a server (`prefrep serve`).
        data: JSONL(.gz), JSON, Parquet, folder or hub id: pairs, or K responses per prompt.
        out: JSONL file to write; a half-written one is continued.
        format: Format of the rows; `auto` detects it from the columns.
        tables: With K responses, also write the K x K table of log-odds.
        **loading: See `prefrep.scoring.loading.Scoring`.

    Returns:
        The file.

    Raises:
        PrefrepError: Model or data cannot be read, or the output belongs to another model or other data.
    """
    from prefrep.data.sources import Source
    from prefrep.scoring import output
    from prefrep.scoring.workers import open_scorer

    how = Scoring(**loading)
    settings = f"--format {format}{' --tables' if tables else ''} --dtype {how.dtype}"
    return output.write(Path(out), model, Source(data, format), settings, tables, lambda: open_scorer(model, how))
