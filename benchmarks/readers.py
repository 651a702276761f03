"""Encoders as preference models: scoring against a plain loop, training against TRL, PairRM against LLM-Blender's order of work.

Random models with the width of ModernBERT-base and DeBERTa-v3-xsmall and few layers, in fp32, on texts with the lengths of HH; a token
is a byte. Scores of both sides are compared, so that they do the same work. TRL trains ModernBERT's own head behind the same layers.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from benchmarks import pairs
from benchmarks.common import QUICK_RESULTS, Report, arguments, interleave, median_ratio, timed
from benchmarks.training import TRL, Ours, Stepper, Variant
from prefrep.records import Message, RankedResponses
from prefrep.scoring import Scorer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import encoders

BATCH_TOKENS = 4096
BLENDER = 8  # prompts in a batch of LLM-Blender's `rank`
IDS: dict[str, int] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
MARKS = {"source_prefix_id": 4, "cand1_prefix_id": 5, "cand2_prefix_id": 6}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--layers", type=int, default=3, help="of both models")
    it.add_argument("--prompts", type=int, default=64, help="prompts with two answers to score")
    it.add_argument("--pairs", type=int, default=16, help="pairs in a training step")
    it.add_argument("--answers", type=int, default=8, help="answers to each prompt of PairRM")
    it.add_argument("--rounds", type=int, default=3, help="measured rounds; of PairRM one less")
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    width, narrow = 768, 384
    if options.quick:
        width = narrow = 48
        options.layers, options.prompts, options.pairs, options.answers, options.rounds = 2, 4, 2, 3, 1
    report = Report("readers", options)
    place = QUICK_RESULTS / "readers"
    shutil.rmtree(place, ignore_errors=True)
    torch.manual_seed(0)
    scale = 0.2 if options.quick else 1.0
    encoder, pairrm = modernbert(place / "modernbert", width, options.layers), deberta(place / "pairrm", narrow, options.layers)
    scoring(report, encoder, options, scale)
    training(report, encoder, options, scale)
    ranking(report, pairrm, options, scale)
    report.save()


# ---- models and texts


def save_tokenizer(folder: Path) -> None:
    """Save the tokenizer of bytes; its separator ends texts."""
    tokenizer = encoders.tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)


def modernbert(folder: Path, width: int, layers: int) -> Path:
    """Write a classifier of ModernBERT-base's width."""
    config = ModernBertConfig(
        vocab_size=len(encoders.tokenizer()), hidden_size=width, intermediate_size=width * 3 // 2, num_hidden_layers=layers,
        num_attention_heads=12, max_position_embeddings=8192, num_labels=1, **IDS,
    )  # fmt: skip
    ModernBertForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def deberta(folder: Path, width: int, layers: int) -> Path:
    """Write a PairRM of DeBERTa-v3-xsmall's width, as it is published."""
    config = DebertaV2Config(
        vocab_size=len(encoders.tokenizer()), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=12, max_position_embeddings=512, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=256,
        position_biased_input=False, norm_rel_ebd="layer_norm", share_att_key=True, type_vocab_size=0,
        architectures=["DebertaV2PairRM"], n_tasks=1, drop_out=0.0, **MARKS, **IDS,
    )  # fmt: skip
    state = {f"pretrained_model.{name}": tensor for name, tensor in DebertaV2Model(config).state_dict().items()}
    for name, layer in (("head_layer.1", nn.Linear(2 * width, width)), ("head_layer.4", nn.Linear(width, 1))):
        state |= {f"{name}.{part}": tensor for part, tensor in layer.state_dict().items()}
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(folder)
    return folder


def records(tokenizer: Any, count: int, answers: int, scale: float, seed: int = 0) -> list[RankedResponses]:
    """Return prompts and answers of random letters, as long as those of HH."""
    data = pairs.generated(tokenizer, count * max(answers // 2, 1) + count, True, scale, seed)
    rng = np.random.default_rng(seed)

    def text(length: int) -> str:
        return "".join(map(chr, rng.integers(97, 123, length)))

    lengths = [len(ids) - datum.trees[0].prompt for datum in data for ids in datum.trees[0].sequences]
    found = []
    for number in range(count):
        said = lengths[number * answers : (number + 1) * answers]
        prompt = text(data[number].trees[0].prompt)
        found.append(RankedResponses((Message("user", prompt),), tuple((Message("assistant", text(each)),) for each in said)))
    return found


# ---- comparisons


def scoring(report: Report, folder: Path, options: argparse.Namespace, scale: float) -> None:
    """Time rewards against the same model in a plain loop over all texts, sorted by length."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    asked = records(tokenizer, options.prompts, 2, scale)
    scorer = Scorer.from_pretrained(folder, "cpu", batch_tokens=BATCH_TOKENS)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = torch.from_numpy(np.concatenate(list(scorer.rewards(asked))))

    @torch.inference_mode()
    def plain() -> None:
        two = [(record.prompt[0].content, response[0].content) for record in asked for response in record.responses]
        ids = tokenizer([a for a, _ in two], [b for _, b in two], return_token_type_ids=False)["input_ids"]
        found["plain"] = torch.zeros(len(ids))
        for batch in pairs.by_length([len(each) for each in ids], BATCH_TOKENS):
            inputs = tokenizer.pad({"input_ids": [ids[place] for place in batch]}, return_tensors="pt")
            found["plain"][batch] = model(**inputs).logits[:, 0]

    seconds = compared(report, f"scoring {2 * len(asked)} answers", {"a plain loop, sorted": plain, "ours": ours}, options.rounds)
    agree(report, "rewards", found["ours"], found["plain"])
    ratio = median_ratio(seconds["ours"], seconds["a plain loop, sorted"])
    report.goal("encoder: scoring, time against a plain loop sorted by length", ratio, 1.1, at_least=False, unit="x")


def training(report: Report, folder: Path, options: argparse.Namespace, scale: float) -> None:
    """Time optimizer steps against TRL's RewardTrainer, which pads to the longest of a batch."""
    figure = None
    if find_spec("trl") is None:
        report.note("TRL is not installed (benchmarks/run installs it), so it is not compared")
    else:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        data = pairs.generated(tokenizer, options.pairs * (options.rounds + 1), True, scale)
        batches = [data[start : start + options.pairs] for start in range(0, len(data), options.pairs)]
        both: dict[str, Stepper] = {
            "TRL": TRL(str(folder), tokenizer, "fp32", "cpu"),
            "ours": Ours(str(folder), tokenizer, Variant("padded"), "fp32", "cpu"),
        }
        turn = dict.fromkeys(both, 0)

        def step(name: str) -> float:
            seconds = both[name].step(batches[turn[name]])
            both[name].clear()
            turn[name] += 1
            return seconds

        for name in both:
            step(name)
        seconds = interleave({name: lambda name=name: step(name) for name in both}, options.rounds)  # type: ignore[misc]
        figure = median_ratio(seconds["TRL"], seconds["ours"])
        tokens = [sum(len(ids) for datum in batch for ids in datum.trees[0].sequences) for batch in batches]
        waste = sum(pairs.padded(batch) for batch in batches[1:]) / sum(tokens[1:])
        show(report, f"training, {options.pairs} pairs a step; padded to the longest {waste:.1f} times the tokens", seconds, "TRL")
    report.goal("encoder: training against TRL", figure, 2.0, unit="x")


def ranking(report: Report, folder: Path, options: argparse.Namespace, scale: float) -> None:
    """Time K x K tables of PairRM against LLM-Blender's loop: for each ordered pair of places, a batch of prompts in the order given."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    asked = records(tokenizer, 2 if options.quick else BLENDER, options.answers, scale, seed=1)
    scorer = Scorer.from_pretrained(folder, "cpu", batch_tokens=BATCH_TOKENS)
    model: Any = scorer.model.backbone.model  # the same weights
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = torch.from_numpy(np.stack(list(scorer.tables(asked))))

    @torch.inference_mode()
    def blender() -> None:
        count = options.answers
        sources = tokenizer([f"<|source|>{record.prompt[0].content}" for record in asked])["input_ids"]
        sides = [
            [tokenizer([f"<|candidate{side}|>{answer[0].content}" for answer in record.responses])["input_ids"] for record in asked]
            for side in (1, 2)
        ]
        scores = torch.zeros(len(asked), count, count)
        for i in range(count):
            for j in range(count):
                if i == j:
                    continue
                ids = [source + sides[0][row][i] + sides[1][row][j] for row, source in enumerate(sources)]
                inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
                states = model(**inputs).last_hidden_state
                marked = [states[inputs["input_ids"] == mark] for mark in MARKS.values()]
                scores[:, i, j] = scorer.model.head.embed(torch.cat(marked, -1))[:, 0]
        found["plain"] = (scores - scores.transpose(1, 2)) / 2

    names = "LLM-Blender's order"
    title = f"PairRM, {len(asked)} prompts, K = {options.answers}"
    seconds = compared(report, title, {names: blender, "ours": ours}, max(options.rounds - 1, 1), warm=False)
    agree(report, "tables", found["ours"], found["plain"])
    figure = median_ratio(seconds[names], seconds["ours"])
    report.goal(f"PairRM, K = {options.answers}: against batches in the order given", figure, 1.5, unit="x")


def compared(report: Report, title: str, work: dict[str, Any], rounds: int, warm: bool = True) -> dict[str, list[float]]:
    """Time two ways to do the same; the first one is the reference."""
    if warm:
        for each in work.values():
            each()
    seconds = interleave({name: timed(each) for name, each in work.items()}, rounds)
    show(report, title, seconds, next(iter(work)))
    return seconds


def show(report: Report, title: str, seconds: dict[str, list[float]], reference: str) -> None:
    """Print and keep seconds and their ratio."""
    rows = [[name, median_ratio(seconds[reference], times), float(np.median(times))] for name, times in seconds.items()]
    report.table(title, ["", f"speed / {reference}", "s"], rows)
    report.raw[title] = {"seconds": seconds}


def agree(report: Report, what: str, a: Tensor, b: Tensor) -> None:
    """Say whether both sides computed the same."""
    apart = float((a - b).abs().max())
    report.note(f"{what} {'agree' if apart < 1e-4 else 'DO NOT AGREE: the times compare different computations'} (difference {apart:.1e})")


if __name__ == "__main__":
    main()
