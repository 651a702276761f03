"""Cost of a K x K table of preferences: prefix sharing, one sequence per response, and a pair model.

A general preference model reads the prompt and each of K responses once: prompt + K responses distinct tokens. An ordinary reward model
reads the prompt K times, response by response or padded into a batch. A pair model reads all K (K - 1) ordered pairs, usually as separate
sequences; here the two orders of a pair share their context. Backbone, weights and texts are the same.

The prediction for a table is a + b T + c S: T distinct tokens, S pairs of a token and one that it sees. The three are fitted (least squares
of relative errors, none below 0) to plain texts of 128 to 1024 tokens with nothing shared and no padding.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from transformers import PreTrainedTokenizerBase

from benchmarks.common import Report, arguments, interleave, timed
from benchmarks.models import SMOLLM2, TINY, classifier, place, tie, tokenizer_of
from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.trees import Tree
from prefrep.data.trie import Trie
from prefrep.io.folder import PreferenceModel
from prefrep.memory import keep_freed
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead, PairHead, PreferenceHead
from prefrep.records import RankedResponses
from prefrep.scoring import Scorer, ranked

OURS, ONE, BATCH, PAIRS, PAIR_TREES = "GPM, trees", "one by one", "padded batch", "PairPM", "PairPM, trees"
REFERENCE = (8, 512)  # K and prompt tokens of the goals
WITHIN = 0.15


@dataclass(frozen=True)
class Models:
    """Four models on one backbone, with the weights in memory once."""

    table: Scorer
    pairs: Scorer
    pair_trees: Scorer
    plain: Scorer
    classifier: torch.nn.Module
    pad: int
    device: str


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name, folder, or random:llama-1b")
    it.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="dtype of the weights")
    it.add_argument("--k", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64], help="responses")
    it.add_argument("--prompt", type=int, nargs="+", default=[64, 256, 512, 1024], help="tokens")
    it.add_argument("--response", type=int, default=64, help="tokens")
    it.add_argument("--rounds", type=int, default=3)
    it.add_argument(
        "--budget",
        type=float,
        default=6.0,
        help="seconds: slower cases are skipped and shown by their tokens alone, except those with goals",
    )
    it.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.dtype, options.k, options.prompt, options.response, options.rounds = (
            TINY,
            "float32",
            [2, 8],
            [64, 512],
            16,
            1,
        )
    keep_freed()  # as `prefrep score` does, for all contenders
    report = Report("ranking", options)
    tokenizer = tokenizer_of(options.model)
    models = build(options, tokenizer)
    fixed, each, of_pair = (float(x) for x in costs(models, tokenizer, options))
    report.note(
        f"plain texts take {fixed * 1e3:.1f} ms + T x {each * 1e6:.1f} us + S x {of_pair * 1e9:.2f} ns for T tokens and S pairs of a token "
        "and one that it sees; this is the prediction for a table"
    )
    probe = texts(tokenizer, 64, 4, 16)
    apart = max(float(abs(a - b).max()) for a, b in zip(models.table.tables([probe]), models.plain.tables([probe]), strict=True))
    report.note(f"tables from trees and from padded sequences of the same texts differ by {apart:.1e} at most")
    off: list[float] = []
    ratios: dict[str, float] = {}
    for prompt in options.prompt:
        rows = []
        for k in options.k:
            record = texts(tokenizer, prompt, k, options.response)
            counts = tokens(models, record)
            runs = {
                name: run
                for name, run in variants(models, record).items()
                if fixed + each * counts[name] * 1.5 <= options.budget or name == OURS or (k, prompt) == REFERENCE
            }
            for run in runs.values():
                run()
            seconds = {name: median(times) for name, times in interleave(runs, options.rounds).items()}
            predicted = fixed + each * counts[OURS] + of_pair * seen(tree_of(models.table, record))
            off.append(seconds[OURS] / predicted - 1)
            rows.append(
                [
                    f"K = {k}",
                    *(
                        seconds[name] / seconds[OURS] if name in seconds else f"({counts[name] / counts[OURS]:.0f})"
                        for name in (ONE, BATCH, PAIRS, PAIR_TREES)
                    ),
                    f"{off[-1]:+.0%}",
                    counts[OURS],
                    *(seconds.get(name) for name in (OURS, ONE, BATCH, PAIRS, PAIR_TREES)),
                ]
            )
            report.raw[f"prompt {prompt}, K {k}"] = {"seconds": seconds, "tokens": counts, "predicted": predicted}
            if (k, prompt) == REFERENCE:
                ratios = {name: seconds[name] / seconds[OURS] for name in seconds}
        report.table(
            f"prompt {prompt}, responses {options.response} tokens: time / time of trees (in brackets: not measured, tokens / tokens)",
            [
                "",
                ONE,
                BATCH,
                PAIRS,
                PAIR_TREES,
                "trees vs predicted",
                "distinct tokens",
                "trees s",
                *(f"{n} s" for n in (ONE, BATCH, PAIRS, PAIR_TREES)),
            ],
            rows,
        )
    where = f"K = {REFERENCE[0]}, prompt {REFERENCE[1]}, responses {options.response}"
    report.goal(
        "ranking: largest deviation of time from the prediction",
        max(abs(x) for x in off),
        WITHIN,
        at_least=False,
    )
    report.goal(f"ranking, {where}: trees against one by one", ratios.get(ONE), 4.0, unit="x")
    report.goal(f"ranking, {where}: trees against PairPM", ratios.get(PAIRS), 30.0, unit="x")
    report.note(f"{sum(abs(x) <= WITHIN for x in off)} of {len(off)} tables take the predicted time within {WITHIN:.0%}")
    report.save()


def build(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> Models:
    """Return models with random heads."""
    torch.manual_seed(0)
    backbone = Backbone(place(options.model), dtype=options.dtype, frozen=True).to(options.device).eval()

    def scorer(head: PreferenceHead, layout: str) -> Scorer:
        encode = EncodeConfig(max_length=8192)
        return Scorer(
            PreferenceModel(backbone, head.to(options.device).eval(), 1.0, encode, tokenizer, {}),
            batch_tokens=4096, layout="padded" if layout == "padded" else "auto",
        )  # fmt: skip

    gpm, pair = GPMHead(backbone.hidden_size, 4), PairHead(backbone.hidden_size)
    reward = classifier(options.model, getattr(torch, options.dtype))
    reward.config.pad_token_id = tokenizer.pad_token_id
    reward.to(options.device).eval()
    tie(reward.base_model, backbone.transformer)
    return Models(
        table=scorer(gpm, "trees"),
        pairs=scorer(pair, "padded"),
        pair_trees=scorer(pair, "trees"),
        plain=scorer(gpm, "padded"),
        classifier=reward,
        pad=int(tokenizer.pad_token_id),
        device=options.device,
    )


def texts(tokenizer: PreTrainedTokenizerBase, prompt: int, k: int, response: int, seed: int = 0) -> RankedResponses:
    """Return a prompt and K responses of about the given numbers of tokens, of random words of one token each."""
    rng = np.random.default_rng([seed, prompt, k])
    start = " " if len(tokenizer(" a b")["input_ids"]) <= 3 else ""
    words = [start + letter for letter in "abcdefghijklmnopqrstuvwxyz"]  # in the byte vocabulary of the tiny models a letter is a token

    def text(count: int) -> str:
        return "".join(rng.choice(words, size=max(count, 1)))

    return ranked(text(prompt), [text(response - 1) for _ in range(k)])


def tree_of(scorer: Scorer, record: RankedResponses) -> list[Tree]:
    """Return the trees that a scorer reads for a record."""
    encoder = Encoder(scorer.model.tokenizer, scorer.model.encode, scorer.model.head.layout)
    return [tree for _, datum in encoder.encode_tables([record]) if datum is not None for tree in datum.trees]


def tokens(models: Models, record: RankedResponses) -> dict[str, int]:
    """Return the number of tokens that each variant reads."""
    (tree,), of_pairs = tree_of(models.table, record), tree_of(models.pairs, record)
    whole = [len(ids) for ids in tree.sequences]
    return {
        OURS: tree.size,
        ONE: sum(whole),
        BATCH: len(whole) * max(whole),
        PAIRS: sum(len(ids) for pair in of_pairs for ids in pair.sequences),
        PAIR_TREES: sum(pair.size for pair in of_pairs),
    }


def variants(models: Models, record: RankedResponses) -> dict[str, Callable[[], float]]:
    """Return the variants, functions from text to scores."""

    @torch.inference_mode()
    def classify(batches: Callable[[list[np.ndarray]], list[list[np.ndarray]]]) -> None:
        (tree,) = tree_of(models.table, record)
        for rows in batches(list(tree.sequences)):
            length = max(len(ids) for ids in rows)
            ids = torch.full((len(rows), length), models.pad)
            for row, sequence in enumerate(rows):
                ids[row, : len(sequence)] = torch.from_numpy(sequence)
            ids = ids.to(models.device)
            models.classifier(input_ids=ids, attention_mask=(ids != models.pad).long(), use_cache=False).logits.float().cpu()

    return {
        OURS: timed(lambda: list(models.table.tables([record]))),
        ONE: timed(lambda: classify(lambda rows: [[row] for row in rows])),
        BATCH: timed(lambda: classify(lambda rows: [rows[i : i + 16] for i in range(0, len(rows), 16)])),
        PAIRS: timed(lambda: list(models.pairs.tables([record]))),
        PAIR_TREES: timed(lambda: list(models.pair_trees.tables([record]))),
    }


def seen(trees: Sequence[Tree]) -> int:
    """Return the number of pairs of a token and one that it sees, itself included."""
    return sum(int((Trie(tree.sequences).laid().positions + 1).sum()) for tree in trees)


def costs(models: Models, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> NDArray[np.float64]:
    """Return seconds per call, per token and per pair of a token and one that it sees, fitted to the median times of plain texts."""
    cases = [(1, 64), (4, 64)] if options.quick else [(1, 128), (4, 128), (16, 128), (2, 512), (8, 512), (1, 1024), (2, 1024), (4, 1024)]
    rows, runs = [], {}
    for count, length in cases:
        records = [texts(tokenizer, length - options.response, 1, options.response, seed=i + 1) for i in range(count)]
        trees = [tree for record in records for tree in tree_of(models.plain, record)]
        rows.append([1.0, sum(tree.size for tree in trees), seen(trees)])
        runs[f"{count} of {length}"] = timed(lambda records=records: list(models.plain.tables(records)))  # type: ignore[misc]
    interleave(runs, 1)
    seconds = np.array([median(times) for times in interleave(runs, options.rounds).values()])
    return nnls(np.array(rows) / seconds[:, None], np.ones(len(rows)))[0]  # relative errors, so that small calls are predicted too


if __name__ == "__main__":
    main()
