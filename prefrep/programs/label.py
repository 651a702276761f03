"""Better labels for preference data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefrep.writers import writes


@writes("out", stops=True)
def label(
    data: str,
    *,
    out: str,
    step: list[str] | None = None,
    model: str = "bundled:smollm2-135m",
    format: str = "auto",
    column: list[str] | None = None,
    limit: int | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    import_: list[str] | None = None,
) -> dict[str, Any]:
    """Improve the labels of preference data: the same pairs with new columns, labels or neighbours.

    A step is a class and its arguments, such as `Strength action=flip share=0.2 head.class=GPMHead`; steps run in the order in which they
    are named. Duplicates: near-duplicates, contradictions, label noise, cycles. Strength: margins of an ensemble; flip, soften, drop or
    give a margin. Route: two label sources within a budget. CrossPrompt: pairs across prompts. Steps: siblings in trees of solutions.
    Verdicts: what a judge says that is asked in words. Usefulness, Relevance, Thoroughness, Evidence: margins and pairs by rule. Their
    arguments stand in prefrep/labels/README.md. A label is written as the columns `probability` (a flipped pair has 0), `margin` and
    `weight`, which prefrep reads. What was done, with every seed, is in a folder beside the output, which `prefrep report` shows. A killed
    run resumes and writes the same file. Pairs and states lie in temporary files in TMPDIR.

    Examples:
        prefrep label train.jsonl --out clean.jsonl --step "Duplicates action=drop" --step "Strength action=flip share=0.1"
        prefrep label train.jsonl --out judged.jsonl --step "Verdicts action=soft judge.class=GenerativeJudge judge.model=NAME"
        prefrep report clean.label

    Args:
        data: Comparisons or ranked responses: file, folder, hub data set or bundled:NAME.
        out: JSONL file to write; FILE.jsonl has its folder FILE.label beside it.
        step: A step; may be repeated. Default: Duplicates and Strength, which only add columns.
        model: Language model on whose frozen states heads are trained: bundled, folder or hub id.
        format: Format of the rows; `auto` detects it from the columns.
        column: Another name of a column, as OURS=THEIRS; may be repeated.
        limit: Read at most so many records.
        on_bad_row: Stop at the first bad row, or leave bad rows out.
        import_: Module with steps, heads or losses of your own; may be repeated.

    Returns:
        The content of `results.json` in the folder.

    Raises:
        UsageError: A step is not a class and its arguments.
        PrefrepError: The data or a model cannot be read, or the output belongs to something else.
    """
    from prefrep import labels
    from prefrep.data.fields import renamed
    from prefrep.data.sources import Source
    from prefrep.labels import run
    from prefrep.parts import import_declared, import_modules, make, parse

    import_modules(import_)
    import_declared()
    steps = [make(parse(each), labels.LabelStep) for each in (step or ["Duplicates", "Strength"])]  # type: ignore[type-abstract]
    results = run.run(Source(data, format, limit=limit, columns=renamed(column)), Path(out), steps, model, on_bad_row)
    print("\n".join(run.summary(results)))
    return results
