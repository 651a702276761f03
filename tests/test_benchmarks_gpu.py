"""What benchmarks do on a GPU, as far as a CPU can tell."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import common, gpu, kernels, models, pairs, training, utilisation


def test_a_part_of_the_gpu_script_gets_what_earlier_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def run(command: list[str], seconds: float) -> tuple[str, str]:
        given.append(seconds)
        return "", "done"

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "QUICK_RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="0"):
        gpu.main(["--quick", "--device", "cpu", "--parts", "scoring", "sampling", "--seconds", "240"])
    assert given == pytest.approx([110, 240], abs=5)  # shares of 55 and 65, twice
    assert sum(share for share, _ in gpu.PARTS.values()) <= gpu.LONG


@pytest.mark.parametrize("name", gpu.PARTS)
def test_settings_of_the_gpu_script_are_options_of_its_parts(name: str) -> None:
    options = importlib.import_module(f"benchmarks.{name}").parser().parse_args(["--device", "cuda", *gpu.PARTS[name][1]])
    assert name not in ("train_throughput", "utilisation") or "trees, FlexAttention" in options.variants


def test_a_part_of_the_gpu_script_sees_one_gpu_and_no_network() -> None:
    for before, first in ({}, "0"), ({"CUDA_VISIBLE_DEVICES": "3,5"}, "3"), ({"CUDA_VISIBLE_DEVICES": "GPU-4a"}, "GPU-4a"):
        assert gpu.surroundings(before | {"A": "b"}) == {"A": "b", "CUDA_VISIBLE_DEVICES": first, "HF_HUB_OFFLINE": "1"}
    index = torch.cuda._utils._get_device_index
    assert index(training._Staying("cuda").root_device) == 0  # Lightning gives it to torch.cuda.set_device
    assert training._Staying("cpu").root_device == torch.device("cpu")


def test_a_kernel_that_raises_on_a_gpu_or_gives_nan_is_wrong_and_compiled_ones_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def outcome(model: str, kernel: kernels.Kernel, precision: str, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        name = next(name for name, known in kernels.KERNELS.items() if known is kernel)
        asked.append((precision, name))
        if name == "trees, FlexAttention" and precision == "fp32":
            raise RuntimeError("not here")
        off = math.nan if name == "trees, blocks" and precision == "bf16" else 1e-3 * (precision == "bf16")
        return torch.ones(2), torch.ones(2) * (1 + off)

    monkeypatch.setattr(kernels, "outcome", outcome)
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "machine", lambda device: {"device": "a GPU", "threads": 1, "load": 0.0, "versions": {}})
    kernels.main(["--model", models.TINY, "--pairs", "1", "--device", "cuda"])
    compiled = ["compiled" in name for _, name in asked]
    assert compiled == sorted(compiled) and len(asked) == 1 + 2 * len(kernels.KERNELS)
    goals = {goal["what"].split(":")[0]: goal for goal in json.loads((tmp_path / "kernels.json").read_text())["goals"]}
    assert [(goal["figure"], goal["met"]) for goal in goals.values()] == [
        (math.inf, False), (math.inf, False), (0.0, True), (pytest.approx(0.5, rel=1e-3), True)
    ]  # fmt: skip
    assert list(goals) == ["kernels, fp32", "kernels, bf16", "kernels, fp32, compiled", "kernels, bf16, compiled"]


def test_products_are_timed_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of 2 ms by a clock that counts them, or of 1 s: ten or three at a time, five times, after twice three."""
    calls: list[int] = []
    monkeypatch.setattr(torch, "mm", lambda a, b: calls.append(1))
    for each, at_a_time in ((0.002, 10), (1.0, 3)):

        def timed(work: Callable[[], object], each: float = each) -> Callable[[], float]:
            return lambda: -len(calls) * each + (work(), len(calls) * each)[1]

        monkeypatch.setattr(utilisation, "timed", timed)
        calls.clear()
        flops, shape = utilisation.rate(torch.float32, "cpu", [(4, 8, 16)])
        assert len(calls) == 6 + 5 * at_a_time and shape == "4 x 8 x 16"
        assert flops == pytest.approx(2 * 4 * 8 * 16 / each)


@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed")
def test_trl_shares_the_optimizer() -> None:
    tokenizer = models.tokenizer_of(models.TINY)
    ours = training.Ours(models.TINY, tokenizer, training.VARIANTS["padded"], "fp32", "cpu")
    trl = training.TRL(models.TINY, tokenizer, "fp32", "cpu", ours)
    data = pairs.generated(tokenizer, 2, shared=True, scale=0.2)
    for it in (ours, trl, ours, trl):
        assert it.step(data) > 0
        it.clear()
    assert trl.loss == pytest.approx(ours.loss, abs=1e-5)
    assert trl.trainer.optimizer.optimizer is ours.optimizer
    assert {int(state["step"]) for state in ours.optimizer.state.values()} == {4}


def test_a_step_keeps_the_memory_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning frees CUDA's memory where a fit on a GPU begins; a CPU is made to do the same here."""
    from lightning.fabric.accelerators.cuda import _clear_cuda_memory
    from lightning.pytorch.accelerators import CPUAccelerator

    freed: list[int] = []
    begun: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))

    def setup(*_: object) -> None:
        begun.append(1)
        _clear_cuda_memory()

    monkeypatch.setattr(CPUAccelerator, "setup", setup)
    _clear_cuda_memory()
    tokenizer = models.tokenizer_of(models.TINY)
    data = pairs.generated(tokenizer, 1, shared=True, scale=0.2)
    ours = training.Ours(models.TINY, tokenizer, training.VARIANTS["padded"], "fp32", "cpu")
    others = [training.TRL(models.TINY, tokenizer, "fp32", "cpu", ours)] if find_spec("trl") else []
    monkeypatch.setattr("accelerate.utils.memory.is_cuda_available", lambda: True)  # TRL's trainer asks this
    for it in (ours, *others):
        it.step(data)
    assert begun and freed == [1]
