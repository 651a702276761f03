"""Sampling with vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedTokenizerBase

from prefrep.errors import ConfigError
from prefrep.generation.base import Sampled, Settings, Template, split
from prefrep.nn.backbone import Backbone
from prefrep.nn.quietly import quietly
from prefrep.records import Messages


class VLLMSampler(Settings):
    """Sampling with vLLM (extra `vllm`), which needs a CUDA device. Never run with vLLM itself.

    Tests use a stand-in. Its calls were compared with the source of vLLM: `SamplingParams` at a commit of 2026, `LLM.__init__` at two
    commits, `LLM.generate` in an older version alone. vLLM samples from float32 models in half precision and refuses temperatures above 2.

    vLLM reads weights from disk, so each update of the model costs an export and a new engine.

    Args:
        temperature: See `Settings`.
        top_p: See `Settings`.
        max_new_tokens: See `Settings`.
        template: See `Settings`.
        top_k: See `Settings`.
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
        top_k: int = 0,
        gpu_memory: float = 0.4,
    ) -> None:
        if find_spec("vllm") is None:
            raise ConfigError("VLLMSampler: vllm is not installed; pip install 'prefrep[vllm]', or use TransformersSampler")
        super().__init__(temperature, top_p, max_new_tokens, template, top_k)
        self.gpu_memory = gpu_memory
        self._engine: dict[str, Any] = {}  # shared by the copies of `at`

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`."""
        vllm = import_module("vllm")  # an optional dependency without stubs

        if not prompts:
            return iter(())
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits = self._limits(backbone, prompts, encoded, shorten)
        drawn = responses if self.temperature > 0 else 1  # vLLM refuses several greedy responses, which would be equal
        common = {"n": drawn, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or -1, "stop_token_ids": ends}
        options = [vllm.SamplingParams(**common, max_tokens=limit, seed=each) for limit, each in zip(limits, seeds, strict=True)]
        results = self._load(vllm, backbone, encoder.tokenizer).generate(
            [{"prompt_token_ids": ids.tolist()} for ids in encoded], options, use_tqdm=False
        )

        def sampled(output: Any) -> Sampled:
            text, lead = split(output.text, encoder)
            return Sampled(text, output.finish_reason == "stop", lead)

        return iter([tuple(sampled(each) for each in result.outputs) * (responses // drawn) for result in results])

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
