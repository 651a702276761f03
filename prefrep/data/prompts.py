"""Prompts for post-training, and the batches of a round once it is sampled and judged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.fields import conversation
from prefrep.data.files import ROLES, Row, parts
from prefrep.data.rounds import Line, Rounds
from prefrep.data.sampling import BatchOrder, ResumableLoader, batches_before
from prefrep.data.trees import Datum, Ids, Layout, Tree, TreeBatch, collate
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.functional.gpo import Judged
from prefrep.records import Message, Messages, RankedResponses

log = logging.getLogger(__name__)

COLUMNS = ("prompt", "instruction", "question", "messages")
CALLBACKS = "SampleResponses, UpdateReference and LabelPreferences, in this order"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for a response.

    Args:
        messages: The conversation; the last turn is not the assistant's.
        id: The row's own name.
        source: Where the row came from, as `file:line`.
    """

    messages: Messages
    id: str
    source: str

    def longer(self, suffix: str) -> Prompt:
        """The prompt with more text behind its last turn."""
        last = self.messages[-1]
        return replace(self, messages=(*self.messages[:-1], replace(last, content=last.content + suffix)))

    def answered(self, responses: list[str]) -> RankedResponses:
        """The record of K responses to the prompt."""
        return RankedResponses(self.messages, tuple((Message("assistant", text),) for text in responses), id=self.id, source=self.source)


def read_prompts(path: str, role: str = "") -> Iterator[Prompt | RecordError]:
    """Reads prompts: a text file with one a line, or rows with a column `prompt`, `instruction`, `question` or `messages`.

    Rows of preference data serve too: whatever else they hold is not looked at.

    Args:
        path: A file (.txt, .jsonl, .json, .parquet, .gz), a folder or a hub id.
        role: What the prompts are for, see `files.parts`.

    Yields:
        A prompt, or what is wrong with a row.

    Raises:
        DataError: The source cannot be read or is empty.
    """
    for _, found in parts(path, None, False, role):
        for row, place in found:
            yield row if isinstance(row, RecordError) else _prompt(row, place)


def _prompt(row: Row, place: str) -> Prompt | RecordError:
    name = next((column for column in COLUMNS if row.get(column) is not None), None)
    if name is None:
        return RecordError(place, f"no prompt (found: {', '.join(row) or 'nothing'})", f"name a column one of {', '.join(COLUMNS)}")
    try:
        value = row[name]
        messages = (Message("user", value),) if isinstance(value, str) else conversation(value, name)
    except ValueError as error:
        return RecordError(place, str(error))
    if name == "messages" and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages or not messages[-1].content.strip():
        return RecordError(place, "the prompt is empty", "remove the row, or set --data.on_bad_row skip")
    if messages[-1].role == "assistant":
        return RecordError(place, "the prompt ends with the assistant's turn, so nothing waits for a response", "cut that turn off")
    return Prompt(messages, str(row.get("id", "")), place)


@dataclass(frozen=True)
class RoundBatch:
    """Prompts of a round with their K responses, of which the policy reads S. N prompts, M responses of pi_0.

    Args:
        trees: Prompts and responses; its sequences are the N * S responses that are read, in order.
        surplus: How many tokens at the end of each of them were not sampled [N * S]: the EOS behind a response that was cut off, for one.
        selected: Which of the K responses they are [N, S].
        table: Log-odds among the responses [N, K, K].
        initial_table: Log-odds against responses of pi_0 [N, K, M].
        reference: log pi_t of the responses [N, K].
        initial: log pi_0 of the responses [N, K]; not a number where nobody asked.
        lengths: Sampled tokens of the responses [N, K].
        weight: Of each prompt in the loss [N].
    """

    trees: TreeBatch
    surplus: Tensor
    selected: Tensor
    table: Tensor
    initial_table: Tensor
    reference: Tensor
    initial: Tensor
    lengths: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def tokens(self) -> int:
        """Number of distinct tokens."""
        return self.trees.tokens

    @property
    def judged(self) -> Judged:
        """What objectives know of all K responses."""
        return Judged(self.table, self.initial_table, self.reference, self.initial, self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RoundBatch:
        """The batch on another device."""
        return RoundBatch(**{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)})

    def pin_memory(self) -> RoundBatch:
        """The batch in page-locked memory."""
        return RoundBatch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Sample:
    """K encoded responses to a prompt.

    Args:
        datum: A tree with K sequences.
        surplus: How many tokens at the end of each were not sampled.
    """

    datum: Datum
    surplus: tuple[int, ...]

    def some(self, places: Sequence[int]) -> Sample:
        """Some of the responses, in the order asked for."""
        (tree,) = self.datum.trees
        return Sample(Datum((Tree(tuple(tree.sequences[i] for i in places), tree.prompt),)), tuple(self.surplus[i] for i in places))


class Policy(Protocol):
    """What the data needs to know of a policy."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""

    @property
    def backbone(self) -> Any:
        """Its language model, which knows how much it can read."""

    def supports_trees(self) -> bool:
        """Whether it honours a tree mask."""

    def selected(self, judged: Judged) -> Tensor:
        """Which responses its loss reads [N, S]."""


class PromptData(LightningDataModule):
    """Prompts for post-training. An epoch is a round: its batches come from `rounds/t`, which the callbacks fill when it begins.

    Args:
        train: Prompts to learn from: a path or a hub id, or a list of them; see `read_prompts`.
        val: Held-out prompts, for `HeldOut`.
        batch_size: Prompts in a batch, over all processes.
        round_size: Prompts of a round, which go through all prompts in a seeded order, round after round; null: all of them.
        suffix: Text behind every prompt's last turn, such as a wish for the form of responses.
        on_bad_row: `error`: a bad row, or a prompt that is too long or that the template refuses, stops the run. `skip`: it is counted and
            listed.
        template: How prompts and responses are rendered, see `EncodeConfig`; it must be the sampler's.
        max_length: Longest prompt with response, tokens.
        max_prompt_length: Longest prompt, tokens. Prompts are never cut: what is scored would not be what was answered.
        layout: `trees`: shared prefixes are read once, several trees a row. `padded`: one sequence a row. `auto`: trees where the backbone
            honours their mask.
        row_tokens: Tokens in a row of trees; a longer tree widens the rows.
        seed: Of the order of prompts.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        batch_size: int = 8,
        round_size: int | None = None,
        suffix: str = "",
        on_bad_row: Literal["error", "skip"] = "error",
        template: Literal["auto", "chat", "plain"] = "auto",
        max_length: int = 1024,
        max_prompt_length: int = 512,
        layout: Literal["auto", "trees", "padded"] = "auto",
        row_tokens: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (round_size is not None and round_size < 1):
            raise ConfigError(f"batch_size and round_size must be 1 or more, got {batch_size} and {round_size}")
        if not 0 < max_prompt_length < max_length:
            raise ConfigError(f"max_prompt_length {max_prompt_length} must leave room for a response in max_length {max_length}")
        # Responses may lose their ends, prompts nothing: both policies must have read the same.
        self.encode_config = EncodeConfig(template, max_length, "keep_start")
        self.batch_size, self.max_prompt_length, self.on_bad_row = batch_size, max_prompt_length, on_bad_row
        self.layout, self.row_tokens, self.seed = layout, row_tokens, seed
        self._round_size, self.suffix = round_size, suffix
        self._sources = {"train": train, "val": val}
        self._prompts: dict[str, list[Prompt]] = {}
        self._fitting: dict[str, list[Prompt]] = {}
        self._round: tuple[int, list[_Entry]] | None = None

    # ---- prompts

    def setup(self, stage: str) -> None:
        """Reads the prompts.

        Raises:
            ConfigError: No prompts are named, or the stage is not `fit`.
            DataError: A file cannot be read or is empty.
            RecordError: A row cannot be used.
        """
        if stage != "fit":
            raise ConfigError(
                f"a policy is trained with fit; {getattr(stage, 'value', stage)} is for preference models (bin/eval for policies)"
            )
        if self._sources["train"] is None:
            raise ConfigError("no prompts to train on; name a file with --data.train FILE")
        self._prompts = {name: self._read(name) for name in ("train", "val")}

    def _read(self, name: str) -> list[Prompt]:
        given = self._sources[name]
        paths = [given] if isinstance(given, str) else given or []
        read = (each for path in paths for each in read_prompts(path, ROLES[name]))
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
        """The prompts that fit into the model's context, in the order of the files.

        Raises:
            ConfigError: max_length is more than the model can read.
            RecordError: A prompt is too long, or the chat template refuses it.
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
        except RecordError as error:  # the chat template refuses it; where it stands says more than its words
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
        """Prompts in a round."""
        return self._round_size or len(self.prompts("train"))

    def round_prompts(self, number: int) -> list[Prompt]:
        """The prompts of a round."""
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
        """The rounds of this run, on disk."""
        assert self.trainer is not None
        return Rounds(Path(self.trainer.default_root_dir) / "rounds")

    @property
    def done(self) -> int:
        """Batches that this run has trained on so far, over all rounds and before a resume."""
        return int(cast(Any, self.trainer).fit_loop.epoch_loop.batch_progress.total.processed)

    @property
    def round_number(self) -> int:
        """The present round."""
        return self.done // max(int(cast(Any, self.trainer).num_training_batches), 1)

    @property
    def round_begins(self) -> bool:
        """Whether no batch of the present round has been trained on: the policy is still the one that the round is about."""
        return self.done % max(int(cast(Any, self.trainer).num_training_batches), 1) == 0

    def encoded(self, prompts: list[Prompt], samples: list[Line]) -> list[Sample]:
        """Prompts with their sampled responses as trees, each with its lead (`Encoder.lead`); without `leads` in a line, the template's."""
        encoder = self._encoder()
        ends = encoder.end_ids()

        def as_sampled(line: Line) -> list[str]:
            texts = line["responses"]
            return [lead + text for lead, text in zip(line.get("leads", [encoder.lead] * len(texts)), texts, strict=True)]

        records = (prompt.answered(as_sampled(line)) for prompt, line in zip(prompts, samples, strict=True))
        found = []
        for (_, datum), line in zip(encoder.encode_tables(records), samples, strict=True):
            assert datum is not None, "prompts were checked to leave room"
            sequences = datum.trees[0].sequences
            whole = [flag and len(ids) < self.encode_config.max_length for ids, flag in zip(sequences, line["finished"], strict=True)]
            found.append(Sample(datum, tuple(_trailing(ids, ends) - flag for ids, flag in zip(sequences, whole, strict=True))))
        return found

    def together(self, samples: list[Sample]) -> tuple[TreeBatch, Tensor]:
        """A batch of samples, and the surplus of each response [N * K]."""
        trees = collate([sample.datum for sample in samples], pad_id(self._policy.tokenizer), self._batch_layout(), self.row_tokens)
        return trees, torch.tensor([each for sample in samples for each in sample.surplus])

    def _entries(self, number: int) -> list[_Entry]:
        if self._round is None or self._round[0] != number:
            prompts = self.round_prompts(number)
            samples, reference, labels = (self._complete(number, name, len(prompts)) for name in ("samples", "reference", "labels"))
            encoded = self.encoded(prompts, samples)
            entries = [_Entry(each, r, label) for each, r, label in zip(encoded, reference, labels, strict=True)]
            self._round = number, entries
        return self._round[1]

    def _complete(self, number: int, name: str, size: int) -> list[Line]:
        lines = self.rounds.read(number, name)
        if len(lines) < size:
            raise ConfigError(f"{self.rounds.folder(number)}: no complete {name}.jsonl; post-training needs the callbacks {CALLBACKS}")
        return [lines[row] for row in range(size)]

    def train_dataloader(self) -> DataLoader[RoundBatch]:
        """Batches of the present round; a round must be complete when its first batch is asked for."""
        trainer = self.trainer
        assert trainer is not None
        order = BatchOrder(
            self.round_size, self.batch_size, shuffle=True, seed=self.seed, rank=trainer.global_rank, world_size=trainer.world_size,
            done=lambda: batches_before(trainer, -(-self.round_size // self.batch_size)),
        )  # fmt: skip
        # No workers: batches are small work, and a worker would have forked before the round was there.
        return ResumableLoader(cast(Any, _Rows()), batch_sampler=order, collate_fn=partial(_collated, self))

    def batch(self, rows: list[tuple[int, bool]]) -> RoundBatch:
        """The batch of some rows of the present round; a row that does not count weighs nothing."""
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
        selected = self._policy.selected(Judged(table, initial_table, reference, initial, lengths))
        trees, surplus = self.together([entry.sample.some(places) for entry, places in zip(entries, selected.tolist(), strict=True)])
        weight = torch.tensor([float(counts) for _, counts in rows])
        return RoundBatch(trees, surplus, selected, table, initial_table, reference, initial, lengths, weight)

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

    def _batch_layout(self) -> Layout:
        supported = self._policy.supports_trees()
        if self.layout == "trees" and not supported:
            raise ConfigError("layout: trees needs a backbone that honours a tree mask, and this one does not; use layout: auto or padded")
        return "trees" if supported and self.layout != "padded" else "padded"


@dataclass(frozen=True, slots=True)
class _Entry:
    """All that is known of one prompt of a round."""

    sample: Sample
    reference: Line
    label: Line


class _Rows:
    """A data set whose items are the rows that the sampler draws."""

    def __getitem__(self, item: tuple[int, bool]) -> tuple[int, bool]:
        return item


def _trailing(ids: Ids, ends: list[int]) -> int:
    """How many tokens at the end are ends of a response: templates write one of their own before the EOS."""
    others = np.flatnonzero(~np.isin(ids, ends))
    return len(ids) - 1 - int(others[-1])


def _collated(data: PromptData, rows: list[tuple[int, bool]]) -> RoundBatch:
    return data.batch(rows)
