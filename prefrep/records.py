"""What a preference is, before any tokenizer or tensor: frozen records, checked where they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: `system`, `user`, `assistant` or `tool`.
        content: The text of the turn.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        if not isinstance(self.role, str) or not isinstance(self.content, str):
            raise ValueError(f"a message needs a role and a content that are text, got {self.role!r}: {self.content!r:.40}")


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class RankedResponses:
    """A prompt and K responses to it, with or without scores.

    Args:
        prompt: The conversation up to the response. Empty for plain texts that have no prompt.
        responses: K responses; each is one or more messages and ends with the assistant's (or is one plain text).
        scores: One number per response, higher is better; equal scores are ties. None: nothing is known.
        ratings: Scores by aspect (UltraFeedback), each with K numbers; NaN where a rating is missing.
        subset: The group that metrics are reported for.
        id: The row's own name, kept in outputs.
        source: Where the row came from, as `file:line`.
        tags: Other names and values of the row, for grouping.
    """

    prompt: Messages
    responses: tuple[Messages, ...]
    scores: tuple[float, ...] | None = None
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    subset: str = ""
    id: str = ""
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.responses:
            raise ValueError("no responses")
        if any(not response for response in self.responses):
            raise ValueError("a response without a message")
        for name, numbers in [("scores", self.scores), *self.ratings.items()]:
            if numbers is not None and len(numbers) != len(self.responses):
                raise ValueError(f"{len(numbers)} {name} for {len(self.responses)} responses")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, and which one people prefer.

    Args:
        prompt: The conversation up to the response. Empty for plain texts that have no prompt.
        chosen: The preferred response: one or more messages.
        rejected: The other response.
        probability: P(chosen > rejected) in [0, 1]; 1 is a hard label, 0.5 a tie.
        margin: By how much chosen is better, in log-odds (what losses subtract), if the data say so.
        weight: Of this comparison in the loss.
        subset: The group that metrics are reported for.
        id: The row's own name, kept in outputs.
        source: Where the row came from, as `file:line`.
        tags: Other names and values of the row, for grouping.
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

    def __post_init__(self) -> None:
        if not self.chosen or not self.rejected:
            raise ValueError("a response without a message")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"P(chosen > rejected) must lie in [0, 1], got {self.probability}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"a weight must be 0 or more, got {self.weight}")
        if not math.isfinite(self.margin):
            raise ValueError(f"a margin must be a finite number, got {self.margin}")


Record = Comparison | RankedResponses


def preferred(scores: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs (better, worse) of responses whose scores differ, as indices, in the order of i < j."""
    pairs = [(i, j) for i, j in combinations(range(len(scores)), 2) if scores[i] != scores[j]]
    return [(i, j) if scores[i] > scores[j] else (j, i) for i, j in pairs]


def text(messages: Messages) -> str:
    """The contents of some messages, one after the other: for reports, not for models."""
    return "\n".join(message.content for message in messages)
