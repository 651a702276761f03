"""General preference optimization: a policy learns from how its own responses compare."""

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
from prefrep.functional.gpo import Judged
from prefrep.functional.logprobs import token_logprobs
from prefrep.modules.base import LanguageModule, Schedule
from prefrep.nn.backbone import Backbone
from prefrep.nn.objectives import GPOObjective, PolicyObjective

# The paper's recipe for policies (official scripts): RMSProp, 5e-7, linear with a tenth of warm-up.
RMSPROP: OptimizerCallable = partial(torch.optim.RMSprop, lr=5e-7)
SCHEDULE = Schedule("linear", 0.1)


class GPO(LanguageModule):
    """A policy that is regressed on preference scores of its own responses, round after round (arXiv 2410.02197, section 5).

    An epoch is a round t: callbacks sample K responses to each prompt from the policy as it is then (pi_t), remember their
    log-probabilities, and judge them; the epoch's steps move the policy (pi) away from pi_t as the objective says. No second model is in
    memory: pi_t is needed only for those log-probabilities. A step reads the responses that its loss depends on: with `best_worst` two of
    the K, whose scores are still means over all. The schedule runs anew in every round, as if each were a run of its own; the
    optimizer's averages go on.

    Args:
        backbone: Builds the policy. With LoRA, pi_0 is the base itself.
        objective: Builds what the policy is taught.
        optimizer: Builds the optimizer from the trainable parameters.
        schedule: Learning-rate schedule of one round.
        chunk: Tokens whose logits exist at a time.

    Raises:
        ConfigError: The backbone is frozen, its weights are to be sharded, or a value is out of range.
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
        self._initial: list[Backbone] = []  # at most one; in a list it is no part of the module

    def configure_model(self) -> None:
        """Builds the policy, once."""
        if hasattr(self, "backbone"):
            return
        if self.device_mesh is not None:
            raise ConfigError("a policy cannot sample with its weights spread over processes; use strategy: ddp, and lora if it is large")
        self.backbone = self._make_backbone()
        if self.backbone.frozen:
            raise ConfigError("GPO trains its backbone, and this one is frozen; set frozen: false, or use lora")
        self.backbone.train_output()
        self.strict_loading = not self.backbone.lora

    @property
    def schedule_per_epoch(self) -> bool:
        """One schedule a round."""
        return True

    # ---- log-probabilities

    def response_logprobs(self, trees: TreeBatch, surplus: Tensor) -> Tensor:
        """Log-probabilities of whole responses, the prompt read once for all of them.

        Args:
            trees: M sequences.
            surplus: Tokens at the end of each that do not count, since the policy never chose them [M].

        Returns:
            Sums of log-probabilities in nats [M], fp32.
        """
        source, target, sequence = _sampled(trees, surplus)
        logprobs = token_logprobs(self.hidden(trees)[source], trees.ids.flatten()[target], self.backbone.logits, self.chunk)
        return _sums(logprobs, sequence, len(trees.end))

    @torch.no_grad()
    def measure(self, trees: TreeBatch, surplus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities as `response_logprobs` gives them, numbers of tokens, mean entropies of the next token in nats; each [M]."""
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
        """The loss of a batch."""
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
                # y ~ pi_t: at temperature 1 and top_p 1 this mean is unbiased for KL(pi_t, pi), the direction that its samples can tell.
                # The best and the worst alone are no sample of pi_t. Log-probabilities are of the text as it is encoded, which now and then
                # is not the tokens that were sampled.
                values["kl_reference"] = self.weighted_mean(-ratios.mean(-1), batch.weight)
            if not batch.initial.isnan().any():
                values["log_ratio_initial"] = self.weighted_mean((logprobs - batch.initial.gather(-1, selected)).mean(-1), batch.weight)
        for name, value in values.items():
            self.log(f"train/{name}", value, batch_size=len(batch), prog_bar=name in ("loss", "kl_reference"), sync_dist=True)
        return loss

    def selected(self, judged: Judged) -> Tensor:
        """Which of K judged responses the loss reads [N, S]; batches hold no others."""
        return self.objective.selected(judged)

    # ---- pi_t and pi_0

    def weights_digest(self) -> str:
        """A fingerprint of the trainable weights: equal weights have the same, and a step of training gives another."""
        parts: list[str | bytes] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                flat = parameter.detach().flatten()
                some = flat[:: max(len(flat) // 64, 1)].float().cpu().numpy()
                parts += [name, np.ascontiguousarray(some).tobytes()]
        return digest(parts)

    @contextmanager
    def initial_policy(self) -> Iterator[Backbone]:
        """pi_0 in the place of the policy, for as long as it is needed.

        With LoRA that is the base, its adapters switched off. Under full fine-tuning pi_0 is read again from where it came from, in its
        own dtype, and stays until `release_initial_policy`: beside the policy while a round is made, and not while it is trained on.
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
        """Gives back the memory of a pi_0 that was read again."""
        self._initial.clear()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps, beside the weights, what they were taught, and what a round is."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["objective"] = self._taught()
        checkpoint["round"] = self._round()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on under another objective, or with other rounds.

        Half a run of each objective would be reported as one of the second. And which round it is follows from how many batches are done.
        """
        super().on_load_checkpoint(checkpoint)
        if (before := checkpoint.get("objective")) not in (None, self._taught()):
            raise CheckpointError(
                f"the checkpoint was made with the objective {before}, and this run has {self._taught()}; name another "
                "--trainer.default_root_dir, or delete the run"
            )
        if (before := checkpoint.get("round")) is not None and before != self._round():
            raise CheckpointError(
                f"the checkpoint was made with rounds of {before}, and this run has {self._round()}; go on with its prompts, "
                "--data.batch_size, --data.round_size and --trainer.limit_train_batches, or name another --trainer.default_root_dir"
            )

    def _round(self) -> str:
        prompts = getattr(cast(Any, self.trainer).datamodule, "batch_size", None)
        return f"{self.batches_per_epoch()} batches of {prompts} prompts"

    def _taught(self) -> str:
        settings = plain(self.objective)
        return f"{settings.pop('class')} {settings}"


def _sampled(trees: TreeBatch, surplus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token pairs of the responses that count: where they are predicted, where they are, their sequence, each [T]."""
    source, target, sequence = trees.labels.unbind(1)
    after = torch.bincount(sequence, minlength=len(trees.end)).cumsum(0)  # labels stand in the order of their sequences
    from_end = after[sequence] - 1 - torch.arange(len(sequence), device=sequence.device)
    kept = from_end >= surplus[sequence]
    return source[kept], target[kept], sequence[kept]


def _sums(values: Tensor, sequence: Tensor, count: int) -> Tensor:
    """Sums of token values [T] by sequence [T] -> [count]."""
    return torch.zeros(count, device=values.device, dtype=values.dtype).index_add(0, sequence, values)
