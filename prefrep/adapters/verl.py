"""verl: functions for `reward.custom_reward_function.path` and `.name` (`custom_reward_function.*` before the reward loop).

    # file.py
    from prefrep.adapters.verl import batched, per_sample
    compute_score = per_sample("http://127.0.0.1:8000")      # the reward loop: one sample a call
    compute_scores = batched("runs/mine/export")             # the batch reward manager

verl does not pass the prompt: it stands in the data's `extra_info`, under the key `question` as in verl's recipes unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prefrep.adapters.model import Model, grouped, rewards, scorer_of
from prefrep.errors import ConfigError
from prefrep.scoring.asked import Said


def batched(model: Model, prompt_key: str = "question") -> Callable[..., list[float]]:
    """Return `compute_score(data_sources, solution_strs, ground_truths, extra_infos)`, which scores lists.

    Args:
        model: Exported folder, URL of a server, or a scorer.
        prompt_key: Key of the prompt in `extra_info`: text, or a conversation.

    Returns:
        A function that returns the rewards of a Bradley-Terry model, or the mean log-odds of each solution against the others of its
        prompt, in nats.

    Raises:
        PrefrepError: The model cannot be loaded; a later call raises ConfigError where a prompt is missing.
    """
    scorer = scorer_of(model)

    def compute_score(
        data_sources: Sequence[Any], solution_strs: Sequence[str], ground_truths: Sequence[Any], extra_infos: Sequence[Any], **more: Any
    ) -> list[float]:
        prompts = [_prompt(each, prompt_key) for each in extra_infos]
        places = grouped(prompts, solution_strs)
        values = [0.0] * len(prompts)
        found = rewards(scorer, [(prompts[each[0]], [solution_strs[i] for i in each]) for each in places])
        for members, numbers in zip(places, found, strict=True):
            for i, value in zip(members, numbers, strict=True):
                values[i] = value
        return values

    return compute_score


def per_sample(url: str, prompt_key: str = "question", timeout: float = 180.0, patience: float = 60.0) -> Callable[..., Awaitable[float]]:
    """Return an async `compute_score(data_source, solution_str, ground_truth, extra_info)`, which asks a server about one sample.

    A comparing model needs other solutions of the same prompt: they meet in the server, which answers as soon as `--group-size` of
    them are there, or after `--group-wait`. All solutions of a prompt must reach one server.

    Args:
        url: URL of a server; the environment variable PREFREP_TOKEN holds its bearer token.
        prompt_key: Key of the prompt in `extra_info`: text, or a conversation.
        timeout: Seconds that one request may take.
        patience: Seconds for which a request is repeated while the server is busy or starting.

    Returns:
        A function that returns a number in nats; it raises ServerError where the server cannot be reached, or refuses.
    """

    async def compute_score(data_source: Any, solution_str: str, ground_truth: Any, extra_info: Any = None, **more: Any) -> float:
        import httpx

        from prefrep.web import authorities, headers, post

        async with httpx.AsyncClient(headers=headers(), timeout=httpx.Timeout(timeout, connect=10.0), verify=authorities()) as client:
            found = await post(
                client, f"{url.rstrip('/')}/v1/score", {"prompt": _prompt(extra_info, prompt_key), "responses": [solution_str]}, patience
            )
        return float(found["scores"][0])

    return compute_score


def _prompt(extra_info: Any, key: str) -> Said:
    if not isinstance(extra_info, Mapping) or not isinstance(prompt := extra_info.get(key), str | list):
        raise ConfigError(f"extra_info has no {key!r}, where the prompt should stand; write it into the data, or name another prompt_key")
    return prompt
