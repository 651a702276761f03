"""Rewards of small random models by the code of their authors, beside prefrep's.

    python -m benchmarks.parity.families CHECKOUT [--golden FILE]

CHECKOUT is a checkout of allenai/reward-bench (read at 05a9005; Apache-2.0), whose files under `rewardbench/models` are run, on the CPU.
Nothing is fetched. The models are those of `tests/families.py`: the published layout with random weights. `--golden` writes the rewards
that tests compare with. Choices on rows of RewardBench: `benchmarks.parity.choices`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import families
from families import RECORDS

from prefrep.records import RankedResponses

Score = Callable[[dict[str, torch.Tensor]], torch.Tensor]
# File and class of each family.
AUTHORS = {
    "ultrarm": ("openbmb", "LlamaRewardModel"), "starling": ("starling", "LlamaForSequenceClassification"),
    "beaver": ("beaver", "LlamaForScore"),
    "grm": ("grm", "GRewardModel"), "grm-mlp": ("grm", "GRewardModel"), "inform": ("inform", "INFORMForSequenceClassification"),
    "oasst-pythia": ("openassistant", "GPTNeoXRewardModel"), "qrm": ("qrm", "LlamaForRewardModelWithGating31"),
    "ldl": ("ldlreward", "LDLRewardModel27B"), "pairrm": ("pairrm", "DebertaV2PairRM"),
    "better-pairrm": ("pairrm", "DebertaV2PairRM"),
}  # fmt: skip
BY_MASK = ("ultrarm", "beaver", "grm", "grm-mlp")  # their code also takes padding on the left


def module(checkout: Path, name: str) -> ModuleType:
    """Import a file of RewardBench by its path."""
    file = checkout / "rewardbench" / "models" / f"{name}.py"
    if not file.exists():
        raise SystemExit(f"{file}: no such file; name a checkout of allenai/reward-bench")
    spec = importlib.util.spec_from_file_location(f"rewardbench_{name}", file)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def original(checkout: Path, kind: str, folder: Path) -> Any:
    """Return the model of a folder as its authors' class, with all its weights."""
    name, kind_of_model = AUTHORS[kind]
    code: Any = module(checkout, name)
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    if name == "qrm":
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        code.token_pattern = tokenizer("<|im_end|><|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    if name == "ldlreward":  # its layers are 4096 wide
        code.MultiOutputNN.__init__.__defaults__ = ([24, 24],)
        code.GatingNN.__init__.__defaults__ = (24, *code.GatingNN.__init__.__defaults__[1:])
    model = getattr(code, kind_of_model)(config).eval()
    lost = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if name == "starling":  # its code has the ids of the published tokenizers
        model.PAD_ID = config.pad_token_id
    random = [each for each in lost.missing_keys if not each.startswith("normalizer") and "num_batches" not in each]
    if random or lost.unexpected_keys:
        raise SystemExit(f"{kind}: {random} missing, {lost.unexpected_keys} unexpected")
    return model


@torch.no_grad()
def rewards(checkout: Path, kind: str, folder: Path, records: list[RankedResponses] = RECORDS) -> list[list[float]]:
    """Return the rewards of all records by the authors' code; of PairRM, the scores of each pair (first, other) in both orders."""
    model: Any = original(checkout, kind, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if kind in ("pairrm", "better-pairrm"):
        return pair_scores(checkout, kind, model, tokenizer, records)
    found = []
    for record in records:
        texts = []
        for response in record.responses:
            turns = [{"role": m.role, "content": m.content} for m in record.prompt + response]
            texts.append(tokenizer.apply_chat_template(turns, tokenize=False).removeprefix(tokenizer.bos_token or ""))
        sides = []
        for side in ("right", "left") if kind in BY_MASK else ("right",):
            tokenizer.padding_side = side
            inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
            if side == "left":
                inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
            out: Any = model(**inputs)
            value: Any = out.get("end_scores", out.get("scores", out.get("logits"))) if isinstance(out, dict) else out
            if isinstance(value, tuple):
                value = value[0]
            sides.append(value.flatten())
        if len(sides) > 1 and not torch.allclose(sides[0], sides[1], atol=1e-5):
            raise SystemExit(f"{kind}: padding on the left gives {sides[1]}, on the right {sides[0]}")
        found.append(sides[0].tolist())
    return found


def pair_scores(checkout: Path, kind: str, model: Any, tokenizer: Any, records: list[RankedResponses]) -> list[list[float]]:
    """Return f(first, other) for each other answer, then f(other, first), as LLM-Blender asks: plain texts for one turn.

    RewardBench's pipeline asks PairRM in the form of several turns also for one. Its copy of Better-PairRM's template writes the
    indentation of the Python file between turns, so the transcript is written here, without it; its code joins, cuts and marks it.
    """
    code = module(checkout, kind.replace("-", ""))
    found = []
    for record in records:
        scores = []
        for a, b in [(0, i) for i in range(1, len(record.responses))] + [(i, 0) for i in range(1, len(record.responses))]:
            if kind == "better-pairrm":
                names = {"user": "USER: ", "assistant": "ASSISTANT: "}
                source = "\n\n".join([*(names[m.role] + m.content for m in record.prompt), names["assistant"]])
                encoded = code.tokenize_pair(tokenizer, [source], *([record.responses[i][0].content] for i in (a, b)))
            elif len(record.prompt) == 1:
                texts = [[record.prompt[0].content], *([record.responses[i][0].content] for i in (a, b))]
                encoded = code.tokenize_pair(tokenizer, *texts)
            else:
                conversations = [[[{"role": m.role, "content": m.content} for m in record.prompt + record.responses[i]]] for i in (a, b)]
                encoded = code.tokenize_conv_pair(tokenizer, *conversations)
            scores.append(float(model(**{name: encoded[name] for name in ("input_ids", "attention_mask")}).logits))
        found.append(scores)
    return found


def ours(kind: str, folder: Path) -> list[list[float]]:
    """Return the same numbers by prefrep."""
    from prefrep.records import Comparison
    from prefrep.scoring import PairScorer, Scorer

    scorer = Scorer.from_pretrained(folder, "cpu", kind=families.KINDS.get(kind, kind))
    if not isinstance(scorer, PairScorer):
        return [found.tolist() for found in scorer.rewards(RECORDS)]
    result = []
    for record in RECORDS:
        others = range(1, len(record.responses))
        orders = [(0, i) for i in others] + [(i, 0) for i in others]
        pairs = [Comparison(record.prompt, record.responses[a], record.responses[b]) for a, b in orders]
        result.append(list(scorer.compare_one_order(pairs)))
    return result


def main() -> None:
    """Print the largest difference of each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--golden", type=Path)
    args = parser.parse_args()
    golden = {}
    with TemporaryDirectory() as place:
        for kind in AUTHORS:
            folder = families.write(Path(place) / kind, kind)
            golden[kind] = rewards(args.checkout, kind, folder)
            flat, mine = ([x for row in rows for x in row] for rows in (golden[kind], ours(kind, folder)))
            print(f"{kind:14} {max(abs(a - b) for a, b in zip(flat, mine, strict=True)):.1e} of {max(map(abs, flat)):.3f}")
    if args.golden:
        args.golden.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
