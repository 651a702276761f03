"""Sampling with vLLM in this process."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import distributed
from transformers import PreTrainedTokenizerBase

from prefrep.errors import ConfigError, TrainingError
from prefrep.generation.base import Sampled, Template
from prefrep.generation.engine import VLLM
from prefrep.generation.weights import Version, export, plain_state
from prefrep.nn.backbone import Backbone
from prefrep.records import Messages

log = logging.getLogger(__name__)

# Arguments of `vllm.LLM` that follow from other settings, or that an engine inside the trainer's process cannot have.
_SET = {
    "model", "tokenizer", "revision", "dtype", "gpu_memory_utilization", "distributed_executor_backend", "tensor_parallel_size",
    "pipeline_parallel_size", "data_parallel_size", "enable_sleep_mode",
}  # fmt: skip


class VLLMSampler(VLLM):
    """Sampling with vLLM in this process (extra `vllm`), which was run with vLLM 0.32 on a CPU and never on a GPU.

    The engine is shared by all samplers of the process with the same settings. It starts from a copy of the model in the folder for
    temporary files; after an update of the model its weights are handed over in memory. On CUDA the engine sleeps between rounds: its
    weights are in the machine's memory, and the device is left to training.

    Args:
        temperature: See `Settings`; from 0.01 to 2, or 0.
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
        if not 0 < gpu_memory <= 1:
            raise ConfigError(f"gpu_memory must lie in (0, 1], got {gpu_memory}")
        if taken := sorted(_SET & (engine or {}).keys()):
            raise ConfigError(f"VLLMSampler.engine: {taken[0]} is not set there; dtype and gpu_memory are settings of the sampler")
        self.dtype, self.gpu_memory, self.engine = dtype, gpu_memory, engine or {}

    def check(self) -> None:
        """See `VLLM`; the process must be in no group of processes before."""
        super().check()
        if "engine" not in self._running and distributed.is_available() and distributed.is_initialized():
            raise ConfigError("VLLMSampler makes the process group of this process, and there is one; train with --trainer.strategy auto")

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`.

        Raises:
            ConfigError: The engine does not start, or the run has several processes.
        """
        self.check()
        if not prompts:
            return iter(())
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits = self._limits(backbone, prompts, encoded, shorten)
        drawn = self._drawn(responses)
        device = next(backbone.parameters()).device
        dtype = self.dtype if self.dtype != "auto" else str(_precision(backbone, device)).removeprefix("torch.")
        with _undisturbed(), torch.autocast(device.type, enabled=False):
            vllm, engine = self._awake(backbone, encoder.tokenizer, device, dtype)
            common = {"n": drawn, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or -1, "stop_token_ids": ends}
            options = [vllm.SamplingParams(**common, max_tokens=limit, seed=each) for limit, each in zip(limits, seeds, strict=True)]
            try:
                results = engine.generate([{"prompt_token_ids": ids.tolist()} for ids in encoded], options, use_tqdm=False)
            except BaseException:
                self._running["broken"] = True  # it would finish what it was asked when it is asked something else
                raise

        def sampled(output: Any) -> Sampled:
            return self._sampled(output.text, output.finish_reason, encoder, "VLLMSampler")

        return iter([tuple(map(sampled, result.outputs)) * (responses // drawn) for result in results])

    def rest(self) -> None:
        """See `Settings`."""
        if self._running.get("sleeps") and not self._running["asleep"]:
            self._running["engine"].sleep(level=1)
            self._running["asleep"] = True

    def _awake(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase, device: torch.device, dtype: str) -> tuple[Any, Any]:
        """Return vLLM and an engine that has the model's present weights."""
        # The engine runs in this process, so that weights need not be copied to another; on a CPU, `uni` needs it too.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        vllm = import_module("vllm")  # an optional dependency without stubs
        running, weights = self._running, Version(backbone)
        settings = {
            "model": [backbone.path, backbone.settings["revision"]], "dtype": dtype, "gpu_memory": self.gpu_memory, "engine": self.engine,
        }  # fmt: skip
        if running.get("settings") != settings or running.get("broken"):
            before = running.get("settings", settings)
            if differ := [name for name in settings if settings[name] != before[name] and before["model"] == settings["model"]]:
                log.warning("another engine of vLLM is started, since %s differ; samplers of one run should agree", ", ".join(differ))
            _stop(running)
            running["engine"] = self._start(vllm, backbone, tokenizer, device, dtype)
            running.update(settings=settings, weights=weights, sleeps=device.type == "cuda", asleep=False)
        if running["asleep"]:
            _free()
            running["engine"].wake_up()
            running["asleep"] = False
        if running.get("weights") != weights:
            state = plain_state(backbone)
            running["broken"] = True  # until it is done: what is interrupted has a part of either, and vLLM does not begin anew
            running["engine"].collective_rpc("reload_weights", kwargs={"weights_iterator": iter(state.items())})
            if not running["engine"].reset_prefix_cache():
                raise TrainingError("vLLM keeps keys and values of earlier weights; start the run again")
            running.update(weights=weights, broken=False)
        return vllm, running["engine"]

    def _start(self, vllm: Any, backbone: Backbone, tokenizer: PreTrainedTokenizerBase, device: torch.device, dtype: str) -> Any:
        """Return an engine with the model's present weights."""
        if device.type == "cuda" and device.index:
            raise ConfigError(f"VLLMSampler takes the first GPU there is, and the model is on {device}; set CUDA_VISIBLE_DEVICES")
        with TemporaryDirectory() as folder:
            export(backbone, tokenizer, Path(folder))
            _free()
            try:
                engine = vllm.LLM(
                    model=folder, dtype=dtype, gpu_memory_utilization=self.gpu_memory, enable_sleep_mode=device.type == "cuda",
                    distributed_executor_backend="uni", **self.engine,
                )  # fmt: skip
            except (TypeError, ValueError, AssertionError, RuntimeError) as error:
                raise ConfigError(
                    f"VLLMSampler: vLLM does not start ({error}); its gpu_memory_utilization is gpu_memory here, its other arguments "
                    "belong in engine"
                ) from error
        gc.unfreeze()  # vLLM keeps the collector from all that was there before
        return engine


def _stop(running: dict[str, Any]) -> None:
    """Free an engine and its memory."""
    engine, asleep = running.pop("engine", None), running.get("asleep")
    running.clear()
    if engine is not None:
        if asleep:
            _free()
            engine.wake_up()  # memory that is not mapped cannot be freed
        engine.llm_engine.engine_core.shutdown()
        del engine
        _free()


def _free() -> None:
    """Give GPUs back what training, or an engine, no longer uses and torch has kept: an engine takes its memory from the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _precision(backbone: Backbone, device: torch.device) -> torch.dtype:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else backbone.model.dtype


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore random states, threads, the precision of products and the environment, which vLLM sets for the whole process."""
    before, numbers, precision = random.getstate(), np.random.get_state(), torch.get_float32_matmul_precision()
    threads, set_threads, environment = torch.get_num_threads(), torch.set_num_threads, dict(os.environ)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numbers)
            torch.set_float32_matmul_precision(precision)
            torch.set_num_threads = set_threads  # on a CPU it is replaced
            torch.set_num_threads(threads)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ |= environment
