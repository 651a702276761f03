"""Formats of preference data: how published rows become records, and how columns tell the formats apart.

A plain text prompt becomes one user message, a plain text response one assistant message. Without a prompt column, the messages that both
sides share are the prompt. Plain texts that are not transcripts have an empty `prompt`.

Columns of every format: `id`, `subset`, `tags` (an object of names to values), `annotator`, `group`, `criterion`, `label_source`, `system`
(the system message of a prompt without one, as in LLaMA-Factory and Orca's pairs), `tools` and `chat_template_kwargs` (arguments of the
chat template). Columns of formats with one `chosen` and one `rejected`: `margin` (log-odds), `weight`, `strength`, and P(chosen > rejected)
as `probability` or `soft_label`. None of these reads a column `label`: the official GPM files have a meaningless one, and elsewhere it is
the index of the better response. Nor do they read SPPO's `chosen_probs`, in which the official GPO code stores scores. Rename such a
column if it holds a probability. `prefrep inspect` lists the columns that a format does not read. A guide: `prefrep/data/README.md`.

A format is a `Format` object. Another package adds one, as `prefrep.declared.named` says: by an entry point, or as a variable of a module
that the caller imports (`--import`). Detection tries these first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from prefrep.data.formats import counted, exports, judgebench, pairs, ppe, ranked, rated, rmb, rmbench, steps, votes
from prefrep.data.formats.base import SIDES, Format
from prefrep.data.turns import MisfitError, Row, check_text_only, kind, need, template_kwargs
from prefrep.declared import imported, named
from prefrep.errors import ConfigError, RecordError, first_line
from prefrep.records import Message, Record

# In the order of detection: formats with distinctive columns first, and each before those that its rows would also fit.
FORMATS: dict[str, Format] = {
    "arena": votes.ARENA,
    "helpsteer3": votes.HELPSTEER3,
    "alpaca": votes.ALPACA,
    "llmbar": votes.LLMBAR,
    "multipref": votes.MULTIPREF,
    "shp": counted.SHP,
    "webgpt": counted.WEBGPT,
    "safe-rlhf": counted.SAFE_RLHF,
    "summarize": counted.SUMMARIZE,
    "oasst-messages": rated.OASST_MESSAGES,
    "oasst": rated.OASST,
    "prism": rated.PRISM,
    "helpsteer2": rated.HELPSTEER2,
    "nectar": rated.NECTAR,
    "steps": steps.STEPS,
    "first-wrong": steps.FIRST_WRONG,
    "processbench": steps.PROCESSBENCH,
    "stepwise": steps.STEPWISE,
    "distilabel": rated.DISTILABEL,
    "label-studio": exports.LABEL_STUDIO,
    "argilla": exports.ARGILLA,
    "sharegpt": exports.SHAREGPT,
    "ultrafeedback": ranked.ULTRAFEEDBACK,
    "gpm": pairs.GPM,
    "ranked": ranked.RANKED,
    "rmbench": rmbench.RMBENCH,
    "judgebench": judgebench.JUDGEBENCH,
    "rmb": rmb.RMB,
    "ppe": ppe.PPE,
    "rewardbench2": ranked.REWARDBENCH2,
    "hh": pairs.HH,
    "rewardbench": pairs.REWARDBENCH,
    "conversational-implicit": pairs.CONVERSATIONAL_IMPLICIT,
    "conversational-explicit": pairs.CONVERSATIONAL_EXPLICIT,
    "standard-explicit": pairs.STANDARD_EXPLICIT,
    "standard-implicit": pairs.STANDARD_IMPLICIT,
    "kto": rated.KTO,
    "helpsteer3-individual": votes.HELPSTEER3_INDIVIDUAL,
    "openrlhf": pairs.OPENRLHF,
    "rlhflow": pairs.RLHFLOW,
}


def declared() -> dict[str, Format]:
    """Return the formats of other packages, by name.

    Raises:
        ConfigError: A format cannot be imported.
    """
    return _declared(tuple(imported()))


@cache
def _declared(modules: tuple[str, ...]) -> dict[str, Format]:
    return named(Format)


def every() -> dict[str, Format]:
    """Return all formats in the order of detection."""
    return _every(tuple(imported()))


@cache
def _every(modules: tuple[str, ...]) -> dict[str, Format]:
    return _declared(modules) | FORMATS


def fitting(row: Row) -> list[str]:
    """Return the names of the formats that a row looks like, in the order of detection."""
    return [name for name, each in every().items() if each.fits(row)]


def looks_like(row: Row) -> str | None:
    """Return the name of the first format that a row looks like; None: there is none."""
    return next((name for name, each in every().items() if each.fits(row)), None)


def detect(row: Row, source: str) -> str:
    """Return the name of the first format that fits a row.

    Args:
        row: The row.
        source: Its location, as `file:line`.

    Raises:
        RecordError: No format fits.
    """
    if (name := looks_like(row)) is not None:
        return name
    given = [side for side in SIDES if row.get(side) is not None]
    if len(given) == 1:
        missing = SIDES[given == ["chosen"]]
        try:
            need(row, missing)
        except MisfitError as problem:
            raise RecordError(source, str(problem), problem.remedy) from None
    found = ", ".join(f"{key} ({kind(value)})" for key, value in row.items()) or "none"
    remedy = (
        f"rename some (--column chosen=NAME, in a configuration columns: {{chosen: NAME}}), or set format to one of: {', '.join(every())}"
    )
    raise RecordError(source, f"no format fits the columns found: {found}", remedy)


def to_records(row: Row, format: str, source: str, system: str | None = None) -> Sequence[Record]:
    """Convert a row to records: one, or several if the row holds several criteria, annotators or turns.

    Args:
        row: The row.
        format: A name in `every`, or `auto`.
        source: Its location, as `file:line`.
        system: System message for prompts without one and rows without a column `system`. Texts without a prompt get none.

    Raises:
        RecordError: The row lacks what the format needs.
        ConfigError: The format is unknown.
    """
    check_format(format)
    name = detect(row, source) if format == "auto" else format
    try:
        check_text_only(row)
        found = every()[name].convert(row)
        more = {"source": source} | ({"template_kwargs": given} if (given := template_kwargs(row)) else {})
        records = [replace(record, **more) for record in ([found] if isinstance(found, Record) else found)]  # type: ignore[arg-type]
    except RecursionError:
        raise RecordError(source, "its values are nested too deeply", "no preference format nests this deeply") from None
    except ValueError as problem:
        remedy = problem.remedy if isinstance(problem, MisfitError) else ""
        raise RecordError(source, str(problem), remedy) from None
    except (KeyError, IndexError, TypeError, AttributeError) as problem:  # a nested value has an unexpected type
        what = f"a column is missing or has another type than in format {name} ({type(problem).__name__}: {first_line(problem)})"
        raise RecordError(source, what, f"a row looks like this: {every()[name].example}") from None
    if isinstance(row.get("system"), str) and row["system"].strip():
        system = row["system"]
    return [_opened(record, system) for record in records] if system else records


def _opened(record: Record, system: str) -> Record:
    """Return a record whose prompt begins with a system message; texts without a prompt stay as they are."""
    if not record.prompt or record.prompt[0].role in ("system", "developer"):
        return record
    return replace(record, prompt=(Message("system", system), *record.prompt))


def to_record(row: Row, format: str, source: str, system: str | None = None) -> Record:
    """Convert a row of a format that makes one record of each row; arguments and errors as in `to_records`."""
    (record,) = to_records(row, format, source, system)
    return record


def check_format(name: str) -> None:
    """Check the name of a format.

    Raises:
        ConfigError: The format is unknown.
    """
    if name != "auto" and name not in FORMATS and name not in declared():
        raise ConfigError(f"there is no format '{name}'; known: auto, {', '.join(every())}")
