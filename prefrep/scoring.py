"""Scorer: a preference model that answers questions. Evaluation, files and post-training all ask here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.fields import conversation
from prefrep.data.trees import Datum, Layout, TreeBatch, collate
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.io.folder import PreferenceModel, load
from prefrep.nn.heads import BTHead, PairHead
from prefrep.records import Comparison, Message, Messages, RankedResponses, Record

Floats = NDArray[np.float32]
Said = str | Sequence[Message | Mapping[str, str]]


class Scorer:
    """Scores responses with a preference model.

    Args:
        model: Backbone, head, temperature, tokenizer.
        batch_tokens: Distinct tokens that are read at a time; speed and memory depend on it, scores do not.
        layout: `trees`, `padded`, or `auto`: trees where the backbone honours their mask.
    """

    def __init__(self, model: PreferenceModel, batch_tokens: int = 4096, layout: Literal["auto", "trees", "padded"] = "auto") -> None:
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be 1 or more, got {batch_tokens}")
        self.model, self.batch_tokens = model, batch_tokens
        # `drop` is a choice for training data; whoever asks for a score gets one.
        truncation = "keep_end" if model.encode.truncation == "drop" else model.encode.truncation
        length = min(model.encode.max_length, model.backbone.room or model.encode.max_length)
        self._encoder = Encoder(model.tokenizer, replace(model.encode, truncation=truncation, max_length=length), model.head.layout)
        trees = model.backbone.supports_trees() and layout != "padded"  # padded too: the trial settles the attention kernel
        if layout == "trees" and not trees:
            raise ConfigError(f"{model.backbone.path} does not honour a tree mask, so scores would leak between responses; use layout auto")
        self._layout: Layout = "trees" if trees else "padded"
        self._device = next(model.head.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        attention: str = "auto",
        batch_tokens: int = 4096,
        layout: Literal["auto", "trees", "padded"] = "auto",
    ) -> Scorer:
        """Loads an exported folder.

        Args:
            path: The folder.
            device: `auto`: CUDA where there is one.
            dtype: Type of the backbone's weights; None: as they were trained.
            attention: Attention kernel.
            batch_tokens: See `Scorer`.
            layout: See `Scorer`.

        Raises:
            CheckpointError: The folder is missing or incomplete.
            ConfigError: There is no such device.
        """
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no common base for what can be wrong
            raise ConfigError(f"device '{place}' cannot be used here ({str(error).splitlines()[0]:.200}); use cpu or auto") from error
        model = load(path, dtype, attention, place)
        kind = PairScorer if isinstance(model.head, PairHead) and issubclass(PairScorer, cls) else cls
        return kind(model, batch_tokens, layout)

    # ---- questions about one prompt

    def table(self, prompt: Said, responses: Sequence[Said]) -> Floats:
        """All comparisons among K responses.

        Args:
            prompt: The prompt, as text or as a conversation: `Message`s, or {"role", "content"}.
            responses: K responses, each as text or as a conversation.

        Returns:
            Log-odds [K, K] that row beats column; exactly skew-symmetric.
        """
        return next(self.tables([ranked(prompt, responses)]))

    def rank(self, prompt: Said, responses: Sequence[Said]) -> list[int]:
        """Indices of the responses, best first, by mean log-odds against the others (the row mean of GPO, eq. 5.2)."""
        return [int(i) for i in np.argsort(-self.table(prompt, responses).mean(axis=1), kind="stable")]

    # ---- streams

    @property
    def encode(self) -> EncodeConfig:
        """How it reads text: as the model was trained to, and no more at a time than the model can."""
        return self._encoder.config

    @property
    def pairwise(self) -> bool:
        """Whether responses have no score of their own: True for pair and general preference models."""
        return not isinstance(self.model.head, BTHead)

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Log-odds of chosen over rejected, in the order given.

        Args:
            comparisons: Any number of comparisons, read as they are needed.
            progress: Label of a progress bar; None: no bar.

        Yields:
            One log-odds per comparison, in nats.

        Raises:
            RecordError: A comparison cannot be encoded.
        """
        for _, batch_scores in self._stream(self._encoder.encode(comparisons), progress):
            yield float(batch_scores[0])

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """Log-odds tables [K, K], exactly skew-symmetric; arguments and errors as for `compare`."""
        for record, found in self._stream(self._encoder.encode_tables(records), progress):
            yield found if self._encoder.layout == "single" else _skew(found, len(cast(RankedResponses, record).responses))

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """Rewards [K] of a Bradley-Terry model, divided by tau; arguments and errors as for `compare`.

        Raises:
            ConfigError: The model has no rewards.
        """
        if self.pairwise:
            raise ConfigError(f"{type(self.model.head).__name__} compares responses and has no reward for one alone; ask for tables")
        for _, found in self._stream(self._encoder.encode_tables(records), progress, embedded=True):
            yield found

    def describe(self) -> dict[str, Any]:
        """Everything that can move a score, as plain data."""
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
            "versions": {name: version(name) for name in ("prefrep", "torch", "transformers", "tokenizers")},
        }

    # ---- work

    def _stream(
        self, encoded: Iterable[tuple[Record, Datum | None]], progress: str | None, embedded: bool = False
    ) -> Iterator[tuple[Record, Floats]]:
        """Scores in windows: within one, data of like size share a batch; the order that comes out is the order that went in."""
        with tqdm(desc=progress, unit=" prompts", disable=progress is None) as bar:
            encoded = iter(encoded)
            while window := list(islice(encoded, 128)):
                pieces = [self._pieces(self._checked(record, datum)) for record, datum in window]
                ends = list(accumulate(map(len, pieces)))
                data = [piece for parts in pieces for piece in parts]
                found: dict[int, Floats] = {}
                for batch in self._batches(data):
                    found.update(zip(batch, self._score([data[i] for i in batch], embedded), strict=True))
                    bar.update(sum(i + 1 in ends for i in batch))
                for (record, _), parts, end in zip(window, pieces, ends, strict=True):
                    scores = [found[i] for i in range(end - len(parts), end)]
                    if not all(np.isfinite(each).all() for each in scores):
                        place = record.source or "a record"
                        raise DataError(f"{place}: the model gave a score that is not finite; try dtype float32, or train it again")
                    # One response to a pair model makes no pair, so there is nothing to read.
                    yield record, scores[0] if len(scores) == 1 else np.concatenate([np.zeros(0, np.float32), *scores])

    def _pieces(self, datum: Datum) -> list[Datum]:
        """A datum in parts that a batch can hold: a pair model reads a tree for each of K (K - 1) / 2 pairs."""
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
        """Tokens that are read: padded rows repeat what a tree shares."""
        return datum.size if self._layout == "trees" else sum(len(ids) for tree in datum.trees for ids in tree.sequences)

    @torch.inference_mode()
    def _score(self, data: list[Datum], embedded: bool) -> list[Floats]:
        """Per datum: the log-odds of its pairs [P], its table [K, K] where it has none, or (`embedded`) one number per sequence."""
        head, tau = self.model.head, self.model.tau
        batch = collate(data, pad_id(self.model.tokenizer), self._layout).to(self._device)
        hidden = self._hidden(batch)
        embedding = head.embed(hidden[batch.end])
        prompt = hidden[batch.prompt_end].float() if head.needs_prompt else None
        results: list[Tensor] = []
        sequence = pair = 0
        for sequences, pairs in batch.sizes.tolist():
            e = embedding[sequence : sequence + sequences]
            if embedded:
                results.append(e[:, 0])
            elif pairs:
                a, b = batch.pairs[pair : pair + pairs].unbind(1)
                results.append(head.compare(embedding[a], embedding[b], None if prompt is None else prompt[a]))
            else:
                results.append(head.table(e, None if prompt is None else prompt[sequence]))
            sequence, pair = sequence + sequences, pair + pairs
        return [(result / tau).cpu().numpy() for result in results]

    def _hidden(self, batch: TreeBatch) -> Tensor:
        hidden: Tensor = self.model.backbone(batch.ids, batch.positions, batch.tree, batch.branch, batch.padded)
        return hidden.flatten(0, 1)


class PairScorer(Scorer):
    """A scorer of a pair model, which also says what it would answer in one order alone.

    `compare` averages over both orders; how often the two orders agree says how much the averaging has to hide.
    """

    def compare_one_order(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Log-odds of chosen over rejected with chosen read first, f(chosen, rejected) / tau; arguments and errors as for `compare`."""
        for _, found in self._stream(self._encoder.encode(comparisons), progress, embedded=True):
            yield float(found[0])


class BlockScorer(Scorer):
    """A scorer whose tables come apart into the 2 x 2 blocks of a general preference model.

    `tables` then yields [D/2, K, K], the log-odds by block, which add up to the table. Models whose head has no `block_scores` give
    tables as ever.
    """

    @torch.inference_mode()
    def _score(self, data: list[Datum], embedded: bool) -> list[Floats]:
        head, tau = self.model.head, self.model.tau
        block_scores: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = getattr(head, "block_scores", None)
        if block_scores is None:
            return super()._score(data, embedded)
        batch = collate(data, pad_id(self.model.tokenizer), self._layout).to(self._device)
        hidden = self._hidden(batch)
        embeddings = head.embed(hidden[batch.end])
        prompts = hidden[batch.prompt_end].float() if head.needs_prompt else None
        results, start = [], 0
        for count, _ in batch.sizes.tolist():
            e = embeddings[start : start + count]
            prompt = None if prompts is None else prompts[start].expand(count, count, -1)
            blocks = block_scores(e[:, None].expand(-1, count, -1), e[None].expand(count, -1, -1), prompt)
            results.append((blocks / tau).permute(2, 0, 1).cpu().numpy())
            start += count
        return results


def ranked(prompt: Said, responses: Sequence[Said]) -> RankedResponses:
    """A record from plain texts: a string is one user message, or one assistant message.

    Raises:
        ValueError: A conversation is not one of messages.
    """
    return RankedResponses(_messages(prompt, "user"), tuple(_messages(response, "assistant") for response in responses))


def _messages(said: Said, role: str) -> Messages:
    if isinstance(said, str):
        return (Message(role, said),)
    return conversation([asdict(turn) if isinstance(turn, Message) else turn for turn in said], role) if said else ()


def _skew(scores: Floats, count: int) -> Floats:
    """Scores of the pairs i < j as a table [K, K]."""
    table = np.zeros((count, count), np.float32)
    table[np.triu_indices(count, 1)] = scores
    return table - table.T
