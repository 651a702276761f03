"""Scoring with preference models, in one process or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefrep.scoring.asked import Said as Said
    from prefrep.scoring.asked import ranked as ranked
    from prefrep.scoring.blocks import BlockScorer as BlockScorer
    from prefrep.scoring.forward import Floats as Floats
    from prefrep.scoring.remote import RemoteScorer as RemoteScorer
    from prefrep.scoring.scorer import PairScorer as PairScorer
    from prefrep.scoring.scorer import Scorer as Scorer

_HOMES = {
    "BlockScorer": "blocks", "Floats": "forward", "PairScorer": "scorer", "RemoteScorer": "remote", "Said": "asked", "Scorer": "scorer",
    "ranked": "asked",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import scorers, and with them torch, on first use: programs import `prefrep.scoring.workers` to parse their options."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"prefrep.scoring.{_HOMES[name]}"), name)
