"""Scores of any number of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.functional.aggregation import Rule
from prefrep.scoring.loading import Scoring, fingerprint_of
from prefrep.writers import writes


@writes("out", stops=True)
def score(
    *,
    model: str,
    data: str,
    out: str,
    format: str = "auto",
    column: list[str] | None = None,
    tables: bool = False,
    annotators: list[str] | None = None,
    aggregate: Rule | None = None,
    alpha: float = -1.0,
    **loading: Any,
) -> Path:
    """Score a file of any length with an exported model.

    A pair gives {"row", "id", "score"}: the log-odds of chosen over rejected. K responses give {"row", "id", "scores", "order"}: the mean
    log-odds of each response against all K (itself included, as in GPO), and the indices from best to worst. `row` counts from 0. A
    killed run resumes where it stopped and writes the same file as an uninterrupted one.

    A model that knows people answers each row for the row's `annotator`, and the line says `answered_by`: that annotator, or the
    population. With `--annotators` it answers for many at once, from the same reads.

    Examples:
        prefrep score --model runs/mine/export --data pairs.jsonl --out scores.jsonl
        prefrep score --model runs/people/export --data ranked.jsonl --out society.jsonl --annotators all --aggregate maximin

    Args:
        model: Exported folder, its id on the hub (owner/name or owner/name@revision), or URL of a server (`prefrep serve`).
        data: Pairs, or K responses per prompt: JSONL, JSON, CSV, TSV (also .gz, .zst), Parquet, Arrow, a folder, hub id or bundled:NAME.
        out: JSONL file to write; a half-written one is continued.
        format: Format of the rows; `auto` detects it from the columns.
        column: Another name of a column, as OURS=THEIRS; may be repeated.
        tables: With K responses, also write the K x K table of log-odds.
        annotators: Who is asked about every row: `all` that the model knows, or a name; may be repeated. Default: each row's annotator.
        aggregate: Rule that makes one answer of the annotators' (see `prefrep.functional.aggregation`).
        alpha: Of the rule log-mean-exp: 0 is the mean, -inf the least satisfied person.
        **loading: See `prefrep.scoring.loading.Scoring`.

    Returns:
        The file.

    Raises:
        PrefrepError: Model or data cannot be read, or the output belongs to another model or other data.
    """
    from prefrep.data.fields import renamed
    from prefrep.data.sources import Source
    from prefrep.errors import UsageError
    from prefrep.scoring import output
    from prefrep.scoring.interface import PreferenceScorer
    from prefrep.scoring.lines import Asks
    from prefrep.scoring.workers import open_scorer

    how, asks = Scoring(**loading), Asks(tuple(annotators or ()), aggregate, alpha)

    def load() -> PreferenceScorer:
        scorer = open_scorer(model, how)
        if scorer.describe().get("abstains"):
            raise UsageError(
                f"--model {model}: a judge that writes may give no verdict, and every row needs a score; see prefrep eval pairs"
            )
        return scorer

    named = "".join(f" --column {each}" for each in sorted(column or []))
    against = f" ({fingerprint_of(how.reference)[:16]})" if how.reference else ""
    settings = f"--format {format}{named}{' --tables' if tables else ''} --dtype {how.dtype}{asks.settings}{how.settings}{against}"
    return output.write(Path(out), model, Source(data, format, columns=renamed(column)), settings, tables, load, asks)
