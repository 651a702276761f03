"""Heads as plain data."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew, SkewOperator


def describe_head(head: PreferenceHead) -> dict[str, Any]:
    """Return the settings of a head as plain data."""
    settings: dict[str, Any] = {"class": type(head).__name__}
    if isinstance(head, HybridHead):
        settings = describe_head(head.preference) | settings
    if isinstance(head, GPMHead):
        settings |= {"dim": head.dim, "normalize": head.normalize, "skew": {"class": type(head.skew).__name__}}
        if isinstance(head.skew, GatedSkew):
            settings["skew"]["variant"] = head.skew.variant
    if isinstance(head, PairHead):
        settings |= {"readout": head.readout, "answers": list(head.answers)}
    return settings


def make_head(settings: dict[str, Any], hidden_size: int) -> PreferenceHead:
    """Return a newly initialised head, the inverse of `describe_head`.

    Args:
        settings: What `describe_head` returned.
        hidden_size: H of the backbone.

    Raises:
        KeyError: The head is unknown, or a setting is missing.
    """
    kind = settings["class"]
    if kind == "BTHead":
        return BTHead(hidden_size)
    if kind == "PairHead":
        first, second = settings["answers"]
        return PairHead(hidden_size, readout=settings["readout"], answers=(first, second))
    if kind in ("GPMHead", "HybridHead"):
        operators: dict[str, type[SkewOperator]] = {"BlockSkew": BlockSkew, "GatedSkew": GatedSkew, "LearnedSkew": LearnedSkew}
        options = dict(settings["skew"])
        operator = operators[options.pop("class")]
        skew = partial(operator, **options)
        head = GPMHead if kind == "GPMHead" else HybridHead
        return head(hidden_size, dim=settings["dim"], skew=skew, normalize=settings["normalize"])
    raise KeyError(f"unknown head {kind!r}")
