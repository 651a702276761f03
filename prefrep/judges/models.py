"""Preference models as judges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from prefrep.data.encode import EncodeConfig
from prefrep.data.rounds import digest
from prefrep.io import official
from prefrep.io.hub import fetched
from prefrep.judges.base import Judge, Verdict
from prefrep.nn.loading import DType
from prefrep.records import Comparison, RankedResponses
from prefrep.scoring import BlockScorer, RemoteScorer, Scorer
from prefrep.scoring.loading import fingerprint_of, is_url


class ModelJudge(Judge):
    """An exported preference model of any kind. It renders prompts and responses with its own template, not the policy's.

    Args:
        path: The exported folder, its id on the hub (`owner/name` or `owner/name@revision`), or the URL of a server (`prefrep serve`),
            which has chosen dtype, device and batches.
        dtype: Type of its weights; null: the type it was trained in.
        device: `auto`: CUDA if available.
        batch_tokens: Tokens per forward pass.
        trust_remote_code: Run Python code from the folder, see `Backbone`.
    """

    def __init__(
        self,
        path: str,
        dtype: DType | None = None,
        device: str = "auto",
        batch_tokens: int = 4096,
        trust_remote_code: bool = False,
    ) -> None:
        self.path, self.dtype, self.device, self.batch_tokens = path, dtype, device, batch_tokens
        self.trust_remote_code = trust_remote_code
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
        return BlockScorer.from_pretrained(self.path, self.device, self.dtype, batch_tokens=self.batch_tokens, trust_remote_code=trusted)

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
        """Return path, dtype and a digest of the head's weights; of a server, the fingerprint of its model."""
        if is_url(self.path):
            return {"model": self.path, "fingerprint": fingerprint_of(self.path)}
        head = self._folder() / "head.safetensors"
        return {"model": self.path, "dtype": self.dtype, "head": digest([head.read_bytes()]) if head.exists() else None}


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

    def _load(self) -> Scorer:
        place = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
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
