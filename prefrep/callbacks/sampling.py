"""Sampling of a round's responses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer

from prefrep.callbacks.rounds import RoundCallback, parts, report, seed_of
from prefrep.data.prompts import CALLBACKS, PromptData
from prefrep.data.rounds import Line, batches, digest, plain
from prefrep.errors import ConfigError
from prefrep.generation import Engines, Sampled, Sampler, Settings, TransformersSampler
from prefrep.metrics.repetition import repetition
from prefrep.modules.earlier import keep_weights, weights_of
from prefrep.modules.gpo import GPO

_INDIFFERENT = ("gpu_memory", "tokens", "url", "folder", "patience")  # settings that responses do not depend on


class SampleResponses(RoundCallback):
    """K responses of pi_t to every prompt of a round, in `rounds/t/samples.jsonl`, and M responses of pi_0, in `opponents.jsonl`.

    If the objective refers to earlier rounds, each round also keeps its policy, one copy of the trainable weights in
    `rounds/t/policy.safetensors`; K responses of an earlier policy are sampled into `earlier.jsonl` if the objective plays against it.

    Args:
        sampler: Builds the sampler.
        responses: K, responses of pi_t per prompt.
        initial: M, responses of pi_0 per prompt, for objectives whose opponent is a mixture.
        batch_size: Prompts per sampling batch; a killed run loses at most one batch.
        seed: Seed of sampling.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        sampler: Callable[[], Engines] = TransformersSampler,
        responses: int = 5,
        initial: int = 0,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        if responses < 2:
            raise ConfigError(
                f"SampleResponses.responses must be 2 or more, got {responses}: one response alone has nothing to compare with"
            )
        if initial < 0 or batch_size < 1:
            raise ConfigError(f"initial must be 0 or more and batch_size 1 or more, got {initial} and {batch_size}")
        self.sampler, self.responses, self.initial, self.batch_size, self.seed = sampler(), responses, initial, batch_size, seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before sampling that callbacks, objective, sampler and data are consistent.

        Raises:
            ConfigError: A callback of post-training is missing, the objective needs responses of pi_0 and `initial` is 0, or sampler and
                data disagree.
        """
        module, data = parts(trainer, pl_module, type(self).__name__)
        there = {type(callback).__name__ for callback in cast(Any, trainer).callbacks}
        if {"UpdateReference", "LabelPreferences"} - there:
            raise ConfigError(f"post-training needs the callbacks {CALLBACKS}")
        if module.objective.needs_opponents and not self.initial:
            raise ConfigError(f"{type(module.objective).__name__} has pi_0 among its opponents; set SampleResponses.initial to 1 or more")
        check_sampler(self.sampler, data)

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Sample the missing responses."""
        prompts = data.round_prompts(number)

        def make(rows: Sequence[int]) -> Iterator[Line]:
            asked = [prompts[row].messages for row in rows]
            seeds = [seed_of(self.seed, number, row, 0) for row in rows]
            drawn = self.sampler.sample(module.backbone, asked, self.responses, seeds)
            for row, own in zip(rows, drawn, strict=True):
                prompt = prompts[row]
                yield {
                    "id": prompt.id,
                    "prompt": [message.as_dict() for message in prompt.messages],
                    **line_of(own),
                }

        def oppose(rows: Sequence[int]) -> Iterator[Line]:
            asked = [prompts[row].messages for row in rows]
            seeds = [seed_of(self.seed, number, row, 1) for row in rows]
            with module.initial_policy() as initial:
                for own in self.sampler.sample(initial, asked, self.initial, seeds):
                    yield {"responses": [each.text for each in own]}

        about = {
            "policy": module.backbone.path,
            "prompts": digest(message.content for prompt in prompts for message in prompt.messages),
            "sampler": described(self.sampler),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "responses": [self.responses, self.initial],
        }

        def look_back(rows: Sequence[int]) -> Iterator[Line]:
            asked = [prompts[row].messages for row in rows]
            seeds = [seed_of(self.seed, number, row, 3) for row in rows]
            for own in self.sampler.sample(module.backbone, asked, self.responses, seeds):
                yield {"responses": [each.text for each in own]}

        groups = batches(len(prompts), self.batch_size)
        own = {"weights": module.weights_digest(), **about}
        self.fill(trainer, data, number, "samples", own, groups, make, fresh=data.round_begins)
        before = module.objective.earlier(number)
        if before is not None and data.round_begins:
            if trainer.is_global_zero and not data.rounds.weights(number).exists():  # the samples belong to these weights
                keep_weights(module, data.rounds.weights(number))
            trainer.strategy.barrier()
        if before is not None and before != number and module.objective.needs_earlier_responses:
            with weights_of(module, data.rounds.weights(before)):
                self.fill(trainer, data, number, "earlier", {**about, "round": before}, groups, look_back)
        if self.initial:  # last, since an engine such as vLLM is given the weights of each policy
            self.fill(trainer, data, number, "opponents", about, groups, oppose)
        self.sampler.rest()
        if self.first_time(trainer, number):
            lines = data.rounds.read(number, "samples")
            texts = {f"samples/{row}": _shown(lines[row]) for row in sorted(lines)[:3]}
            report(trainer, data, number, shape(lines.values()), texts)


def described(sampler: Sampler) -> Line:
    """Return the settings that determine the responses of a sampler."""
    known = {name: value for name, value in plain(sampler).items() if name not in _INDIFFERENT}
    return known | ({"engine": engine} if (engine := getattr(sampler, "engine", None)) else {})


def line_of(responses: Sequence[Sampled]) -> Line:
    """Return the responses to a prompt as `PromptData.encoded` reads them, with their tokens and log-probabilities if these are known."""
    line: Line = {
        "responses": [each.text for each in responses],
        "finished": [each.finished for each in responses],
        "leads": [each.lead for each in responses],
    }
    if all(each.ids is not None for each in responses):
        line |= {
            "ids": [list(each.ids or ()) for each in responses],
            "logprobs": [each.logprob for each in responses],
            "entropies": [each.entropy for each in responses],
            "exact": all(each.exact for each in responses),
        }
    return line


def check_sampler(sampler: Sampler, data: PromptData) -> None:
    """Check that sampler and data agree on template and lengths.

    Raises:
        ConfigError: They do not.
    """
    if isinstance(sampler, Settings):
        sampler.check()
    template, longest = getattr(sampler, "template", None), getattr(sampler, "max_new_tokens", None)
    config = data.encode_config
    if template is not None and template != config.template:
        raise ConfigError(f"the sampler's template is {template} and the data's {config.template}; both must be the same")
    if longest is not None and data.max_prompt_length + longest > config.max_length:
        raise ConfigError(
            f"max_prompt_length {data.max_prompt_length} plus the sampler's max_new_tokens {longest} exceed max_length "
            f"{config.max_length}; raise --data.max_length, or lower one of them"
        )


def shape(lines: Iterable[Line]) -> dict[str, float]:
    """Return what shows early that a policy games its judge: mean words and repetition of responses, and the share that ended by itself."""
    lines = list(lines)
    texts = [text for line in lines for text in line["responses"]]
    flags = [flag for line in lines for flag in line["finished"]]
    return {
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "repetition": sum(map(repetition, texts)) / len(texts),
        "finished": sum(flags) / len(flags),
    }


def _shown(line: Line) -> str:
    """Return a prompt and its responses as Markdown."""
    return f"**{line['prompt'][-1]['content']}**\n\n" + "\n\n---\n\n".join(line["responses"])
