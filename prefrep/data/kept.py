"""Records and encoded data on disk between runs, kept by content (`prefrep.caching`), so that a second run starts at once."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from transformers import PreTrainedTokenizerBase

from prefrep.caching import cache_folder, find, keep
from prefrep.data.encode import EncodeConfig
from prefrep.data.formats import declared
from prefrep.data.sources import Source, content, every, weighted
from prefrep.data.spool import Spool
from prefrep.errors import RecordError
from prefrep.records import Record
from prefrep.room import saving

log = logging.getLogger(__name__)

Item = TypeVar("Item")
About = dict[str, Any]
_NOTE = "note.json"


def kept(
    where: str | None, about: About | None, items: Callable[[], Iterable[Item]], note: Callable[[], Mapping[str, Any]]
) -> tuple[Spool[Item], Mapping[str, Any], bool]:
    """Return a sequence from disk, or compute it and keep it there.

    Args:
        where: `auto`: prefrep's cache folder, a folder, or None: nothing is kept. Whoever can write there decides what is trained on, but
            runs no code (`data.spool`).
        about: Everything that the items depend on; None: unknown, nothing is kept.
        items: Computes the items.
        note: Plain data to keep with them; called once they are computed.

    Returns:
        The sequence, the note, and whether they were on disk.

    Raises:
        OSError: The disk is full.
    """
    if where is None or about is None:
        return Spool(items()), note(), False
    folder = (cache_folder() if where == "auto" else Path(where).expanduser()) / "encoded"
    if (place := find(folder, about)) is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".writable").touch()
        except OSError as error:
            log.info("%s: not writable (%s), so encoded data are not kept for the next run", folder, error.strerror)
            return Spool(items()), note(), False

        def write(draft: Path) -> None:
            Spool(items(), draft)
            with saving(draft):
                (draft / _NOTE).write_text(json.dumps(note()))

        place = keep(folder, about, write)
        return Spool.opened(place), json.loads((place / _NOTE).read_text()), False
    return Spool.opened(place), json.loads((place / _NOTE).read_text()), True


def read_kept(
    where: str | None, about: About | None, sources: Sequence[Source], seed: int, on_bad_row: Literal["error", "skip"], role: str
) -> tuple[Sequence[Record], list[RecordError]]:
    """Return what `sources.read_mixed` returns, and the errors of skipped rows, from disk if the files were read before.

    Arguments and errors are those of `read_mixed` and `kept`; `about` is that of `about_records`.
    """
    counts = [0] * len(sources)
    skipped: list[RecordError] = []

    def note() -> Mapping[str, Any]:
        return {"counts": counts, "skipped": [[error.source, error.problem, error.remedy] for error in skipped]}

    records, said, _ = kept(where, about, lambda: every(sources, counts, on_bad_row, skipped, role), note)
    return records.reordered(weighted(sources, said["counts"], seed)), [RecordError(*error) for error in said["skipped"]]


def about_records(sources: Sequence[Source], on_bad_row: str, role: str) -> About | None:
    """Return what the records of sources depend on; None: a source is a hub dataset, whose content is not known before it is read."""
    contents = [content(source.path, source.split, role) for source in sources]
    if not all(contents):
        return None
    listed = [{**asdict(source), "content": digest} for source, digest in zip(sources, contents, strict=True)]
    return {"code": code(), "sources": listed, "on_bad_row": on_bad_row, "role": role}


def about_encoding(tokenizer: PreTrainedTokenizerBase, config: EncodeConfig, layout: str, control_tokens: str) -> About:
    """Return what the token ids of records depend on.

    Base and instruct models can share a tokenizer.json and differ in the EOS, which is in tokenizer_config.json.
    """
    return {
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "chat_template": tokenizer.chat_template,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "encode": asdict(config),
        "layout": layout,
        "control_tokens": control_tokens,
        "versions": {name: version(name) for name in ("transformers", "tokenizers")},
    }


def code() -> str:
    """Return a digest of the code that makes records and token ids: this package's, and that of other packages' formats."""
    digest = hashlib.sha256(_own_code().encode())
    for name, each in sorted(declared().items()):
        digest.update(f"{name} {inspect.getsource(inspect.getmodule(each.convert) or type(each))}".encode())
    return digest.hexdigest()


@once
def _own_code() -> str:
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for file in sorted([*folder.rglob("*.py"), folder.parent / "records.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()
