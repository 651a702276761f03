"""FSDP2: shard parameters, gradients and optimizer states of a preference model over processes.

Lightning's `ModelParallelStrategy` passes a device mesh to `configure_model`, which calls `shard`. (Lightning's `FSDPStrategy` is the older
FSDP1, which flattens parameters and so cannot keep frozen and trained ones of LoRA apart.)
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


def shard(module: LightningModule, backbone: Backbone, logits: bool) -> None:
    """Shard a module over the data-parallel devices of its mesh, one unit per layer of the backbone.

    The rest (embeddings, last norm, head, loss) is one unit, gathered at once: callers use more of a head than its `forward`, a learned
    temperature is one number, and tied embeddings are read at both ends. So is an output layer that training reads: it is called for each
    chunk of a process's own tokens, and a unit is gathered in every call, of which all processes must make as many.

    Args:
        module: The module, equal in every process.
        backbone: Its backbone.
        logits: Whether training reads logits. If not, the output layer is a unit of its own, which nobody gathers.

    Raises:
        ConfigError: The mesh is tensor-parallel, the base is quantised, or its layers are not those of `transformers`.
    """
    mesh = cast("DeviceMesh", module.device_mesh)
    if mesh["tensor_parallel"].size() > 1:
        raise ConfigError(
            "ModelParallelStrategy: tensor parallelism is not supported; set data_parallel_size to devices x num_nodes and"
            " tensor_parallel_size to 1"
        )
    if backbone.settings["quantize"] != "none":
        raise ConfigError("a quantised backbone cannot be sharded; use strategy: ddp, or quantize: none")
    layers: list[nn.Module] = [m for m in backbone.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"{backbone.path}: only layers of transformers can be sharded, and the model has none; use strategy: ddp")
    # Autocast alone keeps a bf16 copy of every layer until the backward pass, and gathers twice the bytes.
    mixed = str(module.trainer.precision) == "bf16-mixed"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if mixed else MixedPrecisionPolicy()
    output, inputs = backbone.model.get_output_embeddings(), backbone.model.get_input_embeddings()
    if output is not None and output.weight is not inputs.weight and not logits:
        layers.append(output)
    data = mesh["data_parallel"]
    for layer in layers:
        fully_shard(layer, mesh=data, mp_policy=policy)
    # Reshard after forward: between steps, checkpoints and the optimizer must see the sharded parameters.
    fully_shard(module, mesh=data, reshard_after_forward=True)
    for entry in ("training_step", "validation_step", "test_step", "supports_trees"):  # entry points besides `forward`
        register_fsdp_forward_method(module, entry)


def is_sharded(module: nn.Module) -> bool:
    """Return whether `shard` has sharded a module."""
    return isinstance(module, FSDPModule)


def class_name(module: nn.Module) -> str:
    """Return the name of the class of a module, below the one that sharding adds."""
    return next(kind.__name__ for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the full state of a sharded module on the CPU, in process 0; empty elsewhere. All processes must call it."""
    state: dict[str, Any] = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return state


def gradient_norm(module: nn.Module) -> Tensor:
    """Return the Euclidean norm of the gradient, over all shards."""
    return _norm([p.grad for p in module.parameters() if p.grad is not None])


def weight_norm(module: nn.Module) -> Tensor:
    """Return the Euclidean norm of the trainable parameters, over all shards."""
    return _norm([p.detach() for p in module.parameters() if p.requires_grad])


def _norm(tensors: list[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
