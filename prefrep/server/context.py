"""What the routes of a server share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefrep.server.groups import Groups
from prefrep.server.metrics import Metrics
from prefrep.server.models import Models
from prefrep.server.rewards import Rewarder
from prefrep.server.settings import Serving


@dataclass(frozen=True)
class Context:
    """The parts of a server.

    Args:
        models: Its models.
        settings: How it answers.
        metrics: What it counts.
        groups: Where single responses wait.
        reward: Gives one number per response.
        examples: Questions that the page offers: {"prompt", "responses"}.
    """

    models: Models
    settings: Serving
    metrics: Metrics
    groups: Groups
    reward: Rewarder
    examples: list[dict[str, Any]]
