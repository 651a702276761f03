"""Policies as judges: their implicit rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.judges.models import ModelJudge
from prefrep.nn.bundled import resolve
from prefrep.nn.loading import DType
from prefrep.scoring.implicit import Form, ImplicitScorer
from prefrep.scoring.loading import fingerprint_of


class ImplicitJudge(ModelJudge):
    """A policy, whose rewards are beta * log pi / pi_ref, or a form without a reference (`scoring.implicit`).

    Args:
        path: The policy: a local folder, a hub id or a bundled model.
        reference: pi_ref; null: a form without one.
        form: `ratio`, or without a reference `sum`, `average` or `norm`.
        beta: Factor of the rewards.
        dtype: Type of the weights; null: as stored.
        device: `auto`: CUDA if available.
        batch_tokens: Tokens per forward pass.
        trust_remote_code: Run Python code from the folders, see `Backbone`.
    """

    def __init__(
        self,
        path: str,
        reference: str | None = None,
        form: Form = "ratio",
        beta: float = 1.0,
        dtype: DType | None = None,
        device: str = "auto",
        batch_tokens: int = 4096,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(path, dtype, device, batch_tokens, trust_remote_code)
        self.reference, self.form, self.beta = reference, form, beta

    def _folder(self) -> Path:
        return Path(resolve(self.path))

    def _load(self) -> ImplicitScorer:
        return ImplicitScorer.of(
            self.path, self.reference, self.form, self.beta, self.device, self.dtype, batch_tokens=self.batch_tokens,
            trust_remote_code=self.trust_remote_code,
        )  # fmt: skip

    @property
    def stated(self) -> dict[str, Any]:
        """What makes rewards of the policy."""
        other = None if self.reference is None else fingerprint_of(self.reference)
        return {"reference": self.reference, "reference_fingerprint": other, "form": self.form, "beta": self.beta}
