"""How programs load a preference model: the arguments of these classes are options that programs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefrep.errors import UsageError, require_at_least
from prefrep.memory import keep_freed
from prefrep.parts import import_modules
from prefrep.scoring.interface import PreferenceScorer
from prefrep.scoring.people import UnknownAnnotator


@dataclass(frozen=True)
class Loading:
    """How a model is loaded in this process.

    Args:
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as trained.
        batch_tokens: Tokens read at a time; scores do not depend on it.
        trust_remote_code: Run Python code from the folder of the model.
        import_: Module whose heads and other parts the model may name; may be repeated.
        unknown_annotator: Who answers for annotators that the model does not know: the population, or nobody (error).
        as_: What a model of another program is, if its files do not say: pairrm, better-pairrm, steamshp, rlhflow, armorm, ...
        objective: The objective that counts, of a model with several (ArmoRM, QRM, ...); default: all, as its authors weigh them.
        orders: Of models that read two answers together: the mean over both orders, or the first alone, as the authors of most do.
        reference: The model is a policy, and its rewards are beta * log pi / pi_ref of this reference.
        implicit: The model is a policy; ratio: with --reference, the default there. Without one: the sum of log-probabilities, their
            average per token, or norm: minus their Euclidean norm.
        beta: Factor of a policy's rewards.

    Raises:
        UsageError: A number is out of range.
        ConfigError: A module cannot be imported.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    batch_tokens: int = 4096
    trust_remote_code: bool = False
    import_: list[str] | None = None
    unknown_annotator: UnknownAnnotator = "population"
    as_: str | None = None
    objective: str = ""
    orders: Literal["both", "first"] = "both"
    reference: str | None = None
    implicit: Literal["ratio", "sum", "average", "norm"] | None = None
    beta: float = 1.0

    def __post_init__(self) -> None:
        require_at_least("--batch-tokens", self.batch_tokens, 1)
        if self.reference is not None and self.implicit not in (None, "ratio"):
            raise UsageError(f"--implicit {self.implicit} has no reference; drop --reference, or use ratio")
        if self.reference is None and self.implicit == "ratio":
            raise UsageError("--implicit ratio needs --reference; name it, or use sum, average or norm")
        if self.policy and (needless := self._of_preferences):
            raise UsageError(f"{needless.strip()}: for preference models, and --reference and --implicit are for policies; leave one out")
        if not self.beta > 0 or (self.beta != 1 and not self.policy):
            raise UsageError(f"--beta {self.beta} is a positive factor of a policy's rewards, with --reference or --implicit; leave it out")
        import_modules(self.import_)

    @property
    def policy(self) -> bool:
        """Whether the model is a policy, whose log-probabilities are rewards."""
        return self.reference is not None or self.implicit is not None

    def implicit_scorer(self, model: str, attention: str = "auto", layout: Literal["auto", "trees", "padded"] = "auto") -> PreferenceScorer:
        """Return a scorer of a policy. Raises CheckpointError: a model cannot be read."""
        from prefrep.scoring.implicit import ImplicitScorer

        form = self.implicit or "ratio"
        return ImplicitScorer.of(
            model, self.reference, form, self.beta, self.device, self.dtype, attention, self.batch_tokens, layout, self.trust_remote_code
        )

    @property
    def settings(self) -> str:
        """Options that move scores, in words."""
        said: dict[str, object] = {"reference": self.reference, "implicit": self.implicit, "beta": self.beta if self.policy else ""}
        return _options(said) + self._of_preferences

    @property
    def _of_preferences(self) -> str:
        return _options({"as": self.as_, "objective": self.objective, "orders": "" if self.orders == "both" else self.orders})

    def block_scorer(self, model: str) -> PreferenceScorer:
        """Return a scorer whose tables come by 2 x 2 block where the head of an exported folder has blocks."""
        if is_url(model):
            return remote(model, self, blocks=True)
        if self.policy:
            return self.implicit_scorer(model)
        from prefrep.scoring.blocks import BlockScorer

        return BlockScorer.from_pretrained(model, **self._of_folders)

    @property
    def _of_folders(self) -> dict[str, Any]:
        """Arguments of the scorers of exported folders."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "batch_tokens": self.batch_tokens,
            "trust_remote_code": self.trust_remote_code,
            "unknown_annotator": self.unknown_annotator,
            "kind": self.as_,
            "objective": self.objective,
            "orders": self.orders,
        }


@dataclass(frozen=True)
class LocalScoring(Loading):
    """How a model is loaded for scoring in this process; the other fields are those of `Loading`.

    Args:
        attention: Attention kernel: auto (the first that works), trees, flex_attention, sdpa, eager or flash_attention_2; see `Backbone`.
        layout: Layout of the batches.

    Raises:
        UsageError: A number is out of range.
        ConfigError: A module cannot be imported.
    """

    attention: str = "auto"
    layout: Literal["auto", "trees", "padded"] = "auto"

    def here(self, model: str) -> PreferenceScorer:
        """Return a scorer of a model in this process. Raises CheckpointError: it cannot be read."""
        if self.policy:
            return self.implicit_scorer(model, self.attention, self.layout)
        from prefrep.scoring.scorer import Scorer

        return Scorer.from_pretrained(model, attention=self.attention, layout=self.layout, **self._of_folders)


@dataclass(frozen=True)
class Scoring(LocalScoring):
    """How a model is loaded for scoring, in this process or in several; the other fields are those of `LocalScoring`.

    Args:
        workers: Processes that score, one GPU each where there are any; what is written does not depend on it.
        engine: Where they are: processes of this machine, or on all machines of a Ray cluster (extra `ray`; that of `RAY_ADDRESS`), where
            a machine may be lost.

    Raises:
        UsageError: A number is out of range.
        ConfigError: A module cannot be imported.
    """

    workers: int = 1
    engine: Literal["processes", "ray"] = "processes"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("--workers", self.workers, 1)

    def here(self, model: str) -> PreferenceScorer:
        """Return a scorer in this process, which scores files and does nothing else. Raises CheckpointError: it cannot be read."""
        scorer = super().here(model)
        if scorer.describe()["device"] == "cpu":
            keep_freed()
        return scorer


def _options(values: Mapping[str, object]) -> str:
    return "".join(f" --{name} {value}" for name, value in values.items() if value)


def is_url(model: str) -> bool:
    """Return whether a model is named by the URL of a server."""
    return model.startswith(("http://", "https://"))


def fingerprint_of(model: str) -> str:
    """Return the fingerprint of an exported folder, or of the one that a server has loaded; see `io.fingerprint`.

    Raises:
        ServerError: The server cannot be reached.
    """
    if is_url(model):
        from prefrep.scoring.remote import RemoteScorer

        return RemoteScorer(model).fingerprint
    from prefrep.io.fingerprint import fingerprint

    return fingerprint(model)


def remote(url: str, how: Loading, blocks: bool = False) -> PreferenceScorer:
    """Return a client of a server. Raises UsageError: options say what the model is. Raises ServerError: it cannot be reached."""
    if needless := _options({"dtype": how.dtype}) + how.settings:
        raise UsageError(f"{needless.strip()}: the server at {url} has loaded the model already; leave it out")
    from prefrep.scoring.remote import RemoteScorer

    return RemoteScorer(url, blocks=blocks)
