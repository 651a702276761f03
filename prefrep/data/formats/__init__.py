"""Formats of preference data: how published rows become records, and how columns tell the formats apart.

A plain text prompt is one user message, a plain text response one assistant message. Rows without a prompt column get the messages that
both sides share as their prompt. Plain texts that are not transcripts have an empty `prompt`.

Columns of every format: `id`, `subset`, `tags` (an object of names to values), `system` (the system message of a prompt without one, as in
LLaMA-Factory and Orca's pairs). Columns of formats with two responses: `margin` (log-odds), `weight`, and P(chosen > rejected) as
`probability` or `soft_label`. No format reads a column `label`: the official GPM files have one without a meaning, and elsewhere it is the
index of the better response. Nor SPPO's `chosen_probs`, under which the official GPO code stores scores. Rename such a column if it holds a
probability.
"""

from __future__ import annotations

from dataclasses import replace

from prefrep.data.fields import MisfitError, Row, kind, need
from prefrep.data.formats import judgebench, pairs, ppe, ranked, rmb, rmbench
from prefrep.data.formats.base import SIDES, Format
from prefrep.errors import ConfigError, RecordError
from prefrep.records import Message, Record

# In the order of detection: formats with a column of their own come first.
FORMATS: dict[str, Format] = {
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
    "openrlhf": pairs.OPENRLHF,
    "rlhflow": pairs.RLHFLOW,
}


def detect(row: Row, source: str) -> str:
    """Return the name of the first format that fits a row.

    Args:
        row: The row.
        source: Its location, as `file:line`.

    Raises:
        RecordError: No format fits.
    """
    for name, format in FORMATS.items():
        if format.fits(row):
            return name
    try:
        if any(row.get(name) is not None for name in (*SIDES, "reject")):
            need(row, *SIDES)
    except MisfitError as misfit:
        raise RecordError(source, str(misfit), misfit.remedy) from None
    found = ", ".join(f"{key} ({kind(value)})" for key, value in row.items()) or "none"
    remedy = f"rename some with columns: {{chosen: NAME, ...}}, or set format to one of: {', '.join(FORMATS)}"
    raise RecordError(source, f"no format fits the columns found: {found}", remedy)


def to_record(row: Row, format: str, source: str, system: str | None = None) -> Record:
    """Convert a row to a record.

    Args:
        row: The row.
        format: A key of `FORMATS`, or `auto`.
        source: Its location, as `file:line`.
        system: System message for prompts without one and rows without a column `system`. Texts without a prompt get none.

    Raises:
        RecordError: The row lacks what the format needs.
        ConfigError: The format is unknown.
    """
    check_format(format)
    name = detect(row, source) if format == "auto" else format
    try:
        record = replace(FORMATS[name].convert(row), source=source)
    except ValueError as problem:
        remedy = problem.remedy if isinstance(problem, MisfitError) else ""
        raise RecordError(source, str(problem), remedy) from None
    if isinstance(row.get("system"), str) and row["system"].strip():
        system = row["system"]
    if system and record.prompt and record.prompt[0].role != "system":
        record = replace(record, prompt=(Message("system", system), *record.prompt))
    return record


def check_format(name: str) -> None:
    """Check the name of a format.

    Raises:
        ConfigError: The format is unknown.
    """
    if name != "auto" and name not in FORMATS:
        raise ConfigError(f"there is no format '{name}'; known: auto, {', '.join(FORMATS)}")
