"""What single model families do differently, in one table.

The functions below the table are the only readers of a configuration that depend on a family. Where a trial forward pass can answer a
question, `nn.probes` answers it and no row is needed.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import nn

Effect = Literal[
    "logit factor", "logit divisor", "logit cap", "attention cap", "hidden size", "rope", "experts", "dropout", "noise", "router mode",
    "router class", "relative positions", "position offset",
]  # fmt: skip


class Quirk(NamedTuple):
    """A row of the table.

    Args:
        family: Prefix of the `model_type` of a family with the quirk.
        effect: What the quirk changes; the functions below read the rows by effect.
        attribute: Attribute of the text configuration; for dropout, noise and routers, of modules.
        reason: What the family does.
    """

    family: str
    effect: Effect
    attribute: str
    reason: str


# Granite divides by what HyperCLOVA X multiplies with, so factors and divisors hold for the family of their row alone. The other effects
# hold for every model that has the attribute.
QUIRKS: tuple[Quirk, ...] = (
    Quirk("granite", "logit divisor", "logits_scaling", "divides its logits (muP)"),
    Quirk("minicpm3", "logit divisor", "logits_scaling", "divides hidden states before the output layer (muP)"),
    Quirk("hyperclovax", "logit factor", "logits_scaling", "multiplies its logits (muP)"),
    Quirk("cohere", "logit factor", "logit_scale", "multiplies its logits"),
    Quirk("falcon_h1", "logit factor", "lm_head_multiplier", "multiplies its logits (muP)"),
    Quirk("gemma2", "logit cap", "final_logit_softcapping", "caps its logits by tanh"),
    Quirk("recurrent_gemma", "logit cap", "logits_soft_cap", "caps its logits by tanh"),
    Quirk("gemma3", "attention cap", "attn_logit_softcapping", "can cap attention logits, which sdpa does not (Gemma 2 refuses sdpa)"),
    Quirk("opt", "hidden size", "word_embed_proj_dim", "OPT-350m projects its last states back to the width of its embeddings"),
    Quirk("phi3", "rope", "rope_parameters", "LongRoPE rescales all positions of a batch once one sequence exceeds the original length"),
    Quirk("phimoe", "experts", "num_local_experts", "the number of tokens per expert determines the order of summation"),
    Quirk("qwen2_moe", "experts", "num_experts", "as Phi-MoE, Mixtral, ..."),
    Quirk("deepseek", "experts", "n_routed_experts", "as Phi-MoE, under the name that its remote code uses"),
    Quirk("opt", "dropout", "dropout", "calls the functional dropout with rates that modules hold as numbers"),
    Quirk("opt", "dropout", "layerdrop", "skips layers at random"),
    Quirk("dbrx", "dropout", "pdrop", "calls the functional dropout with rates that modules hold as numbers"),
    Quirk("mixtral", "noise", "jitter_noise", "multiplies the inputs of its router by random numbers"),
    Quirk("phimoe", "noise", "input_jitter_noise", "multiplies the inputs of its router by random numbers"),
    Quirk("phimoe", "router mode", "router_jitter_noise", "samples experts in training mode; must not be 0, since evaluation uses it, too"),
    Quirk("deberta", "relative positions", "position_biased_input", "DeBERTa-v2 and -v3 without it read texts of any length"),
    Quirk("roberta", "position offset", "pad_token_id", "positions begin after the pad id, so the table holds that many fewer tokens"),
    Quirk("xlm-roberta", "position offset", "pad_token_id", "as RoBERTa"),
    Quirk("camembert", "position offset", "pad_token_id", "as RoBERTa"),
    Quirk("phimoe", "router class", "Router", "its router is a `Linear` that returns two tensors, so it cannot carry an adapter"),
)  # fmt: skip


def _attributes(effect: Effect) -> list[str]:
    return [quirk.attribute for quirk in QUIRKS if quirk.effect == effect]


def _first(config: Any, effect: Effect) -> Any:
    """Return the first value that a configuration has for an effect, or None."""
    return next((value for name in _attributes(effect) if (value := getattr(config, name, None))), None)


def logit_factor(config: Any) -> float:
    """Return the factor between the product of the output layer and the logits, before any cap.

    Args:
        config: Text configuration of a model.
    """
    for family, effect, attribute, _ in QUIRKS:
        if effect in ("logit factor", "logit divisor") and config.model_type.startswith(family):
            value = float(getattr(config, attribute))
            return value if effect == "logit factor" else 1 / value
    return 1.0


def logit_cap(config: Any) -> float | None:
    """Return c of a model whose logits are c tanh(logits / c); None without a cap.

    Args:
        config: Text configuration of a model.
    """
    cap: float | None = _first(config, "logit cap")
    return cap


def caps_attention(config: Any) -> bool:
    """Return whether attention logits are soft-capped.

    Args:
        config: Configuration of a model.
    """
    return _first(config.get_text_config(), "attention cap") is not None


def hidden_size(config: Any) -> int:
    """Return the width H of the last hidden states.

    Args:
        config: Text configuration of a model.
    """
    return int(_first(config, "hidden size") or config.hidden_size)


def max_length(config: Any) -> int | None:
    """Return how many tokens a model can read in one sequence; None if the configuration does not say.

    Under LongRoPE this is the original length: beyond it, the score of a text would depend on the length of the others in its batch.

    Args:
        config: Text configuration of a model.
    """
    limits = [getattr(config, "max_position_embeddings", None)]
    if any(getattr(config, name, None) is False for name in _attributes("relative positions")):
        return None
    for family, effect, attribute, _ in QUIRKS:
        if effect == "position offset" and config.model_type.startswith(family) and limits[0]:
            limits.append(limits[0] - int(getattr(config, attribute)) - 1)
    for rope in (getattr(config, name, None) or {} for name in _attributes("rope")):
        for kind in (rope, *(each for each in rope.values() if isinstance(each, dict))):  # layer types may have one each
            if kind.get("rope_type") == "longrope" and kind["short_factor"] != kind["long_factor"]:
                limits.append(kind["original_max_position_embeddings"])
    return min((int(limit) for limit in limits if limit is not None), default=None)


def has_experts(config: Any) -> bool:
    """Return whether a model is a mixture of experts.

    Args:
        config: Text configuration of a model.
    """
    return _first(config, "experts") is not None


def remove_dropout(model: nn.Module) -> list[nn.Module]:
    """Switch off everything random in the forward pass of a model, so that equal texts get equal scores.

    Args:
        model: A language model without adapters.

    Returns:
        Routers that must stay in evaluation mode.
    """
    dropout, noise = _attributes("dropout"), _attributes("noise")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and (name in noise or any(part in name for part in dropout)):
                setattr(module, name, 0.0)
    return [module for module in model.modules() if any(hasattr(module, name) for name in _attributes("router mode"))]


def is_router(module: nn.Module) -> bool:
    """Return whether a linear layer is a router, whose output is not a single tensor."""
    return any(part in type(module).__name__ for part in _attributes("router class"))
