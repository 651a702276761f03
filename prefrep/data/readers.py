"""Models as DataModules see them: protocols, since data do not import models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefrep.annotators import Annotators
from prefrep.data.offline import PolicyReading
from prefrep.data.trees import TreeBatch
from prefrep.functional.gpo import Judged


class LanguageReader(Protocol):
    """The part of a model that every DataModule uses."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""

    @property
    def backbone(self) -> Any:
        """Its language model: `room` for so many tokens, `both_ways`, `pooling`, `row_capacity`; if `frozen`, a `data.identity.Reads`."""

    def supports_trees(self) -> bool:
        """Return whether the backbone supports tree masks."""


class Reader(LanguageReader, Protocol):
    """The part of a preference model that `PreferenceData` uses."""

    @property
    def annotators(self) -> Annotators | None:
        """Whom its head knows; None: it answers everybody alike."""

    @property
    def layout(self) -> Literal["single", "pair"]:
        """Whether it reads single responses or pairs."""

    @property
    def needs_prompt(self) -> bool:
        """Whether its head is gated by the prompt that responses share."""

    @property
    def unpaired(self) -> bool:
        """Whether it gives single responses a reward, so that labels of single responses mean something."""

    @property
    def device(self) -> torch.device:
        """Its device."""

    @property
    def reading(self) -> PolicyReading | None:
        """How it reads given responses as a policy; None: it is none."""

    def hidden(self, batch: TreeBatch) -> Tensor:
        """Return the hidden states of all tokens of a batch [R * L, H]."""


class GivenReader(Reader, Protocol):
    """The part of a policy that `PreferenceData` uses: it reads responses that are given."""

    def initial_logprobs(self) -> AbstractContextManager[tuple[Any, Callable[[TreeBatch], Tensor]]]:
        """Return a context of pi_0: its language model, and the function from a batch to the log-probabilities of its sequences [M]."""


class Policy(LanguageReader, Protocol):
    """The part of a policy that `PromptData` uses."""

    def selected(self, judged: Judged) -> Tensor:
        """Return the indices of the responses that the loss reads [N, S]."""
