"""What sharding asks of modules, in one process (`tests/integration/test_scale.py` has several)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import isclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import encoders
import pytest
import torch
from conftest import COMPARISONS, comparison, encoder
from lightning.pytorch import LightningModule
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from prefrep import modules
from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.trees import TreeBatch, collate
from prefrep.modules import BradleyTerry, PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA

KINDS = [kind for kind in vars(modules).values() if isclass(kind) and issubclass(kind, LightningModule)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_can_be_given_the_class_of_a_sharded_one(kind: type[LightningModule]) -> None:
    """`fully_shard` assigns `__class__`, which Python refuses for some orders of bases."""
    abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    concrete: Any = type(kind.__name__, (kind,), dict.fromkeys(abstract))
    module: Any = object.__new__(concrete)
    module.__class__ = type(f"FSDP{kind.__name__}", (FSDPModule, concrete), {})
    assert isinstance(module, FSDPModule) and isinstance(module, kind)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """A mesh of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    torch.distributed.destroy_process_group()


@pytest.fixture
def half() -> Iterator[DeviceMesh]:
    """A mesh of this process and one that only seems to be there: collectives return at once."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    torch.distributed.destroy_process_group()


def built(make: Callable[[], PreferenceModule], mesh: DeviceMesh | None = None) -> PreferenceModule:
    torch.manual_seed(0)
    module = make()
    module._device_mesh = mesh
    module._trainer = SimpleNamespace(precision="32-true", world_size=1)  # type: ignore[assignment]
    module.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    module.configure_model()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name or "value_head" in name:  # which begin at zero
                parameter.fill_(0.1)
    return module


def gradients(module: PreferenceModule, batch: TreeBatch) -> dict[str, torch.Tensor]:
    """Gradients of a step, of which the loss is the last."""
    loss = module.training_step(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    whole = {name: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient for name, gradient in found.items()}
    return whole | {"loss": loss.detach()}


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_a_step_that_reads_logits_is_that_of_the_whole_model(lora: LoRA | None, mesh: DeviceMesh) -> None:
    """With an output layer of its own, which is not gathered for each chunk: processes have different numbers of chunks."""
    make = partial(BradleyTerry, partial(Backbone, "bundled:tiny-llama", lora=lora), sft=0.5)
    batch = collate([datum for _, datum in encoder().encode(COMPARISONS) if datum is not None], 0)
    plain, sharded = built(make), built(make, mesh)
    output, inputs = sharded.backbone.model.get_output_embeddings(), sharded.backbone.model.get_input_embeddings()
    assert output.weight is not inputs.weight and isinstance(sharded, FSDPModule) and not isinstance(output, FSDPModule)
    expected, found = gradients(plain, batch), gradients(sharded, batch)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)


class Collectives(TorchDispatchMode):
    """Names of the collectives in their order. (`CommDebugMode` fails where a backward pass recomputes a layer.)"""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace:
            self.names.append(func.name())
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_the_collectives_of_a_step_do_not_depend_on_its_batch(lora: LoRA | None, half: DeviceMesh) -> None:
    """A process that made one more than the others would wait for them forever."""
    module = built(partial(BradleyTerry, partial(Backbone, "bundled:tiny-llama", lora=lora, gradient_checkpointing=True), sft=0.5), half)
    found = []
    for words, weight in ((1, 0.0), (1, 1.0), (100, 1.0)):  # logits of no token, of one chunk, of several
        long = comparison("Count", "seven " * words, "9")
        batch = collate([datum for _, datum in encoder().encode([long]) if datum is not None], 0)
        batch.weight.fill_(weight)  # 0: a record that fills up the last batch
        with Collectives() as collectives:
            module.training_step(batch).backward()  # type: ignore[no-untyped-call]
        found.append(collectives.names)
    assert len(batch.labels) > 3 * 128 and len(found[0]) > 6
    assert found[0] == found[1] == found[2]


def test_rows_of_sharded_encoders_are_one_call(mesh: DeviceMesh, tmp_path: Path) -> None:
    """All processes must gather weights equally often, whatever the lengths of their rows."""
    encoders.folder(tmp_path, "modernbert")
    make = partial(BradleyTerry, partial(Backbone, str(tmp_path)))
    texts = Encoder(Backbone(str(tmp_path)).tokenizer(), EncodeConfig(template="plain"), "single")
    long = comparison("Name a prime", "It is seven. " * 30, "9")
    batch = collate([datum for _, datum in texts.encode([*COMPARISONS, long]) if datum is not None], 0, "padded")
    found = []
    for module in (built(make), built(make, mesh)):
        calls: list[None] = []
        module.backbone.model.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        found.append((gradients(module, batch), len(calls)))
    (expected, several), (same, one) = found
    assert several > 1 == one
    for name, value in expected.items():
        torch.testing.assert_close(same[name], value, atol=1e-5, rtol=1e-4, msg=name)
