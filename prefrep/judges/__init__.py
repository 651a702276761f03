"""Judges: who compares the responses to a prompt: a rule, a preference model, or a language model that is asked in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefrep.judges.base import Comparer, Judge, Verdict
from prefrep.judges.jurors import circular
from prefrep.judges.named import comparer
from prefrep.judges.panel import PanelJudge
from prefrep.judges.rules import RuleJudge, concise, conciseness, on_topic

if TYPE_CHECKING:
    from prefrep.judges.generative import GenerativeJudge
    from prefrep.judges.implicit import ImplicitJudge
    from prefrep.judges.models import ModelJudge, OfficialJudge, SocietyJudge

__all__ = (
    "Comparer",
    "GenerativeJudge",
    "ImplicitJudge",
    "Judge",
    "ModelJudge",
    "OfficialJudge",
    "PanelJudge",
    "RuleJudge",
    "SocietyJudge",
    "Verdict",
    "circular",
    "comparer",
    "concise",
    "conciseness",
    "on_topic",
)


def __getattr__(name: str) -> Any:
    """Import the judges that need torch on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prefrep.judges import generative, implicit, models

    globals().update({each: getattr(models, each) for each in ("ModelJudge", "OfficialJudge", "SocietyJudge")})
    globals().update(GenerativeJudge=generative.GenerativeJudge, ImplicitJudge=implicit.ImplicitJudge)
    return globals()[name]
