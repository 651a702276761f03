"""Sampling with vLLM: with a stand-in for it, and with vLLM itself where it is installed."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import encoder, shift
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM

from prefrep.callbacks.sampling import described
from prefrep.errors import ConfigError, TrainingError
from prefrep.generation import Sampled, TransformersSampler, VLLMSampler
from prefrep.generation.vllm import _stop
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA
from prefrep.records import Message, Messages


def user(text: str) -> Messages:
    return (Message("user", text),)


SHORT, LONG = user("Why?"), (*user("Name a prime number, please."), Message("assistant", "7"), *user("And another one?"))


def test_vllm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.generation.vllm.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"vllm is not installed; pip install 'prefrep\[vllm\]'"):
        VLLMSampler()


def disturb() -> None:
    """What vLLM does to its process."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    torch.set_num_threads = lambda _: None
    os.environ["LD_PRELOAD"] = "some.so"
    torch.set_float32_matmul_precision("highest")


def state_of_the_process() -> list[Any]:
    random_states = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]
    return [*random_states, torch.get_num_threads(), torch.set_num_threads, torch.get_float32_matmul_precision(), dict(os.environ)]


class Engine:
    """A stand-in for vLLM's engine in this process: what it is given is what counts."""

    made: ClassVar[list[Engine]] = []
    free = True

    def __init__(self, model: str, **options: Any) -> None:
        assert not torch.is_autocast_enabled("cpu")
        disturb()
        self.model, self.options, self.calls = AutoModelForCausalLM.from_pretrained(model).eval(), options, list[str]()
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: self.calls.append("shutdown")))
        assert (Path(model) / "tokenizer.json").exists()
        self.made.append(self)

    def generate(self, prompts: list[dict[str, list[int]]], options: list[SimpleNamespace], use_tqdm: bool) -> list[SimpleNamespace]:
        self.asked = prompts, options
        self.calls.append("generate")
        disturb()
        outputs = [SimpleNamespace(text=" yes", finish_reason="stop"), SimpleNamespace(text="no", finish_reason="length")]
        return [SimpleNamespace(outputs=outputs)] * len(prompts)

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        missing, unexpected = self.model.load_state_dict(dict(kwargs["weights_iterator"]), strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}
        self.calls.append(method)

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return self.free

    def sleep(self, level: int) -> None:
        self.calls.append("sleep")

    def wake_up(self) -> None:
        self.calls.append("wake_up")


def raises(error: BaseException) -> Callable[..., None]:
    def do(*_: Any, **__: Any) -> None:
        raise error

    return do


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    """The engines that are made."""
    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = Engine, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr("prefrep.generation.vllm.find_spec", lambda name: fake)
    monkeypatch.setattr(VLLMSampler, "_running", {})
    monkeypatch.setattr(Engine, "made", [])
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield Engine.made
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("template", ["auto", "plain"])
def test_vllm_gets_merged_weights_and_prompt_tokens(template: Any, engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()
    sampler = VLLMSampler(max_new_tokens=16, template=template, gpu_memory=0.3, engine={"max_model_len": 99})
    wanted = [(Sampled("yes", True, " ") if template == "plain" else Sampled(" yes", True), Sampled("no", False))] * 2
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    before = state_of_the_process()
    for _ in range(2):
        assert list(sampler.sample(backbone, [SHORT, LONG], 2, [3, 4])) == wanted
        assert state_of_the_process() == before
    (engine,) = engines
    assert engine.options == {
        "dtype": "float32", "gpu_memory_utilization": 0.3, "enable_sleep_mode": False, "distributed_executor_backend": "uni",
        "max_model_len": 99,
    }  # fmt: skip
    prompts, options = engine.asked
    assert prompts == [{"prompt_token_ids": ids.tolist()} for ids in encoder(template=template).prompts([SHORT, LONG])]
    found = [(o.n, o.temperature, o.top_p, o.top_k, o.max_tokens, o.seed) for o in options]
    assert found == [(2, 0.7, 0.9, -1, 16, 3), (2, 0.7, 0.9, -1, 16, 4)]
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "room", len(encoder(template=template).prompts([LONG])[0]) + 5)
        list(sampler.sample(backbone, [SHORT, LONG], 2, [3, 4], shorten=True))
    assert [o.max_tokens for o in engine.asked[1]] == [16, 5]
    assert engine.calls == ["generate"] * 3, "equal weights are not handed over again"


def test_vllm_has_the_present_weights(engines: list[Engine]) -> None:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()
    sampler, other, ids = VLLMSampler(max_new_tokens=16), VLLMSampler(temperature=1.0), torch.tensor([[5, 6, 7]])

    def logits() -> torch.Tensor:
        list(sampler.sample(backbone, [SHORT], 2, [3]))
        with torch.no_grad():
            found: torch.Tensor = engines[-1].model(input_ids=ids).logits
            assert torch.allclose(found, backbone.model(input_ids=ids).logits, atol=1e-4)
        return found

    first = logits()
    shift(backbone, 0.1)
    second = logits()
    assert not torch.allclose(first, second, atol=1e-2)
    assert engines[0].calls == ["generate", "reload_weights", "reset_prefix_cache", "generate"]
    list(other.sample(backbone, [SHORT], 2, [3]))  # shares the engine, which has the weights
    assert len(engines) == 1 and engines[0].calls[4:] == ["generate"]
    for module in backbone.model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)  # pi_0 in the policy's place
    assert torch.equal(logits(), first)
    twin = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()  # another model, perhaps where one was before
    list(sampler.sample(twin, [SHORT], 2, [3]))
    assert len(engines) == 1 and engines[0].calls.count("reload_weights") == 3
    with torch.autocast("cpu", torch.bfloat16):
        list(sampler.sample(twin, [SHORT], 2, [3]))
    assert [each.options["dtype"] for each in engines] == ["float32", "bfloat16"] and engines[0].calls[-1] == "shutdown"


def test_sentences(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()
    with pytest.raises(ConfigError, match="VLLMSampler.engine: dtype is not set there"):
        VLLMSampler(engine={"dtype": "float32"})
    with pytest.raises(ConfigError, match="gpu_memory must lie"):
        VLLMSampler(gpu_memory=40)
    with pytest.raises(ConfigError, match=r"temperatures from 0\.01 to 2"):
        VLLMSampler(3.0).check()
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "__init__", raises(ValueError("max seq len")))
        with pytest.raises(ConfigError, match=r"does not start \(max seq len\)"):
            list(VLLMSampler().sample(backbone, [SHORT], 2, [3]))
    sampler = VLLMSampler()
    list(sampler.sample(backbone, [SHORT], 2, [3]))
    shift(backbone, 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "free", False)
        with pytest.raises(TrainingError, match="keeps keys and values"):
            list(sampler.sample(backbone, [SHORT], 2, [3]))
    list(sampler.sample(backbone, [SHORT], 2, [3]))
    assert len(engines) == 2 and engines[0].calls[-1] == "shutdown", "what was interrupted has a part of either"
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "generate", raises(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            list(sampler.sample(backbone, [SHORT], 2, [3]))
    list(sampler.sample(backbone, [SHORT], 2, [3]))
    assert len(engines) == 3 and engines[1].calls[-1] == "shutdown"
    with monkeypatch.context() as patch:
        patch.setattr(VLLMSampler, "_running", {})
        patch.setattr("torch.distributed.is_initialized", lambda: True)
        patch.setattr("torch.distributed.get_world_size", lambda: 1)
        with pytest.raises(ConfigError, match="makes the process group"):
            sampler.check()


def test_tables_know_the_options_of_the_engine(engines: list[Engine]) -> None:
    assert described(VLLMSampler(engine={"quantization": "fp8"})) != described(VLLMSampler())
    assert described(VLLMSampler(gpu_memory=0.3)) == described(VLLMSampler())


def test_vllm_sleeps_between_rounds(engines: list[Engine]) -> None:
    backbone, sampler = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval(), VLLMSampler(max_new_tokens=16)
    sampler.rest()
    list(sampler.sample(backbone, [SHORT], 2, [3]))
    sampler.rest()
    assert engines[0].calls == ["generate"], "only CUDA has such a mode"
    VLLMSampler._running["sleeps"] = True
    for _ in range(2):
        sampler.rest()
    shift(backbone, 0.1)
    for _ in range(2):
        list(sampler.sample(backbone, [SHORT], 2, [3]))
    assert engines[0].calls[1:] == ["sleep", "wake_up", "reload_weights", "reset_prefix_cache", "generate", "generate"]
    VLLMSampler._running["sleeps"] = True
    sampler.rest()
    list(sampler.sample(Backbone("bundled:tiny-gpt2").eval(), [SHORT], 2, [3]))
    assert engines[0].calls[-3:] == ["sleep", "wake_up", "shutdown"], "memory that is not mapped cannot be freed"


def test_memory_that_torch_keeps_is_free_before_the_engine_takes_its_own(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noting(name: str, do: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: Any, **kwargs: Any) -> None:
            order.append(name)
            do(*args, **kwargs)

        return noted

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: order.append("free"))
    monkeypatch.setattr(Engine, "__init__", noting("start", Engine.__init__))
    monkeypatch.setattr(Engine, "wake_up", noting("wake", Engine.wake_up))
    backbone, sampler = Backbone("bundled:tiny-llama").eval(), VLLMSampler(max_new_tokens=16)
    list(sampler.sample(backbone, [SHORT], 2, [3]))
    VLLMSampler._running["sleeps"] = True
    sampler.rest()
    list(sampler.sample(backbone, [SHORT], 2, [3]))
    assert order == ["free", "start", "free", "wake"]
    sampler.rest()
    _stop(VLLMSampler._running)
    assert order[4:] == ["free", "wake", "free"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_itself_writes_what_we_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    backbone = Backbone("bundled:smollm2-135m", lora=LoRA(rank=4)).eval()
    vllm = VLLMSampler(0, max_new_tokens=24, dtype="float32", engine={"enforce_eager": True, "max_model_len": 512})
    try:
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found = list(vllm.sample(backbone, [SHORT, LONG], 2, [0, 1]))
            assert found == list(TransformersSampler(0, max_new_tokens=24).sample(backbone, [SHORT, LONG], 2, [0, 1]))
            shift(backbone, 0.01)
    finally:
        _stop(VLLMSampler._running)


def test_greedy_responses_are_equal_and_drawn_once(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM refuses more than one greedy response to a prompt."""

    def generate(self: Engine, prompts: list[Any], options: list[SimpleNamespace], use_tqdm: bool) -> list[SimpleNamespace]:
        assert all(o.temperature > 0 or o.n == 1 for o in options)
        outputs = [
            [SimpleNamespace(text=f"{len(p['prompt_token_ids'])}", finish_reason="stop")] * o.n
            for p, o in zip(prompts, options, strict=True)
        ]
        return [SimpleNamespace(outputs=each) for each in outputs]

    monkeypatch.setattr(Engine, "generate", generate)
    backbone, sampler = Backbone("bundled:tiny-llama").eval(), VLLMSampler(max_new_tokens=4)
    wanted = [(Sampled(str(len(ids)), True),) * 3 for ids in encoder().prompts([SHORT, LONG])]
    for temperature in (0, 0.7):
        assert list(sampler.at(temperature).sample(backbone, [SHORT, LONG], 3, [0, 1])) == wanted
