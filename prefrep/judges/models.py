"""Preference models as judges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prefrep.data.encode import EncodeConfig
from prefrep.data.rounds import digest
from prefrep.errors import ConfigError
from prefrep.functional.aggregation import Rule, aggregate, check_rule
from prefrep.io import official
from prefrep.io.hub import fetched
from prefrep.judges.base import Judge, Verdict
from prefrep.nn.loading import DType, device_of
from prefrep.records import Comparison, RankedResponses
from prefrep.scoring import BlockScorer, RemoteScorer, Scorer
from prefrep.scoring.loading import fingerprint_of, is_url


class ModelJudge(Judge):
    """A preference model of any kind and layout. It renders prompts and responses with its own template, not the policy's.

    Args:
        path: The folder, its id on the hub (`owner/name` or `owner/name@revision`), or the URL of a server (`prefrep serve`),
            which has chosen dtype, device and batches.
        dtype: Type of its weights; null: the type it was trained in.
        device: `auto`: CUDA if available.
        batch_tokens: Tokens per forward pass.
        trust_remote_code: Run Python code from the folder, see `Backbone`.
        kind: What a model of another program is (`--as`), if its files do not say.
        objective: The objective that counts, of a model with several; empty: all, as its authors weigh them.
    """

    def __init__(
        self,
        path: str,
        dtype: DType | None = None,
        device: str = "auto",
        batch_tokens: int = 4096,
        trust_remote_code: bool = False,
        kind: str | None = None,
        objective: str = "",
    ) -> None:
        self.path, self.dtype, self.device, self.batch_tokens = path, dtype, device, batch_tokens
        self.trust_remote_code, self.kind, self.objective = trust_remote_code, kind, objective
        self._scorer: Scorer | RemoteScorer | None = None
        self.warned = False

    @property
    def scorer(self) -> Scorer | RemoteScorer:
        """The model, loaded on first use. Raises CheckpointError: it cannot be loaded."""
        if self._scorer is None:
            self._scorer = self._load()
        return self._scorer

    def _folder(self) -> Path:
        return fetched(self.path)

    def _load(self) -> Scorer | RemoteScorer:
        if is_url(self.path):
            return RemoteScorer(self.path, blocks=True)
        trusted = self.trust_remote_code
        return BlockScorer.from_pretrained(
            self.path, self.device, self.dtype, batch_tokens=self.batch_tokens, trust_remote_code=trusted, kind=self.kind,
            objective=self.objective,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Path of the model."""
        return self.path

    @property
    def encode_config(self) -> EncodeConfig:
        """The model's template, maximum length and truncation."""
        return self.scorer.encode

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`.

        Raises:
            RecordError: The model's chat template rejects a record, or a prompt alone exceeds its maximum length.
        """
        for found in self.scorer.tables(records):
            if found.ndim == 2:
                yield Verdict(found)
            else:
                table = found.sum(0)
                yield Verdict((table - table.T) / 2, found)

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """See `Scorer.compare`, which batches comparisons."""
        return self.scorer.compare(comparisons, progress=progress)

    def describe(self) -> dict[str, Any]:
        """Return path, dtype and a digest of the head's weights; of a server or another program's model, the fingerprint of the model."""
        if is_url(self.path):
            return {"model": self.path, "fingerprint": fingerprint_of(self.path)}
        head = self._folder() / "head.safetensors"
        if not head.exists() and self.stated is not None:
            return {"model": self.path, "dtype": self.dtype, "fingerprint": fingerprint_of(self.path), **self.stated}
        return {"model": self.path, "dtype": self.dtype, "head": digest([head.read_bytes()]) if head.exists() else None}

    @property
    def stated(self) -> dict[str, Any] | None:
        """What the caller said of another program's model; None: the judge says it itself."""
        return {"kind": self.kind, "objective": self.objective}


class SocietyJudge(ModelJudge):
    """The people that a model knows, aggregated by a rule: all of them answer from the same reads.

    Args:
        path: Exported folder of a model that knows people, or its id on the hub.
        rule: mean, log-mean-exp, minimum, majority, borda, copeland, maximin, maximal-lottery or minmax-regret, see
            `functional.aggregation`. Verdicts are differences of its scores; those of `majority` are the log-odds of votes.
        annotators: Who is asked; null: all that the model knows.
        alpha: Of the rule `log-mean-exp`: 0 is the mean, -inf the least satisfied person.
        scale: Verdicts are multiplied by it. Scores of rules that count votes lie in [-1, 1] and are no log-odds.
        dtype: Type of its weights; null: the type it was trained in.
        device: `auto`: CUDA if available.
        batch_tokens: Tokens per forward pass.
        trust_remote_code: Run Python code from the folder, see `Backbone`.

    Raises:
        ConfigError: There is no such rule, or the path is a URL.
    """

    def __init__(
        self,
        path: str,
        rule: Rule = "mean",
        annotators: list[str] | None = None,
        alpha: float = -1.0,
        scale: float = 1.0,
        dtype: DType | None = None,
        device: str = "auto",
        batch_tokens: int = 4096,
        trust_remote_code: bool = False,
    ) -> None:
        if is_url(path):
            raise ConfigError(f"{path}: a server is asked for one annotator at a time; name the exported folder")
        super().__init__(path, dtype, device, batch_tokens, trust_remote_code)
        self.rule, self.annotators, self.alpha, self.scale = check_rule(rule, alpha), annotators, alpha, scale

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`.

        Raises:
            ConfigError: The model answers everybody alike.
        """
        known = self.scorer.annotators
        for tables in self.scorer.tables_of(records, self.annotators or ([] if known is None else known.names)):
            social = aggregate(tables.astype(np.float64), self.rule, self.alpha)
            yield Verdict((self.scale * social.table).astype(np.float32))

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """See `Judge.compare`."""
        return Judge.compare(self, comparisons, progress=progress)

    def describe(self) -> dict[str, Any]:
        """Return the description of a `ModelJudge`, and the rule."""
        stated = {"rule": self.rule, "annotators": self.annotators, "alpha": self.alpha, "scale": self.scale}
        return {**super().describe(), **stated}


class OfficialJudge(ModelJudge):
    """A checkpoint in the official GPM layout. The arguments supply what its files leave open (`io.official`).

    Args:
        path: Local folder or hub id.
        tau: Temperature; scores divided by it are log-odds. The released models: 0.1.
        normalize: Normalise embeddings to length 1. The released models: true; Bradley-Terry ones: false.
        gate: Gate variant. The released models: `softmax`; checkpoints without a prompt head: `none`.
        template: `official`: the recipe of the released models; `auto`: prefrep's own.
        dtype: Type of its weights; null: as stored.
        device: `auto`: CUDA if available.
        batch_tokens: Tokens per forward pass.
        trust_remote_code: Run Python code from the folder, see `Backbone`.
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
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(path, dtype, device, batch_tokens, trust_remote_code)
        self.tau, self.normalize, self.gate, self.template = tau, normalize, gate, template

    def _folder(self) -> Path:
        return Path(self.path)  # its head is in a shard

    @property
    def stated(self) -> None:
        """See `ModelJudge`."""

    def _load(self) -> Scorer:
        place = device_of(self.device)
        model = official.read(
            self.path,
            tau=self.tau,
            normalize=self.normalize,
            gate=self.gate,
            template=self.template,
            dtype=self.dtype,
            device=place,
            trust_remote_code=self.trust_remote_code,
        )
        return BlockScorer(model, self.batch_tokens)

    def describe(self) -> dict[str, Any]:
        """Return the description of a `ModelJudge`, and the arguments that the files leave open."""
        stated = {"tau": self.tau, "normalize": self.normalize, "gate": self.gate, "template": self.template}
        return {**super().describe(), **stated}
