"""Backbones: trees equal unshared sequences, kernels agree, unusable settings are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, data_of, hidden

from prefrep.data.trees import TreeBatch, alike, collate
from prefrep.errors import ConfigError
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA


@pytest.mark.parametrize("row_tokens", [1, 200, 4096])
def test_trees_equal_every_sequence_alone(family: Backbone, row_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is one unpadded sequence at a time, with no mask at all."""
    monkeypatch.setattr("prefrep.data.trees.ALIKE", 2)
    data = data_of(family.path)
    assert family.supports_trees()
    batch = collate(data, pad_id=0, row_tokens=row_tokens, groups=alike(data, row_tokens))
    got = hidden(family, batch)
    rank = 0
    for datum in data:
        for tree in datum.trees:
            for ids in tree.sequences:
                with torch.no_grad():
                    alone = family.transformer(input_ids=torch.from_numpy(ids).long()[None], use_cache=False).last_hidden_state[0]
                torch.testing.assert_close(got[batch.end[rank]], alone[-1], atol=1e-4, rtol=0)
                torch.testing.assert_close(got[batch.prompt_end[rank]], alone[tree.prompt - 1], atol=1e-4, rtol=0)
                rank += 1
    assert rank == len(batch.end)


def test_padded_layout_equals_trees(family: Backbone) -> None:
    data = data_of(family.path)
    trees, padded = collate(data, pad_id=0), collate(data, pad_id=3, layout="padded")
    a, b = hidden(family, trees), hidden(family, padded)
    torch.testing.assert_close(a[trees.end], b[padded.end], atol=1e-4, rtol=0)
    torch.testing.assert_close(a[trees.prompt_end], b[padded.prompt_end], atol=1e-4, rtol=0)


def test_windows_matter_in_these_tests() -> None:
    """Gemma's sliding window is shorter than the sequences above; a mask without it gives other numbers."""
    backbone = Backbone("bundled:tiny-gemma2").eval()
    batch = collate(data_of(backbone.path), pad_id=0)
    right = hidden(backbone, batch)[batch.end]
    backbone.model.config.sliding_window = None
    assert (hidden(backbone, batch)[batch.end] - right).abs().max() > 1e-3


def gradients(backbone: Backbone, batch: TreeBatch) -> dict[str, torch.Tensor]:
    backbone.zero_grad()
    read = backbone(batch.ids, batch.positions, batch.until, batch.padded).flatten(0, 1)[batch.end]
    (read * torch.linspace(-1, 1, read.numel()).view_as(read)).sum().backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kept", [0, 2**26])
def test_kernels_agree_forward_and_backward(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense masks through transformers' eager attention are the reference; weights are kept for the backward pass or computed again.

    In one case records that begin alike are one trie.
    """
    monkeypatch.setattr("prefrep.nn.attention.KEPT", kept)
    monkeypatch.setattr("prefrep.data.trees.ALIKE", 2)
    monkeypatch.setattr("prefrep.functional.blocks.QUERIES", 5)
    monkeypatch.setattr("prefrep.functional.blocks.ALIGNED", {"cpu": 8 if kept else 1})  # 8: as on CUDA
    ours, reference = Backbone(f"bundled:tiny-{name}", attention="trees"), Backbone(f"bundled:tiny-{name}", attention="eager")
    data = data_of(ours.path)
    groups = None if kept else alike(data, row_tokens=200)
    assert groups is None or len(groups) < len(data)
    batch = collate(data, 0, row_tokens=200, groups=groups)
    torch.testing.assert_close(hidden(ours, batch)[batch.end], hidden(reference, batch)[batch.end], atol=1e-5, rtol=1e-5)
    got, expected = gradients(ours, batch), gradients(reference, batch)
    assert got.keys() == expected.keys() and len(got) > 10
    for parameter, gradient in expected.items():
        torch.testing.assert_close(got[parameter], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "gpt_neox"])  # what transformers lets run on it, without a soft cap
def test_flex_attention_agrees(name: str) -> None:
    flex, dense = (Backbone(f"bundled:tiny-{name}", attention=kernel).eval() for kernel in ("flex_attention", "eager"))
    batch = collate(data_of(flex.path), pad_id=0, row_tokens=200)
    with torch.compiler.set_stance("force_eager"):  # the same numbers without a compiler
        assert flex.supports_trees()
        got = hidden(flex, batch)[batch.end]
    torch.testing.assert_close(got, hidden(dense, batch)[batch.end], atol=1e-4, rtol=0)


def test_flex_attention_reads_sequences_in_one_row_once_it_is_known_to_keep_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe itself compares such a row with what transformers' own padding mask gives."""
    backbone = Backbone("bundled:tiny-gemma3", attention="flex_attention", frozen=True)
    data, read, shapes = data_of(backbone.path), Backbone._read, list[tuple[int, ...]]()
    trees, padded = collate(data, pad_id=0), collate(data, pad_id=3, layout="padded")

    def seen(self: Backbone, ids: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return read(self, ids, *rest, **more)

    monkeypatch.setattr(Backbone, "_read", seen)
    with torch.compiler.set_stance("force_eager"):
        before = hidden(backbone, padded)[padded.end]
        assert backbone.supports_trees() and shapes == [tuple(padded.ids.shape), (1, 53), (1, 53), (1, 5)]
        a, b = hidden(backbone, trees)[trees.end], hidden(backbone, padded)[padded.end]
    assert shapes[4:] == [(1, trees.tokens), (1, padded.tokens)]
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    torch.testing.assert_close(before, b, atol=1e-4, rtol=0)
    assert torch._dynamo.config.recompile_limit >= 64, "a version for every kind of layer, mask and mode"


def test_auto_takes_the_kernel_for_trees(family: Backbone) -> None:
    assert family.attention == "trees"


def test_rows_are_bounded_where_a_mask_is_their_square() -> None:
    data = data_of("bundled:tiny-llama")
    rows = {}
    for attention in ("trees", "sdpa", "eager"):
        backbone = Backbone("bundled:tiny-llama", attention=attention)
        assert backbone.row_capacity(60) == 60 and backbone.supports_trees(), "before, no kernel is known to work"
        rows[attention] = len(collate(data, 0, row_tokens=backbone.row_capacity(60)).ids)
    assert rows["trees"] == 1 and rows["sdpa"] == rows["eager"] > 1


def test_a_compiled_layer_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as the compiler does it, without generating code; two batches of other shapes, training and not."""
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiling(self, backend="aot_eager", **options))
    plain, compiled = Backbone("bundled:tiny-llama"), Backbone("bundled:tiny-llama", compile=True)
    data = data_of(plain.path)
    for batch in (collate(data, pad_id=0, row_tokens=200), collate(data[:2], pad_id=0, row_tokens=60)):
        expected = gradients(plain, batch)
        for parameter, gradient in gradients(compiled, batch).items():
            torch.testing.assert_close(gradient, expected[parameter], atol=1e-5 * float(expected[parameter].abs().max()), rtol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(hidden(compiled, batch)[batch.end], hidden(plain, batch)[batch.end], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_kernel_in_bf16_is_the_kernel_in_fp32_rounded(checkpointing: bool) -> None:
    exact, rounded = Backbone("bundled:tiny-llama"), Backbone("bundled:tiny-llama", gradient_checkpointing=checkpointing)
    batch = collate(data_of(exact.path), pad_id=0, row_tokens=200)
    expected = gradients(exact, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(rounded, batch)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, atol=0.03 * float(gradient.abs().max()), rtol=0.1, msg=parameter)
    assert any(not torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_frozen_trains_nothing() -> None:
    backbone = Backbone("bundled:tiny-llama", frozen=True).train()
    assert not backbone.model.training and not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"frozen": True, "lora": LoRA()}, "exclude each other"),
        ({"quantize": "4bit", "lora": LoRA()}, "CUDA"),
    ],
)
def test_settings_that_cannot_go_together(options: dict[str, object], sentence: str) -> None:
    if "quantize" in options and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=sentence):
        Backbone("bundled:tiny-llama", **options)  # type: ignore[arg-type]
