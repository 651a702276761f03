"""Small random models of each kind, as `benchmarks.parity.choices` puts rows to them; names of folders are those of the layouts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import encoders
import families

# A template of turns that writes no special tokens, as `run_dpo` expects it.
BARE = (
    "{% for m in messages %}{{ '\n' + m['role'] + ': ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nassistant: ' }}{% endif %}"
)
ROWS = "rows.jsonl"  # beside the models


def chats(folder: Path, template: str) -> None:
    """Give a folder's tokenizer a chat template."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def llama_classifier(folder: Path) -> None:
    """Write a sequence classifier of transformers."""
    from prefrep.nn.bundled import resolve

    base = str(resolve("bundled:tiny-llama"))
    torch.manual_seed(1)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def encoder(folder: Path) -> None:
    """Write an encoder as a classifier, with a chat template."""
    encoders.folder(folder, folder.name, "ForSequenceClassification", max_position_embeddings=4096)
    chats(folder, families.CHAT.replace("bos_token", "''"))


def family(folder: Path) -> None:
    """Write a model of `tests/families.py`."""
    families.write(folder, folder.name, max_position_embeddings=4096)


def t5(folder: Path) -> None:
    """Write a T5 that answers A or B: all other tokens have logit 0, and those two are opposite, so that one of them is above.

    The layer reads in which direction the states of the rows differ most, less their mean, or it would give one answer to all of them.
    """
    model = encoders.folder(folder, "t5", "ForConditionalGeneration")
    tokenizer: Any = encoders.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\n", " ")  # as T5's do, so that line breaks make no difference
    tokenizer.save_pretrained(folder)
    begin, states = torch.tensor([[0]]), []
    with torch.no_grad():
        for line in (folder.parent / ROWS).read_text().splitlines()[::3]:
            row = json.loads(line)
            text = f"POST: {row['prompt']} RESPONSE A: {row['chosen']} RESPONSE B: {row['rejected']} Which response is better? RESPONSE"
            read = model.encoder(input_ids=torch.tensor([tokenizer.encode(text)])).last_hidden_state
            states.append(model.decoder(input_ids=begin, encoder_hidden_states=read).last_hidden_state[0, 0])
        mean = torch.stack(states).mean(0)
        direction = torch.linalg.svd(torch.stack(states) - mean)[2][0]
        direction = 10 * (direction - direction @ mean / (mean @ mean) * mean)
    output = torch.zeros_like(model.shared.weight)
    for answer, sign in (("A", 1), ("B", -1)):
        output[tokenizer.convert_tokens_to_ids(answer)] = sign * direction
    encoders.untied(folder, output.detach().clone())


def policy(template: str | None) -> Callable[[Path], None]:
    """Return what writes a policy and, beside it, its reference."""

    def write(folder: Path) -> None:
        from prefrep.nn.bundled import resolve

        base = str(resolve("bundled:tiny-llama"))
        for seed, place in enumerate((folder, folder.parent / "reference")):
            torch.manual_seed(seed)
            model: Any = AutoModelForCausalLM.from_pretrained(base)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            model.save_pretrained(place)
            AutoTokenizer.from_pretrained(base).save_pretrained(place)
            if template is not None:
                chats(place, template)

    return write


def official(folder: Path) -> None:
    """Write a GPM checkpoint in the official layout, and prefrep's export of it."""
    from safetensors.torch import load_file, save_file

    from prefrep.io import folder as folders
    from prefrep.io import official as layout
    from prefrep.nn.bundled import resolve

    folder.mkdir()
    base = Path(resolve("bundled:tiny-llama"))
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    state["value_head.weight"] = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    read = layout.read(folder, tau=0.1, normalize=False, gate="none", template="official", max_length=2048)
    folders.save(folder.with_name("gpm-export"), read.backbone, read.head, read.tau, read.encode, read.tokenizer, read.recipe)
