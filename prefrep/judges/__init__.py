"""Judges: who compares the responses to a prompt: a rule, a preference model, or a language model that is asked in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefrep.judges.base import Comparer, Judge, Verdict
from prefrep.judges.named import comparer
from prefrep.judges.rules import RuleJudge, concise, conciseness

if TYPE_CHECKING:
    from prefrep.judges.generative import GenerativeJudge
    from prefrep.judges.models import ModelJudge, OfficialJudge, SocietyJudge

__all__ = (
    "Comparer", "GenerativeJudge", "Judge", "ModelJudge", "OfficialJudge", "RuleJudge", "SocietyJudge", "Verdict", "comparer", "concise",
    "conciseness",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the judges that need torch on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prefrep.judges import generative, models

    globals().update({each: getattr(models, each) for each in ("ModelJudge", "OfficialJudge", "SocietyJudge")})
    globals()["GenerativeJudge"] = generative.GenerativeJudge
    return globals()[name]
