"""What sharding asks of a module's class, without several processes (`tests/integration/test_scale.py` has those)."""

from __future__ import annotations

from inspect import isclass
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from torch.distributed.fsdp import FSDPModule

from prefrep import modules

KINDS = [kind for kind in vars(modules).values() if isclass(kind) and issubclass(kind, LightningModule)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_can_be_given_the_class_of_a_sharded_one(kind: type[LightningModule]) -> None:
    """`fully_shard` assigns `__class__`, which Python refuses for some orders of bases."""
    abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    concrete: Any = type(kind.__name__, (kind,), dict.fromkeys(abstract))
    module: Any = object.__new__(concrete)
    module.__class__ = type(f"FSDP{kind.__name__}", (FSDPModule, concrete), {})
    assert isinstance(module, FSDPModule) and isinstance(module, kind)
