"""Preference data before tokenisation: frozen records, validated on construction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: `system`, `developer`, `user`, `assistant` or `tool`.
        content: The text of the turn; empty if the turn only calls tools.
        fields: Other fields of the turn, which the chat template receives: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, ...

    Raises:
        ValueError: Role or content is not text.
    """

    role: str
    content: str
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.role, str) or not isinstance(self.content, str):
            raise ValueError(f"role and content of a message must be text, got {self.role!r}: {self.content!r:.40}")

    def __repr__(self) -> str:
        more = f", fields={dict(self.fields)!r}" if self.fields else ""  # digests are made of it, see `as_dict`
        return f"Message(role={self.role!r}, content={self.content!r}{more})"

    def as_dict(self) -> dict[str, Any]:
        """Return the turn as chat templates and JSON files have it: role, content and the other fields."""
        return {"role": self.role, "content": self.content, **self.fields}


Messages = tuple[Message, ...]

VALUE = "step value"  # criterion of scores that are values of steps: the probability that a solution which goes on from there is right
DESIRABLE = "desirable"  # criterion of labels yes (score 1) and no (score 0), which mean something for a single response, too


@dataclass(frozen=True, slots=True)
class RankedResponses:
    """A prompt and K responses to it, with or without scores.

    Args:
        prompt: The conversation up to the response; empty for plain texts without a prompt.
        responses: K responses; each has one or more messages, the last one from the assistant, or is a plain text.
        scores: One number per response, higher is better, equal scores are ties; None: unknown.
        ratings: K numbers for each aspect (UltraFeedback); NaN for a missing rating.
        subset: Group for which metrics are reported.
        id: Name of the row, repeated in outputs.
        source: Origin of the row, as `file:line`.
        tags: Other names and values of the row, for grouping.
        annotator: Name of the person or model that judged.
        group: Group of the annotator, such as a community or a country.
        criterion: Question that was asked: `helpful`, `safe`, ...; empty for an overall preference.
        label_source: Kind of judge: `human`, or the name of a model.
        template_kwargs: Arguments of the chat template: `tools`, `documents`, `enable_thinking`, ...

    Raises:
        ValueError: A response is missing or empty, or the number of scores or ratings is not K.
    """

    prompt: Messages
    responses: tuple[Messages, ...]
    scores: tuple[float, ...] | None = None
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    subset: str = ""
    id: str = ""
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotator: str = ""
    group: str = ""
    criterion: str = ""
    label_source: str = ""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.responses:
            raise ValueError("there are no responses")
        if any(not response for response in self.responses):
            raise ValueError("a response has no message")
        for name, numbers in [("scores", self.scores), *self.ratings.items()]:
            if numbers is not None and len(numbers) != len(self.responses):
                raise ValueError(f"{len(numbers)} {name} for {len(self.responses)} responses")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, the preferred one first.

    Args:
        prompt: The conversation up to the response; empty for plain texts without a prompt.
        chosen: The preferred response: one or more messages.
        rejected: The other response.
        probability: P(chosen > rejected) in [0, 1]; 1 is a hard label, 0.5 a tie.
        margin: Margin of the preference in log-odds, which losses subtract.
        weight: Weight of the comparison in the loss.
        subset: Group for which metrics are reported.
        id: Name of the row, repeated in outputs.
        source: Origin of the row, as `file:line`.
        tags: Other names and values of the row, for grouping.
        annotator: Name of the person or model that judged.
        group: Group of the annotator, such as a community or a country.
        criterion: Question that was asked: `helpful`, `safe`, ...; empty for an overall preference.
        strength: Strength of the preference on the published scale, 0 or more, 0 a tie; None: unknown. `data.strength` makes labels of it.
        label_source: Kind of judge: `human`, or the name of a model.
        template_kwargs: Arguments of the chat template: `tools`, `documents`, `enable_thinking`, ...

    Raises:
        ValueError: A response has no message, or a number is outside its range.
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    probability: float = 1.0
    margin: float = 0.0
    weight: float = 1.0
    subset: str = ""
    id: str = ""
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotator: str = ""
    group: str = ""
    criterion: str = ""
    strength: float | None = None
    label_source: str = ""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.chosen or not self.rejected:
            raise ValueError("a response has no message")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"P(chosen > rejected) must lie in [0, 1], got {self.probability}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"a weight must be 0 or more, got {self.weight}")
        if not math.isfinite(self.margin):
            raise ValueError(f"a margin must be a finite number, got {self.margin}")
        if self.strength is not None and not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"the strength of a preference must be 0 or more, got {self.strength}")


Record = Comparison | RankedResponses
_LATER = ("annotator", "group", "criterion", "strength", "label_source", "template_kwargs")  # fields that digests omit while they are empty


def as_dict(record: Record) -> dict[str, Any]:
    """Return a record as plain data, without its optional fields about annotators, strength and templates where they are empty.

    Digests of records are made of it, so that a new optional field does not change the digests of data without it.
    """
    fields = {name: value for name, value in asdict(record).items() if name not in _LATER or value not in ("", None, {})}
    turns = [turn for name in ("prompt", "chosen", "rejected") for turn in fields.get(name, ())]
    for turn in [*turns, *(turn for response in fields.get("responses", ()) for turn in response)]:
        if not turn["fields"]:
            del turn["fields"]
    return fields


def responses_of(record: Record) -> tuple[Messages, ...]:
    """Return the responses of a record; of a comparison, the chosen one first."""
    return (record.chosen, record.rejected) if isinstance(record, Comparison) else record.responses


def as_responses(record: Record) -> RankedResponses:
    """Return a record as responses; of a comparison the two, chosen first, with all that a prompt or a template may hold of the row."""
    if isinstance(record, RankedResponses):
        return record
    return RankedResponses(
        record.prompt, responses_of(record), subset=record.subset, id=record.id, source=record.source, tags=record.tags,
        annotator=record.annotator, group=record.group, criterion=record.criterion, label_source=record.label_source,
        template_kwargs=record.template_kwargs,
    )  # fmt: skip


def turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as chat templates and JSON files have them."""
    return [message.as_dict() for message in messages]


def preferred(scores: Sequence[float]) -> list[tuple[int, int]]:
    """Return the pairs (better, worse) of indices with unequal scores, in the order of i < j.

    Example:
        >>> preferred([1.0, 3.0, 1.0])
        [(1, 0), (1, 2)]
    """
    pairs = [(i, j) for i, j in combinations(range(len(scores)), 2) if scores[i] != scores[j]]
    return [(i, j) if scores[i] > scores[j] else (j, i) for i, j in pairs]


def text(messages: Messages) -> str:
    """Join the contents of messages, for reports; models read rendered templates."""
    return "\n".join(message.content for message in messages)
