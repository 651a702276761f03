"""What the adapters share: whatever names a model, and one number per response by the server's rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prefrep.functional.groups import mean_log_odds
from prefrep.records import RankedResponses
from prefrep.scoring.asked import Said, messages
from prefrep.scoring.interface import PreferenceScorer
from prefrep.scoring.loading import LocalScoring, is_url, remote

Model = str | Path | PreferenceScorer


def scorer_of(model: Model) -> PreferenceScorer:
    """Return a scorer: the one that is passed, or that of an exported folder or of a server's URL.

    Raises:
        PrefrepError: It cannot be loaded or reached.
    """
    if not isinstance(model, str | Path):
        return model
    return remote(str(model), LocalScoring()) if is_url(str(model)) else LocalScoring().here(str(model))


def rewards(scorer: PreferenceScorer, groups: Sequence[tuple[Said, Sequence[Said]]]) -> list[list[float]]:
    """Return one number per response.

    Args:
        scorer: The model.
        groups: Prompts, each with the responses that are compared with each other.

    Returns:
        For each group the rewards of a Bradley-Terry model, or else each response's mean log-odds against the others of the group
        (0 where it is alone), in nats.
    """
    records = [RankedResponses(messages(prompt, "user"), tuple(messages(each, "assistant") for each in group)) for prompt, group in groups]
    if not scorer.pairwise:
        return [np.asarray(found, np.float64).tolist() for found in scorer.rewards(records)]
    return [mean_log_odds(table).tolist() for table in scorer.tables(records)]


def grouped(prompts: Sequence[Said], responses: Sequence[Said]) -> list[list[int]]:
    """Return the places of the responses to each prompt, prompts in the order of their first one."""
    found: dict[object, list[int]] = {}
    for i, (prompt, _) in enumerate(zip(prompts, responses, strict=True)):
        found.setdefault(messages(prompt, "user"), []).append(i)
    return list(found.values())
