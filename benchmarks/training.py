"""One optimizer step of a Bradley-Terry model, in prefrep and in other trainers, on the same weights.

All trainers of a process share the same Parameter objects and one AdamW over them, whose learning rate is 0: it does all its work but
changes no weight, so every step of every trainer starts from the same model, and losses on a batch are comparable. Time covers forward,
backward, clipping and AdamW, between the trainer's hooks for the start and the end of a step; collation comes before it in all of them.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from benchmarks.common import QUICK_RESULTS, synchronize
from benchmarks.models import classifier, place, tie
from prefrep.data.encode import pad_id
from prefrep.data.trees import ROW_TOKENS, Datum, Layout, TreeBatch, collate
from prefrep.modules.base import Schedule
from prefrep.modules.models import BradleyTerry
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Variant:
    """A variant of prefrep's step: layout of the batch, and arguments of `Backbone`."""

    layout: Layout = "trees"
    backbone: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "padded": Variant("padded", {"attention": "sdpa"}),
    "trees, dense mask": Variant("trees", {"attention": "sdpa"}),
    "trees": Variant("trees", {"attention": "trees"}),
    "trees, compiled": Variant("trees", {"attention": "trees", "compile": True}),
    "trees, FlexAttention": Variant("trees", {"attention": "flex_attention"}),  # what `fit` takes on CUDA
    "trees, FlexAttention, compiled": Variant("trees", {"attention": "flex_attention", "compile": True}),
}
ANYWHERE = [name for name, variant in VARIANTS.items() if variant.backbone["attention"] != "flex_attention"]  # no gradients on a CPU
QUICK = [name for name in ANYWHERE if not VARIANTS[name].backbone.get("compile")]  # compilation takes a minute
OTHERS = ("TRL", "official manner")
MICRO = 4  # pairs per forward pass in the official manner
GRADIENTS = "gradients are there"  # marks the start of clipping and AdamW in a profile: Lightning runs the whole step in AdamW's step()


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """Return an AdamW that changes no weight."""
    return torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)


class Stepper(ABC):
    """Runs single optimizer steps."""

    loss: float = float("nan")

    @abstractmethod
    def step(self, data: Sequence[Datum]) -> float:
        """Run one step on pairs; return its seconds and keep the loss in `loss`."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters."""

    def clear(self) -> None:
        """Free the gradients that a step leaves."""
        for parameter in self.parameters():
            parameter.grad = None


class Ours(Stepper):
    """The package's own module under Lightning's trainer: `bin/prefrep fit` without files.

    Args:
        model: Backbone.
        tokenizer: Tokenizer, of which the pad id is used.
        variant: The variant.
        precision: `fp32` or `bf16` (autocast over fp32 weights).
        device: `cpu` or `cuda`.
        like: Trainer whose weights are shared; None: new weights.
    """

    def __init__(
        self, model: str, tokenizer: PreTrainedTokenizerBase, variant: Variant, precision: str, device: str, like: Ours | None = None
    ) -> None:
        self.variant, self.device, self.pad = variant, device, pad_id(tokenizer)
        self.precision: Any = {"fp32": "32-true", "bf16": "bf16-mixed"}[precision]
        self.module = BradleyTerry(
            backbone=lambda: Backbone(place(model), **variant.backbone),
            optimizer=lambda _: self.optimizer,  # outlives the single steps, each of which is a separate fit
            schedule=Schedule("constant_with_warmup", 0.0),
        )
        torch.manual_seed(0)
        self.module.configure_model()
        if like is not None:
            tie(self.module.backbone.transformer, like.module.backbone.transformer)
            tie(self.module.head, like.module.head)
            output, inputs = self.module.backbone.model.get_output_embeddings(), self.module.backbone.model.get_input_embeddings()
            if output is not None and self.module.backbone.model.config.tie_word_embeddings:
                output.weight = inputs.weight
        self.module.to(device)
        if variant.layout == "trees":
            self.module.backbone.supports_trees()  # selects the kernel, which says how wide rows are
        self.optimizer: torch.optim.Optimizer = adamw(self.parameters()) if like is None else like.optimizer
        self.clock = _Clock()

    def batch(self, data: Sequence[Datum]) -> TreeBatch:
        """Return the pairs as a batch."""
        return collate(data, self.pad, self.variant.layout, self.module.backbone.row_capacity(ROW_TOKENS), share=True)

    def step(self, data: Sequence[Datum]) -> float:
        """Run one step of the trainer."""
        batch = self.batch(data)
        with _one_step():
            trainer = Trainer(
                max_steps=1,
                accelerator="gpu" if self.device == "cuda" else "cpu",
                strategy=_Staying(self.device),
                precision=self.precision,
                gradient_clip_val=1.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[self.clock],
            )
            trainer.fit(self.module, DataLoader(cast(Any, [batch]), batch_size=None))
        self.loss = self.clock.loss
        return self.clock.seconds

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of backbone and head."""
        return list(self.module.parameters())


class TRL(Stepper):
    """TRL's RewardTrainer on the same token ids, with the settings that make it fast (no checkpointing, nothing logged to files).

    Args:
        model: Backbone.
        tokenizer: Tokenizer with a pad token other than the EOS.
        precision: `fp32` or `bf16`.
        device: `cpu` or `cuda`.
        like: Trainer whose weights are shared; None: new weights.
    """

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase, precision: str, device: str, like: Ours | None = None) -> None:
        from datasets import Dataset
        from transformers import PrinterCallback, TrainerCallback
        from trl import RewardConfig, RewardTrainer

        reward = classifier(model, torch.float32)
        if like is not None:
            tie(reward.base_model, like.module.backbone.transformer)
            reward.score.weight = like.module.head.value_head.weight
        outer = self

        class Step(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                synchronize()
                outer._start = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                synchronize()
                outer.seconds = time.perf_counter() - outer._start

        class Recorded(RewardTrainer):  # type: ignore[misc]
            def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
                result = super().compute_loss(*args, **kwargs)
                outer._loss = (result[0] if isinstance(result, tuple) else result).detach()
                return result

        self._start = self.seconds = 0.0
        self._loss = torch.tensor(float("nan"))
        self.reward, self._dataset = reward, Dataset
        self._settings: dict[str, Any] = {
            "output_dir": str(QUICK_RESULTS / "trl"), "use_cpu": device == "cpu", "bf16": precision == "bf16", "fp16": False,
            "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no", "gradient_accumulation_steps": 1,
            "learning_rate": 0.0, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0,
            "optim": "adamw_torch_fused", "max_length": None, "max_steps": 1, "seed": 0, "dataloader_num_workers": 0, "logging_steps": 1,
            "disable_dropout": True, "pad_to_multiple_of": None, "train_sampling_strategy": "sequential", "disable_tqdm": True,
        }  # fmt: skip
        rows = self._rows([])
        with _one_step():
            config = RewardConfig(**self._settings, per_device_train_batch_size=1)
            self.trainer = Recorded(
                model=reward, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[Step()],
                optimizers=(None if like is None else like.optimizer, None),
            )  # fmt: skip
        self.trainer.remove_callback(PrinterCallback)

    def _rows(self, data: Sequence[Datum]) -> Any:
        pairs: list[Any] = [datum.trees[0].sequences for datum in data] or [([1, 2], [1, 3])]
        return self._dataset.from_dict(
            {"chosen_ids": [[int(i) for i in chosen] for chosen, _ in pairs], "rejected_ids": [[int(i) for i in r] for _, r in pairs]}
        )

    def step(self, data: Sequence[Datum]) -> float:
        """Run one step of the trainer with all pairs in one batch."""
        self.trainer.train_dataset = self._rows(data)
        self.trainer.args.per_device_train_batch_size = self.trainer._train_batch_size = len(data)
        with _one_step():
            self.trainer.train()
        self.loss = float(self._loss)
        return self.seconds

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of backbone and head."""
        return list(self.reward.parameters())


class OfficialManner(Stepper):
    """A plain loop in the manner of the official GPM trainer: chosen and rejected stacked, left-padded to the longest, eager attention.

    The official code needs CUDA, DeepSpeed and flash-attn, so this loop reproduces its batch layout and computation. The loss is
    -logsigmoid of the difference (the official one divides by a temperature); activations are kept, not recomputed.

    Args:
        model: Backbone.
        tokenizer: Tokenizer, of which the pad id is used.
        precision: `fp32` or `bf16`.
        device: `cpu` or `cuda`.
        like: Trainer whose weights are shared; None: new weights.
    """

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase, precision: str, device: str, like: Ours | None = None) -> None:
        self.backbone = Backbone(place(model), attention="eager")
        self.value_head: nn.Module = BTHead(self.backbone.hidden_size).to(device).value_head
        if like is not None:
            tie(self.backbone.transformer, like.module.backbone.transformer)
            self.value_head = like.module.head.value_head
        self.backbone.to(device)
        self.precision, self.device, self.pad = precision, device, pad_id(tokenizer)
        self.optimizer = adamw(self.parameters()) if like is None else like.optimizer

    def step(self, data: Sequence[Datum]) -> float:
        """Run one step."""
        parts = [(len(part) / len(data), *self._padded(part)) for part in (data[i : i + MICRO] for i in range(0, len(data), MICRO))]
        synchronize()
        start = time.perf_counter()
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for share, ids, mask in parts:
            loss = self._loss(ids, mask) * share
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        synchronize()
        seconds = time.perf_counter() - start
        self.loss = total.item()
        return seconds

    def _padded(self, data: Sequence[Datum]) -> tuple[Tensor, Tensor]:
        sequences = [datum.trees[0].sequences[side] for side in (0, 1) for datum in data]
        length = max(len(ids) for ids in sequences)
        ids = torch.full((len(sequences), length), self.pad)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(sequences):
            ids[row, -len(tokens) :] = torch.from_numpy(tokens).long()
            mask[row, -len(tokens) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def _loss(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.backbone.transformer(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            rewards = self.value_head(hidden[:, -1]).squeeze(-1).float()
        chosen, rejected = rewards.chunk(2)
        return -nn.functional.logsigmoid(chosen - rejected).mean()

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of backbone and head."""
        return [*self.backbone.transformer.parameters(), *self.value_head.parameters()]


def stepper(
    name: str, model: str, tokenizer: PreTrainedTokenizerBase, precision: str, device: str, like: Ours | None = None
) -> Ours | TRL | OfficialManner:
    """Return the trainer of a name in `VARIANTS` or `OTHERS`."""
    if name in VARIANTS:
        return Ours(model, tokenizer, VARIANTS[name], precision, device, like)
    kinds: dict[str, type[TRL] | type[OfficialManner]] = {"TRL": TRL, "official manner": OfficialManner}
    return kinds[name](model, tokenizer, precision, device, like)


class _Clock(Callback):
    """Times the training batch with Lightning's hooks."""

    seconds = loss = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        synchronize()
        self._start = time.perf_counter()

    def on_before_optimizer_step(self, *_: Any) -> None:
        with torch.profiler.record_function(GRADIENTS):
            pass

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        synchronize()
        self.seconds = time.perf_counter() - self._start
        self.loss = float(outputs["loss"])


class _Staying(SingleDeviceStrategy):
    """Leaves the weights on their device after a fit, since other trainers share them."""

    def __init__(self, device: str) -> None:
        super().__init__(torch.device("cuda", 0) if device == "cuda" else torch.device(device))  # Lightning asks for a number

    def teardown(self) -> None:
        pass


@contextlib.contextmanager
def _one_step() -> Iterator[None]:
    """Silence the messages of trainers at every one-step fit, and let them keep CUDA's cached memory.

    They give it back where a fit begins, so a step would be timed with allocations that only the first step of a long fit has.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), patch.object(torch.cuda, "empty_cache", lambda: None):
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
