"""Identity of a frozen language model: what its hidden states depend on beside the tokens."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

FORMAT = 1  # increase it when the layout of caches, or the position where states are read, changes
_digests: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


class Reads(Protocol):
    """The part of a backbone that the identity depends on."""

    @property
    def model(self) -> Any:
        """The `transformers` model."""

    @property
    def attention(self) -> str:
        """Its attention kernel."""

    @property
    def pooling(self) -> str:
        """What is read of a sequence."""

    @property
    def marks(self) -> list[int] | None:
        """Ids of the tokens that are read, if those are marked."""


def identity(backbone: Reads, device: str, adapters: bool = True) -> dict[str, str]:
    """Return everything but the tokens that hidden states depend on, as plain data: weights, configuration, numerics.

    Call it under the autocast of the forward pass, once the attention kernel is selected.

    Args:
        backbone: The language model; the digest covers names, types, shapes and bytes of all its tensors.
        device: Type of the device that runs it.
        adapters: Whether adapters are in use; the base of a policy is the same whatever its adapters have learned.
    """
    silent = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
    config = {name: value for name, value in backbone.model.config.to_dict().items() if name not in silent}
    mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return {
        "format": str(FORMAT),
        "weights": _digest(backbone.model, adapters),
        "config": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
        "attention": backbone.attention,
        "autocast": str(mixed),
        "transformers": version("transformers"),
        **({} if backbone.pooling == "last" else {"pooling": f"{backbone.pooling} {backbone.marks}"}),
    }


def _digest(model: nn.Module, with_adapters: bool) -> str:
    """Return the SHA-256 of all tensors of a module and of its adapters' state, cached until one of them changes; one thread per core."""
    tensors = {
        name: t.detach() for name, t in model.state_dict().items() if isinstance(t, Tensor) and (with_adapters or ".lora_" not in name)
    }
    # Adapter layers of peft: whether they are enabled, and their scaling.
    adapters = [
        (name, bool(cast(Any, m).disable_adapters), m.scaling)
        for name, m in model.named_modules()
        if with_adapters and isinstance(getattr(m, "scaling", None), dict)
    ]
    # `_version` counts in-place writes. Assigning `.data` does not change it, and the new storage can have the old address.
    now = repr(adapters), tuple((name, t.dtype, t.shape, t._version, t.data_ptr(), _sample(t)) for name, t in tensors.items())
    known = _digests.get(model)
    if known is not None and known[0] == now:
        return known[1]

    def one(item: tuple[str, Tensor]) -> bytes:
        name, t = item
        head = f"{name} {t.dtype} {list(t.shape)} ".encode()
        digest = hashlib.sha256(head)
        digest.update(t.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
        return digest.digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = b"".join(pool.map(one, sorted(tensors.items())))
    digest = hashlib.sha256(digests + (repr(adapters).encode() if adapters else b"")).hexdigest()
    _digests[model] = (now, digest)
    return digest


def _sample(t: Tensor) -> bytes:
    """Return about 64 evenly spaced elements of a tensor."""
    found = t.flatten()[:: max(t.numel() // 64, 1)].contiguous()
    return found.view(torch.uint8).cpu().numpy().tobytes()
