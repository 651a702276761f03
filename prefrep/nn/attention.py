"""The tree mask in the form that a transformer of the `transformers` library takes."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

from prefrep.functional.trees import additive, tree_mask


def masks(
    config: PretrainedConfig, tree: Tensor, branch: Tensor, positions: Tensor, *, numbers: torch.dtype | None
) -> Tensor | dict[str, Tensor]:
    """Attention masks of packed trees for every kind of layer that a backbone has.

    Args:
        config: The backbone's configuration: `layer_types` and `sliding_window` decide.
        tree: Tree of each token [R, L]; -1: padding.
        branch: Branch of each token [R, L].
        positions: Positions [R, L].
        numbers: None for kernels that take booleans (sdpa); the dtype of the logits for those that add the mask (eager).

    Returns:
        One mask [R, 1, L, L], or one per layer type where the layers differ (Qwen 2/3, Gemma 2/3).
    """

    def finish(window: int | None) -> Tensor:
        mask = tree_mask(tree, branch, positions, window)
        return mask if numbers is None else additive(mask, numbers)

    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # Mistral: a window in the configuration is a window in every layer
        return finish(window)
    if "sliding_attention" in kinds:
        return {"full_attention": finish(None), "sliding_attention": finish(window)}
    return finish(None)
