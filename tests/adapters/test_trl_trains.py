"""TRL 1.16 trains with a GPM as the reward, in process and over HTTP (extra `bench`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Serves

from prefrep.adapters import trl as adapter
from prefrep.scoring import Scorer

pytest.importorskip("trl", reason="TRL is not installed (extra bench)")
pytestmark = pytest.mark.slow

PROMPTS = ["Name a prime", "Say hello", "Why?", "Count to three"]
COMMON = {
    "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True, "bf16": False, "report_to": "none",
    "save_strategy": "no", "logging_steps": 1, "gradient_checkpointing": False, "disable_tqdm": True,
}  # fmt: skip


class Recorded:
    """A reward function that remembers what it was asked and what it gave."""

    __name__ = "recorded"

    def __init__(self, function: adapter.RewardFunction) -> None:
        self._function, self.calls = function, list[tuple[list[Any], list[Any], list[float]]]()

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        found = self._function(prompts=prompts, completions=completions, **columns)
        self.calls.append((list(prompts), list(completions), found))
        return found


def policy() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prefrep.nn.bundled import resolve

    path = str(resolve("bundled:tiny-llama"))
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def dataset() -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": PROMPTS})


@pytest.fixture(params=["process", "http"])
def model(request: pytest.FixtureRequest, served: Serves, folders: dict[str, Path]) -> str:
    return str(folders["gpm"]) if request.param == "process" else f"{served.url}#gpm"


def trained(trainer: Any) -> None:
    """Train, and see that the policy moved."""
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 3
    assert any(not weight.equal(before[name]) for name, weight in trainer.model.named_parameters())


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_groups(kind: str, model: str, scorers: dict[str, Scorer], tmp_path: Path) -> None:
    import trl

    config: Callable[..., Any] = getattr(trl, f"{kind}Config")
    reward, (lm, tokenizer) = Recorded(adapter.reward_function(model, num_generations=4)), policy()
    arguments = config(output_dir=str(tmp_path), num_generations=4, max_completion_length=12, **COMMON)
    trainer = getattr(trl, f"{kind}Trainer")(
        model=lm, reward_funcs=reward, args=arguments, train_dataset=dataset(), processing_class=tokenizer
    )
    trained(trainer)
    logged = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert len(reward.calls) == len(logged) == 3
    spread = 0.0
    for (prompts, completions, rewards), mean in zip(reward.calls, logged, strict=True):
        assert len(set(prompts)) == 1
        table = scorers["gpm"].table(prompts[0], completions)
        np.testing.assert_allclose(rewards, [np.delete(table[i], i).mean() for i in range(4)], atol=1e-4)
        assert mean == pytest.approx(np.mean(rewards), abs=1e-5), "what the trainer saw"
        spread = max(spread, np.std(rewards))
    assert spread > 0.01


def test_online_dpo(model: str, scorers: dict[str, Scorer], tmp_path: Path) -> None:
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    reward, (lm, tokenizer) = Recorded(adapter.pair_function(model)), policy()
    arguments = OnlineDPOConfig(output_dir=str(tmp_path), max_new_tokens=12, max_length=64, **COMMON)
    trainer = OnlineDPOTrainer(model=lm, reward_funcs=reward, args=arguments, train_dataset=dataset(), processing_class=tokenizer)
    trained(trainer)
    assert len(reward.calls) == 3
    for prompts, completions, rewards in reward.calls:
        half = len(prompts) // 2
        s = [scorers["gpm"].table(prompts[i], [completions[i], completions[i + half]])[0, 1] for i in range(half)]
        np.testing.assert_allclose(rewards, [*(x / 2 for x in s), *(-x / 2 for x in s)], atol=1e-4)
    logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry or "rewards/chosen" in entry]
    assert logged
