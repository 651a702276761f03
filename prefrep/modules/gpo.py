"""General preference optimization: a policy trains on comparisons of its own responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from prefrep.data.round_batch import RoundBatch
from prefrep.data.rounds import digest, plain
from prefrep.data.trees import TreeBatch
from prefrep.errors import CheckpointError, ConfigError
from prefrep.functional.gpo import Judged, divergences
from prefrep.functional.logprobs import token_logprobs
from prefrep.modules.base import LanguageModule, Schedule
from prefrep.nn.backbone import Backbone
from prefrep.nn.objectives import GPOObjective, PolicyObjective

# The paper's recipe for policies (official scripts): RMSProp, 5e-7, linear with a tenth of warm-up.
RMSPROP: OptimizerCallable = partial(torch.optim.RMSprop, lr=5e-7)
SCHEDULE = Schedule("linear", 0.1)


class GPO(LanguageModule):
    """A policy that is regressed on preference scores of its own responses, round after round (arXiv 2410.02197, section 5).

    An epoch is a round t. Callbacks sample K responses to each prompt from the current policy (pi_t), record their log-probabilities and
    judge them; the steps of the epoch move the policy (pi) away from pi_t under the objective. There is no second model in memory: only
    those log-probabilities need pi_t. A step reads only the responses in its loss: with `best_worst` two of the K, whose scores are still
    means over all. The schedule restarts in every round; the moments of the optimizer carry over.

    Args:
        backbone: Builds the policy. With LoRA, pi_0 is the base.
        objective: Builds the objective.
        optimizer: Builds the optimizer from the trainable parameters.
        schedule: Learning-rate schedule of one round.
        chunk: Number of tokens whose logits are in memory at a time.

    Raises:
        ConfigError: The backbone is frozen or sharded, or a value is out of range.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        objective: Callable[[], PolicyObjective] = GPOObjective,
        optimizer: OptimizerCallable = RMSPROP,
        schedule: Schedule = SCHEDULE,
        chunk: int = 256,
    ) -> None:
        super().__init__(optimizer, schedule)
        if chunk < 1:
            raise ConfigError(f"chunk must be 1 or more, got {chunk}")
        self._make_backbone, self.objective, self.chunk = backbone, objective(), chunk
        self._initial: list[Backbone] = []  # at most one; a list keeps it from being a submodule

    def configure_model(self) -> None:
        """Build the policy, once."""
        if hasattr(self, "backbone"):
            return
        if self.device_mesh is not None:
            raise ConfigError("a policy with sharded weights cannot sample; use strategy: ddp, with lora if the model is large")
        self.backbone = self._make_backbone()
        if self.backbone.frozen:
            raise ConfigError("GPO trains its backbone, and this one is frozen; set frozen: false, or use lora")
        self.backbone.train_output()
        self.strict_loading = not self.backbone.lora

    @property
    def schedule_per_epoch(self) -> bool:
        """True: each round has a schedule of its own."""
        return True

    # ---- log-probabilities

    def response_logprobs(self, trees: TreeBatch, surplus: Tensor) -> Tensor:
        """Return log-probabilities of whole responses; their prompt is read once.

        Args:
            trees: M sequences.
            surplus: Number of final tokens of each that do not count, since the policy did not sample them [M].

        Returns:
            Sums of log-probabilities in nats [M], fp32.
        """
        source, target, sequence = _sampled(trees, surplus)
        logprobs = token_logprobs(self.hidden(trees)[source], trees.ids.flatten()[target], self.backbone.logits, self.chunk)
        return _sums(logprobs, sequence, len(trees.end))

    @torch.no_grad()
    def measure(self, trees: TreeBatch, surplus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities as `response_logprobs`, numbers of tokens, and mean next-token entropies in nats; each [M]."""
        source, target, sequence = _sampled(trees, surplus)
        hidden, ids, count = self.hidden(trees), trees.ids.flatten(), len(trees.end)
        chosen, entropies = [], []
        for where, token in zip(source.split(self.chunk), target.split(self.chunk), strict=True):
            logprobs = self.backbone.logits(hidden[where]).float().log_softmax(-1)
            chosen.append(logprobs.gather(-1, ids[token][:, None])[:, 0])
            entropies.append(-(logprobs.exp() * logprobs).sum(-1))
        lengths = torch.bincount(sequence, minlength=count)
        return _sums(torch.cat(chosen), sequence, count), lengths, _sums(torch.cat(entropies), sequence, count) / lengths.clamp_min(1)

    # ---- training

    def training_loss(self, batch: RoundBatch) -> Tensor:
        """Return the loss of a batch."""
        selected, judged = batch.selected, batch.judged
        logprobs = self.response_logprobs(batch.trees, batch.surplus).view_as(selected)
        losses = self.objective(logprobs, judged, selected)
        loss = self.weighted_mean(losses, batch.weight)
        with torch.no_grad():
            ratios, targets = logprobs - batch.reference.gather(-1, selected), self.objective.targets(judged).gather(-1, selected)
            moved = (ratios - ratios.mean(-1, keepdim=True)) * (targets - targets.mean(-1, keepdim=True))
            values = {
                "loss": loss,
                "target_size": self.weighted_mean(targets.abs().mean(-1), batch.weight),
                "ratio_spread": self.weighted_mean(ratios.std(-1), batch.weight),
                "agreement": self.weighted_mean((moved.mean(-1) > 0).float(), batch.weight),
            }
            if selected.shape == batch.reference.shape:
                # y ~ pi_t: at temperature 1 and top_p 1 this mean is unbiased for KL(pi_t, pi). The best and the worst alone are no sample
                # of pi_t. Log-probabilities are those of the encoded text, whose tokens now and then differ from the sampled ones.
                values["kl_reference"] = self.weighted_mean(divergences(ratios).mean(-1), batch.weight)
            if not batch.initial.isnan().any():
                values["log_ratio_initial"] = self.weighted_mean((logprobs - batch.initial.gather(-1, selected)).mean(-1), batch.weight)
        for name, value in values.items():
            self.log(f"train/{name}", value, batch_size=len(batch), prog_bar=name in ("loss", "kl_reference"), sync_dist=True)
        return loss

    def selected(self, judged: Judged) -> Tensor:
        """Return the indices of the judged responses in the loss [N, S]; batches hold no others."""
        return self.objective.selected(judged)

    # ---- pi_t and pi_0

    def weights_digest(self) -> str:
        """Return a fingerprint of the trainable weights, which an optimizer step changes."""
        parts: list[str | bytes] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                flat = parameter.detach().flatten()
                some = flat[:: max(len(flat) // 64, 1)].float().cpu().numpy()
                parts += [name, np.ascontiguousarray(some).tobytes()]
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
        """Store objective and size of a round beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["objective"] = self._settings()
        checkpoint["round"] = self._round()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the objective and the size of a round have not changed.

        Otherwise a run with two objectives would be reported as one of the second; and the number of the round follows from the number of
        finished batches.

        Raises:
            CheckpointError: The checkpoint has another objective or other rounds.
        """
        super().on_load_checkpoint(checkpoint)
        if (before := checkpoint.get("objective")) not in (None, self._settings()):
            raise CheckpointError(
                f"the checkpoint was made with the objective {before}, and this run has {self._settings()}; set another "
                "--trainer.default_root_dir, or delete the run"
            )
        if (before := checkpoint.get("round")) is not None and before != self._round():
            raise CheckpointError(
                f"the checkpoint was made with rounds of {before}, and this run has {self._round()}; resume with its prompts, "
                "--data.batch_size, --data.round_size and --trainer.limit_train_batches, or set another --trainer.default_root_dir"
            )

    def _round(self) -> str:
        prompts = getattr(cast(Any, self.trainer).datamodule, "batch_size", None)
        return f"{self.batches_per_epoch()} batches of {prompts} prompts"

    def _settings(self) -> str:
        settings = plain(self.objective)
        return f"{settings.pop('class')} {settings}"


def _sampled(trees: TreeBatch, surplus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return next-token pairs without surplus: index of the predicting token, of the predicted token, and sequence; each [T]."""
    source, target, sequence = trees.labels.unbind(1)
    after = torch.bincount(sequence, minlength=len(trees.end)).cumsum(0)  # labels are ordered by sequence
    from_end = after[sequence] - 1 - torch.arange(len(sequence), device=sequence.device)
    kept = from_end >= surplus[sequence]
    return source[kept], target[kept], sequence[kept]


def _sums(values: Tensor, sequence: Tensor, count: int) -> Tensor:
    """Sum token values [T] by sequence [T] -> [count]."""
    return torch.zeros(count, device=values.device, dtype=values.dtype).index_add(0, sequence, values)
