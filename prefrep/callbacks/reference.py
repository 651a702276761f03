"""Log-probabilities of a round's responses under the reference policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from lightning.pytorch import LightningModule, Trainer

from prefrep.callbacks.rounds import RoundCallback, parts, report
from prefrep.data.prompts import PromptData
from prefrep.data.round_batch import Sample
from prefrep.data.rounds import Line, batches
from prefrep.errors import ConfigError
from prefrep.modules.earlier import weights_of
from prefrep.modules.gpo import GPO


class UpdateReference(RoundCallback):
    """Update of the reference at the start of a round: log pi_t of its responses (nats), in `rounds/t/reference.jsonl`.

    Training needs nothing else of pi_t. log pi_0 is stored too: LoRA models compute it with adapters disabled, fully fine-tuned ones reload
    the initial weights for the duration. If the objective refers to an earlier round, log-probabilities under its policy are in
    `earlier_reference.jsonl`.

    Args:
        initial: Whether to compute log pi_0, for anchored objectives and for the logged distance from pi_0.
        batch_size: Prompts per forward pass.

    Raises:
        ConfigError: `batch_size` is out of range.
    """

    def __init__(self, initial: bool = True, batch_size: int = 8) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}")
        self.initial, self.batch_size = initial, batch_size

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a round is sampled that the objective gets log pi_0 if it needs it.

        Raises:
            ConfigError: The objective needs log pi_0 and `initial` is false.
        """
        module, _ = parts(trainer, pl_module, type(self).__name__)
        if module.objective.needs_initial and not self.initial:
            raise ConfigError(f"{type(module.objective).__name__} is anchored to pi_0; set UpdateReference.initial to true")

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Compute the missing log-probabilities.

        Raises:
            ConfigError: There are no responses yet.
        """
        prompts = data.round_prompts(number)
        lines = data.rounds.read(number, "samples")
        if len(lines) < len(prompts):
            raise ConfigError("UpdateReference found no responses; SampleResponses must come before it in trainer.callbacks")
        samples = data.encoded(prompts, [lines[row] for row in range(len(prompts))])

        def make(rows: Sequence[int]) -> Iterator[Line]:
            return measured(module, data, [samples[row] for row in rows], [lines[row] for row in rows], self.initial, number)

        about = {"weights": module.weights_digest(), "initial": self.initial}  # the batch size affects rounding only
        groups = batches(len(prompts), self.batch_size)
        self.fill(trainer, data, number, "reference", about, groups, make, fresh=data.round_begins)
        before = module.objective.earlier(number)
        if before is not None:
            own = data.rounds.read(number, "reference")

            def look_back(rows: Sequence[int]) -> Iterator[Line]:
                lines = iter([own[row] for row in rows])
                if before != number:
                    lines = _passed(module, data, [samples[row] for row in rows])  # the sampler's weights were others
                return ({"logprobs": line["logprobs"]} for line in lines)

            with nullcontext() if before == number else weights_of(module, data.rounds.weights(before)):
                self.fill(trainer, data, number, "earlier_reference", {"weights": about["weights"], "round": before}, groups, look_back)
        if self.first_time(trainer, number):
            report(trainer, data, number, summary(list(data.rounds.read(number, "reference").values())))


def measured(module: GPO, data: PromptData, samples: Sequence[Sample], lines: Sequence[Line], initial: bool, number: int) -> Iterator[Line]:
    """Yield log-probabilities, lengths and entropies of each sample's responses, and log pi_0 if `initial`.

    What the sampler said about the tokens is taken over where it read in float32, as the policy does, and the texts are encoded to those
    tokens. It differs from a pass of its own by rounding alone: 1e-4 nats per response of tiny models, 3e-4 of SmolLM2-135M.

    Args:
        module: The policy that sampled.
        data: Its data.
        samples: The encoded responses to each prompt.
        lines: The lines that they were encoded from.
        initial: Whether to yield log pi_0.
        number: Number of the round; in round 0 the policy is pi_0.
    """
    exact = module.backbone.model.dtype == torch.float32 and not torch.is_autocast_enabled(module.device.type)
    told = [exact and line.get("exact", False) and sample.holds(line["ids"]) for sample, line in zip(samples, lines, strict=True)]
    passed = _passed(module, data, [sample for sample, known in zip(samples, told, strict=True) if not known])
    before: Iterator[Line] | None = None
    if initial and number > 0:
        with module.initial_policy():
            before = iter(list(_passed(module, data, samples)))
    for line, known in zip(lines, told, strict=True):
        own = _said(line) if known else next(passed)
        yield {**own, "initial": None if not initial else own["logprobs"] if before is None else next(before)["logprobs"]}


def _said(line: Line) -> Line:
    return {"logprobs": line["logprobs"], "lengths": [len(ids) for ids in line["ids"]], "entropies": line["entropies"]}


def _passed(module: GPO, data: PromptData, samples: Sequence[Sample]) -> Iterator[Line]:
    """Yield log-probabilities, lengths and entropies of each sample's responses from one forward pass."""
    if not samples:
        return
    trees, surplus = data.together(list(samples))
    found = module.measure(trees.to(module.device), surplus.to(module.device))
    start = 0
    for sample in samples:
        own = slice(start, start := start + len(sample.surplus))
        yield dict(zip(("logprobs", "lengths", "entropies"), (values[own].tolist() for values in found), strict=True))


def summary(lines: list[Line]) -> dict[str, float]:
    """Return means over all responses: tokens, entropy in nats per token, and log pi_t - log pi_0 in nats per response.

    The last one is an estimate of KL(pi_t, pi_0), unbiased at temperature 1 and top_p 1 if encoding a response's text reproduces the
    sampled tokens. It occasionally does not; log-probabilities are always those of the encoded text.
    """
    count = sum(len(line["logprobs"]) for line in lines)
    found = {
        "tokens": sum(sum(line["lengths"]) for line in lines) / count,
        "entropy": sum(sum(line["entropies"]) for line in lines) / count,
    }
    if all(line["initial"] is not None for line in lines):
        found["kl_initial"] = sum(sum(line["logprobs"]) - sum(line["initial"]) for line in lines) / count
    return found
