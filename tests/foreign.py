"""Models as other programs save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prefrep.nn.bundled import resolve
from prefrep.records import Message, RankedResponses
from prefrep.scoring import ranked

RECORDS = [
    ranked("Name a prime", ["7", "9", "Seven is one, and so are eleven and thirteen. \n"]),
    ranked((Message("user", "Hello"), Message("assistant", "Hello!"), Message("user", "And now?")), ["Nothing.", "the thing, running on"]),
]


def base(family: str) -> str:
    return str(resolve(f"bundled:tiny-{family}"))


def turns(record: RankedResponses) -> list[list[dict[str, str]]]:
    return [[{"role": m.role, "content": m.content} for m in record.prompt + response] for response in record.responses]


def adapter(path: Path, family: str = "qwen2", **options: Any) -> list[float]:
    """An adapter as TRL's RewardTrainer with LoRA saves it, and the rewards that peft computes with it."""
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base(family), num_labels=1, attn_implementation="eager")
    tokenizer: Any = AutoTokenizer.from_pretrained(base(family))
    model.config.pad_token_id = tokenizer.pad_token_id
    config = LoraConfig(**{"task_type": "SEQ_CLS", "r": 4, "target_modules": ["q_proj", "up_proj"], "modules_to_save": ["score"]} | options)
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "score" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(path)
    tokenizer.save_pretrained(path)
    adapted.eval()
    with torch.no_grad():
        texts = [each for record in RECORDS for each in turns(record)]
        inputs = tokenizer.apply_chat_template(texts, padding=True, padding_side="right", return_tensors="pt", return_dict=True)
        rewards: list[float] = adapted(**inputs).logits[:, 0].tolist()
    return rewards


def openrlhf_folder(path: Path, family: str, prefix: str = "score", trailing: str = "", **config: Any) -> torch.Tensor:
    """A reward model as OpenRLHF saves it: the body's tensors, the head and an architecture of its own."""
    model: Any = AutoModelForCausalLM.from_pretrained(base(family))
    torch.manual_seed(1)
    head = torch.randn(1, 32) / 2
    body = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("lm_head")}
    model.save_pretrained(path, state_dict={**body, f"{prefix}.weight": head})
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["RewardModel"], "mean": 3.0, "std": 2.0} | config))
    tokenizer: Any = AutoTokenizer.from_pretrained(base(family))
    tokenizer.chat_template = str(tokenizer.chat_template) + trailing
    tokenizer.save_pretrained(path)
    return head
