"""The training step that all preference models share, as a LightningModule; `modules.models` has the models.

log-odds(y1 > y2 | x) = head.compare(embed(x, y1), embed(x, y2), x) / tau
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from prefrep.annotators import Annotators
from prefrep.data.offline import PolicyReading
from prefrep.data.render import Template
from prefrep.data.trees import TreeBatch
from prefrep.errors import ConfigError
from prefrep.functional.logprobs import token_logprobs
from prefrep.io.start import start
from prefrep.modules.annotating import meet, note, recall
from prefrep.modules.base import LanguageModule, Schedule
from prefrep.modules.pair_metrics import PairMetrics, Stage
from prefrep.modules.sharding import shard
from prefrep.modules.steps import ComparingSteps
from prefrep.nn.backbone import Backbone
from prefrep.nn.context import Context
from prefrep.nn.heads import PreferenceHead
from prefrep.nn.losses import PreferenceLoss
from prefrep.nn.people import annotators_of, penalty


def adamw(lr: float) -> OptimizerCallable:
    """AdamW as the paper uses it (table 8): betas (0.9, 0.95), no weight decay."""
    return partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)


# The paper's recipe for preference models: learning rate 2e-6 for every backbone.
ADAMW = adamw(2e-6)
SCHEDULE = Schedule()


class PreferenceModule(ComparingSteps, LanguageModule):
    """A backbone that reads text, a head that compares, and a loss.

    `configure_model` builds the parts from factories, so the head gets its width from the backbone. Hyper-parameters are not stored: a run
    is resumed by the same command with `--ckpt_path`, and models are exported as folders (`io.folder`).

    Args:
        backbone: Builds the language model.
        head: Builds the head from the hidden size.
        loss: Builds the loss.
        optimizer: Builds the optimizer from the trainable parameters (head and loss included).
        schedule: Learning-rate schedule.
        sft: Coefficient c of a language-modelling regulariser: loss + c * mean negative log-likelihood of the tokens of preferred responses
            (arXiv 2406.10216 keeps hidden states general that way). The official GPM code instead mixes (1 - c) * loss + c * ptx and
            counts the tokens of the prompt, which are masked here. A response has the weight of the pairs in which it is preferred.
            Validation measures preferences alone.
        init: Model to train from, in any layout that prefrep reads; a local folder, or a hub id, with @revision or without. Language model,
            head, temperature, tokenizer and, under `data.template: auto`, the template begin as they are there. Of `backbone`, everything
            but `path` and where it is read still applies; of an official checkpoint, `head` and `loss` state normalisation, gate and
            temperature.
        init_as: What `init` is (`io.readers.READERS`), where its files leave that open.
        init_objective: Objective of `init` to go on from, if it has several; empty: all of them, as its authors weigh them.

    Raises:
        ConfigError: A value is out of range, or parts exclude each other.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        head: Callable[[int], PreferenceHead],
        loss: Callable[[], PreferenceLoss],
        optimizer: OptimizerCallable = ADAMW,
        schedule: Schedule = SCHEDULE,
        sft: float = 0.0,
        init: str | None = None,
        init_as: str | None = None,
        init_objective: str = "",
    ) -> None:
        super().__init__(optimizer, schedule)
        if init is None and (init_as or init_objective):
            raise ConfigError("--as and --objective (init_as, init_objective) say what a model to train from is; name it with --init-from")
        if sft < 0:
            raise ConfigError(f"sft must be 0 or more, got {sft}")
        self._make = (backbone, head, loss)
        self.sft, self.init, self._init_as, self._objective = sft, init, init_as, init_objective
        self.template: Template | None = None  # that `init` was trained in
        self.instruction = ""  # that `init` reads its verdict in
        self.shared = False  # whether other modules have the same language model, as in a sweep
        self.metrics = PairMetrics()

    @classmethod
    def head_type(cls) -> type[PreferenceHead]:
        """Return the type of head that the constructor accepts."""
        kind: type[PreferenceHead] = get_args(get_type_hints(cls.__init__)["head"])[1]
        return kind

    # ---- parts

    def configure_model(self) -> None:
        """Build backbone, head and loss, once, and shard them if the strategy is FSDP2."""
        if hasattr(self, "backbone"):
            return
        self.backbone, self.head, self.loss = self.parts()
        meet(self, self.head)
        # The checkpoint leaves out a frozen or adapted base, which is loaded from its own folder again.
        self.strict_loading = not (self.backbone.frozen or self.backbone.lora)
        if self.device_mesh is not None:
            shard(self, self.backbone, logits=self.sft > 0)

    def parts(self) -> tuple[Backbone, PreferenceHead, PreferenceLoss]:
        """Return backbone, head and loss, newly built.

        Raises:
            ConfigError: Parts exclude each other.
        """
        make_backbone, make_head, make_loss = self._make
        if self.init is not None:
            backbone, head, loss = self._begun(self.init)
        else:
            backbone = make_backbone()
            head, loss = make_head(backbone.hidden_size), make_loss()
        if loss.needs_reward and not self.unpaired:
            name = type(loss).__name__
            raise ConfigError(f"{name} needs one reward per response, and {type(self).__name__} compares; use BradleyTerry or LogisticLoss")
        if head.needs_prompt and not backbone.shares_prompts:
            raise ConfigError(
                f"{backbone.path} reads a prompt together with its answer, so a gate has no state of the prompt alone; choose another skew"
            )
        if self.sft > 0:
            if backbone.frozen:
                raise ConfigError("sft regularises the backbone's weights, and this backbone is frozen; set sft: 0 or frozen: false")
            backbone.train_output()
        return backbone, head, loss

    def _begun(self, init: str) -> tuple[Backbone, PreferenceHead, PreferenceLoss]:
        """Return the parts of a model to train from."""
        make_backbone, make_head, make_loss = self._make
        loss = make_loss()
        found = start(init, make_backbone, make_head, loss.tau, self._init_as, self._objective)
        model, kind = found.model, self.head_type()
        if not isinstance(model.head, kind):
            raise ConfigError(
                f"{init}: holds a {type(model.head).__name__}, and {type(self).__name__} trains a {kind.__name__}; choose another --model"
            )
        self._tokenizer, self.template, self.instruction = model.tokenizer, found.template, model.encode.instruction
        loss.start_at(model.tau)
        return model.backbone.train(), model.head.train(), loss

    def cpu(self) -> Self:
        """Move the model to the CPU, but leave a language model that is `shared` where it is; `to("cpu")` moves all.

        Lightning calls this when a fit ends, and fits that share a model would move it back and forth, gigabytes each time.
        """
        kept = self._modules.get("backbone")
        if kept is None or not self.shared:
            return super().cpu()
        self._modules["backbone"] = None
        try:
            return super().cpu()
        finally:
            self._modules["backbone"] = kept

    @property
    def layout(self) -> Literal["single", "pair"]:
        """What the head reads: `single` responses or `pair`s."""
        return self.head.layout

    @property
    def needs_prompt(self) -> bool:
        """Whether the head is gated by the prompt that responses share."""
        return self.head.needs_prompt

    @property
    def annotators(self) -> Annotators | None:
        """Whom the head knows; None: it answers everybody alike."""
        return annotators_of(self.head)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whom the head knows."""
        super().on_save_checkpoint(checkpoint)
        note(checkpoint, self.head)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to this model and its annotators. Raises CheckpointError: it does not."""
        self.configure_model()
        recall(checkpoint, self.head)
        super().on_load_checkpoint(checkpoint)

    reading: ClassVar[PolicyReading | None] = None
    unpaired: ClassVar[bool] = False  # whether labels of single responses mean something: P(yes) = sigmoid(reward / tau)

    # ---- forward

    def embeddings(self, hidden: Tensor, batch: TreeBatch) -> tuple[Tensor, Context]:
        """Return the embeddings of all sequences [M, D], and the context of the pairs, in fp32."""
        prompt = hidden[batch.prompt_end[batch.pairs[:, 0]]].float() if self.head.needs_prompt else None
        return self.head.embed(hidden[batch.end]), Context(prompt, batch.annotator)

    def forward(self, batch: TreeBatch) -> Tensor:
        """Return the log-odds, in nats, that the first response of each pair wins [P]."""
        return self.loss.log_odds(self._scores(self.embeddings(self.hidden(batch), batch), batch))

    def _scores(self, embedded: tuple[Tensor, Context], batch: TreeBatch) -> Tensor:
        e, context = embedded
        a, b = batch.pairs.unbind(1)
        return self.head.compare(e[a], e[b], context)

    def _regulariser(self, embedding: Tensor, batch: TreeBatch) -> Tensor | None:
        """Return a term that a model adds to the loss of each pair [P]: annotators are shrunk to the population."""
        return None if batch.annotator is None else penalty(self.head, batch.annotator)

    def _pair_losses(self, embedded: tuple[Tensor, Context], scores: Tensor, batch: TreeBatch) -> Tensor:
        """Return the loss of each pair [P]."""
        losses: Tensor = self.loss(scores, batch.probability, batch.margin)
        return losses

    def _step(self, batch: TreeBatch, stage: Stage) -> Tensor:
        hidden = self.hidden(batch)
        embedded = self.embeddings(hidden, batch)
        scores = self._scores(embedded, batch)
        losses = self._pair_losses(embedded, scores, batch)
        if (extra := self._regulariser(embedded[0], batch)) is not None:
            losses = losses + extra
        loss = self.weighted_mean(losses, batch.weight)
        if self.sft > 0 and stage == "train":
            preferred = torch.where(batch.probability >= 0.5, batch.pairs[:, 0], batch.pairs[:, 1])
            # An undesirable single response is preferred by nobody: its weight goes to a row that is cut off.
            weight = torch.zeros(len(batch.end) + 1, device=scores.device).index_add(0, preferred % (len(batch.end) + 1), batch.weight)[:-1]
            source, target, sequence = batch.labels[weight[batch.labels[:, 2]] > 0].unbind(1)
            logprobs = token_logprobs(hidden[source], batch.ids.flatten()[target], self.backbone.logits)
            loss = loss - self.sft * self.weighted_mean(logprobs, weight[sequence])
        self.metrics.record(self, stage, loss.detach(), losses.detach(), self.loss.log_odds(scores.detach()).detach(), batch)
        return loss
