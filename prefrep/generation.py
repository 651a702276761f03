"""Sampling of responses from a language model, for post-training and for the answer files of benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.trees import Ids
from prefrep.errors import ConfigError, RecordError
from prefrep.nn.backbone import Backbone
from prefrep.nn.quietly import quietly
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
    """

    text: str
    finished: bool
    lead: str = ""


class Sampler(Protocol):
    """An engine that samples responses. One call is one batch."""

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seed: int, shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """Sample K responses to each of N prompts.

        Equal weights, prompts and seeds give equal responses. The global random state does not change.

        Args:
            backbone: The language model, in training or evaluation mode.
            prompts: N conversations up to the response, or into it: one that ends in an assistant turn is continued there.
            responses: K, the number of responses per prompt.
            seed: Seed of the draws.
            shorten: Limit responses to the context length that their prompt leaves, instead of raising.

        Yields:
            K responses per prompt, in the order of the prompts.

        Raises:
            RecordError: A prompt is empty, or leaves no room for the longest response; with `shorten`, for none at all.
        """
        ...


class _Settings(Part):
    """Settings and encoding that samplers share.

    Args:
        temperature: Divides the logits; 0: greedy decoding.
        top_p: Probability mass of nucleus sampling (arXiv 1904.09751).
        max_new_tokens: Maximum length of a response.
        template: See `EncodeConfig`; it must be the template of the log-probabilities.

    Raises:
        ConfigError: A value is outside its range.
    """

    def __init__(self, temperature: float = 0.7, top_p: float = 0.9, max_new_tokens: int = 256, template: Template = "auto") -> None:
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], got {top_p}")
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
        self.temperature, self.top_p, self.max_new_tokens, self.template = _temperature(temperature), top_p, max_new_tokens, template
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


class TransformersSampler(_Settings):
    """Sampling with `generate` of transformers, for any model and device.

    The K responses share the prefill of their prompt: all tokens but the last go through the model once, and their cache is repeated K
    times. Prompts of one call are padded on the left.

    Args:
        temperature: See `_Settings`.
        top_p: See `_Settings`.
        max_new_tokens: See `_Settings`.
        template: See `_Settings`.
    """

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seed: int, shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`. Greedy responses do not depend on the other prompts of the call; sampled ones do."""
        if not prompts:
            return iter(())
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits, found = self._limits(backbone, prompts, encoded, shorten), dict[int, tuple[Sampled, ...]]()
        for limit in set(limits):  # `generate` has one limit per call, and positions beyond the context length do not exist
            places = [i for i, own in enumerate(limits) if own == limit]
            some, own_seed = [encoded[i] for i in places], seed + self.max_new_tokens - limit  # equal seeds draw equal noise
            new = self._generate(backbone, some, pad_id(encoder.tokenizer), ends, responses, own_seed, limit)
            texts = [_sampled(ids, encoder, set(ends)) for ids in new.tolist()]
            found |= {i: tuple(texts[n * responses : (n + 1) * responses]) for n, i in enumerate(places)}
        return iter([found[i] for i in range(len(prompts))])

    @torch.no_grad()
    def _generate(
        self, backbone: Backbone, prompts: Sequence[Ids], pad: int, ends: list[int], responses: int, seed: int, longest: int
    ) -> Tensor:
        """Return new tokens [N * K, T] with T at most `longest`, each row padded after its end."""
        model = backbone.model
        device = next(model.parameters()).device
        ids, mask = (each.to(device) for each in _left_padded(prompts, pad))
        # Complete settings, so that those of the model (top_k, repetition penalties) do not apply.
        drawn = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        settings = GenerationConfig(
            max_new_tokens=longest,
            eos_token_id=ends,
            pad_token_id=pad,
            use_cache=True,
            **(drawn if self.temperature > 0 else {"do_sample": False}),
        )
        with _for_sampling(backbone), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            shared: dict[str, Any] = {}
            if responses > 1 and ids.shape[1] > 1:
                shared["past_key_values"] = self._read(model, ids[:, :-1], mask[:, :-1], responses)
            ids, mask = ids.repeat_interleave(responses, 0), mask.repeat_interleave(responses, 0)
            whole: Tensor = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, **shared)
        return whole[:, ids.shape[1] :]

    @staticmethod
    def _read(model: Any, ids: Tensor, mask: Tensor, responses: int) -> DynamicCache:
        """Return the cache of prompts [N, L] after one forward pass, repeated K times."""
        cache = DynamicCache(config=model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(responses)
        return cache


class VLLMSampler(_Settings):
    """Sampling with vLLM (extra `vllm`), which needs a CUDA device. Tested with a mock only, never with vLLM itself.

    vLLM reads weights from disk, so each update of the model costs an export and a new engine.

    Args:
        temperature: See `_Settings`.
        top_p: See `_Settings`.
        max_new_tokens: See `_Settings`.
        template: See `_Settings`.
        gpu_memory: Fraction of the device's memory for the engine, beside the model in training.

    Raises:
        ConfigError: vLLM is not installed, or a value is outside its range.
    """

    def __init__(
        self,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 256,
        template: Template = "auto",
        gpu_memory: float = 0.4,
    ) -> None:
        if find_spec("vllm") is None:
            raise ConfigError("VLLMSampler: vllm is not installed; pip install 'prefrep[vllm]', or use TransformersSampler")
        super().__init__(temperature, top_p, max_new_tokens, template)
        self.gpu_memory = gpu_memory
        self._engine: dict[str, Any] = {}  # shared by the copies of `at`

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seed: int, shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`."""
        vllm = import_module("vllm")  # an optional dependency without stubs

        if not prompts:
            return iter(())
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits = self._limits(backbone, prompts, encoded, shorten)
        common = {"n": responses, "temperature": self.temperature, "top_p": self.top_p, "stop_token_ids": ends}
        # With equal seeds every prompt would draw equal noise.
        seeds = np.random.SeedSequence(seed).generate_state(len(prompts))
        options = [vllm.SamplingParams(**common, max_tokens=limit, seed=int(each)) for limit, each in zip(limits, seeds, strict=True)]
        results = self._load(vllm, backbone, encoder.tokenizer).generate(
            [{"prompt_token_ids": ids.tolist()} for ids in encoded], options, use_tqdm=False
        )
        return iter([tuple(_split(each.text, each.finish_reason == "stop", encoder) for each in result.outputs) for result in results])

    def _load(self, vllm: Any, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> Any:
        # Optimizers update in place, which increases `_version`.
        state: list[object] = [(id(tensor), tensor._version) for tensor in backbone.model.parameters()]
        state += [module.disable_adapters for module in backbone.model.modules() if isinstance(module, BaseTunerLayer)]
        if self._engine.get("state") != state:
            self._engine.clear()  # frees the memory before the next engine allocates
            with TemporaryDirectory() as folder:
                with quietly():
                    backbone.model.save_pretrained(Path(folder), state_dict=backbone.merged_state())
                tokenizer.save_pretrained(folder)
                self._engine |= {"state": state, "engine": vllm.LLM(model=folder, gpu_memory_utilization=self.gpu_memory)}
        return self._engine["engine"]


def _temperature(value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ConfigError(f"temperature must be 0 (greedy) or more, got {value}")
    return value


@contextmanager
def _for_sampling(backbone: Backbone) -> Iterator[None]:
    """Set evaluation mode and default generation settings, and restore both afterwards."""
    model, mode = backbone.model, backbone.training
    own = model.generation_config
    backbone.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
        backbone.train(mode)


def _left_padded(prompts: Sequence[Ids], pad: int) -> tuple[Tensor, Tensor]:
    """Return left-padded ids [N, L] and their attention mask [N, L]."""
    longest = max(len(ids) for ids in prompts)
    ids = np.full((len(prompts), longest), pad, np.int64)
    mask = np.zeros_like(ids)
    for row, each in enumerate(prompts):
        ids[row, longest - len(each) :] = each
        mask[row, longest - len(each) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _sampled(ids: list[int], encoder: Encoder, ends: set[int]) -> Sampled:
    """Return the response in a row of new tokens, which can continue after its end."""
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    return _split(encoder.continued(ids[:stop]), stop is not None, encoder)


def _split(whole: str, finished: bool, encoder: Encoder) -> Sampled:
    """Return a response with its text and lead separated."""
    text = whole.removeprefix(encoder.lead)
    return Sampled(text, finished, whole[: len(whole) - len(text)])
