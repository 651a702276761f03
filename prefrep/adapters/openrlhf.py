"""OpenRLHF: a function for `--reward.remote_url file.py`, in place of a server.

# file.py
from prefrep.adapters.openrlhf import reward_function
reward_func = reward_function("runs/mine/export")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefrep.adapters.model import Model, grouped, rewards, scorer_of
from prefrep.data.rendered import split
from prefrep.errors import ConfigError
from prefrep.records import Message


def reward_function(model: Model) -> Callable[..., dict[str, Any]]:
    """Return `reward_func(queries, prompts, labels)`.

    Queries are in the policy's chat template; their turns are read and rendered in the model's own template (`data.rendered`). Responses to
    one prompt in a call are compared with each other. OpenRLHF 0.10 and later ask for one response at a time, which has nothing to be
    compared with: a comparing model then needs the server, where responses of several calls meet.

    Args:
        model: Exported folder, URL of a server, or a scorer.

    Returns:
        A function that returns {"rewards", "scores", "extra_logs"}: tensors of rewards in nats, of their sigmoid in [0, 1], and the size
        of each group.

    Raises:
        PrefrepError: The model cannot be loaded; a later call raises RecordError for a query that cannot be read, and ConfigError where a
            comparing model gets a single response to a prompt.
    """
    scorer = scorer_of(model)

    def reward_func(queries: Sequence[str], prompts: Sequence[str] | None = None, labels: Any = None, **more: Any) -> dict[str, Any]:
        import torch

        read = [split(query, prompts[i] if prompts else None, f"queries[{i}]") for i, query in enumerate(queries)]
        asked, said = [turns for turns, _ in read], [(Message("assistant", response),) for _, response in read]
        places = grouped(asked, said)
        if scorer.pairwise and any(len(members) == 1 for members in places):
            raise ConfigError(
                "reward_func: a single response to a prompt has nothing to be compared with; start prefrep serve --group-size N, with N "
                "the number of samples per prompt, and name its /get_reward as --reward.remote_url"
            )
        values, sizes = [0.0] * len(read), [1.0] * len(read)
        for members, found in zip(places, rewards(scorer, [(asked[each[0]], [said[i] for i in each]) for each in places]), strict=True):
            for i, value in zip(members, found, strict=True):
                values[i], sizes[i] = value, float(len(members))
        tensor = torch.tensor(values)
        return {"rewards": tensor, "scores": tensor.sigmoid(), "extra_logs": {"group_size": torch.tensor(sizes)}}

    return reward_func
