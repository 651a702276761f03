"""The formula of a leaderboard and how its errors are found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prefrep.functional.outcomes import Ties

Cluster = Literal["auto", "none", "item", "prompt"]
Weigh = Literal["none", "prompt", "category", "judge"]

ELO = 400 / math.log(10)  # points a nat
MEAN = 1000.0


@dataclass(frozen=True)
class Settings:
    """The formula of a leaderboard and how its errors are found.

    Args:
        ties: `half`: a tie is half a win for each; `davidson` and `rao-kupper` give ties a probability of their own.
        order: Whether each judge may lean to the first or second answer.
        sharpness: Whether judges may differ in sharpness.
        ridge: Weight of a normal prior on ratings, 1 / variance in nats^2; 0: none, unless a system has no finite rating without.
        weigh: What counts equally: each battle (`none`), or each `prompt`, `category` or `judge`.
        interval: `sandwich`, or `bootstrap`, which resamples clusters.
        cluster: What is independent: battles (`none`), pairs of answers (`item`) or prompts. `auto`: prompts if there are 50, or else
            items; battles where prompts are unknown.
        resamples: Of the bootstrap and of what is said about sets.
        scale: `elo`: 400 / ln 10 points a nat, mean 1000; or `nats`, mean 0.
        seed: Of all draws.
    """

    ties: Ties = "half"
    order: bool = True
    sharpness: bool = True
    ridge: float = 0.0
    weigh: Weigh = "none"
    interval: Literal["sandwich", "bootstrap"] = "sandwich"
    cluster: Cluster = "auto"
    resamples: int = 200
    scale: Literal["elo", "nats"] = "elo"
    seed: int = 0

    @property
    def unit(self) -> float:
        """Points of the scale a nat."""
        return ELO if self.scale == "elo" else 1.0
