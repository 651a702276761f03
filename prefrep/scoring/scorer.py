"""Scoring responses with a preference model, for evaluation, files and post-training alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from prefrep.data.encode import EncodeConfig
from prefrep.data.recipes import SEGMENTS
from prefrep.errors import ConfigError, UsageError
from prefrep.functional.aggregation import Rule, Social, aggregate
from prefrep.io.readers import opened
from prefrep.nn.heads import BTHead, PairHead
from prefrep.nn.loading import device_of
from prefrep.nn.rewards import ObjectivesHead
from prefrep.records import Comparison, RankedResponses
from prefrep.scoring.asked import Said, ranked
from prefrep.scoring.forward import Floats, Forward, Orders, skew_table
from prefrep.scoring.people import UnknownAnnotator


class Scorer(Forward):
    """A preference model that scores responses.

    Args:
        model: Backbone, head, temperature, tokenizer.
        batch_tokens: Distinct tokens per forward pass; affects speed and memory, not scores.
        layout: `trees` (prefix sharing), `padded` (one sequence per row), or `auto`: trees if the backbone supports tree masks.
        unknown_annotator: Who answers for annotators that the model does not know: the `population`, which a warning says, or nobody
            (`error`).
        orders: Of pair models: the mean over `both` orders, or the `first` alone, as the authors of most do.

    Raises:
        ConfigError: batch_tokens is below 1, or the backbone does not support the layout.
    """

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
        kind: str | None = None,
        objective: str = "",
        orders: Orders = "both",
    ) -> Scorer:
        """Load an exported folder, or a model in any layout that `io.readers` knows.

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
            kind: What a model of another program is (`io.readers.READERS`); None: what its files say.
            objective: The one that counts, of a model with several; empty: all, as its authors weigh them.
            orders: See `Scorer`.

        Returns:
            A scorer; for a pair model a `PairScorer`.

        Raises:
            CheckpointError: The folder is missing or incomplete, or cannot be downloaded.
            ConfigError: The device is not available.
            UsageError: A kind, an objective or an order that the model does not have.
        """
        model = opened(
            path,
            dtype,
            attention,
            device_of(device),
            revision=revision,
            trust_remote_code=trust_remote_code,
            kind=kind,
            objective=objective,
        )
        if orders == "first" and model.head.layout != "pair":
            raise UsageError(f"--orders first: {path} reads each answer alone, so there are no orders; leave the option out")
        made = PairScorer if isinstance(model.head, PairHead) and issubclass(PairScorer, cls) else cls
        return made(model, batch_tokens, layout, unknown_annotator, orders)

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
    def pairwise(self) -> bool:
        """Whether responses have no score of their own: True for pair and general preference models."""
        return not isinstance(self.model.head, BTHead)

    @property
    def chats(self) -> bool:
        """Whether the model reads conversations, in a chat template or a format of its own, and not plain texts."""
        return self.encode.template in SEGMENTS or (self.encode.template != "plain" and bool(self.model.tokenizer.chat_template))

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

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives of a model with several."""
        head = self.model.head
        return head.objectives if isinstance(head, ObjectivesHead) else ()

    def objective_rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """Yield rewards [K, 1 + O], the one that counts before those of the O objectives; arguments and errors as in `rewards`."""
        if not self.objectives:
            raise ConfigError(f"{type(self.model.head).__name__} has one objective; use rewards or tables")
        for _, found in self._stream(self._encoder.encode_tables(records), progress, "objectives"):
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
            **({"orders": self.orders} if self.model.head.layout == "pair" else {}),
            **({"objectives": list(self.objectives)} if self.objectives else {}),
            **({} if self.annotators is None else {"annotators": len(self.annotators), "unknown_annotator": self.asking.unknown}),
            "versions": {name: version(name) for name in ("prefrep", "torch", "transformers", "tokenizers")},
        }


class PairScorer(Scorer):
    """A scorer of a pair model, which can also score a single order.

    `compare` averages over both orders; the agreement of the two orders measures position bias.
    """

    def compare_one_order(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield the log-odds with chosen read first, f(chosen, rejected) / tau; arguments and errors as in `compare`."""
        for _, found in self._stream(self._encoder.encode(comparisons), progress, "embedded"):
            yield float(found[0])
