"""Single responses -> ranked responses: rows of the same prompt become one record."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from prefrep.data.spool import Spool, tables
from prefrep.records import VALUE, RankedResponses, Record, turns
from prefrep.room import saving


def gathered(records: Iterable[Record]) -> Iterator[RankedResponses]:
    """Merge the responses to equal prompts, in the order of first occurrence; they are kept on disk meanwhile (`data.spool`).

    Records of different annotators, groups, criteria or template arguments stay apart. A prompt that occurs once stays a single response.
    Source, name and tags are those of the first row.

    Args:
        records: Ranked responses of any number of responses.
    """
    base, folder = tables(), Path(tempfile.gettempdir())
    base.execute("CREATE TABLE rows (key, number)")

    def noted() -> Iterator[RankedResponses]:
        for number, record in enumerate(records):
            assert isinstance(record, RankedResponses)
            base.execute("INSERT INTO rows VALUES (?, ?)", (_key(record), number))
            yield record

    with saving(folder):
        spool = Spool(noted())
        found = base.execute("SELECT min(number) OVER (PARTITION BY key) AS first, number FROM rows ORDER BY first, number")
        for _, rows in groupby(found, key=lambda row: row[0]):
            yield _merged([spool[number] for _, number in rows])


def _key(record: RankedResponses) -> bytes:
    who = [record.annotator, record.group, record.criterion, record.label_source, record.subset]
    who += [record.tags.get("prefix", "")] if record.criterion == VALUE else []  # steps are siblings if all before them is shared, too
    about = [turns(record.prompt), who, record.template_kwargs]
    return hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16).digest()


def _merged(records: Sequence[RankedResponses]) -> RankedResponses:
    if len(records) == 1:
        return records[0]
    scores = [score for record in records for score in record.scores or ()]
    responses = tuple(response for record in records for response in record.responses)
    ratings = {
        aspect: tuple(value for record in records for value in record.ratings.get(aspect, (math.nan,) * len(record.responses)))
        for aspect in dict.fromkeys(aspect for record in records for aspect in record.ratings)
    }
    return replace(records[0], responses=responses, scores=tuple(scores) if len(scores) == len(responses) else None, ratings=ratings)
