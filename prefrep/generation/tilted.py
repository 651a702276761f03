"""Sampling of pairs that tell most about the policy's mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prefrep.data.trie import Ids
from prefrep.errors import ConfigError
from prefrep.generation import continuous
from prefrep.generation.base import Template
from prefrep.generation.transformers import TransformersSampler
from prefrep.generation.writing import Draws, Written
from prefrep.nn.backbone import Backbone


class TiltedSampler(TransformersSampler):
    """PILAF's sampling (arXiv 2502.04270), token by token: half of the responses come from policies tilted by their own implicit reward.

    Let b be `tilt`, h the policy's logits and g those of pi_0, the base under its adapters. Of every four responses to a prompt, the first
    two come from softmax(h), the third from softmax((1 + b) h - b g), the fourth from softmax((1 - b) h + b g). With b the beta of DPO and
    an implicit reward near the judge's, such pairs turn DPO's gradient into that of the true objective.

    Args:
        tilt: b; 0: plain sampling.
        temperature: See `Settings`; it divides the mixed logits.
        top_p: See `Settings`.
        max_new_tokens: See `Settings`.
        template: See `Settings`.
        top_k: See `Settings`.
        dtype: See `TransformersSampler`.
        tokens: See `TransformersSampler`; both models hold as many.

    Raises:
        ConfigError: A value is outside its range.
    """

    def __init__(
        self,
        tilt: float = 0.1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 256,
        template: Template = "auto",
        top_k: int = 0,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        tokens: int = 2**16,
    ) -> None:
        super().__init__(temperature, top_p, max_new_tokens, template, top_k, dtype, tokens)
        if not 0 <= tilt < float("inf"):
            raise ConfigError(f"tilt must be 0 (plain sampling) or more, got {tilt}")
        self.tilt = tilt

    def _empty(self, limit: int, ends: Sequence[int], responses: int, seed: int) -> list[Written]:
        tilts = (0.0, 0.0, self.tilt, -self.tilt)
        return [Written(limit, set(ends), (seed, number), tilts[number % 4]) for number in range(responses)]

    def _write(self, backbone: Backbone, reader: Backbone, prompts: Sequence[Ids], answers: Sequence[Sequence[Written]], pad: int) -> None:
        if backbone.lora is None and not backbone.frozen:
            raise ConfigError("TiltedSampler takes pi_0 from under the policy's adapters; train with lora, or use TransformersSampler")
        if not self._reads(backbone, reader):
            raise ConfigError(f"TiltedSampler: {backbone.path} cannot be read token by token with a shared cache; use TransformersSampler")
        reference = backbone.twin(reader.model.dtype, adapters=False)
        self._reads(backbone, reference)
        continuous.write(reader, prompts, answers, Draws(self.temperature, self.top_k, self.top_p), self.tokens, reference)
