"""Small random models in the published layouts of other programs: names, shapes and configuration, with weights that a seed decides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import encoders
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from prefrep.nn.loading import load_causal
from prefrep.records import Message, RankedResponses
from prefrep.scoring import Scorer

H, O = 32, 3  # noqa: E741
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GATE = {f"gating.layers.{3 * i}.weight": (16, H if i == 0 else 16) for i in range(3)} | {
    "gating.layers.9.weight": (O, 16),
    "gating.layers.9.bias": (O,),
}
NORMS = {f"gating.layers.{3 * i + 2}.{part}": (16,) for i in range(3) for part in ("weight", "bias", "running_mean", "running_var")}
PLAIN_GATE = {
    f"gating.layers.{i}.{part}": shape
    for i, (o, n) in enumerate([(16, H), (16, 16), (O, 16)])
    for part, shape in (("weight", (o, n)), ("bias", (o,)))
}
MIXED = {"gating.logit_scale": (1,), "reward_transform_matrix": (O, O)}
# Language model, tensors of the head, and keys of config.json.
LAYOUTS: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "ultrarm": ("llama", {"regression_head.weight": (1, H)}, {"architectures": ["LlamaRewardModel"]}),
    "starling": ("llama", {"v_head.weight": (1, H)}, {"architectures": ["LlamaForSequenceClassification"]}),
    "beaver": (
        "llama", {"score_head.weight": (1, H)},
        {"architectures": ["LlamaForScore"], "score_type": "reward", "do_normalize": True, "mean": [0.3], "var": [4.0], "bias": False,
         "score_dim": 1, "normalizer_type": "ExponentialMovingAverage", "momentum": 0.9},
    ),
    "grm": (
        "llama", {"v_head.summary.weight": (1, H), "v_head.summary.bias": (1,)},
        {"architectures": ["GRewardModel"], "vhead_layer_type": "linear"},
    ),
    "grm-mlp": (
        "llama",
        {"v_head.summary.0.weight": (24, H), "v_head.summary.0.bias": (24,),
         "v_head.summary.2.weight": (1, 24), "v_head.summary.2.bias": (1,)},
        {"architectures": ["GRewardModel"], "vhead_layer_type": "mlp", "vhead_num_neurons": 24, "vhead_num_layers": 1},
    ),
    "inform": (
        "llama", {"score.0.weight": (H, H), "score.0.bias": (H,), "score.2.weight": (1, H), "score.2.bias": (1,)},
        {"architectures": ["INFORMForSequenceClassification"], "num_labels": 1},
    ),
    "worldpm": (
        "qwen2", {"v_head.0.weight": (H, H), "v_head.0.bias": (H,), "v_head.2.weight": (1, H), "v_head.2.bias": (1,)},
        {"architectures": ["Qwen2ForRewardModel"]},
    ),
    "oasst-pythia": (
        "gpt_neox", {"out_proj.weight": (1, H), "out_proj.bias": (1,)},
        {"architectures": ["GPTNeoXRewardModel"], "model_type": "gpt_neox_reward_model", "pooling": "last"},
    ),
    "armorm": (
        "llama", {"regression_layer.weight": (O, H), **PLAIN_GATE, **MIXED},
        {"architectures": ["LlamaForRewardModelWithGating"], "num_objectives": O, "gating_temperature": 0.5,
         "id2label": {"0": "helpful", "1": "honest", "2": "short"},
         "auto_map": {"AutoModelForSequenceClassification": "modeling_custom.X"}},
    ),
    "qrm": (
        "llama", {"regression_layer.weight": (O * 3, H), **GATE, **NORMS, **MIXED},
        {"architectures": ["LlamaForRewardModelWithGating31"], "num_objectives": O, "num_quantiles": 3, "gating_temperature": 2.0,
         "gating_hidden_dim": 16, "num_labels": 1},
    ),
    "ldl": (
        "gemma2",
        {f"{net}.network.{i}.{part}": shape
         for net, last in (("regression_layer", O * 10), ("gating_layer", O))
         for i, (o, n) in zip((0, 2, 4) if net == "regression_layer" else (0, 3, 6), [(24, H), (24, 24), (last, 24)], strict=True)
         for part, shape in (("weight", (o, n)), ("bias", (o,)))},
        {"architectures": ["LDLRewardModel27B"], "num_objectives": O * 10, "softmax": True, "temperature": 0.7},
    ),
    "pairrm": (
        "deberta-v2",
        {"head_layer.1.weight": (H, 2 * H), "head_layer.1.bias": (H,), "head_layer.4.weight": (2, H), "head_layer.4.bias": (2,)},
        {"architectures": ["DebertaV2PairRM"], "n_tasks": 2, "drop_out": 0.05,
         "source_prefix_id": 4, "cand_prefix_id": 6, "cand1_prefix_id": 5,
         "cand2_prefix_id": 6},
    ),
}  # fmt: skip
PREFIXES = {"starling": ("model.", "transformer."), "pairrm": ("", "pretrained_model.")}


def said(*turns: str) -> tuple[Message, ...]:
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns))


RECORDS = [
    RankedResponses(said("Name a prime"), tuple((Message("assistant", text),) for text in ("7", "9, I would say", "I would rather not"))),
    RankedResponses(
        said("Hello", "Hello. What can I do?", "Say hello to a friend of mine, please"),
        tuple((Message("assistant", text),) for text in ("Hello, friend!", "Hello, fiend! Go away.")),
    ),
]


def write(path: Path, kind: str, **config: Any) -> Path:
    """Write a model; its weights depend on the kind alone."""
    path.mkdir(parents=True, exist_ok=True)
    kind = {"better-pairrm": "pairrm"}.get(kind, kind)
    family, shapes, keys = LAYOUTS[kind]
    if family in encoders.KINDS:
        model: Any = encoders.model(family)
        tokenizer: Any = encoders.tokenizer()
    else:
        model = load_causal(f"bundled:tiny-{family}", "float32", "eager").model
        tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
        tokenizer.chat_template = CHAT
    old, new = PREFIXES.get(kind, ("", ""))
    body = {
        new + name.removeprefix(old): tensor for name, tensor in model.state_dict().items() if not name.startswith(("lm_head", "embed_out"))
    }
    generator = torch.Generator().manual_seed(7)
    head = {
        name: torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) + (1.0 if name.endswith("_var") else 0.0)
        for name, shape in shapes.items()
    }
    head = {
        name: tensor.abs() + (1 if "scale" in name else 0.1) if name.endswith(("_var", "scale")) else tensor
        for name, tensor in head.items()
    }
    save_file({name: tensor.contiguous() for name, tensor in (body | head).items()}, path / "model.safetensors", metadata={"format": "pt"})
    about = json.loads(model.config.to_json_string()) | {"pad_token_id": tokenizer.pad_token_id} | keys | config
    (path / "config.json").write_text(json.dumps(about))
    tokenizer.save_pretrained(path)
    return path


KINDS = {"qrm": "armorm"}  # layouts that share a row of the catalogue


def golden() -> dict[str, list[list[float]]]:
    """Rewards of `RECORDS` that `benchmarks/parity/families.py` wrote, by the code of the authors."""
    found: dict[str, list[list[float]]] = json.loads((Path(__file__).parent / "golden" / "families.json").read_text())
    return found


def rewards(scorer: Scorer, records: list[RankedResponses] | None = None) -> list[float]:
    """Rewards of all answers, in order."""
    return [float(reward) for found in scorer.rewards(records or RECORDS) for reward in found]
