"""What samplers are: settings, encoded prompts, and responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError, RecordError
from prefrep.nn.backbone import Backbone
from prefrep.parts import Part
from prefrep.records import Messages

Template = Literal["auto", "chat", "plain"]


@dataclass(frozen=True)
class Sampled:
    """A sampled response.

    Args:
        text: The response without special tokens.
        finished: Whether it ended in EOS or the chat template's end of turn, and not at the length limit.
        lead: Sampled text in front of the response that belongs to the template, see `Encoder.lead`; empty if there is none.
        ids: The sampled tokens, with the one that ended the response; None: the engine does not tell.
        logprob: Log-probability of these tokens in nats, at temperature 1 and without truncation, under the weights and in the precision
            that they were drawn with.
        entropy: Mean entropy in nats of the distributions, at temperature 1 and without truncation.
        exact: Whether the precision was float32.
    """

    text: str
    finished: bool
    lead: str = ""
    ids: tuple[int, ...] | None = field(default=None, compare=False)
    logprob: float | None = field(default=None, compare=False)
    entropy: float | None = field(default=None, compare=False)
    exact: bool = field(default=False, compare=False)


class Sampler(Protocol):
    """An engine that samples responses. One call is one batch."""

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """Sample K responses to each of N prompts.

        Equal weights, prompts and seeds give equal responses. The global random state does not change.

        Args:
            backbone: The language model, in training or evaluation mode.
            prompts: N conversations up to the response, or into it: one that ends in an assistant turn is continued there.
            responses: K, the number of responses per prompt.
            seeds: Seed of the draws of each prompt.
            shorten: Limit responses to the context length that their prompt leaves, instead of raising.

        Yields:
            K responses per prompt, in the order of the prompts.

        Raises:
            RecordError: A prompt is empty, or leaves no room for the longest response; with `shorten`, for none at all.
            TrainingError: The model's probabilities are not finite.
        """
        ...


class Settings(Part):
    """Settings and encoding that samplers share.

    Args:
        temperature: Divides the logits; 0: greedy decoding.
        top_p: Probability mass of nucleus sampling (arXiv 1904.09751).
        max_new_tokens: Maximum length of a response.
        template: See `EncodeConfig`; it must be the template of the log-probabilities.
        top_k: Number of likeliest tokens to draw from, before `top_p`; 0: all.

    Raises:
        ConfigError: A value is outside its range.
    """

    def __init__(
        self, temperature: float = 0.7, top_p: float = 0.9, max_new_tokens: int = 256, template: Template = "auto", top_k: int = 0
    ) -> None:
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], got {top_p}")
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
        if top_k < 0:
            raise ConfigError(f"top_k must be 0 (all tokens) or more, got {top_k}")
        self.temperature, self.top_p, self.max_new_tokens, self.template = _temperature(temperature), top_p, max_new_tokens, template
        self.top_k = top_k
        self._known: dict[tuple[str, Any], tuple[Encoder, list[int]]] = {}  # shared by the copies of `at`

    def encoder(self, backbone: Backbone) -> tuple[Encoder, list[int]]:
        """Return the encoder of a model's prompts, and the ids that end its responses."""
        key = (backbone.path, backbone.settings["revision"])
        if key not in self._known:
            encoder = Encoder(backbone.tokenizer(), EncodeConfig(self.template), "single")
            stated = backbone.model.generation_config.eos_token_id
            ends = {*encoder.end_ids(), *([stated] if isinstance(stated, int) else stated or [])}
            self._known[key] = encoder, sorted(ends)
        return self._known[key]

    def at(self, temperature: float) -> Self:
        """Return the sampler with another temperature."""
        other = copy(self)
        other.temperature = _temperature(temperature)
        return other

    def check(self) -> None:
        """Check that the engine can sample for this process.

        Raises:
            ConfigError: It cannot.
        """

    def rest(self) -> None:
        """Leave the device to training; the next call of `sample` takes back what it needs."""

    def _prompts(self, backbone: Backbone, prompts: Sequence[Messages], responses: int) -> tuple[list[Ids], Encoder, list[int]]:
        if responses < 1:
            raise ConfigError(f"responses must be 1 or more per prompt, got {responses}")
        encoder, ends = self.encoder(backbone)
        return encoder.prompts(prompts), encoder, ends

    def _limits(self, backbone: Backbone, prompts: Sequence[Messages], encoded: Sequence[Ids], shorten: bool) -> list[int]:
        """Return the maximum length of the response to each prompt, in tokens."""
        room = backbone.room
        if room is None:
            return [self.max_new_tokens] * len(encoded)
        least = 1 if shorten else self.max_new_tokens
        for ids, prompt in zip(encoded, prompts, strict=True):
            if len(ids) + least > room:
                asked = "a response" if shorten else f"max_new_tokens {self.max_new_tokens}"
                raise RecordError(
                    f"the prompt {prompt[-1].content!r:.60}",
                    f"{len(ids)} tokens and {asked} are more than the {room} that {backbone.path} can read",
                    "remove it, or lower max_new_tokens",
                )
        return [min(self.max_new_tokens, room - len(ids)) for ids in encoded]


def split(whole: str, encoder: Encoder) -> tuple[str, str]:
    """Return the text of a response and its lead."""
    text = whole.removeprefix(encoder.lead)
    return text, whole[: len(whole) - len(text)]


def _temperature(value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ConfigError(f"temperature must be 0 (greedy) or more, got {value}")
    return value
