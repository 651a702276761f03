"""Sampling with any model of transformers, on any device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Literal

import torch

from prefrep.data.encode import Encoder, pad_id
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError
from prefrep.generation import continuous, padded
from prefrep.generation.base import Sampled, Settings, Template, split
from prefrep.generation.writing import Draws, Written
from prefrep.nn import probes
from prefrep.nn.attention import TREES
from prefrep.nn.backbone import Backbone
from prefrep.nn.decoding import reads_like_the_model
from prefrep.records import Messages

log = logging.getLogger(__name__)


class TransformersSampler(Settings):
    """Sampling in this process, for any model and device.

    Prompts are read once for all their responses, what they begin with is read once for all of them, responses that end make room for
    waiting prompts, and adapters are merged meanwhile. Each response has random numbers of its own: it does not depend on the others of
    the call, up to the rounding of sums. Recurrent and hybrid models decode with transformers' `generate`.

    Args:
        temperature: See `Settings`.
        top_p: See `Settings`.
        max_new_tokens: See `Settings`.
        template: See `Settings`.
        top_k: See `Settings`.
        dtype: Precision of sampling. `auto`: that of the run, bfloat16 under bf16-mixed and that of the weights otherwise. `bfloat16` reads
            a copy of the weights, which is faster where the device has units for it (GPUs, CPUs with AMX).
        tokens: Largest number of tokens of prompts and responses in memory at a time, counted as if all had the length of the longest; one
            prompt with its responses always fits. A token takes 46 KB of SmolLM2-135M in float32, 131 KB of an 8B Llama in bfloat16. Some
            hundred responses at a time are fastest on a CPU, some thousand on a GPU.
    """

    def __init__(
        self,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 256,
        template: Template = "auto",
        top_k: int = 0,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        tokens: int = 2**16,
    ) -> None:
        super().__init__(temperature, top_p, max_new_tokens, template, top_k)
        if tokens < 1:
            raise ConfigError(f"tokens must be 1 or more, got {tokens}")
        self.dtype, self.tokens = dtype, tokens
        self._continuous: dict[tuple[str, str, str], bool] = {}  # shared by the copies of `at`

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`."""
        if not prompts:
            return iter(())
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits = self._limits(backbone, prompts, encoded, shorten)
        answers = [self._empty(limit, ends, responses, seed) for limit, seed in zip(limits, seeds, strict=True)]
        device = next(backbone.parameters()).device
        reader = backbone.twin(self._precision(backbone, device))
        with torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext():
            self._write(backbone, reader, encoded, answers, pad_id(encoder.tokenizer))
        exact = reader.model.dtype == torch.float32 and backbone.settings["quantize"] == "none"  # else products are bfloat16
        return iter([tuple(_sampled(answer, encoder, exact and not answer.tilt) for answer in own) for own in answers])

    def _empty(self, limit: int, ends: Sequence[int], responses: int, seed: int) -> list[Written]:
        """Return K answers to be written."""
        return [Written(limit, set(ends), (seed, number)) for number in range(responses)]

    def _write(self, backbone: Backbone, reader: Backbone, prompts: Sequence[Ids], answers: Sequence[Sequence[Written]], pad: int) -> None:
        draws = Draws(self.temperature, self.top_k, self.top_p)
        if self._reads(backbone, reader):
            continuous.write(reader, prompts, answers, draws, self.tokens)
        else:
            padded.write(reader, prompts, answers, draws, pad)

    def _precision(self, backbone: Backbone, device: torch.device) -> torch.dtype | None:
        if backbone.settings["quantize"] != "none":
            return None
        if self.dtype == "auto":
            return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]

    def _reads(self, backbone: Backbone, reader: Backbone) -> bool:
        """Return whether the model can be read token by token with a shared cache, and prepare it for that."""
        device = next(backbone.parameters()).device
        key = (backbone.path, str(backbone.settings["revision"]), f"{device.type} {reader.model.dtype}")
        if key not in self._continuous:
            self._continuous[key] = _probed(reader)
        if self._continuous[key]:
            reader.use(TREES)
        return self._continuous[key]


def _probed(reader: Backbone) -> bool:
    if not type(reader.model)._can_set_attn_implementation():
        reason = "it does not use transformers' attention interface"
    else:
        kernel = reader.attention
        reader.use(TREES)
        tolerance = probes.ROUNDING if reader.model.dtype != torch.float32 else probes.POSITION_ROUNDING
        try:
            with probes.trial(reader):
                if reads_like_the_model(reader, tolerance):
                    return True
            reason = "its cache is not keys and values alone"
        except torch.OutOfMemoryError:
            raise  # not a property of the model
        except probes.UNSUPPORTED as error:
            reason = str(error)[:200]
        reader.use(kernel)
    log.warning("%s: sampling with transformers' generate, which is slower: %s", reader.path, reason)
    return False


def _sampled(answer: Written, encoder: Encoder, exact: bool) -> Sampled:
    finished = answer.finished
    text, lead = split(encoder.continued(answer.ids[: len(answer.ids) - finished]), encoder)
    return Sampled(text, finished, lead, tuple(answer.ids), answer.logprob, answer.entropy / len(answer.ids), exact)
