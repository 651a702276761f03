"""Make ultrafeedback-mini.jsonl: a small language model answers each prompt four times, and rules rate the answers (README.md).

python -m prefrep.data.samples.make generate MODEL    # MODEL: a local folder; generates answers, then rates
python -m prefrep.data.samples.make rate              # rates the existing answers again, without a model
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prefrep.disk import replace_lines

HERE = Path(__file__).parent
DATA = HERE / "ultrafeedback-mini.jsonl"
PROMPTS = HERE / "prompts.txt"

Row = dict[str, Any]


class Style(NamedTuple):
    """A way to prompt the model: system message ("": that of the template), frame around the instruction, temperature (0: greedy)."""

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
    """Return the four styles of prompt number `index`, cycling through the fifteen choices of four out of six."""
    choices = list(itertools.combinations(STYLES, PER_PROMPT))
    return choices[index % len(choices)]


# Answers


def generate(model_path: str, prompts: list[str]) -> list[Row]:
    """Generate the answers. Every batch has its own seed, so that changing one style leaves the others unchanged."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # makes sums independent of the number of cores
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    answers: dict[tuple[int, str], str] = {}
    for number, style in enumerate(STYLES):
        mine = [i for i in range(len(prompts)) if style in styles_of(i)]
        for start in range(0, len(mine), BATCH):
            part = mine[start : start + BATCH]
            system = [{"role": "system", "content": style.system}] if style.system else []
            chats = [[*system, {"role": "user", "content": style.frame.format(prompts[i])}] for i in part]
            inputs = tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True)
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
    """Cut a truncated answer after its last complete sentence, if it has one."""
    ends = [match.end() for match in re.finditer(r"(?<!\d)[.!?][\"')*]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


# Ratings


class Aspect(NamedTuple):
    """A measure of answers, and the four thresholds between ratings 1 to 5; decreasing `cuts` mean that less is better."""

    measure: Callable[[str, str], float]
    cuts: tuple[float, float, float, float]
    unit: str

    def rating(self, instruction: str, answer: str) -> int:
        """Return 1 plus the number of cuts that the measure reaches; 1 for an answer without words."""
        if not words(answer):
            return 1
        value = self.measure(instruction, answer)
        if self.cuts[0] > self.cuts[-1]:
            return 1 + sum(value <= cut for cut in self.cuts)
        return 1 + sum(value >= cut for cut in self.cuts)


def words(text: str) -> list[str]:
    """Return the words in lower case; an apostrophe is part of its word."""
    return re.findall(r"[a-z]+(?:['\u2019][a-z]+)*", text.lower())


def stems(text: str) -> set[str]:
    """Return the first five letters of words of four letters or more, a simple stemmer (water, watering)."""
    return {word[:5] for word in words(text) if len(word) >= 4} - COMMON


# Stems of words that questions share whatever their topic.
COMMON = {"what", "does", "give", "with", "from", "that", "this", "your", "have", "some", "shoul", "their", "them", "they", "into", "write"}
KIND = re.compile(
    r"\b(?:i|i'm|i'll|i'd|me|my|you|you're|you'll|your|yours|we|we're|let's|our|us|please|thank|thanks|hello|hi|dear|friend|friends"
    r"|happy|glad|love|loved|lovely|wonderful|great|enjoy|welcome|hope|kind|kindly|kindness|sorry|sure)\b|!",
    re.IGNORECASE,
)


def brevity(instruction: str, answer: str) -> float:
    """Return the number of words; fewer is better."""
    return len(words(answer))


def plainness(instruction: str, answer: str) -> float:
    """Return the letters per word; fewer is better."""
    return sum(map(len, words(answer))) / max(len(words(answer)), 1)


def relevance(instruction: str, answer: str) -> float:
    """Return the share of the answer's longer words that echo the instruction's, in percent."""
    asked = stems(instruction)
    longer = [word for word in words(answer) if len(word) >= 4]
    return 100 * sum(word[:5] in asked for word in longer) / max(len(longer), 1)


def warmth(instruction: str, answer: str) -> float:
    """Return the number of kind or personal words and exclamation marks per hundred words."""
    return 100 * len(KIND.findall(answer.replace("\u2019", "'"))) / max(len(words(answer)), 1)


ASPECTS = {
    "brevity": Aspect(brevity, (44, 38, 32, 22), "words"),
    "plainness": Aspect(plainness, (5.1, 4.75, 4.45, 4.1), "letters per word"),
    "relevance": Aspect(relevance, (4, 8, 13, 20), "% of the longer words echo the question"),
    "warmth": Aspect(warmth, (1, 4, 8, 16), "kind or personal words per hundred"),
}


def rate(row: Row) -> Row:
    """Return the row with new ratings."""
    completions = []
    for completion in row["completions"]:
        answer = completion["response"]
        notes = {
            name: {
                "Rating": str(aspect.rating(row["instruction"], answer)),
                "Rationale": f"{aspect.measure(row['instruction'], answer):.4g} {aspect.unit}",
            }
            for name, aspect in ASPECTS.items()
        }
        mean = sum(int(note["Rating"]) for note in notes.values()) / len(notes)
        completions.append({"model": completion["model"], "response": answer, "annotations": notes, "fine-grained_score": mean})
    return {"instruction": row["instruction"], "completions": completions}


def main() -> None:
    """Generate the file, or rate the existing one."""
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
    replace_lines(DATA, map(rate, rows))


if __name__ == "__main__":
    main()
