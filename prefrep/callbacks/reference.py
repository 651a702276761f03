"""What the reference policies say of the responses of a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from lightning.pytorch import LightningModule, Trainer

from prefrep.callbacks.rounds import RoundCallback, parts, report
from prefrep.data.prompts import PromptData
from prefrep.data.round_batch import Sample
from prefrep.data.rounds import Line, batches
from prefrep.errors import ConfigError
from prefrep.modules.gpo import GPO


class UpdateReference(RoundCallback):
    """Makes the policy of the moment the reference: log pi_t of the round's responses, into `rounds/t/reference.jsonl`.

    That is all that training needs of pi_t, so no copy of it is kept. log pi_0 is written beside it: with LoRA from the same weights,
    adapters switched off; after full fine-tuning from weights that are read again for the time that it takes.

    Args:
        initial: Whether log pi_0 is wanted too, for objectives with an anchor and for the distance from pi_0 in the log.
        batch_size: Prompts that are read at a time.
    """

    def __init__(self, initial: bool = True, batch_size: int = 8) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}")
        self.initial, self.batch_size = initial, batch_size

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses, before anything is sampled, to leave out what the objective needs.

        Raises:
            ConfigError: The objective needs log pi_0 and it is not wanted.
        """
        module, _ = parts(trainer, pl_module, type(self).__name__)
        if module.objective.needs_initial and not self.initial:
            raise ConfigError(f"{type(module.objective).__name__} is anchored to pi_0; set UpdateReference.initial to true")

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Computes what is missing.

        Raises:
            ConfigError: There are no responses yet.
        """
        prompts = data.round_prompts(number)
        lines = data.rounds.read(number, "samples")
        if len(lines) < len(prompts):
            raise ConfigError("UpdateReference found no responses; SampleResponses must come before it in trainer.callbacks")
        samples = data.encoded(prompts, [lines[row] for row in range(len(prompts))])

        def make(rows: Sequence[int]) -> Iterator[Line]:
            return measured(module, data, [samples[row] for row in rows], self.initial, number)

        about = {"weights": module.weights_digest(), "initial": self.initial}  # the batch size moves the rounding alone
        groups = batches(len(prompts), self.batch_size)
        self.fill(trainer, data, number, "reference", about, groups, make, fresh=data.round_begins)
        if self.first_time(trainer, number):
            report(trainer, data, number, summary(list(data.rounds.read(number, "reference").values())))


def measured(module: GPO, data: PromptData, samples: list[Sample], initial: bool, number: int) -> Iterator[Line]:
    """Log-probabilities, lengths and entropies of some prompts' responses, and log pi_0 if wanted."""
    trees, surplus = data.together(samples)
    trees, surplus = trees.to(module.device), surplus.to(module.device)
    logprobs, lengths, entropies = module.measure(trees, surplus)
    before: torch.Tensor | None = None
    if initial and number == 0:
        before = logprobs
    elif initial:
        with module.initial_policy():
            before, _, _ = module.measure(trees, surplus)
    start = 0
    for sample in samples:
        own = slice(start, start := start + len(sample.surplus))
        yield {
            "logprobs": logprobs[own].tolist(),
            "initial": None if before is None else before[own].tolist(),
            "lengths": lengths[own].tolist(),
            "entropies": entropies[own].tolist(),
        }


def summary(lines: list[Line]) -> dict[str, float]:
    """Means over all responses: tokens, entropy in nats per token, and log pi_t - log pi_0 in nats per response.

    The last is an estimate of KL(pi_t, pi_0) from responses as they are sampled: exact in the mean at temperature 1 and top_p 1, as far as
    encoding a response's text gives the tokens that were sampled. It mostly does; where it does not, the numbers are of the encoded text.
    """
    count = sum(len(line["logprobs"]) for line in lines)
    found = {
        "tokens": sum(sum(line["lengths"]) for line in lines) / count,
        "entropy": sum(sum(line["entropies"]) for line in lines) / count,
    }
    if all(line["initial"] is not None for line in lines):
        found["kl_initial"] = sum(sum(line["logprobs"]) - sum(line["initial"]) for line in lines) / count
    return found
