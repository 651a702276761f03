"""From records to the numbers that a head gives them: batches, forward passes, comparisons. `scoring.scorer` asks the questions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from prefrep.annotators import Annotators
from prefrep.data.encode import Encoder, pad_id
from prefrep.data.trees import ROW_TOKENS, Datum, Layout, Tree, TreeBatch, alike, collate
from prefrep.data.trie import Trie
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.io.folder import PreferenceModel
from prefrep.nn.context import Context
from prefrep.nn.people import annotators_of
from prefrep.records import RankedResponses, Record
from prefrep.scoring.interface import WINDOW
from prefrep.scoring.people import Asking, UnknownAnnotator

Floats = NDArray[np.float32]
Wanted = Literal["scores", "embedded", "both", "objectives"]
Orders = Literal["both", "first"]
log = logging.getLogger(__name__)


class Forward:
    """A preference model that reads and compares records. Arguments and errors are those of `scoring.scorer.Scorer`."""

    def __init__(
        self,
        model: PreferenceModel,
        batch_tokens: int = 4096,
        layout: Literal["auto", "trees", "padded"] = "auto",
        unknown_annotator: UnknownAnnotator = "population",
        orders: Orders = "both",
    ) -> None:
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be 1 or more, got {batch_tokens}")
        self.model, self.batch_tokens = model, batch_tokens
        # Scoring never drops a record: `drop` is for training data.
        truncation = "keep_end" if model.encode.truncation == "drop" else model.encode.truncation
        length = min(model.encode.max_length, model.backbone.room or model.encode.max_length)
        encode = replace(model.encode, truncation=truncation, max_length=length)
        self._encoder = Encoder(model.tokenizer, encode, model.head.layout, gated=model.head.needs_prompt)
        trees = model.backbone.supports_trees() and layout != "padded"  # also if padded: the probe selects the attention kernel
        if layout == "trees" and not trees:
            raise ConfigError(f"{model.backbone.path} does not support tree masks, so branches would leak into each other; use layout auto")
        self._layout: Layout = "trees" if trees else "padded"
        self._device = next(model.head.parameters()).device
        self.orders = orders
        self._by_place = [0.0, 0.0]  # number of pairs read in both orders, and the sum of what the first place was worth to an answer
        self.asking = Asking(type(model.head).__name__, annotators_of(model.head), unknown_annotator)

    @property
    def annotators(self) -> Annotators | None:
        """Whom the model knows; None: it answers everybody alike."""
        return self.asking.annotators

    # ---- steps of scoring, for callers that choose their own batches

    @property
    def shares_prefixes(self) -> bool:
        """Whether a forward pass reads a prefix that sequences share once."""
        return self._layout == "trees"

    @property
    def encode_counts(self) -> Mapping[str, int]:
        """What encoding counted so far, see `Encoder`."""
        return self._encoder.counts

    def encoded(self, record: RankedResponses, rendered: bool = False) -> Datum:
        """Encode one record for `read`.

        Args:
            record: A prompt and K responses.
            rendered: The prompt and each response are one message of rendered text, whose concatenation is tokenised as it is.

        Raises:
            RecordError: The record cannot be encoded.
            ConfigError: The model reads pairs and has no format for rendered texts.
        """
        if rendered:
            return self._checked(record, self._encoder.encode_rendered(record))
        ((_, datum),) = self._encoder.encode_tables([record])
        return self._checked(record, datum)

    def labelled(self, records: Iterable[Record]) -> Iterator[Datum]:
        """Encode labelled records for `read`, as for training: pairs of unequal responses. Records without a pair are left out.

        Raises:
            RecordError: A record cannot be encoded.
        """
        return (datum for _, datum in self._encoder.encode(records) if datum is not None)

    @torch.inference_mode()
    def read(self, trees: Sequence[Tree]) -> tuple[Tensor, Tensor | None, int]:
        """Read trees in one forward pass.

        Returns:
            Embeddings [M, D] of all sequences in the order of the trees; for heads with a gate, prompt states [M, H]; and the number of
            tokens that were read, which trees share too.
        """
        batch = self._collated([Datum((tree,)) for tree in trees])
        return (*self._embed(batch), batch.tokens)

    # ---- work

    def _stream(
        self,
        encoded: Iterable[tuple[Record, Datum | None]],
        progress: str | None,
        wanted: Wanted = "scores",
        asked: Tensor | None = None,
    ) -> Iterator[tuple[Record, Floats]]:
        """Yield each record with its scores, in order. Within a window, groups of similar size share a batch."""
        with tqdm(desc=progress, unit=" prompts", disable=progress is None) as bar:
            encoded = iter(encoded)
            while window := list(islice(encoded, WINDOW)):
                pieces = [self._pieces(self._checked(record, datum)) for record, datum in window]
                ends = list(accumulate(map(len, pieces)))
                data = [piece for parts in pieces for piece in parts]
                found: dict[int, Floats] = {}
                for groups in self._batches(data):
                    order = [i for group in groups for i in group]
                    chosen, places = [data[i] for i in order], iter(range(len(order)))
                    batch = self._collated(chosen, [[next(places) for _ in group] for group in groups])
                    found.update(zip(order, self._score(batch, chosen, wanted, asked), strict=True))
                    bar.update(sum(i + 1 in ends for i in order))
                for (record, _), parts, end in zip(window, pieces, ends, strict=True):
                    scores = [found[i] for i in range(end - len(parts), end)]
                    if not all(np.isfinite(each).all() for each in scores):
                        place = record.source or "a record"
                        raise DataError(f"{place}: the model gave a score that is not finite; try dtype float32, or train the model again")
                    # A single response makes no pair, so a pair model has nothing to read.
                    yield record, scores[0] if len(scores) == 1 else np.concatenate([np.zeros(0, np.float32), *scores])
        self._say_order_effect()

    def _say_order_effect(self) -> None:
        """Log what the place of an answer was worth, of pairs that were read in both orders, and begin anew."""
        (count, total), self._by_place = self._by_place, [0.0, 0.0]
        if count:
            used = "scores are the mean over both orders" if self.orders == "both" else "scores are of one order"
            log.info("order effect: %+.3f nats for the answer that is read first, over %d pairs; %s", total / count, count, used)

    def _pieces(self, datum: Datum) -> list[Datum]:
        """Split a datum into parts that fit a batch: a pair model reads one tree for each of K (K - 1) / 2 pairs."""
        if len(datum.trees) < 2:
            return [datum] if datum.trees else []
        if not self.shares_prefixes:  # rows share nothing, and sorted by length they need little padding
            return [datum.part([number]) for number in range(len(datum.trees))]
        groups: list[list[int]] = []
        trie = Trie()
        for number, tree in enumerate(datum.trees):
            for ids in tree.sequences:
                trie.add(ids)
            if not groups or trie.size > self.batch_tokens:
                groups.append([])
                trie = Trie(tree.sequences)
            groups[-1].append(number)
        return [datum.part(group) for group in groups]

    @staticmethod
    def _checked(record: Record, datum: Datum | None) -> Datum:
        if datum is None:
            raise RecordError(
                record.source or "a record", "the prompt alone fills max_length, so no response is left to score",
                "shorten it, or export the model with a larger max_length",
            )  # fmt: skip
        return datum

    def _batches(self, data: list[Datum]) -> Iterator[list[list[int]]]:
        """Yield batches of groups of data, by size; a group shares what it begins with, see `alike`."""
        groups = alike(data, self._row_capacity(0), self.batch_tokens) if self.shares_prefixes else [[i] for i in range(len(data))]
        sized = [(self._size([data[i] for i in group]), group) for group in groups]
        batch: list[list[int]] = []
        tokens = 0
        for size, group in sorted(sized, key=lambda item: item[0]):
            if batch and tokens + size > self.batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(group)
            tokens += size
        if batch:
            yield batch

    def _size(self, data: Sequence[Datum]) -> int:
        """Return the number of tokens of a group in a forward pass; padded rows repeat shared prefixes."""
        sequences = [ids for datum in data for ids in datum.sequences]
        return Trie(sequences).size if self.shares_prefixes else sum(map(len, sequences))

    @torch.inference_mode()
    def _score(self, batch: TreeBatch, data: list[Datum], wanted: Wanted, asked: Tensor | None) -> list[Floats]:
        """Return an array per datum: log-odds of its pairs [P], its table without pairs, a number per sequence (`embedded`) or `both`.

        `asked` are the annotators of all tables, [U]; None: each datum has its own.
        """
        head, tau = self.model.head, self.model.tau
        embedding, prompt = self._embed(batch)
        results: list[Tensor] = []
        sequence = pair = 0
        for datum, (sequences, pairs) in zip(data, batch.sizes.tolist(), strict=True):
            who = torch.tensor(self.asking.index(datum.annotator), device=self._device) if asked is None and self.annotators else asked
            e = embedding[sequence : sequence + sequences]
            own = Context(None if prompt is None else prompt[sequence : sequence + sequences], who)
            if wanted == "objectives":
                results.append(torch.cat([head.alone(e, own)[:, None], e[:, 1:]], 1))
            elif wanted == "embedded":
                results.append(head.alone(e, own))
            elif pairs:
                a, b = batch.pairs[pair : pair + pairs].unbind(1)
                scores = head.compare(embedding[a], embedding[b], Context(None if prompt is None else prompt[a], who))
                if head.layout == "pair":
                    ways = head.alone(embedding[a]), head.alone(embedding[b])
                    scores = ways[0] if self.orders == "first" else scores
                    self._by_place[0] += pairs
                    self._by_place[1] += float((ways[0] + ways[1]).sum() / (2 * tau))
                results.append(torch.cat([scores, head.alone(e, own)]) if wanted == "both" else scores)
            else:
                results.append(self._table(e, Context(None if prompt is None else prompt[sequence], who)))
            sequence, pair = sequence + sequences, pair + pairs
        whole = torch.cat([result.flatten() for result in results]).div(tau).cpu()  # at once: each transfer waits for a GPU
        parts = whole.split([result.numel() for result in results])
        return [part.view(result.shape).numpy() for part, result in zip(parts, results, strict=True)]

    def _collated(self, data: Sequence[Datum], groups: Sequence[Sequence[int]] | None = None) -> TreeBatch:
        """Return the batch of some records; `groups` as in `collate`."""
        pad, capacity = pad_id(self.model.tokenizer), self._row_capacity(ROW_TOKENS)
        return collate(data, pad, self._layout, capacity, groups=groups).to(self._device)

    def _row_capacity(self, wanted: int) -> int:
        """Return how many tokens a row may have, see `Backbone.row_capacity`."""
        return self.model.backbone.row_capacity(wanted)

    def _table(self, e: Tensor, context: Context) -> Tensor:
        """Return the scores [K, K] of embeddings [K, D], not yet divided by tau."""
        return self.model.head.table(e, context)

    def _embed(self, batch: TreeBatch) -> tuple[Tensor, Tensor | None]:
        """Return the embeddings of all sequences [M, D] and, for a gate, their prompt states [M, H]."""
        hidden, head = self._hidden(batch), self.model.head
        return head.embed(hidden[batch.end]), hidden[batch.prompt_end].float() if head.needs_prompt else None

    def _hidden(self, batch: TreeBatch) -> Tensor:
        hidden: Tensor = self.model.backbone(batch.ids, batch.positions, batch.until, batch.padded)
        return hidden.flatten(0, 1)


def skew_table(scores: Floats, count: int) -> Floats:
    """Return the scores of the pairs i < j as a table [K, K]."""
    table = np.zeros((count, count), np.float32)
    table[np.triu_indices(count, 1)] = scores
    return table - table.T
