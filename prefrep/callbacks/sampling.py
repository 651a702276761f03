"""Responses of the policy to the prompts of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer

from prefrep.callbacks.rounds import RoundCallback, parts, report, seed_of
from prefrep.data.prompts import CALLBACKS, PromptData
from prefrep.data.rounds import Line, batches, digest, plain
from prefrep.errors import ConfigError
from prefrep.generation import Sampled, Sampler, TransformersSampler, VLLMSampler
from prefrep.modules.gpo import GPO


class SampleResponses(RoundCallback):
    """Draws K responses to every prompt of the round from pi_t, into `rounds/t/samples.jsonl`, and M of pi_0 into `opponents.jsonl`.

    Args:
        sampler: Builds what draws them.
        responses: K, per prompt.
        initial: M, responses of pi_0 per prompt, for objectives whose opponent is a mixture.
        batch_size: Prompts that are answered at a time; a killed run loses at most as many.
        seed: Of the draws.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        sampler: Callable[[], TransformersSampler | VLLMSampler] = TransformersSampler,
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
        """Refuses, before anything is sampled, what does not go together.

        Raises:
            ConfigError: Nobody would judge the responses, the objective needs some of pi_0 and none are asked for, or sampler and data
                disagree.
        """
        module, data = parts(trainer, pl_module, type(self).__name__)
        there = {type(callback).__name__ for callback in cast(Any, trainer).callbacks}
        if {"UpdateReference", "LabelPreferences"} - there:
            raise ConfigError(f"post-training needs the callbacks {CALLBACKS}")
        if module.objective.needs_opponents and not self.initial:
            raise ConfigError(f"{type(module.objective).__name__} has pi_0 among its opponents; set SampleResponses.initial to 1 or more")
        check_sampler(self.sampler, data)

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Samples what is missing."""
        prompts = data.round_prompts(number)

        def make(rows: Sequence[int]) -> Iterator[Line]:
            asked = [prompts[row].messages for row in rows]
            drawn = self.sampler.sample(module.backbone, asked, self.responses, seed_of(self.seed, number, rows[0], 0))
            for row, own in zip(rows, drawn, strict=True):
                prompt = prompts[row]
                yield {
                    "id": prompt.id,
                    "prompt": [message.as_dict() for message in prompt.messages],
                    **line_of(own),
                }

        def oppose(rows: Sequence[int]) -> Iterator[Line]:
            asked = [prompts[row].messages for row in rows]
            with module.initial_policy() as initial:
                for own in self.sampler.sample(initial, asked, self.initial, seed_of(self.seed, number, rows[0], 1)):
                    yield {"responses": [each.text for each in own]}

        about = {
            "policy": module.backbone.path,
            "prompts": digest(message.content for prompt in prompts for message in prompt.messages),
            "sampler": described(self.sampler),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "responses": [self.responses, self.initial],
        }
        groups = batches(len(prompts), self.batch_size)
        own = {"weights": module.weights_digest(), **about}
        self.fill(trainer, data, number, "samples", own, groups, make, fresh=data.round_begins)
        if self.initial:  # after all the others: an engine such as vLLM is built once for each policy
            self.fill(trainer, data, number, "opponents", about, groups, oppose)
        if self.first_time(trainer, number):
            lines = data.rounds.read(number, "samples")
            every = [text for line in lines.values() for text in line["responses"]]
            flags = [flag for line in lines.values() for flag in line["finished"]]
            values = {"words": sum(len(text.split()) for text in every) / len(every), "finished": sum(flags) / len(flags)}
            texts = {f"samples/{row}": _shown(lines[row]) for row in sorted(lines)[:3]}
            report(trainer, data, number, values, texts)


def described(sampler: Sampler) -> Line:
    """What decides the responses of a sampler; how much memory it may take does not."""
    return {name: value for name, value in plain(sampler).items() if name != "gpu_memory"}


def line_of(responses: Sequence[Sampled]) -> Line:
    """What `PromptData.encoded` needs to know of the responses to a prompt."""
    return {
        "responses": [each.text for each in responses],
        "finished": [each.finished for each in responses],
        "leads": [each.lead for each in responses],
    }


def check_sampler(sampler: Sampler, data: PromptData) -> None:
    """Raises ConfigError where a sampler would write what the data cannot hold, or read prompts in another template."""
    template, longest = getattr(sampler, "template", None), getattr(sampler, "max_new_tokens", None)
    config = data.encode_config
    if template is not None and template != config.template:
        raise ConfigError(f"the sampler's template is {template} and the data's {config.template}; both must be the same")
    if longest is not None and data.max_prompt_length + longest > config.max_length:
        raise ConfigError(
            f"max_prompt_length {data.max_prompt_length} and the sampler's max_new_tokens {longest} are more than max_length "
            f"{config.max_length}; raise --data.max_length, or lower one of them"
        )


def _shown(line: Line) -> str:
    """A prompt and its responses as Markdown."""
    return f"**{line['prompt'][-1]['content']}**\n\n" + "\n\n---\n\n".join(line["responses"])
