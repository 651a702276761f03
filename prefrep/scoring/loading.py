"""How programs load a preference model: the arguments of these functions are options that programs share."""

from __future__ import annotations

from typing import Literal

from prefrep.errors import require_at_least
from prefrep.parts import import_modules
from prefrep.scoring.interface import PreferenceScorer


def load_scorer(
    model: str,
    *,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    attention: str = "auto",
    layout: Literal["auto", "trees", "padded"] = "auto",
    batch_tokens: int = 4096,
    workers: int = 1,
    trust_remote_code: bool = False,
    import_: list[str] | None = None,
) -> PreferenceScorer:
    """Load a preference model for scoring.

    Args:
        model: Exported folder.
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as trained.
        attention: Attention kernel.
        layout: Layout of the batches.
        batch_tokens: Tokens read at a time; scores do not depend on it.
        workers: Processes that score, one GPU each where there are any; what is written does not depend on it.
        trust_remote_code: Run Python code from the folder of the model.
        import_: Module whose heads and other parts the model may name; may be repeated.

    Returns:
        A scorer in this process, or one over several processes.

    Raises:
        ConfigError: A number is out of range, or a module cannot be imported.
        CheckpointError: The folder cannot be read.
    """
    require_at_least("--workers", workers, 1)
    require_at_least("--batch-tokens", batch_tokens, 1)
    from prefrep.scoring.workers import Loading, Workers

    import_modules(import_)
    loading = Loading(model, device, dtype, attention, batch_tokens, layout, trust_remote_code)
    return loading.scorer() if workers == 1 else Workers(loading, workers)


def load_block_scorer(
    model: str,
    *,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    batch_tokens: int = 4096,
    trust_remote_code: bool = False,
    import_: list[str] | None = None,
) -> PreferenceScorer:
    """Load a preference model whose tables come by 2 x 2 block where its head has blocks.

    Args:
        model: Exported folder.
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as trained.
        batch_tokens: Tokens read at a time; scores do not depend on it.
        trust_remote_code: Run Python code from the folder of the model.
        import_: Module whose heads and other parts the model may name; may be repeated.

    Raises:
        ConfigError: A number is out of range, or a module cannot be imported.
        CheckpointError: The folder cannot be read.
    """
    from prefrep.scoring.blocks import BlockScorer

    require_at_least("--batch-tokens", batch_tokens, 1)
    import_modules(import_)
    return BlockScorer.from_pretrained(model, device, dtype, batch_tokens=batch_tokens, trust_remote_code=trust_remote_code)
