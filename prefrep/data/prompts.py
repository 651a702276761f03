"""The DataModule of post-training: prompts, and the batches of a round once it is sampled and labelled."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.files import ROLES
from prefrep.data.prompt_sources import Prompt, read_prompts
from prefrep.data.readers import Policy
from prefrep.data.round_batch import RoundBatch, Sample, encode_samples
from prefrep.data.rounds import Line, Rounds
from prefrep.data.sampling import BatchOrder, Drawn, ResumableLoader, batches_before
from prefrep.data.trees import ROW_TOKENS, TreeBatch, batch_layout, collate
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.functional.gpo import Judged

log = logging.getLogger(__name__)

CALLBACKS = "SampleResponses, UpdateReference and LabelPreferences, in this order"


class PromptData(LightningDataModule):
    """Prompts for post-training. An epoch is a round: its batches come from `rounds/t`, which callbacks fill at the start of the epoch.

    Args:
        train: Training prompts: a path or a hub id, or a list of them; see `read_prompts`. Preference data serve too.
        val: Held-out prompts, for `HeldOut`.
        batch_size: Prompts per batch, over all processes.
        round_size: Prompts per round; rounds go through all prompts in a seeded order. null: all prompts in every round.
        context: Column that prompts name, see `data.context`; a judge that was trained with it reads the same words.
        suffix: Text appended to the last turn of every prompt, such as an instruction about the form of responses.
        on_bad_row: What to do about a bad row, a prompt that is too long, or one that the chat template rejects. `error`: stop. `skip`:
            count and list it.
        template: Template of prompts and responses, see `EncodeConfig`; it must be the sampler's.
        max_length: Maximum length of a prompt with its response, tokens.
        max_prompt_length: Maximum length of a prompt, tokens. Longer prompts are bad rows, since a truncated prompt is another prompt.
        layout: `trees`: prefix sharing, several trees per row. `padded`: one sequence per row. `auto`: trees if they are supported.
        row_tokens: Tokens per row of trees under a dense mask; larger groups widen rows. A batch for `trees` or `flex_attention` is one.
        seed: Seed of the order of prompts.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        batch_size: int = 8,
        round_size: int | None = None,
        context: str = "",
        suffix: str = "",
        on_bad_row: Literal["error", "skip"] = "error",
        template: Literal["auto", "chat", "plain"] = "auto",
        max_length: int = 1024,
        max_prompt_length: int = 512,
        layout: Literal["auto", "trees", "padded"] = "auto",
        row_tokens: int = ROW_TOKENS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (round_size is not None and round_size < 1):
            raise ConfigError(f"batch_size and round_size must be 1 or more, got {batch_size} and {round_size}")
        if not 0 < max_prompt_length < max_length:
            raise ConfigError(f"max_prompt_length {max_prompt_length} must leave room for a response in max_length {max_length}")
        # Truncation may only shorten responses: policy and reference must read the same prompt.
        self.encode_config = EncodeConfig(template, max_length, "keep_start", context)
        self.batch_size, self.max_prompt_length, self.on_bad_row = batch_size, max_prompt_length, on_bad_row
        self.layout, self.row_tokens, self.seed = layout, row_tokens, seed
        self._round_size, self.suffix = round_size, suffix
        self._sources = {"train": train, "val": val}
        self._prompts: dict[str, list[Prompt]] = {}
        self._fitting: dict[str, list[Prompt]] = {}
        self._round: tuple[int, list[_Entry]] | None = None

    # ---- prompts

    def setup(self, stage: str) -> None:
        """Read the prompts.

        Raises:
            ConfigError: There is no source of training prompts, or the stage is not `fit`.
            DataError: A file cannot be read or is empty.
            RecordError: A row is bad, under `on_bad_row: error`.
        """
        if stage != "fit":
            raise ConfigError(
                f"a policy is trained with fit; {getattr(stage, 'value', stage)} is for preference models (prefrep eval for policies)"
            )
        if self._sources["train"] is None:
            raise ConfigError("no prompts to train on; name a file with --data.train FILE")
        self._prompts = {name: self._read(name) for name in ("train", "val")}

    def _read(self, name: str) -> list[Prompt]:
        given = self._sources[name]
        paths = [given] if isinstance(given, str) else given or []
        read = (each for path in paths for each in read_prompts(path, ROLES[name], self.encode_config.context))
        found = [each.longer(self.suffix) if isinstance(each, Prompt) else each for each in read]
        return self._without_bad(name, found)

    def _without_bad(self, name: str, found: list[Prompt | RecordError]) -> list[Prompt]:
        bad = [each for each in found if isinstance(each, RecordError)]
        if bad and self.on_bad_row == "error":
            raise bad[0]
        for error in bad[:10]:
            log.warning("skipped: %s", error)
        good = [each for each in found if isinstance(each, Prompt)]
        if bad:
            log.warning("%s: %d bad prompts skipped, %d kept", name, len(bad), len(good))
        if not good and (found or name == "train"):
            raise DataError(f"{self._sources[name]}: no usable prompts")
        return good

    def prompts(self, name: Literal["train", "val"]) -> list[Prompt]:
        """Return the prompts of at most max_prompt_length tokens, in the order of the files.

        Raises:
            ConfigError: max_length exceeds the model's context length.
            RecordError: A prompt is too long, or the chat template rejects it, under `on_bad_row: error`.
        """
        if name not in self._fitting:
            room = self._policy.backbone.room
            if room is not None and self.encode_config.max_length > room:
                raise ConfigError(f"max_length {self.encode_config.max_length} is more than the {room} tokens that the model can read")
            encoder = self._encoder()
            self._fitting[name] = self._without_bad(name, [self._checked(prompt, encoder) for prompt in self._prompts[name]])
        return self._fitting[name]

    def _checked(self, prompt: Prompt, encoder: Encoder) -> Prompt | RecordError:
        try:
            length = len(encoder.prompts([prompt.messages])[0])
        except RecordError as error:  # the location of the row helps more than its text
            return RecordError(prompt.source, error.problem, f"{error.remedy}, or set --data.on_bad_row skip")
        if length <= self.max_prompt_length:
            return prompt
        return RecordError(
            prompt.source,
            f"the prompt has {length} tokens, more than max_prompt_length {self.max_prompt_length}",
            "shorten it, raise --data.max_prompt_length (and max_length), or set --data.on_bad_row skip",
        )

    @property
    def round_size(self) -> int:
        """Number of prompts per round."""
        return self._round_size or len(self.prompts("train"))

    def round_prompts(self, number: int) -> list[Prompt]:
        """Return the prompts of a round."""
        prompts = self.prompts("train")
        if self._round_size is None:
            return prompts
        places = range(number * self._round_size, (number + 1) * self._round_size)
        orders = {
            again: np.random.default_rng([self.seed, again]).permutation(len(prompts)) for again in {p // len(prompts) for p in places}
        }
        return [prompts[orders[place // len(prompts)][place % len(prompts)]] for place in places]

    # ---- rounds

    @property
    def rounds(self) -> Rounds:
        """The files of this run's rounds."""
        assert self.trainer is not None
        return Rounds(Path(self.trainer.default_root_dir) / "rounds")

    @property
    def done(self) -> int:
        """Number of batches trained so far, over all rounds and across resumes."""
        return int(cast(Any, self.trainer).fit_loop.epoch_loop.batch_progress.total.processed)

    @property
    def round_number(self) -> int:
        """Number of the current round."""
        return self.done // max(int(cast(Any, self.trainer).num_training_batches), 1)

    @property
    def round_begins(self) -> bool:
        """Whether the current round has not trained on any batch yet, so that the policy is still pi_t."""
        return self.done % max(int(cast(Any, self.trainer).num_training_batches), 1) == 0

    def encoded(self, prompts: list[Prompt], samples: list[Line]) -> list[Sample]:
        """Encode sampled responses for the policy, see `encode_samples`."""
        return encode_samples(self._encoder(), prompts, samples)

    def together(self, samples: list[Sample]) -> tuple[TreeBatch, Tensor]:
        """Collate samples; return the batch and the surplus of each response [N * K]."""
        layout = batch_layout(self.layout, self._policy.supports_trees())
        capacity = self._policy.backbone.row_capacity(self.row_tokens)
        trees = collate([sample.datum for sample in samples], pad_id(self._policy.tokenizer), layout, capacity, share=True)
        return trees, torch.tensor([each for sample in samples for each in sample.surplus])

    def _entries(self, number: int) -> list[_Entry]:
        if self._round is None or self._round[0] != number:
            prompts = self.round_prompts(number)
            samples, reference, labels = (self._complete(number, name, len(prompts)) for name in ("samples", "reference", "labels"))
            encoded = self.encoded(prompts, samples)
            refers = self.rounds.read(number, "earlier_reference")  # there if the objective refers to earlier rounds
            earlier = self._complete(number, "earlier_reference", len(prompts)) if refers else [None] * len(prompts)
            entries = [_Entry(*each) for each in zip(encoded, reference, labels, earlier, strict=True)]
            self._round = number, entries
        return self._round[1]

    def _complete(self, number: int, name: str, size: int) -> list[Line]:
        lines = self.rounds.read(number, name)
        if len(lines) < size:
            raise ConfigError(f"{self.rounds.folder(number)}: no complete {name}.jsonl; post-training needs the callbacks {CALLBACKS}")
        return [lines[row] for row in range(size)]

    def train_dataloader(self) -> DataLoader[RoundBatch]:
        """Return the batches of the current round, whose files must be complete before the first batch."""
        trainer = self.trainer
        assert trainer is not None
        order = BatchOrder(
            self.round_size, self.batch_size, shuffle=True, seed=self.seed, rank=trainer.global_rank, world_size=trainer.world_size,
            done=lambda: batches_before(trainer, -(-self.round_size // self.batch_size)),
        )  # fmt: skip
        # No workers: batches are cheap, and workers would fork before the round's files are complete.
        return ResumableLoader(cast(Any, Drawn()), batch_sampler=order, collate_fn=partial(_collated, self))

    def batch(self, rows: list[tuple[int, bool]]) -> RoundBatch:
        """Return the batch of some rows (index, whether it counts) of the current round; rows that do not count have weight 0."""
        entries = [self._entries(self.round_number)[row] for row, _ in rows]
        width = len(entries[0].sample.surplus)
        table, initial_table, reference, initial, lengths = (
            torch.tensor(values, dtype=torch.float32)
            for values in (
                [entry.label["table"] for entry in entries],
                [entry.label["initial_table"] for entry in entries],
                [entry.reference["logprobs"] for entry in entries],
                [entry.reference["initial"] or [nan] * width for entry in entries],
                [entry.reference["lengths"] for entry in entries],
            )
        )
        initial_table = initial_table.reshape(len(rows), width, -1)
        by_judge = [list(entry.label["tables"].values()) for entry in entries if "tables" in entry.label]
        logprobs = [entry.earlier["logprobs"] for entry in entries if entry.earlier]
        before = [entry.label["earlier_table"] for entry in entries if "earlier_table" in entry.label]
        tables, earlier, earlier_table = (  # each of all entries, or of none
            torch.tensor(values, dtype=torch.float32) if values else None for values in (by_judge, logprobs, before)
        )
        judged = Judged(table, initial_table, reference, initial, lengths, tables, earlier, earlier_table)
        selected = self._policy.selected(judged)
        trees, surplus = self.together([entry.sample.some(places) for entry, places in zip(entries, selected.tolist(), strict=True)])
        weight = torch.tensor([float(counts) for _, counts in rows])
        given = (table, initial_table, reference, initial, lengths)
        return RoundBatch(trees, surplus, selected, *given, weight, tables, earlier, earlier_table)

    # ---- the model

    @property
    def _policy(self) -> Policy:
        assert self.trainer is not None, "the DataModule gets its tokenizer from the trainer's model"
        return cast(Policy, self.trainer.lightning_module)

    @property
    def chat_template(self) -> str | None:
        """The chat template of the policy's tokenizer, if it has one."""
        return cast("str | None", self._policy.tokenizer.chat_template)

    def _encoder(self) -> Encoder:
        return Encoder(self._policy.tokenizer, self.encode_config, "single", policy=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A prompt of a round with its lines of samples, reference and labels."""

    sample: Sample
    reference: Line
    label: Line
    earlier: Line | None


def _collated(data: PromptData, rows: list[tuple[int, bool]]) -> RoundBatch:
    return data.batch(rows)
