"""Other people's preference models as data: which tensors and configuration keys make a family, and what its head is.

A row says where the head's tensors are, what lies between them, and where the language model is read. Nothing else of a family is code;
`io.family` reads all of them. How to add a row: `prefrep/io/FAMILIES.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prefrep.data.render import Template
from prefrep.nn.bidirectional import Pooling

# Objectives of ArmoRM and QRM, in the order of their rows.
NINETEEN = (
    "helpsteer-helpfulness", "helpsteer-correctness", "helpsteer-coherence", "helpsteer-complexity", "helpsteer-verbosity",
    "ultrafeedback-overall_score", "ultrafeedback-instruction_following", "ultrafeedback-truthfulness", "ultrafeedback-honesty",
    "ultrafeedback-helpfulness", "beavertails-is_safe", "prometheus-score", "argilla-overall_quality", "argilla-judge_lm",
    "code-complexity", "code-style", "code-explanation", "code-instruction-following", "code-readability",
)  # fmt: skip


def chat(user: str, assistant: str, after: str = "", before: str = "", joint: str = "") -> str:
    """Return a chat template of plain turns, for tokenizers that have none.

    Args:
        user: In front of the user's text.
        assistant: In front of the assistant's text.
        after: Behind the assistant's text.
        before: At the beginning.
        joint: Behind the user's text.
    """
    return (
        f"{{{{ {before!r} }}}}{{% for m in messages %}}{{% if m['role'] == 'assistant' %}}"
        f"{{{{ {assistant!r} + m['content'] + {after!r} }}}}"
        f"{{% else %}}{{{{ {user!r} + m['content'] + {joint!r} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant!r} }}}}{{% endif %}}"
    )


@dataclass(frozen=True)
class Objectives:
    """A head for several objectives.

    Args:
        names: Their names; empty: those of `id2label`, or numbers.
        count: Key of the configuration that has their number, and by what it is divided; None: rows of the head's last tensor.
        reduce: See `nn.rewards.ObjectivesHead`.
        gate: Tensors of the gate, written as those of a head.
        gate_at: Where it reads.
        softmax: Key of the configuration that says whether its weights are a softmax; empty: they are.
        temperature: Key of the configuration that has its temperature, and the default.
        scale: Tensor that multiplies its weights.
        mix: Tensor [O, O] that adjusts rewards.
    """

    names: tuple[str, ...] = ()
    count: tuple[str, int] | None = None
    reduce: Literal["mean", "bins"] = "mean"
    gate: tuple[str, ...] = ()
    gate_at: Literal["prompt", "response"] = "prompt"
    softmax: str = ""
    temperature: tuple[str, float] = ("", 1.0)
    scale: str = ""
    mix: str = ""


@dataclass(frozen=True)
class Family:
    """A family of preference models.

    Args:
        title: What a model is taken for, in words.
        head: Its tensors in order, by the names in front of `.weight` and `.bias`, and activations between them (`nn.layers`; `@key`: the
            one that the configuration names). `name.*:relu` are numbered layers with that activation after each linear one but the last.
        needs: Further tensors, or beginnings of their names, by which it is recognised.
        types: Beginnings of `model_type`; empty: any.
        kind: `reward`; `marked`: two answers in one reading, at marked tokens; `answers`: a language model that answers A or B.
        pooling: Where it is read, see `Backbone`; `@key`: the configuration says so.
        marks: Keys of the configuration with the ids of marked tokens.
        prefix: How names of tensors of the language model begin, as a regular expression, and what they stand for.
        template: How text becomes tokens; `segments` gives way to a chat template that the tokenizer has.
        chat: Chat template for tokenizers without one.
        max_length: Of its published code, in tokens.
        normaliser: Whether the configuration can hold mean and variance of rewards, and that it is a cost (Beaver).
        objectives: If it has several.
        only_as: Whether it is read only if the caller says so, since other models look the same.
    """

    title: str
    head: tuple[str, ...]
    needs: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    kind: Literal["reward", "marked", "answers"] = "reward"
    pooling: Pooling | Literal["@classifier_pooling", "@pooling"] = "last"
    marks: tuple[str, ...] = ()
    prefix: dict[str, str] = field(default_factory=dict)
    template: Template = "framed"
    chat: str = ""
    max_length: int = 2048
    normaliser: bool = False
    objectives: Objectives | None = None
    only_as: bool = False


def _classifier(
    title: str, types: tuple[str, ...], head: tuple[str, ...], pooling: Literal["first", "@classifier_pooling"] = "first"
) -> Family:
    """Return a row of an encoder that transformers has as a sequence classifier."""
    return Family(title, head, types=types, pooling=pooling, template="segments")


_PAIRRM_MARKS = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")

FAMILIES: dict[str, Family] = {
    "ultrarm": Family("UltraRM or Eurus-RM", ("regression_head",), chat=chat("User: ", "Assistant: ", "\n\n", joint="\n\n")),
    "starling": Family(
        "Starling-RM", ("v_head",), needs=("transformer.",), prefix={r"^transformer\.": "model."},
        chat=chat("[INST] ", " ", "</s>", joint=" </s> [/INST]"),
    ),
    "beaver": Family(
        "a Beaver reward or cost model", ("score_head",), normaliser=True,
        chat=chat("USER: ", "ASSISTANT: ", " ", "BEGINNING OF CONVERSATION: ", " "),
    ),
    "grm": Family("GRM with a linear head", ("v_head.summary",)),
    "grm-mlp": Family("GRM", ("v_head.summary.*:relu",)),
    "inform": Family("INF-ORM", ("score.*:relu",)),
    "worldpm": Family("WorldPM", ("v_head.*:relu",)),
    "oasst-pythia": Family(
        "OpenAssistant's GPT-NeoX reward model", ("out_proj",), types=("gpt_neox",), pooling="@pooling",
        chat=chat("<|prompter|>", "<|assistant|>", "<|endoftext|>", joint="<|endoftext|>"),
    ),
    "armorm": Family(
        "ArmoRM or QRM", ("regression_layer",), needs=("gating.",),
        objectives=Objectives(
            NINETEEN, ("num_objectives", 1), gate=("gating.layers.*:relu",), temperature=("gating_temperature", 10.0),
            scale="gating.logit_scale", mix="reward_transform_matrix",
        ),
    ),
    "ldl": Family(
        "LDL-Reward", ("regression_layer.network.*:leaky_relu",), needs=("gating_layer.",),
        objectives=Objectives(
            count=("num_objectives", 10), reduce="bins", gate=("gating_layer.network.*:leaky_relu",), gate_at="response",
            softmax="softmax", temperature=("temperature", 1.0),
        ),
    ),
    "deberta": _classifier("a DeBERTa classifier", ("deberta",), ("pooler.dense", "@pooler_hidden_act", "classifier")),
    "roberta": _classifier(
        "a RoBERTa classifier", ("roberta", "xlm-roberta", "camembert"), ("classifier.dense", "tanh", "classifier.out_proj")
    ),
    "bert": _classifier("a BERT classifier", ("bert",), ("bert.pooler.dense", "tanh", "classifier")),
    "modernbert": _classifier(
        "a ModernBERT classifier", ("modernbert",), ("head.dense", "@classifier_activation", "head.norm", "classifier"),
        "@classifier_pooling",
    ),
    "pairrm": Family(
        "PairRM", ("head_layer.1", "tanh", "head_layer.4"), kind="marked", pooling="marked", marks=_PAIRRM_MARKS,
        prefix={r"^pretrained_model\.": ""}, template="pairrm",
    ),
    "better-pairrm": Family(
        "Better-PairRM", ("head_layer.1", "tanh", "head_layer.4"), kind="marked", pooling="marked", marks=_PAIRRM_MARKS,
        prefix={r"^pretrained_model\.": ""}, template="better_pairrm", max_length=3370, only_as=True,
    ),
    "steamshp": Family(
        "SteamSHP, a T5 model that answers A or B", (), types=("t5",), kind="answers", pooling="decoder", template="steamshp",
        max_length=512, only_as=True,
    ),
}  # fmt: skip
