"""One number per response, by one rule.

| rule | number |
| --- | --- |
| `reward` | the reward of a Bradley-Terry model |
| `group` | the mean log-odds against the other responses of the same prompt: those in the request, or those of other requests that wait |
| `anchor` | the log-odds against a given answer to the prompt |

The default is `reward` for Bradley-Terry models, `anchor` where there are anchors, and `group` otherwise.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prefrep.errors import DataError, RecordError
from prefrep.functional.groups import mean_log_odds
from prefrep.records import Messages, RankedResponses
from prefrep.scoring.asked import ranked
from prefrep.server.asking import ask, checked, table
from prefrep.server.groups import Groups
from prefrep.server.models import Served
from prefrep.server.refusals import Refusal

RULES = ("reward", "group", "anchor")


class Rewards(NamedTuple):
    """Numbers of responses, in order.

    Args:
        values: In nats.
        sizes: Responses that each was compared with, itself included; 1 for rewards.
        rule: Where they come from.
    """

    values: list[float]
    sizes: list[int]
    rule: str


@dataclass(frozen=True)
class Asked:
    """A response to be scored.

    Args:
        prompt: Its prompt.
        response: The response.
        anchor: The answer that it is compared with; None: none was sent.
        where: Its name in the request, for errors.
        asked: The name of its prompt.
    """

    prompt: Messages
    response: Messages
    anchor: Messages | None = None
    where: str = ""
    asked: str = "prompt"


class Rewarder:
    """Answers with one number per response.

    Args:
        groups: Where single responses wait for each other.
        anchors: Answers by prompt, from a file.
    """

    def __init__(self, groups: Groups, anchors: dict[Messages, Messages]) -> None:
        self._groups, self._anchors = groups, anchors

    async def __call__(
        self, model: Served, asked: Sequence[Asked], rule: str | None = None, rendered: bool = False, wait: bool = True
    ) -> Rewards:
        """Score responses.

        Args:
            model: The model.
            asked: The responses, to any prompts.
            rule: See above; None: the default.
            rendered: Prompts and responses are rendered texts.
            wait: Whether a response that is alone waits for those of other requests.

        Raises:
            Refusal: The model has no such rule, or a prompt has no anchor.
        """
        asked = [self._anchored(each) if rule in (None, "anchor") else each for each in asked]
        rule = rule or ("reward" if not model.pairwise else "anchor" if asked and all(each.anchor for each in asked) else "group")
        if rule not in RULES or (rule == "reward" and model.pairwise):
            raise Refusal(
                422, f"rule: must be one of {', '.join(RULES[1:] if model.pairwise else RULES)} with this model, got {rule!r:.40}"
            )
        places: dict[Any, list[int]] = {}
        for i, each in enumerate(asked):
            if rule == "anchor" and each.anchor is None:
                raise Refusal(422, f"{each.where}: its prompt has no anchor; send `anchors`, or start the server with --anchors")
            places.setdefault((each.prompt, each.anchor if rule == "anchor" else None), []).append(i)
        values, sizes = [0.0] * len(asked), [1] * len(asked)

        async def one(prompt: Messages, anchor: Messages | None, members: list[int]) -> None:
            responses = [asked[i].response for i in members]
            record = RankedResponses(prompt, (*responses, anchor) if anchor else tuple(responses))
            try:
                if rule == "group" and len(members) == 1 and wait:
                    found = await self._groups.join((model.name, rendered), prompt, responses[0], grouped)
                    values[members[0]], sizes[members[0]] = found
                    return
                if rule == "reward":
                    ((numbers, _),) = await ask(model, [record], lambda reading: checked(reading.rewards()), rendered)
                else:
                    ((odds, _),) = await ask(model, [record], table, rendered)
                    numbers = odds[:-1, -1] if anchor else mean_log_odds(odds)
            except RecordError as error:  # it names the place in the record; the client knows the place in its request
                names = {f"responses[{place}]": asked[i].where for place, i in enumerate(members)}
                names |= {f"responses[{len(members)}]": "anchors", "prompt": asked[members[0]].asked}
                raise RecordError(names.get(error.source, error.source), error.problem, error.remedy) from error
            for i, value in zip(members, numbers.tolist(), strict=True):
                values[i], sizes[i] = value, 1 if rule == "reward" else len(record.responses)

        async def grouped(prompt: Messages, responses: Sequence[Messages]) -> Any:
            ((odds, _),) = await ask(model, [RankedResponses(prompt, tuple(responses))], table, rendered)
            return odds

        await asyncio.gather(*(one(prompt, anchor, members) for (prompt, anchor), members in places.items()))
        return Rewards(values, sizes, rule)

    def _anchored(self, asked: Asked) -> Asked:
        known = self._anchors.get(asked.prompt) if asked.anchor is None else None
        return Asked(asked.prompt, asked.response, known, asked.where, asked.asked) if known else asked


def read_anchors(path: str | None) -> dict[Messages, Messages]:
    """Return answers by prompt from a JSONL file of {"prompt", "response"}; None: none.

    Raises:
        DataError: The file cannot be read.
    """
    if path is None:
        return {}
    found: dict[Messages, Messages] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # texts may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--anchors {path}: it cannot be read ({getattr(error, 'strerror', error)})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            record = ranked(row["prompt"], [row["response"]])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{path}:{number}: not a row of {{"prompt", "response"}} ({type(error).__name__}: {error})') from error
        found[record.prompt] = record.responses[0]
    if not found:
        raise DataError(f"--anchors {path}: it holds no rows")
    return found
