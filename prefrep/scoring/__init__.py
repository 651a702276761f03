"""Scoring with preference models, in one process or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefrep.scoring.asked import Said, ranked
    from prefrep.scoring.blocks import BlockScorer
    from prefrep.scoring.remote import RemoteScorer
    from prefrep.scoring.scorer import Floats, PairScorer, Scorer

__all__ = ("BlockScorer", "Floats", "PairScorer", "RemoteScorer", "Said", "Scorer", "ranked")


def __getattr__(name: str) -> Any:
    """Import scorers, and with them torch, on first use: programs import `prefrep.scoring.workers` to parse their options."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = {"BlockScorer": "blocks", "RemoteScorer": "remote", "Said": "asked", "ranked": "asked"}.get(name, "scorer")
    return getattr(import_module(f"prefrep.scoring.{home}"), name)
