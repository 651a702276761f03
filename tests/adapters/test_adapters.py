"""Adapters called as the trainers call them; `test_trl_trains` has the real ones."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Serves, serving

from prefrep import adapters
from prefrep.adapters import openrlhf, trl, verl
from prefrep.errors import ConfigError
from prefrep.scoring import Scorer, ranked

CHAT = [{"role": "user", "content": "Name a prime"}]


def means(table: Any) -> list[float]:
    return [float(np.delete(table[i], i).mean()) for i in range(len(table))]


def test_trl_groups(scorers: dict[str, Scorer]) -> None:
    function = trl.reward_function(scorers["gpm"], num_generations=3)
    prompts = ["Name a prime"] * 3 + ["Say hello"] * 3 + ["Name a prime"] * 3
    completions = ["7", "9", "8", "Hi", "Hello", "No", "1", "2", "3"]
    expected = [value for i in (0, 3, 6) for value in means(scorers["gpm"].table(prompts[i], completions[i : i + 3]))]
    assert function(prompts=prompts, completions=completions, completion_ids=[[1]] * 9, trainer_state=None) == pytest.approx(
        expected, abs=1e-4
    )
    chats = [[{"role": "assistant", "content": each}] for each in completions[:3]]
    assert function([CHAT] * 3, chats) == pytest.approx(expected[:3], abs=1e-4)
    rewards = next(scorers["bt"].rewards([ranked("Name a prime", completions[:3])]))
    assert trl.reward_function(scorers["bt"], 3)(prompts[:3], completions[:3]) == pytest.approx(rewards, abs=1e-4)
    for wrong in (prompts[:4], prompts[1:4]):
        with pytest.raises(ConfigError, match="3 consecutive completions are not all of one prompt"):
            function(wrong, completions[: len(wrong)])


def test_trl_pairs(scorers: dict[str, Scorer], served: Serves) -> None:
    prompts, first, second = ["Name a prime", "Say hello"], ["7", "Hi"], ["9", "No"]
    s = [scorers["gpm"].table(p, [a, b])[0, 1] for p, a, b in zip(prompts, first, second, strict=True)]
    for model in (scorers["gpm"], f"{served.url}#gpm"):
        found = trl.pair_function(model)(prompts * 2, first + second)
        assert found == pytest.approx([s[0] / 2, s[1] / 2, -s[0] / 2, -s[1] / 2], abs=1e-4)
    with pytest.raises(ConfigError, match="must repeat the first one"):
        trl.pair_function(scorers["gpm"])(["a", "b"], ["c", "d"])


def test_judges_of_trl_1_0(scorers: dict[str, Scorer]) -> None:
    judge = trl.PairwiseJudge(scorers["gpm"])
    prompts, pairs = ["Name a prime", "Say hello"], [["7", "9"], ["Hi", "No"]]
    s = [scorers["gpm"].table(p, pair)[0, 1] for p, pair in zip(prompts, pairs, strict=True)]
    assert judge.judge(prompts, pairs) == [int(each < 0) for each in s]
    assert judge.judge(prompts, [pair[::-1] for pair in pairs], shuffle_order=False) == [int(each > 0) for each in s]
    soft = judge.judge(prompts, pairs, return_scores=True, temperature=0.5)
    assert soft == pytest.approx([1 / (1 + math.exp(-each / 0.5)) for each in s], abs=1e-4)
    assert judge.judge(["x"], [["same", "same"]], shuffle_order=False) == [0]
    assert set(judge.judge(["x"] * 40, [["same", "same"]] * 40)) == {0, 1}
    assert trl.RankJudge(scorers["gpm"]).judge(["Name a prime"], [["7", "9", "8"]]) == [
        scorers["gpm"].rank("Name a prime", ["7", "9", "8"])
    ]


def test_openrlhf(scorers: dict[str, Scorer]) -> None:
    torch = pytest.importorskip("torch")
    prompt = "<|im_start|>user\nName a prime<|im_end|>\n<|im_start|>assistant\n"
    queries = [f"{prompt}{each}<|im_end|>" for each in ("7", "9", "8")]
    found = openrlhf.reward_function(scorers["gpm"])(queries, [prompt] * 3, [None] * 3)
    expected = torch.tensor(means(scorers["gpm"].table("Name a prime", ["7", "9", "8"])))
    torch.testing.assert_close(found["rewards"], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["scores"], expected.sigmoid(), atol=1e-4, rtol=0)
    assert found["extra_logs"]["group_size"].tolist() == [3, 3, 3]


def test_verl(scorers: dict[str, Scorer], served: Serves) -> None:
    solutions, info = ["7", "9", "8"], {"question": "Name a prime", "index": 3}
    expected = means(scorers["gpm"].table("Name a prime", solutions))
    many = verl.batched(scorers["gpm"])(["math"] * 3, solutions, [None] * 3, [info] * 3)
    assert many == pytest.approx(expected, abs=1e-4)
    with serving({"gpm": served_folder(served, "gpm")}, group_size=3, group_wait=5000) as it:
        one = verl.per_sample(it.url)
        assert asyncio.iscoroutinefunction(one)

        async def all_at_once() -> list[float]:
            calls = [one(data_source="math", solution_str=each, ground_truth=None, extra_info=info, reward_router_address=None,
                         reward_model_tokenizer=None) for each in solutions]  # fmt: skip
            return await asyncio.gather(*calls)

        assert asyncio.run(all_at_once()) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ConfigError, match="extra_info has no 'question'"):
        verl.batched(scorers["gpm"])(["math"], ["7"], [None], [{}])


def served_folder(served: Serves, name: str) -> Any:
    return served.models.folders[name]


def test_the_examples_of_the_readme(served: Serves, scorers: dict[str, Scorer]) -> None:
    readme = (Path(adapters.__file__).parent / "README.md").read_text(encoding="utf-8")
    openrlhf_file, verl_file = re.findall(r"```python\n(# reward\.py.*?)```", readme, re.DOTALL)
    with serving({"gpm": served_folder(served, "gpm")}, group_size=3, group_wait=5000) as it:
        found: list[dict[str, Any]] = [{}, {}]
        for names, text in zip(found, (openrlhf_file, verl_file), strict=True):
            exec(text.replace("runs/mine/export", str(served_folder(served, "gpm"))).replace("http://127.0.0.1:8000", it.url), names)
        solutions, info = ["7", "9", "8"], {"question": "Name a prime"}
        expected = pytest.approx(means(scorers["gpm"].table("Name a prime", solutions)), abs=1e-4)
        prompt = "<|im_start|>user\nName a prime<|im_end|>\n<|im_start|>assistant\n"
        rewards = found[0]["reward_func"]([f"{prompt}{each}<|im_end|>" for each in solutions], [prompt] * 3, [None] * 3)
        assert rewards["rewards"].tolist() == expected

        async def all_at_once() -> list[float]:
            return await asyncio.gather(*(found[1]["compute_score"]("math", each, None, info) for each in solutions))

        assert asyncio.run(all_at_once()) == expected
        assert found[1]["compute_scores"](["math"] * 3, solutions, [None] * 3, [info] * 3) == expected
