"""FSDP2: a preference model whose parameters, gradients and optimizer states are spread over processes.

Lightning's `ModelParallelStrategy` hands a mesh of devices to `configure_model`; what is sharded, and how, is said there. (Lightning's
`FSDPStrategy` is the older FSDP1, which flattens parameters: LoRA's mixture of frozen and trained ones is then not its own any more.)
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from prefrep.errors import ConfigError
from prefrep.nn.backbone import Backbone


def shard(module: LightningModule, backbone: Backbone) -> None:
    """Spreads a module over the data-parallel devices of its mesh, one unit per layer of the backbone.

    What is left (embeddings, last norm, head, loss) makes one unit, gathered at once: a head is asked for more than its
    `forward`, a learnt temperature is one number, and tied embeddings are read at both ends.

    Args:
        module: The module, built alike in every process.
        backbone: The part of it that has layers.

    Raises:
        ConfigError: The mesh splits tensors, or the base is quantised.
    """
    mesh = cast("DeviceMesh", module.device_mesh)
    if mesh["tensor_parallel"].size() > 1:
        raise ConfigError(
            "ModelParallelStrategy: tensors are not split here, only data; set data_parallel_size to devices x num_nodes and"
            " tensor_parallel_size to 1"
        )
    if backbone.settings["quantize"] != "none":
        raise ConfigError("a quantised backbone cannot be sharded; use strategy: ddp, or quantize: none")
    layers: list[nn.Module] = [m for m in backbone.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"{backbone.path}: its layers are not those of transformers, so it cannot be sharded; use strategy: ddp")
    # Autocast alone would keep a bf16 copy of every layer until the backward pass, and gather twice the bytes.
    mixed = str(module.trainer.precision) == "bf16-mixed"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if mixed else MixedPrecisionPolicy()
    output, inputs = backbone.model.get_output_embeddings(), backbone.model.get_input_embeddings()
    if output is not None and output.weight is not inputs.weight:
        layers.append(output)  # hardly ever read: not gathered with the rest
    data = mesh["data_parallel"]
    for layer in layers:
        fully_shard(layer, mesh=data, mp_policy=policy)
    # Resharded too: whoever looks at parameters between two steps (a checkpoint that is read, an optimizer) must see what is kept.
    fully_shard(module, mesh=data, reshard_after_forward=True)
    for entry in ("training_step", "validation_step", "test_step", "supports_trees"):  # what is called from outside beside `forward`
        register_fsdp_forward_method(module, entry)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has been here."""
    return isinstance(module, FSDPModule)


def class_name(module: nn.Module) -> str:
    """Name of a module's own class; sharding puts one of its own in front."""
    return next(kind.__name__ for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a sharded module, whole and on the CPU, in process 0; empty elsewhere. All processes must call it."""
    state: dict[str, Any] = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return state


def gradient_norm(module: nn.Module) -> Tensor:
    """Euclidean norm of the whole gradient, over all processes that hold a part of it."""
    return _norm([p.grad for p in module.parameters() if p.grad is not None])


def weight_norm(module: nn.Module) -> Tensor:
    """Euclidean norm of everything trainable, over all processes that hold a part of it."""
    return _norm([p.detach() for p in module.parameters() if p.requires_grad])


def _norm(tensors: list[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
