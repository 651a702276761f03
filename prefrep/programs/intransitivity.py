"""How far preferences run in cycles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefrep.scoring.loading import Loading, fingerprint_of
from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def intransitivity(
    *,
    data: str,
    out: str,
    model: str | None = None,
    against: str | None = None,
    by: Literal["annotator"] | None = None,
    format: str = "auto",
    column: list[str] | None = None,
    restart: bool = False,
    bootstrap: int = 2000,
    seed: int = 0,
    null: int = 1000,
    **loading: Any,
) -> dict[str, Any]:
    """Cycles in the preferences of a model, or of the data: how many, how strong, more than noise?

    K x K tables per prompt come from a model, or from the data alone: comparisons that share a prompt, ratings by aspect (by majority), or
    rankings. The output has cyclic triples, minimum feedback arc sets, the Hodge split, the spectrum and the agreement of rankings, each
    with an interval over prompts, and compares cycle rates with those of a transitive model with the same noise.

    With `--by annotator`, a model that knows annotators is asked for the table of each, too: which part of the circles of the society is
    disagreement between people, and which runs within one of them?

    Examples:
        prefrep eval intransitivity --model runs/mine/export --data bundled:ultrafeedback-mini --out runs/mine/intransitivity

    Args:
        data: File, folder, hub data set, or bundled:ultrafeedback-mini.
        out: Folder for the results; an interrupted run there is resumed.
        model: Exported folder of a model, its id on the hub or URL of a server; default: the verdicts of the data.
        against: Output folder of an earlier evaluation of the same data, by another seed or of the data alone: are the cycles the same?
        by: `annotator`: split the circles of all annotators of the model, who are asked anew in each run.
        format: Format of the rows; `auto` detects it from the columns.
        column: Another name of a column, as OURS=THEIRS; may be repeated.
        restart: Discard the tables that the output folder holds.
        bootstrap: Resamples for the intervals.
        seed: Seed of everything that is drawn.
        null: Draws of the transitive null model.
        **loading: See `prefrep.scoring.loading.Loading`.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigError: There is no model that knows annotators to split circles by.
        PrefrepError: Model, data or the earlier evaluation cannot be read.
    """
    from prefrep.data.fields import renamed
    from prefrep.data.sources import Source, read
    from prefrep.disk import replace_lines
    from prefrep.errors import ConfigError, require_at_least
    from prefrep.evaluation import disagreement, intransitivity_plot, tables
    from prefrep.evaluation import intransitivity as evaluation
    from prefrep.evaluation.layout import versions, write_results
    from prefrep.evaluation.printed import intransitivity_lines
    from prefrep.evaluation.scores import add_counts, described, digest
    from prefrep.evaluation.summary import Bootstrap
    from prefrep.evaluation.transitive_null import agreement
    from prefrep.records import text

    require_at_least("--null", null, 1)
    if by is not None and model is None:
        raise ConfigError("--by annotator asks a model for the table of each annotator; name a --model that knows annotators")
    how, draws, folder, earlier = Loading(**loading), Bootstrap(bootstrap, seed), Path(out), Path(against) if against else None
    # Data first: a wrong path should not cost the loading of a model.
    records = list(read(Source(data, format, columns=renamed(column))))
    prompts = tables.gather(records)
    others = tables.read_tables(earlier) if earlier else []
    scorer, about = None, dict[str, Any]()
    if model:
        scorer = how.block_scorer(model)
        if by is not None and scorer.annotators is None:
            raise ConfigError(
                f"{model}: no annotator can be asked, since the model answers everybody alike or a server answers for its population; "
                "name the exported folder of a model that knows annotators, or leave out --by"
            )
        about = {"path": str(model), "fingerprint": fingerprint_of(model), **scorer.describe()}
    said = {"benchmark": "intransitivity", "model": about, "data": digest(records)}
    elsewhere = earlier is not None and described(earlier).get("data", said["data"]) != said["data"]
    rows = tables.write(prompts, folder, said, scorer, restart)
    if scorer is not None:
        about = add_counts(folder, {**about, **scorer.describe()})

    results, circles = evaluation.evaluate(rows, draws, null)
    if earlier is not None:
        results["against"] = {"path": str(against), **agreement(rows, others, null, seed)}
    if elsewhere:
        results["notes"].append(f"{against} is of other data, or other ratings of them; prompts were matched by subset and id alone")
    if scorer is not None and by is not None and scorer.annotators is not None:
        asked = scorer.tables_of((prompt.record for prompt in prompts), scorer.annotators.names, progress="annotators")
        results["by_annotator"] = disagreement.evaluate(zip(tables.named(prompts), asked, strict=True), draws, null)
    if len(rows) < len(prompts):
        results["notes"].append(f"{len(prompts) - len(rows)} of {len(prompts)} prompts have neither verdicts, ratings nor scores")
    results |= {"data": data, "model": {key: value for key, value in about.items() if key != "versions"} if scorer else None}
    results["versions"] = versions(about.get("versions"))
    by_name = dict(zip(tables.named(prompts), prompts, strict=True))
    texts = [[text(record.prompt), *map(text, record.responses)] for record in (by_name[row.id, row.subset].record for row in rows)]
    chosen = intransitivity_plot.most_cyclic(circles)
    results["most_cyclic"] = {"id": rows[chosen].id, "subset": rows[chosen].subset}
    lines = [{**found, "prompt": each[0], "texts": each[1:]} for found, each in zip(circles, texts, strict=True)]
    replace_lines(folder / "prompts.jsonl", lines)
    intransitivity_plot.draw(folder / "intransitivity.png", rows[chosen], circles[chosen], texts[chosen], results)
    path = write_results(folder, results)
    print("\n".join(intransitivity_lines(results)))
    print(f"\nwritten: {path}, tables.jsonl, prompts.jsonl, intransitivity.png")
    return results
