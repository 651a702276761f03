"""Sampling with vLLM in this process."""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import distributed
from transformers import PreTrainedTokenizerBase

from prefrep.errors import ConfigError
from prefrep.generation.base import Sampled, Settings, Template, split
from prefrep.nn.backbone import Backbone
from prefrep.nn.quietly import quietly
from prefrep.records import Messages


class VLLMSampler(Settings):
    """Sampling with vLLM in this process (extra `vllm`), which was run with vLLM 0.32 on a CPU and never on a GPU.

    The engine is started once, and shared by all samplers of the process with the same settings. After an update of the model its weights
    are handed over in memory. On CUDA the engine sleeps between rounds and leaves its memory to training.

    Args:
        temperature: See `Settings`; vLLM refuses temperatures above 2.
        top_p: See `Settings`.
        max_new_tokens: See `Settings`.
        template: See `Settings`.
        top_k: See `Settings`.
        dtype: Precision of sampling. `auto`: that of the run, bfloat16 under bf16-mixed and that of the weights otherwise.
        gpu_memory: Fraction of the device's memory for the engine, beside the model in training.
        engine: Further arguments of `vllm.LLM`, such as `max_model_len`.

    Raises:
        ConfigError: vLLM is not installed, or a value is outside its range.
    """

    _running: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 256,
        template: Template = "auto",
        top_k: int = 0,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        gpu_memory: float = 0.4,
        engine: dict[str, Any] | None = None,
    ) -> None:
        if find_spec("vllm") is None:
            raise ConfigError("VLLMSampler: vllm is not installed; pip install 'prefrep[vllm]', or use TransformersSampler")
        super().__init__(temperature, top_p, max_new_tokens, template, top_k)
        self.dtype, self.gpu_memory, self.engine = dtype, gpu_memory, engine or {}

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`."""
        if not prompts:
            return iter(())
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits = self._limits(backbone, prompts, encoded, shorten)
        drawn = responses if self.temperature > 0 else 1  # vLLM refuses several greedy responses, which would be equal
        with _randomness():
            vllm, engine = self._awake(backbone, encoder.tokenizer)
            common = {"n": drawn, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or -1, "stop_token_ids": ends}
            options = [vllm.SamplingParams(**common, max_tokens=limit, seed=each) for limit, each in zip(limits, seeds, strict=True)]
            results = engine.generate([{"prompt_token_ids": ids.tolist()} for ids in encoded], options, use_tqdm=False)

        def sampled(output: Any) -> Sampled:
            text, lead = split(output.text, encoder)
            return Sampled(text, output.finish_reason == "stop", lead)

        return iter([tuple(sampled(each) for each in result.outputs) * (responses // drawn) for result in results])

    def rest(self) -> None:
        """See `Settings`."""
        if self._running.get("sleeps") and not self._running.get("asleep"):
            self._running["engine"].sleep(level=1)
            self._running["asleep"] = True

    def _awake(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any]:
        """Return vLLM and an engine that has the model's present weights."""
        # The engine runs in this process, where weights need not be copied to another.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        vllm = import_module("vllm")  # an optional dependency without stubs
        device = next(backbone.parameters()).device
        dtype = self.dtype if self.dtype != "auto" else str(_precision(backbone, device)).removeprefix("torch.")
        kind, weights = [backbone.path, backbone.settings["revision"], dtype, self.gpu_memory, self.engine], Version(backbone)
        running = self._running
        if running.get("kind") != kind:
            running.clear()  # frees the memory before the next engine allocates
            together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
            sleeps = device.type == "cuda"
            options: dict[str, Any] = {
                "dtype": dtype,
                "gpu_memory_utilization": self.gpu_memory,
                "enable_sleep_mode": sleeps,
                "distributed_executor_backend": "external_launcher" if together else "uni",
                **self.engine,
            }
            with TemporaryDirectory() as folder:
                export(backbone, tokenizer, Path(folder))
                running["engine"] = vllm.LLM(model=folder, **options)
            running.update(kind=kind, weights=weights, sleeps=sleeps, asleep=False)
        if running["asleep"]:
            running["engine"].wake_up()
            running["asleep"] = False
        if running["weights"] != weights:
            state = backbone.merged_state()
            running["engine"].collective_rpc("reload_weights", kwargs={"weights_iterator": iter(state.items())})
            running["engine"].reset_prefix_cache()  # it holds keys and values of the weights before
            running["weights"] = weights
        return vllm, running["engine"]


class Version:
    """What changes whenever a model's weights do, or its adapters are switched on or off; equal if nothing did."""

    def __init__(self, backbone: Backbone) -> None:
        self._model = weakref.ref(backbone.model)
        # Optimizers update in place, which increases `_version`.
        self._state: list[object] = [(id(tensor), tensor._version) for tensor in backbone.model.parameters()]
        self._state += [module.disable_adapters for module in backbone.model.modules() if isinstance(module, BaseTunerLayer)]

    def __eq__(self, other: object) -> bool:
        model = self._model()
        return isinstance(other, Version) and model is not None and model is other._model() and self._state == other._state

    __hash__ = None  # type: ignore[assignment]


def export(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the plain language model, with adapters merged, as vLLM reads it."""
    with quietly():
        backbone.model.save_pretrained(folder, state_dict=backbone.merged_state())
    tokenizer.save_pretrained(folder)


def _precision(backbone: Backbone, device: torch.device) -> torch.dtype:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else backbone.model.dtype


@contextmanager
def _randomness() -> Iterator[None]:
    """Restore the random states of the process: vLLM sets all of them."""
    before, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numbers)
