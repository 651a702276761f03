"""How many tokens a second are sampled in a round of post-training: K responses to each prompt, against `generate` on K copies of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from transformers import GenerationConfig

from benchmarks.common import Report, arguments, interleave, median_ratio, timed
from benchmarks.models import SMOLLM2, TINY, place
from prefrep.data.encode import Encoder
from prefrep.data.trie import Ids
from prefrep.generation import TransformersSampler
from prefrep.nn.backbone import Backbone
from prefrep.records import Message, Messages

GOALS = {4: 3.0, 16: 5.0}
ROOM = {"cpu": 2**16, "cuda": 2**19}  # tokens at a time; 17 GB of keys and values at most in a 1B model, which hold all of `gpu`'s
OURS, PLAIN = "sampler", "generate"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name, folder, or random:llama-1b")
    it.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the weights")
    it.add_argument("--k", type=int, nargs="+", default=list(GOALS), help="responses to a prompt")
    it.add_argument("--prompts", type=int, default=12)
    it.add_argument("--length", type=int, default=64, help="words of the longest prompt; the shortest has a quarter")
    it.add_argument("--new", type=int, default=48, help="tokens sampled per response; none ends earlier, so that all ways sample as many")
    it.add_argument("--rounds", type=int, default=3)
    it.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return it


def main(args: list[str] | None = None) -> None:
    """Measures, prints, writes."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.dtype, options.k, options.prompts, options.length, options.new, options.rounds = (
            TINY,
            "float32",
            [2],
            2,
            8,
            4,
            1,
        )
    report = Report("sampling", options)
    backbone = Backbone(place(options.model), dtype=options.dtype, frozen=True).to(options.device).eval()
    rng = np.random.default_rng(0)
    lengths = np.linspace(options.length // 4, options.length, options.prompts).astype(int)
    prompts = [(Message("user", " ".join(rng.choice(list("abcdefghij"), size=n))),) for n in lengths]
    rows, ratios = [], dict[int, float]()
    sampler = Endless(1.0, 1.0, options.new, tokens=ROOM[options.device])
    for k in options.k:
        runs = {
            OURS: timed(lambda k=k: list(sampler.sample(backbone, prompts, k, range(len(prompts))))),  # type: ignore[misc]
            PLAIN: timed(lambda k=k: plain(backbone, sampler, prompts, k, options.new)),  # type: ignore[misc]
        }
        for run in runs.values():
            run()
        seconds = interleave(runs, options.rounds)
        ratios[k] = median_ratio(seconds[PLAIN], seconds[OURS])
        rates = {name: options.prompts * k * options.new / median(times) for name, times in seconds.items()}
        rows.append([f"K = {k}", ratios[k], rates[OURS], rates[PLAIN]])
        report.raw[f"K {k}"] = {"seconds": seconds}
    report.table(
        f"{options.prompts} prompts, {options.new} new tokens each",
        ["", f"speed / {PLAIN}", f"{OURS}, tokens/s", f"{PLAIN}, tokens/s"],
        rows,
    )
    for k, target in GOALS.items():
        report.goal(f"sampling, K = {k}: against generate on K copies of the prompt", ratios.get(k), target, unit="x")
    report.save()


class Endless(TransformersSampler):
    """The sampler of post-training, whose responses all have the maximum length."""

    def _prompts(self, backbone: Backbone, prompts: Sequence[Messages], responses: int) -> tuple[list[Ids], Encoder, list[int]]:
        encoded, encoder, _ = super()._prompts(backbone, prompts, responses)
        return encoded, encoder, []


@torch.no_grad()
def plain(
    backbone: Backbone, sampler: TransformersSampler, prompts: Sequence[Messages], k: int, new: int, ends: list[int] | None = None
) -> torch.Tensor:
    """Sample as a plain loop does: K copies of each prompt, padded on the left. Return the tokens [N K, T], with what follows an end."""
    encoder, _ = sampler.encoder(backbone)
    ids = [ids for ids in encoder.prompts(prompts) for _ in range(k)]
    longest = max(map(len, ids))
    padded = torch.stack([torch.from_numpy(np.pad(each, (longest - len(each), 0))).long() for each in ids])
    mask = torch.stack([torch.from_numpy(np.pad(np.ones_like(each), (longest - len(each), 0))).long() for each in ids])
    settings = GenerationConfig(max_new_tokens=new, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, pad_token_id=0, eos_token_id=ends)
    device = next(backbone.parameters()).device
    whole = backbone.model.generate(input_ids=padded.to(device), attention_mask=mask.to(device), generation_config=settings)
    tokens: torch.Tensor = whole[:, longest:]
    return tokens


if __name__ == "__main__":
    main()
