"""Compilers: what cannot be compiled is not used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers.modeling_layers import GradientCheckpointingLayer

from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA


class Compiled(torch.autograd.Function):
    """A kernel that fails in its backward pass, or does not."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, found: torch.Tensor, fails: bool) -> torch.Tensor:
        ctx.fails = fails
        return found.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        if ctx.fails:
            raise RuntimeError("no Triton")
        return gradients[0], None, None


@pytest.mark.parametrize("options", [{}, {"lora": LoRA(rank=2, dropout=0.5)}, {"frozen": True}])
@pytest.mark.parametrize("fails", ["forward", "backward", ""])
def test_auto_takes_flex_attention_only_where_it_can_be_compiled(
    fails: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The probe of its mask compiles nothing, so a trial does, forward and, where something is trained, backward."""
    trials: list[torch.Size] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, training: bool = False, **options: Any) -> torch.Tensor:
        eager = torch._dynamo.eval_frame._stance.stance == "force_eager"
        if not eager:
            trials.append(query.shape)
            if fails == "forward":
                raise RuntimeError("no Triton")
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            found = flex_attention(query.detach(), key.detach(), value.detach(), **options)
        return found if eager else Compiled.apply(query, found, fails == "backward")  # type: ignore[no-any-return, no-untyped-call]

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", attend)
    monkeypatch.setattr("prefrep.nn.kernels.FLEX_ON", ("cpu",))
    backbone = Backbone("bundled:tiny-llama", **options)
    state = torch.get_rng_state()
    assert backbone.supports_trees() and backbone.supports_trees()
    works = not fails or (fails == "backward" and backbone.frozen)
    assert backbone.attention == ("flex_attention" if works else "trees")
    assert bool(caplog.records) != works and (works or "no Triton" in caplog.text)
    assert trials and trials[0][2] >= 128 and len(trials) <= 2, "once for each layer"
    assert all(p.grad is None for p in backbone.parameters()) and backbone.training != backbone.frozen
    assert torch.equal(torch.get_rng_state(), state), "dropout draws nothing"


@pytest.mark.parametrize(
    ("cuda", "there", "triton", "lacking"),
    [
        (False, {"c++"}, False, ""), (False, {"gcc"}, True, "a C++ compiler"), (True, {"gcc"}, True, ""), (True, {"clang"}, True, ""),
        (True, {"c++"}, True, "a C compiler"), (True, {"gcc"}, False, "the package triton"),
    ],
)  # fmt: skip
def test_layers_are_compiled_where_there_is_a_compiler(
    cuda: bool, there: set[str], triton: bool, lacking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("prefrep.nn.compiling.torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("prefrep.nn.compiling.shutil.which", lambda name: name if name in there else None)
    monkeypatch.setattr("prefrep.nn.compiling.has_triton_package", lambda: triton)
    compiled: list[Any] = []
    monkeypatch.setattr(GradientCheckpointingLayer, "compile", lambda self, **_: compiled.append(self))
    Backbone("bundled:tiny-llama", compile=True)
    assert len(compiled) == (0 if lacking else 2) and (f"needs {lacking}" in caplog.text) == bool(lacking)


@pytest.mark.parametrize("mixed", [None, torch.bfloat16])
def test_the_trial_is_of_the_kernels_that_training_uses(mixed: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast these are others than those of the weights' dtype."""
    seen: list[torch.dtype] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, training: bool = False, **options: Any) -> torch.Tensor:
        if torch._dynamo.eval_frame._stance.stance != "force_eager":
            seen.append(value.dtype)
        with torch.compiler.set_stance("force_eager"):
            return flex_attention(query.to(value.dtype), key.to(value.dtype), value, **options)  # type: ignore[return-value]

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", attend)
    monkeypatch.setattr("prefrep.nn.kernels.FLEX_ON", ("cpu",))
    backbone = Backbone("bundled:tiny-llama", frozen=True)
    assert backbone.supports_trees(mixed) and backbone.attention == "flex_attention"
    assert set(seen) == {mixed or torch.float32}
