"""Makes ultrafeedback-mini.jsonl: a small language model answers each prompt four times, and rules rate the answers (README.md).

    python -m prefrep.data.samples.make generate MODEL    # MODEL: a local folder; answers, then rates
    python -m prefrep.data.samples.make rate              # rates the answers that are there again, without a model
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
DATA = HERE / "ultrafeedback-mini.jsonl"
PROMPTS = HERE / "prompts.txt"

Row = dict[str, Any]


class Style(NamedTuple):
    """How the model is asked: a system message ("" leaves the template's own), a frame around the instruction, a temperature (0: greedy)."""

    name: str
    system: str
    frame: str
    temperature: float


STYLES = (
    Style("greedy", "", "{}", 0.0),
    Style("free", "", "{}", 1.0),
    Style("short", "You are a helpful assistant.", "{} Answer in one short sentence.", 0.7),
    Style("list", "You are a helpful assistant.", "{} Answer with a short numbered list.", 0.7),
    Style("friend", "You are a warm and encouraging friend.", "Hi friend! {} Please answer kindly, and thank me for asking.", 0.8),
    Style("expert", "You are a formal expert who uses precise technical vocabulary.", "{} Explain it precisely, in technical terms.", 0.8),
)
PER_PROMPT = 4
MAX_NEW_TOKENS = 60
TOP_P = 0.95
BATCH = 25


def styles_of(index: int) -> tuple[Style, ...]:
    """The four styles that answer prompt number `index`: the fifteen choices of four out of six take turns."""
    choices = list(itertools.combinations(STYLES, PER_PROMPT))
    return choices[index % len(choices)]


# Answers


def generate(model_path: str, prompts: list[str]) -> list[Row]:
    """Ask the model. Every batch has a seed of its own, so that one style can change without changing the others."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    answers: dict[tuple[int, str], str] = {}
    for number, style in enumerate(STYLES):
        mine = [i for i in range(len(prompts)) if style in styles_of(i)]
        for start in range(0, len(mine), BATCH):
            part = mine[start : start + BATCH]
            system = [{"role": "system", "content": style.system}] if style.system else []
            chats = [[*system, {"role": "user", "content": style.frame.format(prompts[i])}] for i in part]
            inputs = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            sampling = {"do_sample": True, "temperature": style.temperature, "top_p": TOP_P, "top_k": 0} if style.temperature else {}
            torch.manual_seed(1000 * number + start)
            output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, pad_token_id=tokenizer.pad_token_id, **sampling)
            for i, ids in zip(part, output[:, inputs["input_ids"].shape[1] :], strict=True):
                finished = bool((ids == tokenizer.eos_token_id).any())
                answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
                answers[i, style.name] = answer if finished else whole_sentences(answer)
            print(f"{style.name}: {start + len(part)} of {len(mine)}", file=sys.stderr, flush=True)
    return [
        {
            "instruction": prompt,
            "completions": [
                {"model": f"smollm2-135m-instruct/{style.name}@{style.temperature}", "response": answers[i, style.name]}
                for style in styles_of(i)
            ],
        }
        for i, prompt in enumerate(prompts)
    ]


def whole_sentences(text: str) -> str:
    """Cut an answer that ran into the token limit after its last whole sentence, if it has one."""
    ends = [match.end() for match in re.finditer(r"(?<!\d)[.!?][\"')*]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


def write(rows: Iterable[Row]) -> None:
    """One JSON object a line, keys in a fixed order."""
    DATA.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["generate", "rate"])
    parser.add_argument("model", nargs="?", help="folder of the language model (generate only)")
    options = parser.parse_args()
    if options.step == "generate":
        if not options.model:
            parser.error("generate needs the folder of a model")
        rows = generate(options.model, PROMPTS.read_text(encoding="utf-8").splitlines())
    else:
        rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    write(rows)


if __name__ == "__main__":
    main()
