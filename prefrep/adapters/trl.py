"""TRL: reward functions for GRPO, RLOO and Online DPO (1.16), and judges as TRL 0.10 to 1.0 had them.

trainer = GRPOTrainer(model=policy, reward_funcs=reward_function("runs/mine/export", num_generations=8), ...)
trainer = OnlineDPOTrainer(model=policy, reward_funcs=pair_function("http://127.0.0.1:8000"), ...)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prefrep.adapters.model import Model, rewards, scorer_of
from prefrep.errors import ConfigError
from prefrep.records import Comparison, RankedResponses
from prefrep.scoring.asked import Said, messages
from prefrep.scoring.interface import PreferenceScorer

RewardFunction = Callable[..., list[float]]


def reward_function(model: Model, num_generations: int) -> RewardFunction:
    """Return a function for `reward_funcs` of GRPOTrainer and RLOOTrainer.

    Completions of one prompt come as runs of `num_generations` rows. A comparing model rewards each with its mean log-odds against the
    others of its run; a Bradley-Terry model with its reward.

    Args:
        model: Exported folder, URL of a server, or a scorer.
        num_generations: That of the trainer's arguments. `per_device_train_batch_size` must be a multiple of it, so that no run is split
            over processes.

    Raises:
        PrefrepError: The model cannot be loaded; a later call raises ConfigError where rows of one run have different prompts.
    """
    scorer = scorer_of(model)

    def preference(prompts: Sequence[Said], completions: Sequence[Said], **columns: Any) -> list[float]:
        runs = [(prompts[i : i + num_generations], completions[i : i + num_generations]) for i in range(0, len(prompts), num_generations)]
        for asked, group in runs:
            if len(group) < num_generations or any(each != asked[0] for each in asked):
                raise ConfigError(
                    f"reward_function: {num_generations} consecutive completions are not all of one prompt; set "
                    "per_device_train_batch_size to a multiple of num_generations"
                )
        return [value for found in rewards(scorer, [(asked[0], group) for asked, group in runs]) for value in found]

    return preference


def pair_function(model: Model) -> RewardFunction:
    """Return a function for `reward_funcs` of OnlineDPOTrainer.

    That trainer samples two completions for each prompt, the first ones in the first half of the batch and the second ones in the second
    half, and prefers the higher reward. With s the log-odds of the first, rewards +s/2 and -s/2 have exactly this preference, also where
    preferences are cyclic.

    Args:
        model: Exported folder, URL of a server, or a scorer.

    Raises:
        PrefrepError: The model cannot be loaded; a later call raises ConfigError where the halves have different prompts.
    """
    scorer = scorer_of(model)

    def preference(prompts: Sequence[Said], completions: Sequence[Said], **columns: Any) -> list[float]:
        half = len(prompts) // 2
        if len(prompts) % 2 or list(prompts[:half]) != list(prompts[half:]):
            raise ConfigError("pair_function: the second half of the prompts must repeat the first one, as in OnlineDPOTrainer")
        odds = _compare(scorer, prompts[:half], completions[:half], completions[half:])
        return [s / 2 for s in odds] + [-s / 2 for s in odds]

    return preference


class PairwiseJudge:
    """A judge with the interface of `BasePairwiseJudge` and `PairRMJudge`, for TRL 0.10 to 1.0 and those who copied it.

    Args:
        model: Exported folder, URL of a server, or a scorer.
    """

    def __init__(self, model: Model) -> None:
        self._scorer = scorer_of(model)

    def judge(
        self,
        prompts: Sequence[Said],
        completions: Sequence[Sequence[Said]],
        shuffle_order: bool = True,
        return_scores: bool = False,
        temperature: float = 1.0,
    ) -> list[int] | list[float]:
        """Return the better one of each pair.

        Args:
            prompts: Prompts.
            completions: Two completions of each.
            shuffle_order: Whether a tie is decided by chance; else the first one wins it. Models here have no position bias.
            return_scores: Whether to return probabilities.
            temperature: Divides the log-odds of `return_scores`.

        Returns:
            0 or 1; with `return_scores` the probability that the first one is better.
        """
        odds = _compare(self._scorer, prompts, [pair[0] for pair in completions], [pair[1] for pair in completions])
        if return_scores:
            return [float((1 + np.tanh(s / temperature / 2)) / 2) for s in odds]
        return [int(s < 0 or (s == 0 and shuffle_order and random.random() < 0.5)) for s in odds]


class RankJudge:
    """A judge with the interface of `BaseRankJudge`.

    Args:
        model: Exported folder, URL of a server, or a scorer.
    """

    def __init__(self, model: Model) -> None:
        self._scorer = scorer_of(model)

    def judge(self, prompts: Sequence[Said], completions: Sequence[Sequence[Said]], shuffle_order: bool = True) -> list[list[int]]:
        """Return the completions of each prompt from best to worst, by mean log-odds; `shuffle_order` has no effect."""
        records = [
            RankedResponses(messages(prompt, "user"), tuple(messages(each, "assistant") for each in group))
            for prompt, group in zip(prompts, completions, strict=True)
        ]
        return [(-table.mean(axis=1)).argsort(kind="stable").tolist() for table in self._scorer.tables(records)]


def _compare(scorer: PreferenceScorer, prompts: Sequence[Said], first: Sequence[Said], second: Sequence[Said]) -> list[float]:
    pairs = [
        Comparison(messages(prompt, "user"), messages(a, "assistant"), messages(b, "assistant"))
        for prompt, a, b in zip(prompts, first, second, strict=True)
    ]
    return list(scorer.compare(pairs))
