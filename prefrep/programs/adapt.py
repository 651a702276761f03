"""A new annotator of a trained model, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.scoring.loading import LocalScoring
from prefrep.writers import writes


@writes("out")
def adapt(
    *, model: str, data: str, annotator: str, out: str, format: str = "auto", column: list[str] | None = None, **loading: Any
) -> Path:
    """Teach a model that knows people the taste of one more, from a few labels.

    One vector is fitted; language model, head and everybody else's vectors stay as they are. The new folder shares the large files of the
    old one where the file system has hard links.

    Examples:
        prefrep adapt --model runs/people/export --data few.jsonl --annotator Zoe --out runs/people-and-zoe

    Args:
        model: Exported folder of a model that knows people, or its id on the hub.
        data: Labels: JSONL, JSON, CSV, TSV (also .gz, .zst), Parquet, Arrow, a folder or hub id. Those of other annotators are left out;
            those that name nobody count.
        annotator: Name of the new annotator.
        out: Folder to write; it may be the model's own.
        format: Format of the rows; `auto` detects it from the columns.
        column: Another name of a column, as OURS=THEIRS; may be repeated.
        **loading: See `prefrep.scoring.loading.LocalScoring`.

    Returns:
        The folder.

    Raises:
        PrefrepError: Model or data cannot be read, the model answers everybody alike or knows the name already, or no row is the
            annotator's.
    """
    from prefrep.data.fields import renamed
    from prefrep.data.sources import Source, read
    from prefrep.io import folder, hub
    from prefrep.scoring.adapting import adapt as fitted
    from prefrep.scoring.scorer import Scorer

    records = list(read(Source(data, format, columns=renamed(column))))
    scorer = LocalScoring(**loading).here(model)
    assert isinstance(scorer, Scorer)
    found = fitted(scorer, records, annotator)
    note = {"adapted": {**scorer.model.recipe.get("adapted", {}), annotator: found.labels}}
    folder.save_head(out, hub.fetched(model), scorer.model.head, note)
    print(
        f"{annotator}: {found.labels} labels, log loss on them {found.before:.3f} as the population, {found.after:.3f} as {annotator}\n"
        f"written: {out}"
    )
    return Path(out)
