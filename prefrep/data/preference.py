"""The DataModule of preference models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, cast

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from prefrep.annotators import Annotators, counted
from prefrep.console import progress
from prefrep.data.cloze import check_instruction
from prefrep.data.collating import Remembered, for_policy, rememberable, together
from prefrep.data.encode import ControlTokens, EncodeConfig, Encoder, pad_id
from prefrep.data.files import ROLES
from prefrep.data.kept import About, about_encoding, about_records, kept, read_kept
from prefrep.data.labels import Labels, Strength
from prefrep.data.offline import PolicyTexts
from prefrep.data.readers import GivenReader, Reader
from prefrep.data.render import Template
from prefrep.data.sampling import BatchOrder, Drawn, ResumableLoader, batches_before
from prefrep.data.sources import Source, Sources, named
from prefrep.data.trees import ROW_TOKENS, Datum, Layout, TreeBatch, batch_layout
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.records import Comparison, Record, preferred

log = logging.getLogger(__name__)
_NOTHING_LEFT = {
    "dropped": "raise max_length or change truncation",
    "refused": "correct what the skipped rows lack",
    "without a pair": "labels of single responses train preference/bt and KTOLoss, others need two responses of unequal quality",
}


class Predicted(NamedTuple):
    """The record of a prediction.

    Args:
        row: Index of the record.
        id: Name of the record.
        pairs: Compared pairs (better, worse) of ranked responses; None: the record is a comparison.
    """

    row: int
    id: str
    pairs: list[tuple[int, int]] | None


class PreferenceData(LightningDataModule):
    """Preference data from files or the hub, for any preference model.

    Rows are read and checked before the model is loaded, then encoded with its tokenizer and collated into token trees.

    Args:
        train: Training data: a path, a hub id, a `Source`, or a list of them.
        val: Validation data.
        test: Test data.
        predict: Data to score with `predict`.
        batch_size: Prompts per batch, over all processes.
        format: Format of sources that have none of their own; `auto` detects it from the columns.
        on_bad_row: What to do about a bad row, or one that the chat template rejects. `error`: stop. `skip`: count and list it.
        criterion: Criterion of sources that have none of their own: only comparisons of this criterion, see `data.labels.Labels`.
        strength: What published strengths of preferences mean, for sources that have no choice of their own. `ignore`: nothing. `margin`:
            the margin is strength_scale * strength. `probability`: P(chosen > rejected) is sigmoid(strength_scale * strength).
        strength_scale: Log-odds per unit of the published strength.
        control_tokens: What to do about texts that spell out control tokens, such as `<|im_end|>`. `text`: read them as text. `refuse`:
            treat the record as a bad row.
        template: See `EncodeConfig`; under `auto`, a model that is trained further (`model.init`) keeps its own.
        max_length: Maximum sequence length in tokens, at most the model's context length.
        truncation: What to cut from longer sequences, see `EncodeConfig`.
        context: Column that the prompt names, in exported models too: `group`, `annotator`, `criterion` or a tag; see `data.context`.
        instruction: Text with a `[MASK]` after each response, where an encoder with `pooling: mask` is read, see `EncodeConfig`. A model
            that is trained further keeps its own unless another one is given.
        layout: `trees`: prefix sharing, several trees per row. `padded`: one sequence per row. `auto`: trees if they are supported.
        row_tokens: Tokens per row of trees under a dense mask; larger groups widen rows. A batch for `trees` or `flex_attention` is one.
        num_workers: Processes that collate batches.
        seed: Seed of the order of training batches and of mixing by weight.
        cache: Folder for what later runs need not compute again: records and encoded data (`data.kept`), and the hidden states of a frozen
            backbone, which then reads each text once over all epochs, heads and runs (`data.features`). `auto`: in prefrep's cache folder.
            null: no cache.
    """

    def __init__(
        self,
        train: Sources | None = None,
        val: Sources | None = None,
        test: Sources | None = None,
        predict: Sources | None = None,
        batch_size: int = 32,
        format: str = "auto",
        on_bad_row: Literal["error", "skip"] = "error",
        criterion: str | None = None,
        strength: Strength = "ignore",
        strength_scale: float = 1.0,
        control_tokens: ControlTokens = "text",
        template: Template = "auto",
        max_length: int = 2048,
        truncation: Literal["keep_end", "keep_start", "drop"] = "keep_end",
        context: str = "",
        instruction: str = "",
        layout: Literal["auto", "trees", "padded"] = "auto",
        row_tokens: int = ROW_TOKENS,
        num_workers: int = 0,
        seed: int = 0,
        cache: str | None = "auto",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}")
        self._stated = EncodeConfig(template, max_length, truncation, context, instruction)
        self.labels, self.control_tokens = Labels(criterion, strength, strength_scale), control_tokens
        self.batch_size, self.format, self.on_bad_row, self.num_workers, self.seed = batch_size, format, on_bad_row, num_workers, seed
        self.layout, self.row_tokens, self.cache = layout, row_tokens, cache
        self._sources: dict[str, Sources | None] = {"train": train, "val": val, "test": test, "predict": predict}
        self._records: dict[str, Sequence[Record]] = {}
        self._contents: dict[str, About | None] = {}
        self._data: dict[str, Sequence[Datum]] = {}
        self._encoded_for: About = {}
        self._remembered = Remembered()
        self._annotators: Annotators | None = None
        self._unshared = False
        self.predicted: list[Predicted] = []

    @property
    def encode_config(self) -> EncodeConfig:
        """How text becomes token ids: as configured, or, where that is left open, as the model did before."""
        model = None if self.trainer is None else self.trainer.lightning_module
        earlier: Template | None = getattr(model, "template", None)  # few modules have one
        stated = replace(self._stated, instruction=self._stated.instruction or getattr(model, "instruction", ""))
        return stated if earlier is None or stated.template != "auto" else replace(stated, template=earlier)

    @encode_config.setter
    def encode_config(self, config: EncodeConfig) -> None:
        self._stated = config

    def paths(self, name: str) -> list[str]:
        """Return the paths and hub ids of a split: `train`, `val`, `test` or `predict`."""
        given = self._sources[name]
        return [] if given is None else [source.path for source in named(given)]

    def records(self, name: str) -> Sequence[Record]:
        """Return the records of a split that `setup` has read."""
        return self._records[name]

    def count(self, name: str) -> int:
        """Return the number of encoded records of a split, 0 before it is encoded."""
        return len(self._data.get(name, ()))

    def annotators(self) -> Annotators:
        """Return who labelled the training data; nobody without such data. Warns of what is doubtful about them; errors of `counted`."""
        if self._annotators is None and self._sources["train"] is not None:
            self._annotators, doubts = counted(self._records.get("train") or self._read("train"), "train")
            for doubt in doubts:
                log.warning(doubt)
        return self._annotators or Annotators({})

    def setup(self, stage: str) -> None:
        """Read the records of a stage.

        Raises:
            ConfigError: The stage has no source of data.
            DataError: A file cannot be read or is empty.
            RecordError: A row is bad, under `on_bad_row: error`.
        """
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}[stage]:
            if name in self._records:
                continue
            if self._sources[name] is None:
                if name == "val" and stage == "fit":
                    continue
                raise ConfigError(f"no data to {getattr(stage, 'value', stage)} on; name a file with --data.{name} FILE")
            self._records[name] = self._read(name)

    def _read(self, name: str) -> Sequence[Record]:
        sources = self._named(name)
        self._contents[name] = None if self.cache is None else about_records(sources, self.on_bad_row, ROLES[name])
        records, skipped = read_kept(self.cache, self._contents[name], sources, self.seed, self.on_bad_row, ROLES[name])
        for error in skipped[:10]:
            log.warning("skipped: %s", error)
        if skipped:
            log.warning("%s: %d bad rows skipped, %d records kept", name, len(skipped), len(records))
        if not records:
            raise DataError(f"{', '.join(s.path for s in sources)}: no usable rows; examine the data with prefrep inspect")
        return records

    def _named(self, name: str) -> list[Source]:
        return named(cast(Sources, self._sources[name]), self.format, self.labels)

    def encoder(self, name: str) -> Encoder:
        """Return an encoder of a split's records for the model; unpaired labels are left out where it gives single responses no reward."""
        reader = self._reader
        given = None if reader.reading is None else reader.reading.across
        return Encoder(
            reader.tokenizer, self.encode_config, reader.layout, given is not None, self.control_tokens, self._unpaired(name), given,
            reader.needs_prompt,
        )  # fmt: skip

    def _unpaired(self, name: str) -> bool:
        return self._reader.unpaired and name != "predict"  # predictions are of pairs

    def encoded(self, name: str, records: Iterable[Record], encoder: Encoder) -> Iterator[tuple[int, Record, Datum]]:
        """Yield index, record and datum of each encoded record; `on_bad_row` decides about records that the template rejects."""
        refused: list[RecordError] | None = [] if self.on_bad_row == "skip" else None
        for number, (record, datum) in enumerate(encoder.encode(records, refused)):
            if datum is not None:
                yield number, record, datum
        for error in (refused or [])[:10]:
            log.warning("%s: skipped: %s", name, error)

    def _encoded(self, name: str) -> Sequence[Datum]:
        room = self._reader.backbone.room
        if room is not None and self.encode_config.max_length > room:
            asked = self.encode_config.max_length
            raise ConfigError(f"max_length {asked} is more than the {room} tokens that the model can read; set --data.max_length {room}")
        check_instruction(self._reader.backbone.pooling, self.encode_config.instruction)
        encoder = self.encoder(name)
        about = about_encoding(encoder.tokenizer, self.encode_config, encoder.layout, self.control_tokens)
        about |= {"unpaired": self._unpaired(name), "given": None if self._reader.reading is None else self._reader.reading.across}
        about |= {"gated": True} if self._reader.needs_prompt else {}
        if self._encoded_for != about:  # another tokenizer, or another layout
            self._encoded_for = about
            self._data.clear()
        if name not in self._data:

            def encoded() -> Iterator[Datum]:
                records = progress(self._records[name], f"encoding {name}", "records")
                return self._noting(name, self.encoded(name, records, encoder))

            self._data[name], said, there = kept(self.cache, self._about(name, about), encoded, encoder.tallies)
            if there:
                encoder.counts.update(said["counts"])
                encoder.events.update(said["events"])
            log.info("%s: %s%s", name, encoder.report(), " (encoded by an earlier run)" if there else "")
            log.info("%s: %s", name, encoder.reading())
            if not self._data[name]:
                remedies = [remedy for count, remedy in _NOTHING_LEFT.items() if encoder.counts[count]]
                raise DataError(f"{name}: no record is left ({encoder.report()}); {', or '.join(remedies)}")
        return self._data[name]

    def _about(self, name: str, about: About) -> About | None:
        """Return what the encoded data depend on; None: they are not kept, since predictions refer to their records."""
        if name == "predict":
            return None
        records = self._contents[name]
        drawn = any(each.weight % 1 for each in self._named(name))  # of whole weights the seed moves nothing
        return None if records is None else {"records": records, "seed": self.seed if drawn else None, **about}

    def _noting(self, name: str, found: Iterable[tuple[int, Record, Datum]]) -> Iterator[Datum]:
        """Yield the data, and record in `predicted` what each prediction refers to."""
        self.predicted = [] if name == "predict" else self.predicted
        for number, record, datum in found:
            if name == "predict":
                compared = None if isinstance(record, Comparison) else preferred(record.scores or ())
                self.predicted.append(Predicted(number, record.id, compared))
            yield datum

    @property
    def _reader(self) -> Reader:
        assert self.trainer is not None, "the DataModule gets its tokenizer from the trainer's model"
        return cast(Reader, self.trainer.lightning_module)

    def _batch_layout(self) -> Layout:
        layout = batch_layout(self.layout, self._reader.supports_trees())
        if self.layout == "auto" and layout == "padded" and not self._unshared:
            why = "reads both ways" if self._reader.backbone.both_ways else "does not support tree masks"
            log.info("this backbone %s, so prompts are not shared", why)
            self._unshared = True  # said
        return layout

    def _loader(self, name: str) -> DataLoader[TreeBatch]:
        trainer = self.trainer
        assert trainer is not None
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ConfigError("PreferenceData distributes batches itself; set trainer.use_distributed_sampler: false")
        data = self._encoded(name)
        order = BatchOrder(
            len(data), self.batch_size, shuffle=name == "train", seed=self.seed, rank=trainer.global_rank, world_size=trainer.world_size,
            done=lambda: batches_before(trainer, -(-len(data) // self.batch_size)),
        )  # fmt: skip
        return ResumableLoader(
            cast(Any, Drawn()), batch_sampler=order, collate_fn=self._together(name, data), num_workers=self.num_workers,
            pin_memory=str(getattr(trainer.strategy, "root_device", "cpu")).startswith("cuda"), persistent_workers=False,
        )  # fmt: skip

    def _together(self, name: str, data: Sequence[Datum]) -> Callable[[list[tuple[int, bool]]], TreeBatch]:
        """Return the function that collates records by their indices."""
        reader, layout = self._reader, self._batch_layout()  # the layout first: it selects the kernel, which says how wide rows are
        if self.cache is not None and rememberable(reader.backbone):
            return self._remembered.batches(name, data, reader, self.trainer, self.cache, layout, self.row_tokens)
        how = (pad_id(reader.tokenizer), layout, reader.backbone.row_capacity(self.row_tokens))
        if reader.reading is None:
            return partial(together, data=data, how=how, annotators=reader.annotators)
        texts = PolicyTexts(data, reader.reading, self.encoder(name).end_ids(), self.encode_config.max_length, *how)
        return for_policy(texts, cast(GivenReader, reader), self.trainer, self.cache, name)

    def train_dataloader(self) -> DataLoader[TreeBatch]:
        """Return training batches, in the seeded order."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[TreeBatch] | list[Any]:
        """Return validation batches, in the order of the data; empty without validation data."""
        return self._loader("val") if self._sources["val"] is not None else []

    def test_dataloader(self) -> DataLoader[TreeBatch]:
        """Return test batches, in the order of the data."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[TreeBatch]:
        """Return batches to score, in the order of the data."""
        return self._loader("predict")
