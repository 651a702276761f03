"""What preference data hold, before anyone trains on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal


def inspect(
    data: list[str],
    *,
    tokenizer: str | None = None,
    max_length: int | None = None,
    template: Literal["auto", "chat", "plain", "concat"] = "auto",
    format: str = "auto",
    column: list[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    on_bad_row: Literal["skip", "error"] = "skip",
    json: str | None = None,
    trust_remote_code: bool = False,
    import_: list[str] | None = None,
) -> dict[str, Any]:
    """Print what preference data hold.

    Rows, format, columns that it does not read, annotators, criteria, strengths, lengths, duplicates, prompts that files share, empty
    responses, label balance, cycles among the responses to a prompt, and bad rows; several sources stand side by side. What is compared
    with all rows lies in a temporary file in TMPDIR, so that any number of rows fits.

    Examples:
        prefrep inspect train.jsonl val.jsonl --tokenizer bundled:smollm2-135m --max-length 2048
        prefrep inspect pairs.parquet --column rejected=worse

    Args:
        data: Files (.jsonl, .json, .csv, .tsv, .parquet, .arrow, also .gz and .zst), folders, or hub data sets owner/name.
        tokenizer: Model whose tokens lengths are counted in: folder, hub id or bundled:NAME; default: words.
        max_length: Count what is longer than so many tokens.
        template: Template of texts, for --tokenizer; the table says what it rendered and left out.
        format: Format of the rows; `auto` detects it from the columns.
        column: Another name of a column, as OURS=THEIRS; may be repeated.
        split: Split of a hub data set (default: train), or of a folder that holds several.
        limit: Read at most so many records of each source.
        on_bad_row: List bad rows, or stop at the first.
        json: Write the numbers to this file as well.
        trust_remote_code: Run Python code from the folder of the tokenizer.
        import_: Module whose data formats are known too; may be repeated.

    Returns:
        All numbers, which --json writes too.

    Raises:
        UsageError: Options that do not go together.
        PrefrepError: A source or the tokenizer cannot be read; the other sources are printed first.
    """
    from collections import Counter
    from pathlib import Path

    from prefrep.data.encode import EncodeConfig, Encoder
    from prefrep.data.fields import renamed
    from prefrep.data.inspection import numbers, report, summarise
    from prefrep.data.sources import Source
    from prefrep.data.summary import Lengths, by_tokens, by_words
    from prefrep.declared import import_modules
    from prefrep.disk import replace_json
    from prefrep.errors import PrefrepError, UsageError
    from prefrep.locks import writing

    if not data:
        raise UsageError("name the data to inspect: prefrep inspect FILE ...")
    if max_length is not None and not tokenizer:
        raise UsageError("--max-length counts tokens: give --tokenizer too")
    if max_length is not None and max_length < 1:
        raise UsageError("--max-length must be at least 1")
    import_modules(import_)
    sources = [Source(path, format, split, limit=limit, columns=renamed(column)) for path in data]
    lengths: Lengths = by_words
    encoding: Callable[[], Counter[str]] = Counter
    if tokenizer:
        from prefrep.nn.loading import load_tokenizer

        encoder = Encoder(load_tokenizer(tokenizer, trust_remote_code), EncodeConfig(template, max_length=2**40), "single")
        lengths, encoding = by_tokens(encoder), encoder.findings
    found, unread = summarise(sources, lengths, max_length, on_bad_row, encoding)
    if not found:
        raise unread[0]
    unit = "tokens" if tokenizer else "words"
    print("\n".join(report(found, unit, max_length)))
    result = numbers(found, unit, max_length)
    if json:
        with writing(Path(json)):
            replace_json(Path(json), result)
    if unread:
        raise PrefrepError("\nprefrep: ".join(map(str, unread)))
    return result
