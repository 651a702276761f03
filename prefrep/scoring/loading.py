"""How programs load a preference model: the arguments of these functions are options that programs share."""

from __future__ import annotations

from typing import Any, Literal

from prefrep.errors import UsageError, require_at_least
from prefrep.scoring.interface import PreferenceScorer


def load_local(
    model: str,
    *,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    attention: str = "auto",
    layout: Literal["auto", "trees", "padded"] = "auto",
    batch_tokens: int = 4096,
) -> PreferenceScorer:
    """Load a preference model in this process.

    Args:
        model: Exported folder.
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as trained.
        attention: Attention kernel.
        layout: Layout of the batches.
        batch_tokens: Tokens read at a time; scores do not depend on it.

    Returns:
        A `Scorer`.

    Raises:
        ConfigError: A number is out of range.
        CheckpointError: The folder cannot be read.
    """
    require_at_least("--batch-tokens", batch_tokens, 1)
    from prefrep.scoring.scorer import Scorer

    return Scorer.from_pretrained(model, device, dtype, attention, batch_tokens, layout)


def load_scorer(model: str, *, workers: int = 1, **loading: Any) -> PreferenceScorer:
    """Load a preference model for scoring, or reach one that `prefrep serve` has loaded.

    Args:
        model: Exported folder, or URL of a server.
        workers: Processes that score, one GPU each where there are any; what is written does not depend on it.
        **loading: See `load_local`.

    Returns:
        A scorer in this process, one over several processes, or a client.

    Raises:
        ConfigError: A number is out of range.
        CheckpointError: The folder cannot be read.
        ServerError: The server cannot be reached.
    """
    require_at_least("--workers", workers, 1)
    if is_url(model):
        return _remote(model, loading.get("dtype"))
    if workers == 1:
        return load_local(model, **loading)
    require_at_least("--batch-tokens", loading.get("batch_tokens", 1), 1)
    from prefrep.scoring.workers import Loading, Workers

    options = dict(loading)  # jsonargparse follows `**loading` by name, and the types of `Loading` import torch
    return Workers(Loading(model, **options), workers)


def load_block_scorer(
    model: str,
    *,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    batch_tokens: int = 4096,
) -> PreferenceScorer:
    """Load a preference model whose tables come by 2 x 2 block where its head has blocks.

    Args:
        model: Exported folder, or URL of a server.
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as trained.
        batch_tokens: Tokens read at a time; scores do not depend on it.

    Raises:
        ConfigError: A number is out of range.
        CheckpointError: The folder cannot be read.
        ServerError: The server cannot be reached.
    """
    require_at_least("--batch-tokens", batch_tokens, 1)
    if is_url(model):
        return _remote(model, dtype, blocks=True)
    from prefrep.scoring.blocks import BlockScorer

    return BlockScorer.from_pretrained(model, device, dtype, batch_tokens=batch_tokens)


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


def _remote(url: str, dtype: str | None, blocks: bool = False) -> PreferenceScorer:
    if dtype is not None:
        raise UsageError(f"--dtype: the server at {url} has loaded the model already; leave the option out")
    from prefrep.scoring.remote import RemoteScorer

    return RemoteScorer(url, blocks=blocks)
