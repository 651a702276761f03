"""Answers of policies under evaluation: the model and the sampler that the options name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefrep.data.context import asked_by
from prefrep.errors import ConfigError
from prefrep.evaluation import generation
from prefrep.evaluation.policies import Answering, Searching, policy_name
from prefrep.generation import Sampled, Sampler, TransformersSampler, VLLMSampler
from prefrep.io.fingerprint import fingerprint
from prefrep.io.policy import context_of
from prefrep.io.shards import read_config, stored_dtype
from prefrep.nn.backbone import Backbone
from prefrep.nn.loading import device_of
from prefrep.records import Messages
from prefrep.scoring.loading import Scoring, fingerprint_of
from prefrep.scoring.workers import open_scorer
from prefrep.search import StepBeams


def make_sampler(how: Answering, temperature: float, top_p: float) -> TransformersSampler | VLLMSampler:
    """Return the engine. Raises ConfigError: a value is out of range, or vLLM is not installed."""
    kind = VLLMSampler if how.engine == "vllm" else TransformersSampler
    return kind(temperature, top_p, how.max_new_tokens, how.template)


def searching(how: Answering) -> tuple[Callable[[Sampler], Sampler], dict[str, Any]]:
    """Load the value model of a search over steps, if one is named.

    Args:
        how: How policies answer.

    Returns:
        What makes a sampler search, or leaves it as it is; and what identifies the value model.

    Raises:
        PrefrepError: The value model cannot be read, or only compares.
    """
    if not isinstance(how, Searching) or how.value is None:
        return lambda sampler: sampler, {}
    values = open_scorer(how.value, Scoring(device=how.device, trust_remote_code=how.trust_remote_code))
    beams, candidates, steps = how.beams, how.candidates, how.steps
    about = {"value": {"path": how.value, "fingerprint": fingerprint_of(how.value)}}
    return lambda sampler: StepBeams(sampler, values, beams, candidates, steps), about


class Asking:
    """A sampler whose prompts name who asks, as the policy's training data did.

    Args:
        sampler: The sampler.
        column: Column that the policy was trained with (`data.context`).
        community: A value of it.
    """

    def __init__(self, sampler: Sampler, column: str, community: str) -> None:
        self._sampler, self._column, self._community = sampler, column, community

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """Sample responses, see `generation.Sampler`."""
        asked = [asked_by(prompt, self._column, self._community) for prompt in prompts]
        return self._sampler.sample(backbone, asked, responses, seeds, shorten)


def asking(how: Answering, path: str, needed: bool = True) -> Callable[[Sampler], Sampler]:
    """Return what makes the prompts of a sampler name who asks.

    Args:
        how: How policies answer.
        path: The policy.
        needed: Whether it must have been trained to read who asks; other policies answer everybody alike.

    Raises:
        ConfigError: It was not.
        CheckpointError: Its folder is damaged.
    """
    column = context_of(path) if how.community else ""
    if how.community and needed and not column:
        raise ConfigError(f"{path}: was not trained to read who asks; drop --community, or train it with --data.context COLUMN")
    return (lambda sampler: Asking(sampler, column, how.community)) if column else lambda sampler: sampler


def load_policy(how: Answering, path: str) -> tuple[Backbone, dict[str, Any]]:
    """Load a language model.

    Args:
        how: How policies answer.
        path: Folder, hub id or bundled:NAME.

    Returns:
        The model, and what identifies it.

    Raises:
        ConfigError: The folder is an adapter without its base.
        CheckpointError: The model cannot be read, or has no output layer.
    """
    if (Path(path) / "adapter_config.json").exists() and not (Path(path) / "config.json").exists():
        raise ConfigError(f"{path}: an adapter without its base; export it with ExportPolicy.weights: merged, or merge it with peft")
    device = device_of(how.device)
    dtype: Any = how.dtype or stored_dtype(read_config(path, None, how.trust_remote_code))
    backbone = Backbone(path, dtype=dtype, frozen=True, trust_remote_code=how.trust_remote_code).to(device)
    backbone.check_output()
    return backbone, {"path": path, "dtype": dtype, "fingerprint": fingerprint(path) if Path(path).is_dir() else None}


def alpaca(
    how: Answering, path: str, data: str, out: Path, temperature: float, top_p: float, *, name: str | None = None, seed: int | None = None,
    distinct: bool = False, restart: bool = False, alike: bool = False,
) -> tuple[Path, int]:  # fmt: skip
    """Answer instructions into AlpacaEval's `model_outputs.json`, resuming an interrupted run.

    Args:
        how: How policies answer.
        path: The language model.
        data: Rows with instructions.
        out: Output folder.
        temperature: Sampling temperature.
        top_p: Nucleus of the sampling.
        name: Name of the model in the file; default: the last part of its path.
        seed: Seed of the sampling, instead of the one of `how`.
        distinct: Answer an instruction that occurs again only once.
        restart: Discard the answers that the folder holds.
        alike: Whether a policy that does not read who asks may answer a community.

    Returns:
        The file, and the number of its answers.

    Raises:
        PrefrepError: Data or model cannot be read.
    """
    sampler, asked = make_sampler(how, temperature, top_p), asking(how, path, not alike)
    instructions = generation.read_instructions(data)
    if distinct:
        instructions = list({row["instruction"]: row for row in instructions}.values())
    searched, value = searching(how)
    backbone, model = load_policy(how, path)
    identity = {"model": model, "temperature": temperature, "top_p": top_p, **how.describe(), **value}
    file = generation.alpaca_eval(
        backbone, asked(searched(sampler)), instructions, out, name or policy_name(path), identity, batch=how.batch_size,
        seed=how.seed if seed is None else seed, restart=restart,
    )  # fmt: skip
    sampler.rest()
    return file, len(instructions)
