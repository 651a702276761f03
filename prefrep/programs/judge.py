"""An audit of judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def judge(
    *,
    out: str,
    model: list[str] | None = None,
    data: str | None = None,
    verdicts: list[str] | None = None,
    people: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    quorum: int | None = None,
    draws: int = 500,
    bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Audit judges: how right they are, and what moves them beside quality.

    Accuracy, agreement with people against people's own, position bias, consistency over orders, answers without a verdict, what length,
    lists and headings count at equal strength, calibration, and circles beside those of a transitive judge that is as sharp and as biased.
    Several judges: agreement, who follows whom, a panel. Judges are asked now, and what they said before is not asked again; or their
    verdicts are read. The output has results.json and judges.html.

    Examples:
        prefrep eval judge --model "GenerativeJudge model=bundled:smollm2-135m style=letter" --data pairs.jsonl --out runs/judge
        prefrep eval judge --verdicts battles.csv --out runs/judges

    Args:
        out: Folder for the results.
        model: A judge that writes: YAML file or `GenerativeJudge model=NAME ...`; may be repeated.
        data: Comparisons or ranked responses for the judges, or those that `verdicts.jsonl` is about.
        verdicts: File of verdicts: verdicts.jsonl, JudgeBench's, or battles of systems; may be repeated.
        people: Battles in which people voted on the same systems and prompts, by name; data for the judges name systems by the tags
            `system_0` and `system_1`, as self-preference needs too.
        format: Format of the data; `auto` detects it from the columns.
        limit: Read at most so many records of the data.
        quorum: Verdicts that a panel of the judges needs; default: more than half.
        draws: Simulated transitive judges.
        bootstrap: Resamples for the intervals.
        seed: Seed of resampling and simulation.

    Returns:
        The content of `results.json`.

    Raises:
        UsageError: Neither judges nor verdicts are named, or judges without data.
        VerdictError: A judge gave too few verdicts; the results are written.
        PrefrepError: Something cannot be read, or a judge cannot be asked.
    """
    from dataclasses import replace

    from prefrep.data.sources import Source, read
    from prefrep.disk import replace_json, replace_lines, replace_text
    from prefrep.errors import ConfigError, UsageError
    from prefrep.evaluation.audit.asked import Asked, of_judgments
    from prefrep.evaluation.audit.audit import audit, lines
    from prefrep.evaluation.audit.read import verdicts as read_verdicts
    from prefrep.evaluation.audit.read import with_people
    from prefrep.evaluation.layout import RESULTS, versions
    from prefrep.evaluation.scores import distinct
    from prefrep.evaluation.summary import Bootstrap
    from prefrep.evaluation.verdicts import VERDICTS, asked
    from prefrep.judges.named import from_recipe, is_recipe
    from prefrep.reports import judges as report
    from prefrep.reports import page

    if not model and not verdicts:
        raise UsageError("name judges with --model and --data, or files of verdicts with --verdicts")
    if model and data is None:
        raise UsageError("--data must name what the judges are to compare")
    for each in model or ():
        if not is_recipe(each):
            raise UsageError(f"--model {each}: an audit asks judges that write, 'GenerativeJudge model=NAME'; others have eval pairs")
    folder, boot = Path(out), Bootstrap(bootstrap, seed)
    records = [] if data is None else list(read(Source(data, format, limit=limit)))
    ids = distinct(record.id or str(number) for number, record in enumerate(records))
    records = [replace(record, id=name) for record, name in zip(records, ids, strict=True)]
    asks = [from_recipe(each) for each in model or ()]
    names = distinct(each.name for each in asks)
    questions: list[Asked] = [each for path in verdicts or () for each in read_verdicts(path, records)]
    said = []
    for one, name in zip(asks, names, strict=True):
        if not one.pairwise:
            raise ConfigError(f"--model: an audit compares two answers at a time; form {one.manner.form} does not")
        found = [replace(each, judge=name) for each in one.judgments([asked(record) for record in records], progress=name)]
        said += found
        questions += of_judgments(records, found)
    if people is not None:
        questions = with_people(questions, read_verdicts(people, []))
    results = audit(questions, quorum=quorum, draws=draws, bootstrap=boot)
    results |= {"data": data, "verdicts": verdicts, "people": people, "versions": versions()}
    folder.mkdir(parents=True, exist_ok=True)
    if said:
        replace_lines(folder / VERDICTS, (each.as_dict() for each in said))
    replace_json(folder / RESULTS, results)
    replace_text(folder / "judges.html", page.html(report.build(results)))
    print("\n".join(lines(results)))
    print(f"\nwritten: {folder / RESULTS}, judges.html" + (f", {VERDICTS}" if said else ""))
    for one in asks:
        one.check()
    return results
