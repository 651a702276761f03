"""Scoring responses with a preference model, for evaluation, files and post-training alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from prefrep.annotators import Annotators
from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.trees import Datum, Layout, Tree, TreeBatch, collate
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.functional.aggregation import Rule, Social, aggregate
from prefrep.io.folder import PreferenceModel, load
from prefrep.io.hub import fetched
from prefrep.nn.context import Context
from prefrep.nn.heads import BTHead, PairHead
from prefrep.nn.people import annotators_of
from prefrep.records import Comparison, RankedResponses, Record
from prefrep.scoring.asked import Said, ranked
from prefrep.scoring.people import Asking, UnknownAnnotator

Floats = NDArray[np.float32]
Wanted = Literal["scores", "embedded", "both"]


class Scorer:
    """A preference model that scores responses.

    Args:
        model: Backbone, head, temperature, tokenizer.
        batch_tokens: Distinct tokens per forward pass; affects speed and memory, not scores.
        layout: `trees` (prefix sharing), `padded` (one sequence per row), or `auto`: trees if the backbone supports tree masks.
        unknown_annotator: Who answers for annotators that the model does not know: the `population`, which a warning says, or nobody
            (`error`).

    Raises:
        ConfigError: batch_tokens is below 1, or the backbone does not support the layout.
    """

    def __init__(
        self,
        model: PreferenceModel,
        batch_tokens: int = 4096,
        layout: Literal["auto", "trees", "padded"] = "auto",
        unknown_annotator: UnknownAnnotator = "population",
    ) -> None:
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be 1 or more, got {batch_tokens}")
        self.model, self.batch_tokens = model, batch_tokens
        # Scoring never drops a record: `drop` is for training data.
        truncation = "keep_end" if model.encode.truncation == "drop" else model.encode.truncation
        length = min(model.encode.max_length, model.backbone.room or model.encode.max_length)
        self._encoder = Encoder(model.tokenizer, replace(model.encode, truncation=truncation, max_length=length), model.head.layout)
        trees = model.backbone.supports_trees() and layout != "padded"  # also if padded: the probe selects the attention kernel
        if layout == "trees" and not trees:
            raise ConfigError(f"{model.backbone.path} does not support tree masks, so branches would leak into each other; use layout auto")
        self._layout: Layout = "trees" if trees else "padded"
        self._device = next(model.head.parameters()).device
        self.asking = Asking(type(model.head).__name__, annotators_of(model.head), unknown_annotator)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        attention: str = "auto",
        batch_tokens: int = 4096,
        layout: Literal["auto", "trees", "padded"] = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        unknown_annotator: UnknownAnnotator = "population",
    ) -> Scorer:
        """Load an exported folder.

        Args:
            path: The folder; or its id on the hub, `owner/name` or `owner/name@revision`.
            device: Name of a torch device, or `auto`: CUDA if available.
            dtype: Type of the backbone's weights; None: the type they were trained in.
            attention: Attention kernel, see `Backbone`.
            batch_tokens: See `Scorer`.
            layout: See `Scorer`.
            revision: Branch, tag or commit of a hub id.
            trust_remote_code: Run Python code from the folder, see `Backbone`.
            unknown_annotator: See `Scorer`.

        Returns:
            A scorer; for a pair model a `PairScorer`.

        Raises:
            CheckpointError: The folder is missing or incomplete, or cannot be downloaded.
            ConfigError: The device is not available.
        """
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three
            raise ConfigError(f"device '{place}' cannot be used here ({str(error).splitlines()[0]:.200}); use cpu or auto") from error
        model = load(fetched(path, revision), dtype, attention, place, trust_remote_code=trust_remote_code)
        kind = PairScorer if isinstance(model.head, PairHead) and issubclass(PairScorer, cls) else cls
        return kind(model, batch_tokens, layout, unknown_annotator)

    # ---- questions about one prompt

    def table(self, prompt: Said, responses: Sequence[Said], annotator: str | Sequence[str] = "") -> Floats:
        """Compare all pairs of K responses.

        Args:
            prompt: The prompt, as text or as a conversation: `Message`s, or dicts {"role", "content"}.
            responses: K responses, each as text or as a conversation.
            annotator: Who is asked, if the model knows people; one name, or U names (`annotators.names`: all), which cost K reads, too.
                Empty: the population, which also answers for names that are not known, with a warning; see `unknown_annotator`.

        Returns:
            Log-odds [K, K] that row beats column, exactly skew-symmetric; of U names [U, K, K].

        Raises:
            ConfigError: The model answers everybody alike, or does not know a name and may not let the population answer.
        """
        record = ranked(prompt, responses)
        if annotator:
            self.asking.known()
        if isinstance(annotator, str):
            return next(self.tables([replace(record, annotator=annotator)]))
        return next(self.tables_of([record], annotator))

    def aggregate(
        self, prompt: Said, responses: Sequence[Said], rule: Rule, annotators: Sequence[str] | None = None, alpha: float = -1.0
    ) -> Social:
        """Ask many annotators and aggregate what they say.

        Args:
            prompt: See `table`.
            responses: See `table`.
            rule: See `functional.aggregation`.
            annotators: Who is asked; None: all that the model knows.
            alpha: Of the rule `log-mean-exp`.

        Returns:
            Scores [K] and a table [K, K].

        Raises:
            ConfigError: The model answers everybody alike, or there is no such rule.
        """
        asked = self.asking.known().names if annotators is None else annotators
        return aggregate(self.table(prompt, responses, asked).astype(np.float64), rule, alpha)

    def rank(self, prompt: Said, responses: Sequence[Said]) -> list[int]:
        """Return the indices of the responses, best first, by mean log-odds over all responses (the row mean of GPO, eq. 5.2)."""
        return [int(i) for i in np.argsort(-self.table(prompt, responses).mean(axis=1), kind="stable")]

    # ---- streams

    @property
    def encode(self) -> EncodeConfig:
        """Template, maximum length and truncation: those of training, limited to the model's context length."""
        return self._encoder.config

    @property
    def annotators(self) -> Annotators | None:
        """Whom the model knows; None: it answers everybody alike."""
        return self.asking.annotators

    @property
    def pairwise(self) -> bool:
        """Whether responses have no score of their own: True for pair and general preference models."""
        return not isinstance(self.model.head, BTHead)

    @property
    def chats(self) -> bool:
        """Whether the model reads conversations in a chat template, and not plain texts."""
        return self.encode.template != "plain" and bool(self.model.tokenizer.chat_template)

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield the log-odds of chosen over rejected, in order.

        Args:
            comparisons: A stream of any length; the scorer reads ahead by at most 256 comparisons.
            progress: Label of a progress bar; None: no bar.

        Yields:
            Log-odds in nats, one per comparison.

        Raises:
            RecordError: A comparison cannot be encoded.
            DataError: A score is not finite.
        """
        for _, batch_scores in self._stream(self._encoder.encode(comparisons), progress):
            yield float(batch_scores[0])

    def compare_rewards(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[tuple[float, float, float]]:
        """Yield what `compare` does and the rewards of chosen and rejected, divided by tau; arguments and errors as in `rewards`."""
        if self.pairwise:
            raise ConfigError(f"{type(self.model.head).__name__} compares responses and gives no reward to a single one; use compare")
        for _, found in self._stream(self._encoder.encode(comparisons), progress, "both"):
            yield float(found[0]), float(found[1]), float(found[2])

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """Yield log-odds tables [K, K], exactly skew-symmetric; arguments and errors as in `compare`."""
        for record, found in self._stream(self._encoder.encode_tables(records), progress):
            yield found if self._encoder.layout == "single" else skew_table(found, len(cast(RankedResponses, record).responses))

    def tables_of(self, records: Iterable[RankedResponses], annotators: Sequence[str], *, progress: str | None = None) -> Iterator[Floats]:
        """Yield the tables of U annotators, log-odds [U, K, K], from one read of each response; errors as in `table`."""
        asked = torch.tensor(self.asking.indices(annotators), dtype=torch.long, device=self._device)
        for _, found in self._stream(self._encoder.encode_tables(records), progress, asked=asked):
            yield found

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """Yield the rewards [K] of a Bradley-Terry model, divided by tau; arguments and errors as in `compare`.

        Raises:
            ConfigError: The model gives no rewards.
        """
        if self.pairwise:
            raise ConfigError(f"{type(self.model.head).__name__} compares responses and gives no reward to a single one; use tables")
        for _, found in self._stream(self._encoder.encode_tables(records), progress, "embedded"):
            yield found

    def describe(self) -> dict[str, Any]:
        """Return all settings and versions that affect a score, as plain data."""
        backbone = self.model.backbone
        return {
            "recipe": self.model.recipe,
            "dtype": str(backbone.model.dtype).removeprefix("torch."),
            "device": str(self._device),
            "attention": backbone.attention,
            "layout": self._layout,
            "batch_tokens": self.batch_tokens,
            "encode": asdict(self._encoder.config),
            "encoded": dict(self._encoder.counts),
            "pairwise": self.pairwise,
            **({} if self.annotators is None else {"annotators": len(self.annotators), "unknown_annotator": self.asking.unknown}),
            "versions": {name: version(name) for name in ("prefrep", "torch", "transformers", "tokenizers")},
        }

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
    def read(self, trees: Sequence[Tree]) -> tuple[Tensor, Tensor | None]:
        """Read trees in one forward pass.

        Returns:
            Embeddings [M, D] of all sequences in the order of the trees and, for heads with a gate, prompt states [M, H].
        """
        return self._embed(collate([Datum((tree,)) for tree in trees], pad_id(self.model.tokenizer), self._layout).to(self._device))

    # ---- work

    def _stream(
        self,
        encoded: Iterable[tuple[Record, Datum | None]],
        progress: str | None,
        wanted: Wanted = "scores",
        asked: Tensor | None = None,
    ) -> Iterator[tuple[Record, Floats]]:
        """Yield each record with its scores, in order. Within a window of 128 records, data of similar size share a batch."""
        with tqdm(desc=progress, unit=" prompts", disable=progress is None) as bar:
            encoded = iter(encoded)
            while window := list(islice(encoded, 128)):
                pieces = [self._pieces(self._checked(record, datum)) for record, datum in window]
                ends = list(accumulate(map(len, pieces)))
                data = [piece for parts in pieces for piece in parts]
                found: dict[int, Floats] = {}
                for batch in self._batches(data):
                    found.update(zip(batch, self._score([data[i] for i in batch], wanted, asked), strict=True))
                    bar.update(sum(i + 1 in ends for i in batch))
                for (record, _), parts, end in zip(window, pieces, ends, strict=True):
                    scores = [found[i] for i in range(end - len(parts), end)]
                    if not all(np.isfinite(each).all() for each in scores):
                        place = record.source or "a record"
                        raise DataError(f"{place}: the model gave a score that is not finite; try dtype float32, or train the model again")
                    # A single response makes no pair, so a pair model has nothing to read.
                    yield record, scores[0] if len(scores) == 1 else np.concatenate([np.zeros(0, np.float32), *scores])

    def _pieces(self, datum: Datum) -> list[Datum]:
        """Split a datum into parts that fit a batch: a pair model reads one tree for each of K (K - 1) / 2 pairs."""
        if len(datum.trees) < 2 or self._size(datum) <= self.batch_tokens:
            return [datum] if datum.trees else []
        groups: list[list[int]] = []
        tokens = self.batch_tokens
        for number, tree in enumerate(datum.trees):
            size = self._size(Datum((tree,)))
            if tokens + size > self.batch_tokens:
                groups.append([])
                tokens = 0
            groups[-1].append(number)
            tokens += size
        return [datum.part(group) for group in groups]

    @staticmethod
    def _checked(record: Record, datum: Datum | None) -> Datum:
        if datum is None:
            raise RecordError(
                record.source or "a record", "the prompt alone fills max_length, so no response is left to score",
                "shorten it, or export the model with a larger max_length",
            )  # fmt: skip
        return datum

    def _batches(self, data: list[Datum]) -> Iterator[list[int]]:
        batch: list[int] = []
        tokens = 0
        sizes = {i: self._size(datum) for i, datum in enumerate(data)}
        for i in sorted(sizes, key=lambda i: sizes[i]):
            if batch and tokens + sizes[i] > self.batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(i)
            tokens += sizes[i]
        if batch:
            yield batch

    def _size(self, datum: Datum) -> int:
        """Return the number of tokens in a forward pass; padded rows repeat shared prefixes."""
        return datum.size if self._layout == "trees" else sum(len(ids) for tree in datum.trees for ids in tree.sequences)

    @torch.inference_mode()
    def _score(self, data: list[Datum], wanted: Wanted, asked: Tensor | None) -> list[Floats]:
        """Return one array per datum: log-odds of its pairs [P], its table without pairs, a number per sequence (`embedded`) or `both`.

        `asked` are the annotators of all tables, [U]; None: each datum has its own.
        """
        head, tau = self.model.head, self.model.tau
        batch = collate(data, pad_id(self.model.tokenizer), self._layout).to(self._device)
        embedding, prompt = self._embed(batch)
        results: list[Tensor] = []
        sequence = pair = 0
        for datum, (sequences, pairs) in zip(data, batch.sizes.tolist(), strict=True):
            who = torch.tensor(self.asking.index(datum.annotator), device=self._device) if asked is None and self.annotators else asked
            e = embedding[sequence : sequence + sequences]
            if wanted == "embedded":
                results.append(e[:, 0])
            elif pairs:
                a, b = batch.pairs[pair : pair + pairs].unbind(1)
                scores = head.compare(embedding[a], embedding[b], Context(None if prompt is None else prompt[a], who))
                results.append(torch.cat([scores, e[:, 0]]) if wanted == "both" else scores)
            else:
                results.append(self._table(e, Context(None if prompt is None else prompt[sequence], who)))
            sequence, pair = sequence + sequences, pair + pairs
        return [(result / tau).cpu().numpy() for result in results]

    def _table(self, e: Tensor, context: Context) -> Tensor:
        """Return the scores [K, K] of embeddings [K, D], not yet divided by tau."""
        return self.model.head.table(e, context)

    def _embed(self, batch: TreeBatch) -> tuple[Tensor, Tensor | None]:
        """Return the embeddings of all sequences [M, D] and, for a gate, their prompt states [M, H]."""
        hidden, head = self._hidden(batch), self.model.head
        return head.embed(hidden[batch.end]), hidden[batch.prompt_end].float() if head.needs_prompt else None

    def _hidden(self, batch: TreeBatch) -> Tensor:
        hidden: Tensor = self.model.backbone(batch.ids, batch.positions, batch.tree, batch.branch, batch.padded)
        return hidden.flatten(0, 1)


class PairScorer(Scorer):
    """A scorer of a pair model, which can also score a single order.

    `compare` averages over both orders; the agreement of the two orders measures position bias.
    """

    def compare_one_order(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield the log-odds with chosen read first, f(chosen, rejected) / tau; arguments and errors as in `compare`."""
        for _, found in self._stream(self._encoder.encode(comparisons), progress, "embedded"):
            yield float(found[0])


def skew_table(scores: Floats, count: int) -> Floats:
    """Return the scores of the pairs i < j as a table [K, K]."""
    table = np.zeros((count, count), np.float32)
    table[np.triu_indices(count, 1)] = scores
    return table - table.T
