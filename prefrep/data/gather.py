"""Single responses -> ranked responses: rows of the same prompt become one record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from prefrep.data.firsts import Firsts
from prefrep.data.spool import Spool
from prefrep.records import VALUE, RankedResponses, Record, turns


def gathered(records: Iterable[Record]) -> Iterator[RankedResponses]:
    """Merge the responses to equal prompts, in the order of first occurrence; they are kept on disk meanwhile (`data.spool`).

    Records of different annotators, groups, criteria or template arguments stay apart. A prompt that occurs once stays a single response.
    Source, name and tags are those of the first row.

    Args:
        records: Ranked responses of any number of responses.
    """

    def ranked() -> Iterator[RankedResponses]:
        for record in records:
            assert isinstance(record, RankedResponses)
            yield record

    spool = Spool(ranked())
    firsts = Firsts().add(map(_key, spool))
    for _, places in groupby(map(int, np.argsort(firsts, kind="stable")), key=firsts.__getitem__):
        yield _merged([spool[place] for place in places])


def _key(record: RankedResponses) -> bytes:
    who = [record.annotator, record.group, record.criterion, record.label_source, record.subset]
    who += [record.tags.get("prefix", "")] if record.criterion == VALUE else []  # steps are siblings if all before them is shared, too
    about = [turns(record.prompt), who, record.template_kwargs]
    return json.dumps(about, sort_keys=True, default=str).encode()


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
