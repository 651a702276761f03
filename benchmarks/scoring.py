"""Scoring long files: against a plain transformers loop sorted by length, and against the matrix products of distinct tokens alone.

Both go from texts to rewards of a Bradley-Terry model on the same weights, in batches of 4096 tokens. The file is scored twice: as it is,
and with a rubric of 300 tokens above every prompt, which the Scorer reads once for many. The bound is 2 N T FLOPs for N weights in linear
layers and T distinct tokens, at the rate of the fastest product of the model's own shapes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from benchmarks import pairs
from benchmarks.common import Report, arguments, interleave, median_ratio, timed
from benchmarks.models import SMOLLM2, TINY, classifier, matrices, place, tie, tokenizer_of
from benchmarks.ranking import texts, tree_of
from benchmarks.utilisation import occurring, rate
from prefrep.data.encode import EncodeConfig
from prefrep.data.sources import Source, read
from prefrep.data.trie import Trie
from prefrep.io.folder import PreferenceModel
from prefrep.memory import keep_freed
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead
from prefrep.records import Comparison, Message, RankedResponses
from prefrep.scoring import Scorer

BATCH_TOKENS, WINDOW = 4096, 128
RUBRIC = 300  # tokens
PLAIN = "a plain loop, sorted"
SHARE, RUBRIC_GOAL = 0.9, 3.0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name, folder, or random:llama-1b")
    it.add_argument("--data", help="preference pairs; default: generated with the lengths of HH")
    it.add_argument("--pairs", type=int, default=64)
    it.add_argument("--rounds", type=int, default=3)
    it.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    it.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.pairs, options.rounds = TINY, 4, 1
    keep_freed()  # as `prefrep score` does, for all contenders
    report = Report("scoring", options)
    tokenizer = tokenizer_of(options.model)
    asked = records(tokenizer, options)
    length = 20 if options.quick else RUBRIC
    words = "".join(np.random.default_rng(1).choice([" fair", " true", " kind", " short", " clear"], length))
    # A word is one token for most models, and for those of bytes about five.
    criteria = str(tokenizer.decode(tokenizer(words, add_special_tokens=False)["input_ids"][:length]))
    rubric = Message("system", "Prefer what is:" + criteria)
    for title, rows in (("as it is", asked), ("under a rubric", [replace(row, prompt=(rubric, *row.prompt)) for row in asked])):
        compare(report, title, rows, tokenizer, options)
    report.save()


def records(tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> list[RankedResponses]:
    """Return pairs of answers: of the file, or of words of one token with the lengths of HH."""
    if options.data:
        rows = list(read(Source(options.data, "auto")))
        chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: options.pairs]]
        return [RankedResponses(row.prompt, (row.chosen, row.rejected)) for row in chosen if isinstance(row, Comparison)]
    found = []
    for seed, datum in enumerate(pairs.generated(tokenizer, options.pairs, True, 0.2 if options.quick else 1.0)):
        (tree,) = datum.trees
        one, other = (texts(tokenizer, tree.prompt, 1, max(len(ids) - tree.prompt, 1), seed + at) for at, ids in enumerate(tree.sequences))
        found.append(RankedResponses(one.prompt, (*one.responses, *other.responses)))
    return found


def compare(report: Report, title: str, asked: Sequence[RankedResponses], tokenizer: Any, options: argparse.Namespace) -> None:
    """Time a file in each precision."""
    rows: list[list[Any]] = []
    for dtype in options.dtype:
        torch.manual_seed(0)
        backbone = Backbone(place(options.model), dtype=dtype, frozen=True).to(options.device).eval()
        head = BTHead(backbone.hidden_size).to(options.device).eval()
        scorer = Scorer(PreferenceModel(backbone, head, 1.0, EncodeConfig(max_length=8192), tokenizer, {}), BATCH_TOKENS)
        reward = classifier(options.model, getattr(torch, dtype)).to(options.device).eval()
        tie(reward.base_model, backbone.transformer)
        reward.score.weight = torch.nn.Parameter(head.value_head.weight.to(reward.dtype), requires_grad=False)
        reward.config.pad_token_id = tokenizer.pad_token_id
        sequences = [[ids for tree in tree_of(scorer, row) for ids in tree.sequences] for row in asked]
        strings = [tokenizer.decode(ids) for own in sequences for ids in own]
        found: dict[str, torch.Tensor] = {}

        def ours(scorer: Scorer = scorer, found: dict[str, torch.Tensor] = found) -> None:
            found["ours"] = torch.from_numpy(np.concatenate(list(scorer.rewards(asked))))

        @torch.inference_mode()
        def plain(reward: Any = reward, strings: Sequence[str] = strings, found: dict[str, torch.Tensor] = found) -> None:
            ids = tokenizer(strings, add_special_tokens=False)["input_ids"]
            found[PLAIN] = torch.zeros(len(ids))
            for batch in pairs.by_length([len(each) for each in ids], BATCH_TOKENS):
                inputs = tokenizer.pad({"input_ids": [ids[place] for place in batch]}, return_tensors="pt", padding_side="right")
                found[PLAIN][batch] = reward(**inputs.to(options.device), use_cache=False).logits[:, 0].float().cpu()

        for each in (ours, plain):
            each()
        apart = float((found["ours"] - found[PLAIN]).abs().max())
        seconds = interleave({"ours": timed(ours), PLAIN: timed(plain)}, options.rounds)
        windows = [[ids for own in sequences[at : at + WINDOW] for ids in own] for at in range(0, len(sequences), WINDOW)]
        distinct = sum(Trie(window).size for window in windows)
        flops, shape = rate(getattr(torch, dtype), options.device, occurring(backbone.transformer, min(BATCH_TOKENS, distinct)))
        bound = 2 * matrices(backbone.transformer) * distinct / flops
        whole = sum(len(ids) for own in sequences for ids in own)
        best = min(seconds["ours"])
        speed = median_ratio(seconds[PLAIN], seconds["ours"])
        rows.append([dtype, speed, bound / best, best, min(seconds[PLAIN]), bound, distinct, whole / distinct, f"{apart:.0e}"])
        report.note(f"{title}, {dtype}: {flops / 1e9:.0f} GFLOP/s ({shape})")
        if title == "as it is":
            report.goal(f"scoring, {dtype}: share of what the products of its distinct tokens take", bound / best, SHARE)
        else:
            report.goal(f"scoring under a rubric, {dtype}: against a plain loop", speed, RUBRIC_GOAL, unit="x")
        report.raw[f"{title}, {dtype}"] = seconds
    report.table(
        f"{len(asked)} pairs, {title}",
        [
            "",
            f"speed / {PLAIN}",
            "share of the bound",
            "s",
            "plain s",
            "bound s",
            "distinct tokens",
            "tokens / distinct",
            "rewards differ by",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
