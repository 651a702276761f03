"""Base of all LightningModules here: what training a language model needs, whatever the loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, get_scheduler

from prefrep.data.trees import TreeBatch
from prefrep.errors import CheckpointError, ConfigError, TrainingError
from prefrep.modules.resuming import end_epoch, settle_loops
from prefrep.modules.sharding import gradient_norm, is_sharded, weight_norm
from prefrep.nn.backbone import Backbone

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # each computes losses and log-probabilities in fp32
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of these, the dtype of autocast


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule over optimizer steps.

    Args:
        name: Shape after the warm-up, by its name in `transformers`.
        warmup: Share of the steps in [0, 1) over which the learning rate rises from 0.

    Raises:
        ConfigError: warmup is out of range.
    """

    name: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: float = 0.03

    def __post_init__(self) -> None:
        if not 0.0 <= self.warmup < 1.0:
            raise ConfigError(f"Schedule.warmup must be a share of the steps in [0, 1), got {self.warmup}")


class LanguageModule(LightningModule, ABC):
    """A LightningModule around a backbone, which subclasses build in `configure_model`.

    Hyper-parameters are not stored: a run is resumed by the same command, and models are exported as folders.

    Args:
        optimizer: Builds the optimizer from the trainable parameters.
        schedule: Learning-rate schedule.
    """

    backbone: Backbone
    resting = False  # a callback has ended the epoch's training: its other batches pass without a step

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        super().__init__()
        self._optimizer, self._schedule = optimizer, schedule
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._losses: list[Tensor] = []  # of the batches since the last optimizer step

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The backbone's tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = self.backbone.tokenizer()
        return self._tokenizer

    def setup(self, stage: str) -> None:
        """Check the settings of the trainer before a model is built.

        Raises:
            ConfigError: The precision is unsupported, or there are no batches to train on.
        """
        # Pure half precision rounds log-probabilities of responses by whole nats, and its plugins cannot convert our batches.
        if (precision := str(self.trainer.precision)) not in PRECISIONS:
            raise ConfigError(
                f"trainer.precision {precision} is none of {', '.join(PRECISIONS)}; for bfloat16 weights set --model.backbone.dtype "
                "bfloat16 with --trainer.precision bf16-mixed, for full precision 32-true"
            )
        if stage == "fit" and cast(Any, self.trainer).limit_train_batches == 0:
            raise ConfigError("trainer.limit_train_batches is 0, so there is nothing to train on; set it to 1 or more, or to a share")
        plain = any(type(callback) is ModelCheckpoint for callback in self.trainer.checkpoint_callbacks)
        if stage == "fit" and plain and self.trainer.accumulate_grad_batches > 1:
            rank_zero_warn(
                f"ModelCheckpoint may save within an optimizer step of {self.trainer.accumulate_grad_batches} batches, and a run resumed "
                "from there repeats them; prefrep.callbacks.Checkpoints saves between steps"
            )

    def supports_trees(self) -> bool:
        """Return whether the backbone respects a tree mask."""
        mixed = None if self._trainer is None else MIXED.get(str(self.trainer.precision))
        # Sharded layers compute in the dtype of the trainer.
        with self.trainer.precision_plugin.forward_context() if is_sharded(self) else nullcontext():
            return self.backbone.supports_trees(mixed)

    def hidden(self, batch: TreeBatch) -> Tensor:
        """Return the hidden states of all tokens of a batch [R * L, H]."""
        if batch.states is not None:
            return batch.states.flatten(0, 1)
        return self.backbone(batch.ids, batch.positions, batch.until, batch.padded).flatten(0, 1)  # type: ignore[no-any-return]

    def weighted_mean(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return a weighted mean over all processes, scaled so that gradients averaged over processes are its gradient."""
        total = weight.sum()
        if self.trainer.world_size > 1:
            total = cast(Tensor, self.all_gather(total)).sum() / self.trainer.world_size
        return (values * weight).sum() / total.clamp_min(1e-12)

    @abstractmethod
    def training_loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch."""

    def training_step(self, batch: Any) -> Tensor:
        """Return the loss of a batch and keep it until the optimizer step; None, which Lightning takes for no step, while `resting`."""
        if self.resting:
            return None  # type: ignore[return-value]
        loss = self.training_loss(batch)
        self._losses.append(loss.detach())
        return loss

    def on_train_start(self) -> None:
        """Store the seed of the run, and put the loops of a resumed one right."""
        settle_loops(self.trainer)
        self._run_seed = torch.initial_seed()
        self._losses = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by run, batch and process, so that a resumed run draws the same masks."""
        if self.backbone.lora is not None and self.backbone.lora.dropout > 0:
            done = int(cast(Any, self.trainer).fit_loop.epoch_loop.batch_progress.total.processed)
            torch.manual_seed(int(np.random.SeedSequence([self._run_seed, done, self.global_rank]).generate_state(1)[0]))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient before clipping.

        Raises:
            TrainingError: The loss is not finite, and the step would corrupt the weights.
        """
        # Not the gradient: in fp16 gradients overflow regularly, and the scaler skips the step.
        finite, self._losses = math.isfinite(float(sum(self._losses))), []  # synchronises with the device, once per step
        if not finite:
            raise self._diverged("the loss is not finite", self.trainer.global_step + 1)
        due = (self.trainer.global_step + 1) % cast(Any, self.trainer).log_every_n_steps == 0  # the step that the loggers write
        if due and not self.resting:
            self.log("train/grad_norm", gradient_norm(self))

    def on_train_epoch_end(self) -> None:
        """Check that the weights are finite before training continues or callbacks export them."""
        self._check_weights()
        end_epoch(self.trainer)

    def _check_weights(self) -> None:
        # The loss precedes its step, so the last loss before a checkpoint does not cover the last step. The norm overflows from 1e19 on,
        # but weights of that size are as useless as infinite ones.
        if not bool(weight_norm(self).isfinite()):
            raise self._diverged("the weights are not finite", self.trainer.global_step)

    @staticmethod
    def _diverged(what: str, step: int) -> TrainingError:
        return TrainingError(
            f"{what} at step {step}, so training stops; restart in another --trainer.default_root_dir with a lower --model.optimizer.lr or "
            "with --trainer.gradient_clip_val (checkpoints of earlier steps are kept)"
        )

    # ---- optimisation

    @property
    def schedule_per_epoch(self) -> bool:
        """Whether the schedule restarts in every epoch."""
        return False

    def batches_per_epoch(self) -> int:
        """Return the number of training batches per epoch."""
        trainer = cast(Any, self.trainer)
        if math.isinf(trainer.num_training_batches):  # the trainer has not loaded the data yet
            trainer.fit_loop.setup_data()
        return int(trainer.num_training_batches)

    def configure_optimizers(self) -> Any:
        """Return the optimizer of all trainable parameters, and the schedule of its learning rate.

        Raises:
            ConfigError: The length of training is unknown.
        """
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        # A fused optimizer declares that it unscales fp16 gradients, and Lightning then refuses to clip them. Let the trainer unscale.
        cast(Any, optimizer)._step_supports_amp_scaling = False
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ConfigError("the length of training is unknown, which the schedule needs; set trainer.max_epochs or trainer.max_steps")
        steps = max(int(total), 1)
        if self.schedule_per_epoch:
            steps = min(steps, math.ceil(self.batches_per_epoch() / self.trainer.accumulate_grad_batches))
        warmup = min(math.ceil(self._schedule.warmup * steps), steps - 1)  # a single step would have a rate of 0
        schedule: Any = get_scheduler(self._schedule.name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        if self.schedule_per_epoch:
            once = schedule.lr_lambdas[0]
            schedule = LambdaLR(optimizer, lambda step: once(step % steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- checkpoints (for resuming only)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave a frozen base out of the checkpoint; resuming loads it from its own folder.

        Raises:
            TrainingError: The weights are not finite, and would replace an older checkpoint.
        """
        self._check_weights()
        learned, own = self._learned(), self.state_dict()
        checkpoint["learned"] = {name: list(own[name].shape) for name in sorted(learned)}
        if not self.strict_loading:
            checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in learned}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to this model, whose missing parts would be random.

        Raises:
            CheckpointError: Names or shapes of tensors differ.
        """
        self.configure_model()
        # The strategy of a sharded run has already removed the weights; `learned` still lists them.
        state = checkpoint.get("learned") or {name: list(t.shape) for name, t in checkpoint["state_dict"].items()}
        own = {name: list(t.shape) for name, t in self.state_dict().items()}
        wrong = [name for name in sorted(self._learned()) if state.get(name) != own[name]]
        wrong += [name for name in state if name not in own]
        if wrong:
            raise CheckpointError(
                f"the checkpoint does not belong to this model (first difference: {wrong[0]}); resume with the configuration that wrote it"
            )

    def _learned(self) -> set[str]:
        learned = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return learned | {name for name in self.state_dict() if not name.startswith("backbone.")}
