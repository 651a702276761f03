"""What a trained policy is, however it learns: log-probabilities of responses, the policy that it began as, a fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from prefrep.data.rounds import digest, plain
from prefrep.data.trees import TreeBatch
from prefrep.errors import CheckpointError, ConfigError
from prefrep.functional.logprobs import token_logprobs
from prefrep.modules.base import LanguageModule, Schedule
from prefrep.nn.backbone import Backbone
from prefrep.nn.glance import glance
from prefrep.parts import Part


class PolicyModule(LanguageModule):
    """A language model that is trained as a policy.

    Args:
        backbone: Builds the policy. With LoRA, pi_0 is the base.
        objective: What the policy is trained for: a policy objective, or a loss of preference pairs.
        optimizer: Builds the optimizer from the trainable parameters.
        schedule: Learning-rate schedule.
        chunk: Number of tokens whose logits are in memory at a time.

    Raises:
        ConfigError: The backbone is frozen or sharded, or a value is out of range.
    """

    def __init__(
        self, backbone: Callable[[], Backbone], objective: Part, optimizer: OptimizerCallable, schedule: Schedule, chunk: int
    ) -> None:
        super().__init__(optimizer, schedule)
        if chunk < 1:
            raise ConfigError(f"chunk must be 1 or more, got {chunk}")
        self._make_backbone, self.chunk = backbone, chunk
        self.objective = objective
        self._initial: list[Backbone] = []  # at most one; a list keeps it from being a submodule

    def configure_model(self) -> None:
        """Build the policy, once."""
        if hasattr(self, "backbone"):
            return
        if self.device_mesh is not None:
            raise ConfigError("a policy with sharded weights cannot sample; use strategy: ddp, with lora if the model is large")
        self.backbone = self._make_backbone()
        if self.backbone.frozen:
            raise ConfigError(f"{type(self).__name__} trains its backbone, and this one is frozen; set frozen: false, or use lora")
        self.backbone.train_output()
        self.strict_loading = not self.backbone.lora

    def policies(self) -> dict[str, Backbone]:
        """Return what is exported: the language models by their names, of which a single policy needs none."""
        return {"": self.backbone}

    def described(self) -> dict[str, Any]:
        """Return what an exported folder says of the policy beside its training, as plain data."""
        return {}

    # ---- log-probabilities

    def response_logprobs(self, trees: TreeBatch, surplus: Tensor) -> Tensor:
        """Return log-probabilities of whole responses; their prompt is read once.

        Args:
            trees: M sequences.
            surplus: Number of final tokens of each that do not count, since the policy did not sample them [M].

        Returns:
            Sums of log-probabilities in nats [M], fp32.
        """
        source, target, sequence = sampled(trees, surplus)
        logprobs = token_logprobs(self.hidden(trees)[source], trees.ids.flatten()[target], self.backbone.logits, self.chunk)
        return sums(logprobs, sequence, len(trees.end))

    def response_lengths(self, trees: TreeBatch, surplus: Tensor) -> Tensor:
        """Return the numbers of tokens that `response_logprobs` sums [M]; arguments as there."""
        return torch.bincount(sampled(trees, surplus)[2], minlength=len(trees.end))

    @torch.no_grad()
    def measure(self, trees: TreeBatch, surplus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities as `response_logprobs`, numbers of tokens, and mean next-token entropies in nats; each [M]."""
        source, target, sequence = sampled(trees, surplus)
        hidden, ids, count = self.hidden(trees), trees.ids.flatten(), len(trees.end)
        chosen, entropies = [], []
        for where, token in zip(source.split(self.chunk), target.split(self.chunk), strict=True):
            logprobs = self.backbone.logits(hidden[where]).float().log_softmax(-1)
            chosen.append(logprobs.gather(-1, ids[token][:, None])[:, 0])
            entropies.append(torch.special.entr(logprobs.exp()).sum(-1))  # 0 where a token is never drawn
        lengths = torch.bincount(sequence, minlength=count)
        return sums(torch.cat(chosen), sequence, count), lengths, sums(torch.cat(entropies), sequence, count) / lengths.clamp_min(1)

    # ---- pi_0

    def weights_digest(self) -> str:
        """Return a fingerprint of the trainable weights, which an optimizer step changes."""
        parts: list[str | bytes] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parts += [name, glance(parameter)]
        return digest(parts)

    @contextmanager
    def initial_policy(self) -> Iterator[Backbone]:
        """Replace the policy by pi_0 inside the context.

        With LoRA, pi_0 is the base with adapters disabled. Under full fine-tuning, pi_0 is reloaded from its path, in its own dtype, and
        stays in memory until `release_initial_policy`, so not during the training steps of a round.
        """
        own = self.backbone
        if own.lora is not None:
            layers = [module for module in own.model.modules() if isinstance(module, BaseTunerLayer)]
            for layer in layers:
                layer.enable_adapters(False)
            try:
                yield own
            finally:
                for layer in layers:
                    layer.enable_adapters(True)
            return
        if not self._initial:
            self._initial.append(Backbone(path=own.path, attention=own.attention, frozen=True, **own.settings).to(self.device))  # type: ignore[arg-type]
        self.backbone = self._initial[0]
        try:
            yield self.backbone
        finally:
            self.backbone = own

    def release_initial_policy(self) -> None:
        """Free the memory of a pi_0 that was loaded again."""
        self._initial.clear()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the policy is trained for beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["objective"] = self._settings()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the objective has not changed: a run with two would be reported as one of the second.

        Raises:
            CheckpointError: The checkpoint has another objective.
        """
        super().on_load_checkpoint(checkpoint)
        if (before := checkpoint.get("objective")) not in (None, self._settings()):
            raise CheckpointError(
                f"the checkpoint was made with the objective {before}, and this run has {self._settings()}; set another "
                "--trainer.default_root_dir, or delete the run"
            )

    def _settings(self) -> str:
        settings = plain(self.objective)
        return f"{settings.pop('class')} {settings}"


def sampled(trees: TreeBatch, surplus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return next-token pairs without surplus: index of the predicting token, of the predicted token, and sequence; each [T]."""
    source, target, sequence = trees.labels.unbind(1)
    after = torch.bincount(sequence, minlength=len(trees.end)).cumsum(0)  # labels are ordered by sequence
    from_end = after[sequence] - 1 - torch.arange(len(sequence), device=sequence.device)
    kept = from_end >= surplus[sequence]
    return source[kept], target[kept], sequence[kept]


def sums(values: Tensor, sequence: Tensor, count: int) -> Tensor:
    """Sum token values [T] by sequence [T] -> [count]."""
    return torch.zeros(count, device=values.device, dtype=values.dtype).index_add(0, sequence, values)
