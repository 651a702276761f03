"""A row of data, as people publish it, becomes a record: the formats that are known, and how each is told from its columns.

A plain text prompt is one user message, a plain text response one assistant message; where a row has no prompt column, the
messages that both sides share are the prompt. Plain texts that are no transcripts have none: `prompt` is empty.

Columns that every format may carry: `id`, `subset`, `tags` (an object of names to values), `system` (a text: the system message of
a prompt that has none, as LLaMA-Factory and Orca's pairs write it); those with two responses also
`margin` (log-odds), `weight`, and P(chosen > rejected) as `probability` or `soft_label`. A column `label` is never read: the
official GPM files carry one without a meaning, and others mean the index of the better response by it. SPPO's `chosen_probs`
is not read either, since the official GPO path stores scores under that name. Rename such a column if it is a probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from prefrep.data.fields import (
    TURN,
    MisfitError,
    Row,
    branch,
    check_answers,
    conversation,
    kind,
    named,
    need,
    number,
    pair,
    prompt_of,
    rating,
    response,
    text,
    text_response,
    transcript,
)
from prefrep.errors import ConfigError, RecordError
from prefrep.records import Message, RankedResponses, Record

_SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing preferences down.

    Args:
        example: What a row looks like, for messages and help.
        fits: Whether a row looks like this, from its columns and their types.
        convert: Row to record, without `source`; raises `ValueError` with what is wrong.
    """

    example: str
    fits: Callable[[Row], bool]
    convert: Callable[[Row], Record]


# ---- pairs


def _standard_explicit(row: Row) -> Record:
    need(row, *_SIDES)
    prompt = prompt_of(row)
    text(row["prompt"], "prompt")
    return pair(row, prompt, *(text_response(row[name], name) for name in _SIDES))


def _standard_implicit(row: Row) -> Record:
    need(row, *_SIDES)
    _no_prompt(row)
    return pair(row, (), *(text_response(row[name], name) for name in _SIDES))


def _conversational_explicit(row: Row) -> Record:
    need(row, *_SIDES)
    prompt = prompt_of(row)
    chosen, rejected = (response(row[name], name) for name in _SIDES)
    n = len(prompt)
    # Many published sets repeat the prompt inside both responses; read literally, the model would see it twice.
    if chosen[:n] == prompt == rejected[:n]:
        chosen, rejected = chosen[n:], rejected[n:]
    check_answers(zip(_SIDES, (chosen, rejected), strict=True))
    return pair(row, prompt, chosen, rejected)


def _conversational_implicit(row: Row) -> Record:
    need(row, *_SIDES)
    sides = [conversation(row[name], name) for name in _SIDES]
    if any(side and side[0].role == "assistant" for side in sides):
        _no_prompt(row)  # conversations that begin with it may repeat it in a column
    return pair(row, *branch(*sides))


def _no_prompt(row: Row) -> None:
    """Refuses to leave a prompt out, where the first row of a file had none and so decided the format."""
    if row.get("prompt"):
        raise MisfitError("it has a prompt, and this format has none", "give every row its prompt, or take the column away")


def _openrlhf(row: Row) -> Record:
    """OpenRLHF reads the same rows as TRL; which of the four a row is, it takes from its flags, and we from the row."""
    style = "conversational" if isinstance(row.get("chosen"), list) else "standard"
    return FORMATS[f"{style}-{'explicit' if 'prompt' in row else 'implicit'}"].convert(row)


def _rlhflow(row: Row) -> Record:
    """Holds the rows to RLHFlow's own filter: user and assistant alternate, and only the last turn differs."""
    need(row, *_SIDES)
    chosen, rejected = sides = [conversation(row[name], name) for name in _SIDES]
    other = "or set format: conversational-implicit"
    for name, side in zip(_SIDES, sides, strict=True):
        if len(side) % 2 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(side)):
            raise MisfitError(f"the turns of '{name}' do not alternate between user and assistant", other)
        if not all(turn.content for turn in side):
            raise MisfitError(f"'{name}' has an empty turn", other)
    if chosen[:-1] != rejected[:-1]:
        raise MisfitError("'chosen' and 'rejected' differ before the last turn", other)
    return pair(row, chosen[:-1], chosen[-1:], rejected[-1:])


def _hh(row: Row) -> Record:
    need(row, *_SIDES)
    before = text(row["prompt"], "prompt") if row.get("prompt") is not None else ""
    sides = [text(row[name], name) for name in _SIDES]
    if all(side.startswith(before.rstrip()) for side in sides):  # a column that repeats how both begin
        before = ""
    return pair(row, *branch(*(transcript(before + side, name) for name, side in zip(_SIDES, sides, strict=True))))


def _gpm(row: Row) -> Record:
    worse = "rejected" if row.get("reject") is None and row.get("rejected") is not None else "reject"
    need(row, "chosen", worse)
    prompt = prompt_of(row, "instruction")
    if row.get("input"):  # Alpaca's second half of the instruction
        prompt = (*prompt[:-1], replace(prompt[-1], content=f"{prompt[-1].content}\n{text(row['input'], 'input')}"))
    sides = []
    for name in ("chosen", worse):
        value = row[name]
        if isinstance(value, Mapping):
            need({f"{name}.{key}": inner for key, inner in value.items()}, f"{name}.response")
            value = value["response"]
        sides.append(text_response(value, name))
    return pair(row, prompt, *sides)


def _rewardbench(row: Row) -> Record:
    """RewardBench 1: the roles of a list prompt go by parity, whatever they say (rewardbench/utils.py:819 at 05a9005)."""
    need(row, *_SIDES)
    prompt = prompt_of(row)
    if isinstance(row["prompt"], list):
        prompt = tuple(Message(("user", "assistant")[i % 2], turn.content) for i, turn in enumerate(prompt))
        if len(prompt) % 2 == 0:
            remedy = "if these are not RewardBench's rows, set format: conversational-explicit"
            raise MisfitError(f"a prompt of {len(prompt)} turns ends with the assistant's", remedy)
    return pair(row, prompt, *(text_response(row[name], name) for name in _SIDES))


# ---- more than two


def _rewardbench2(row: Row) -> Record:
    """RewardBench 2: the correct answers first, score 1, then the others, score 0."""
    need(row, *_SIDES)
    prompt = prompt_of(row)
    for name in _SIDES:
        if not isinstance(row[name], list):
            raise MisfitError(
                f"'{name}' must be a list of texts, found {kind(row[name])}",
                "bin/eval rewardbench reads one answer each",
            )
    right, wrong = ([text_response(each, name) for each in row[name]] for name in _SIDES)
    if not right:
        raise MisfitError("'chosen' holds no answer")
    stated = row.get("num_correct")
    if stated is not None and stated != len(right):
        raise MisfitError(f"num_correct is {stated}, but 'chosen' holds {len(right)}")
    return RankedResponses(prompt, (*right, *wrong), (1.0,) * len(right) + (0.0,) * len(wrong), **named(row))


def _ultrafeedback(row: Row) -> Record:
    """Ratings by aspect; scores are `overall_score`, else `fine-grained_score`, if every completion has it."""
    need(row, "completions")
    prompt = prompt_of(row, "instruction")
    given = row["completions"]
    if not isinstance(given, list) or not given or not all(isinstance(each, Mapping) for each in given):
        raise MisfitError("'completions' must be a list of objects with a response, and not empty")
    for each in given:
        need(each, "response")
    notes = [each.get("annotations") or {} for each in given]
    if not all(isinstance(note, Mapping) for note in notes):
        raise MisfitError("'annotations' must be an object of aspects to ratings")
    ratings = {}
    for aspect in dict.fromkeys(aspect for note in notes for aspect in note):
        found = [note.get(aspect) for note in notes]
        ratings[aspect] = tuple(rating(value.get("Rating") if isinstance(value, Mapping) else value, aspect) for value in found)
    complete = [name for name in ("overall_score", "fine-grained_score") if all(each.get(name) is not None for each in given)]
    scores = tuple(number(each[complete[0]], complete[0]) for each in given) if complete else None
    return RankedResponses(prompt, tuple(text_response(each["response"], "response") for each in given), scores, ratings, **named(row))


def _ranked(row: Row) -> Record:
    """K responses; `scores`: higher is better; `ranking`: the place of each response, 1 is best, equal places are ties."""
    need(row, "responses")
    prompt = prompt_of(row)
    names = [name for name in ("scores", "ranking") if row.get(name) is not None]
    for name in ("responses", *names):
        if not isinstance(row[name], list):
            raise MisfitError(f"'{name}' must be a list, found {kind(row[name])}")
    if len(names) > 1:
        raise MisfitError("both 'scores' and 'ranking' are given", "keep one of them")
    sign = -1.0 if names == ["ranking"] else 1.0
    scores = tuple(sign * number(value, names[0]) for value in row[names[0]]) if names else None
    return RankedResponses(prompt, tuple(response(each, "responses") for each in row["responses"]), scores, **named(row))


# ---- detection


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _is_chat(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value)


def _is_transcript(value: object) -> bool:
    return isinstance(value, str) and bool(TURN.match(value)) and "\n\nAssistant:" in value


def _both(row: Row, check: Callable[[object], bool]) -> bool:
    return all(check(row.get(name)) for name in _SIDES)


def _fits_hh(row: Row) -> bool:
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return _is_transcript(prompt) and prompt.rstrip().endswith("\n\nAssistant:") and _both(row, _is_text)
    return "prompt" not in row and _both(row, _is_transcript)


def _fits_rewardbench(row: Row) -> bool:
    prompt = row.get("prompt")
    # Turns of a system or a tool are no part of RewardBench: by parity they would become the user's.
    chat = isinstance(prompt, list) and _is_chat(prompt) and all(turn.get("role") in ("user", "assistant") for turn in prompt)
    return _both(row, _is_text) and (isinstance(prompt, str) or chat) and {"id", "subset"} <= row.keys()


def _fits_whole_chats(row: Row) -> bool:
    if not _both(row, _is_chat) or "prompt" not in row:
        return _both(row, _is_chat)
    # UltraFeedback's binarised releases: a text prompt beside conversations that begin with it.
    opening = row["chosen"][0].get("role") if row["chosen"] else None
    return isinstance(row["prompt"], str) and opening in ("user", "system")


def _fits_chat_answers(row: Row) -> bool:
    return "prompt" in row and (_both(row, _is_chat) or (_is_chat(row["prompt"]) and _both(row, _is_text)))


# In the order of detection: what is told by a column of its own first. openrlhf and rlhflow look like others and are only named.
FORMATS: dict[str, Format] = {
    "ultrafeedback": Format(
        '{"instruction", "completions": [{"response", "annotations": {ASPECT: {"Rating"}}}]}',
        lambda row: {"instruction", "completions"} <= row.keys(),
        _ultrafeedback,
    ),
    "gpm": Format(
        '{"instruction", "input" or none, "chosen", "reject" or "rejected"}; chosen and reject may be {"response": TEXT}',
        lambda row: {"instruction", "chosen"} <= row.keys() and bool({"reject", "rejected"} & row.keys()),
        _gpm,
    ),
    "ranked": Format('{"prompt", "responses": [...], "scores" or "ranking": [...]}', lambda row: "responses" in row, _ranked),
    "rewardbench2": Format(
        '{"prompt", "chosen": [TEXT], "rejected": [TEXT], "num_correct", "subset", "id"}',
        lambda row: "prompt" in row and _is_texts(row.get("chosen")) and isinstance(row.get("rejected"), list),
        _rewardbench2,
    ),
    "hh": Format(r'{"chosen", "rejected"}: "\n\nHuman: ...\n\nAssistant: ..."', _fits_hh, _hh),
    "rewardbench": Format('{"prompt", "chosen": TEXT, "rejected": TEXT, "subset", "id"}', _fits_rewardbench, _rewardbench),
    "conversational-implicit": Format('{"chosen": MESSAGES, "rejected": MESSAGES}', _fits_whole_chats, _conversational_implicit),
    "conversational-explicit": Format(
        '{"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}', _fits_chat_answers, _conversational_explicit
    ),
    "standard-explicit": Format(
        '{"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}',
        lambda row: "prompt" in row and _both(row, _is_text),
        _standard_explicit,
    ),
    "standard-implicit": Format(
        '{"chosen": TEXT, "rejected": TEXT}', lambda row: "prompt" not in row and _both(row, _is_text), _standard_implicit
    ),
    "openrlhf": Format('{"prompt", "chosen", "rejected"}, texts or messages', lambda row: False, _openrlhf),
    "rlhflow": Format('{"chosen": MESSAGES, "rejected": MESSAGES}, all but the last turn shared', lambda row: False, _rlhflow),
}


def detect(row: Row, source: str) -> str:
    """Names the format of a row.

    Args:
        row: The row.
        source: Where it stands, as `file:line`.

    Raises:
        RecordError: If no format fits; names the columns found and the formats known.
    """
    for name, format in FORMATS.items():
        if format.fits(row):
            return name
    try:
        if any(row.get(name) is not None for name in (*_SIDES, "reject")):
            need(row, *_SIDES)
    except MisfitError as misfit:
        raise RecordError(source, str(misfit), misfit.remedy) from None
    found = ", ".join(f"{key} ({kind(value)})" for key, value in row.items()) or "none"
    remedy = f"rename some with columns: {{chosen: NAME, ...}}, or set format to one of: {', '.join(FORMATS)}"
    raise RecordError(source, f"no format fits the columns found: {found}", remedy)


def to_record(row: Row, format: str, source: str, system: str | None = None) -> Record:
    """Makes a record of a row.

    Args:
        row: The row.
        format: A key of `FORMATS`, or `auto`.
        source: Where it stands, as `file:line`.
        system: A system message put before each prompt that has none, nor a column `system`. Texts without a prompt stay as they are.

    Raises:
        RecordError: If the row does not hold what the format needs.
        ConfigError: If there is no such format.
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
    """Checks a format's name.

    Raises:
        ConfigError: If there is no such format.
    """
    if name != "auto" and name not in FORMATS:
        raise ConfigError(f"there is no format '{name}'; known: auto, {', '.join(FORMATS)}")
