"""Who judges the responses of a round, and how the verdicts are kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from prefrep.callbacks.rounds import RoundCallback, parts, report
from prefrep.data.encode import EncodeConfig
from prefrep.data.prompts import PromptData
from prefrep.data.rounds import Line, batches, digest
from prefrep.errors import ConfigError
from prefrep.functional.intransitivity import triples
from prefrep.io import official
from prefrep.judges import Judge, Verdict, check_finite
from prefrep.modules.gpo import GPO
from prefrep.nn.loading import DType
from prefrep.records import RankedResponses
from prefrep.scoring import BlockScorer, Scorer

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]


class ModelJudge(Judge):
    """An exported preference model of any kind. It reads prompts and responses as it was trained to, whatever the policy's template.

    Args:
        path: The exported folder.
        dtype: Type of its weights; null: as they were trained.
        device: `auto`: CUDA where there is one.
        batch_tokens: Tokens that it reads at a time.
    """

    def __init__(self, path: str, dtype: DType | None = None, device: str = "auto", batch_tokens: int = 4096) -> None:
        self.path, self.dtype, self.device, self.batch_tokens = path, dtype, device, batch_tokens
        self._scorer: Scorer | None = None
        self.warned = False

    @property
    def scorer(self) -> Scorer:
        """The model, read when it is first needed. Raises CheckpointError: there is none."""
        if self._scorer is None:
            self._scorer = self._load()
        return self._scorer

    def _load(self) -> Scorer:
        return BlockScorer.from_pretrained(self.path, self.device, self.dtype, batch_tokens=self.batch_tokens)

    @property
    def encode_config(self) -> EncodeConfig:
        """How it reads text."""
        return self.scorer.encode

    def judge(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`. Raises RecordError: its template refuses a record, or a prompt alone is too long for it."""
        for found in self.scorer.tables(records):
            if found.ndim == 2:
                yield Verdict(found)
            else:
                table = found.sum(0)
                yield Verdict((table - table.T) / 2, found)

    def describe(self) -> dict[str, Any]:
        """Where it is and what is in its head."""
        head = Path(self.path) / "head.safetensors"
        return {"model": self.path, "dtype": self.dtype, "head": digest([head.read_bytes()]) if head.exists() else None}


class OfficialJudge(ModelJudge):
    """A preference model in the official GPM layout, whose files leave open what has to be stated here (`io.official`).

    Args:
        path: Local folder or hub id.
        tau: Temperature; scores divided by it are log-odds. The released models: 0.1.
        normalize: Bring embeddings to length 1. The released models: true; Bradley-Terry ones: false.
        gate: How the prompt weighs the blocks. The released models: `softmax`; without a prompt head: `none`.
        template: `official`: the recipe that they were trained with; `auto`: this project's own.
        dtype: Type of its weights; null: as stored.
        device: `auto`: CUDA where there is one.
        batch_tokens: Tokens that it reads at a time.
    """

    def __init__(
        self,
        path: str,
        tau: float = 0.1,
        normalize: bool = True,
        gate: official.Gate = "softmax",
        template: Literal["official", "auto"] = "official",
        dtype: DType | None = None,
        device: str = "auto",
        batch_tokens: int = 4096,
    ) -> None:
        super().__init__(path, dtype, device, batch_tokens)
        self.tau, self.normalize, self.gate, self.template = tau, normalize, gate, template

    def _load(self) -> Scorer:
        place = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        model = official.read(
            self.path, tau=self.tau, normalize=self.normalize, gate=self.gate, template=self.template, dtype=self.dtype, device=place
        )
        return BlockScorer(model, self.batch_tokens)

    def describe(self) -> dict[str, Any]:
        """Where it is and what is stated of it."""
        stated = {"tau": self.tau, "normalize": self.normalize, "gate": self.gate, "template": self.template}
        return {**super().describe(), **stated}


class LabelPreferences(RoundCallback):
    """Compares the responses of the round, into `rounds/t/labels.jsonl`: tables, mean scores, the best and the worst.

    Each line is also a ranked list that `PreferenceData` reads.

    Args:
        judge: Who compares.
        batch_size: Prompts that are judged at a time.
    """

    def __init__(self, judge: Judge, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}")
        self.judge, self.batch_size = judge, batch_size

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds out about a judge that is missing, or reads otherwise, before a round is sampled for it."""
        check_reading(self.judge, parts(trainer, pl_module, type(self).__name__)[1])

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Judges what is missing.

        Raises:
            ConfigError: There are no responses yet, or the judge reads texts in a way that cannot be meant.
        """
        prompts = data.round_prompts(number)
        samples = data.rounds.read(number, "samples")
        opponents = data.rounds.read(number, "opponents")
        if len(samples) < len(prompts):
            raise ConfigError("LabelPreferences found no responses; SampleResponses must come before it in trainer.callbacks")

        def make(rows: Sequence[int]) -> Iterator[Line]:
            others = [opponents[row]["responses"] if opponents else [] for row in rows]
            records = [prompts[row].answered(samples[row]["responses"] + other) for row, other in zip(rows, others, strict=True)]
            for row, verdict in zip(rows, self.judge.judge(records), strict=True):
                yield labels(samples[row], verdict)

        about = {
            "judge": self.judge.describe(),
            "batch_size": self.batch_size,
            "samples": digest(str(table[row]) for table in (samples, opponents) for row in sorted(table)),
        }
        groups = batches(len(prompts), self.batch_size)
        self.fill(trainer, data, number, "labels", about, groups, make)
        if self.first_time(trainer, number):
            report(trainer, data, number, summary(list(data.rounds.read(number, "labels").values())))


def labels(sample: Line, verdict: Verdict) -> Line:
    """A line of labels: the responses of pi_t with what the judge says of them, among themselves and against those of pi_0.

    Raises:
        ConfigError: The judge says something that is not a finite number.
    """
    check_finite(verdict.table, "the judge of LabelPreferences", sample["prompt"][-1]["content"])
    count = len(sample["responses"])
    own = verdict.table[:count, :count]
    scores = own.mean(axis=1)
    line = {
        "id": sample["id"],
        "prompt": sample["prompt"],
        "responses": sample["responses"],
        "scores": scores.tolist(),
        "best": int(scores.argmax()),
        "worst": int(count - 1 - scores[::-1].argmin()),
        "table": own.tolist(),
        "initial_table": verdict.table[:count, count:].tolist(),
    }
    return line if verdict.blocks is None else {**line, "blocks": verdict.blocks[:, :count, :count].tolist()}


def check_reading(judge: Judge, data: PromptData) -> None:
    """Compares how a judge reads texts with how the policy writes them.

    Templates of different models differ, and each model reads its own: no cause for alarm. But a judge that sees plain texts where the
    policy writes a conversation, or the other way round, judges something else than what is trained on.

    Raises:
        ConfigError: One of them reads conversations and the other plain texts.
    """
    if not isinstance(judge, ModelJudge):
        return
    theirs, ours = judge.encode_config, data.encode_config
    policy_chats = ours.template == "chat" or (ours.template == "auto" and bool(data.chat_template))
    judge_chats = theirs.template != "plain" and bool(judge.scorer.model.tokenizer.chat_template)
    if policy_chats != judge_chats:
        raise ConfigError(
            f"the judge {judge.path} reads {'conversations' if judge_chats else 'plain texts'} (template {theirs.template}) and the policy "
            f"writes {'conversations' if policy_chats else 'plain texts'} (template {ours.template}); set --data.template to "
            f"{'chat' if judge_chats else 'plain'}, or take another judge"
        )
    if theirs.max_length < ours.max_length and not judge.warned:
        judge.warned = True
        log.warning(
            "the judge %s reads %d tokens at most and data.max_length is %d: it will not see all of the longest responses",
            judge.path, theirs.max_length, ours.max_length,
        )  # fmt: skip


def summary(lines: list[Line]) -> dict[str, float]:
    """Spread of the scores among the K responses of a prompt (log-odds), ties, and the share of triples that run in a circle."""
    tables = np.array([line["table"] for line in lines], dtype=np.float64)
    scores = tables.mean(-1)
    verdicts = triples(tables)
    count = int(np.sum(verdicts))
    found = {
        "score_range": float((scores.max(-1) - scores.min(-1)).mean()),
        "largest_score": float(np.abs(tables).max()),
        "undecided_prompts": float((tables == 0).all((-1, -2)).mean()),
    }
    return found | ({"cycles": int(verdicts.cyclic.sum()) / count} if count else {})
