"""Cycles: what each head can represent, how it generalises, and the dimension that longer cycles need.

Four studies. The first two train heads on hidden states of a frozen language model (`prefrep.data.cyclic`; the paper's Table 1 and
extensions), the third and fourth also embeddings without a language model, whose limits are known. Nothing is timed.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from benchmarks.common import Report, arguments
from benchmarks.free_embeddings import DIMS, Kind, fit, rank_bound, scores, smallest, structure
from benchmarks.models import SMOLLM2, TINY, place

if TYPE_CHECKING:
    from prefrep.modules.remembered import Reading
    from prefrep.nn.backbone import Backbone
    from prefrep.records import Comparison, RankedResponses

LENGTHS = range(3, 9)
KINDS: tuple[Kind, ...] = ("cycle", "tournament")
STARTS, FREE_STEPS = 8, 1500  # free embeddings: random restarts, optimizer steps
ANSWERS, KNOWN, RANKS = 12, 0.7, (2, 4)  # completed tables: size, share of observed pairs, ranks
PARTS = {
    "seen-prompts": "Trained on: expressiveness, as in the paper's Table 1",
    "unseen-prompts": "Unseen prompts",
    "seen-comparisons": "Two comparisons of each cycle, trained on",
    "unseen-comparisons": "The third comparison of each cycle, unseen",
}
Marks = dict[tuple[str, str, str], list[dict[str, bool]]]  # subset, part, model -> for each seed: id of a comparison -> correct or not


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="frozen language model: bundled name, folder or hub id")
    it.add_argument("--data", default="bundled:ultrafeedback-mini", help="ratings: bundled, file, folder or hub id")
    it.add_argument("--steps", type=int, default=2000, help="optimizer steps of a head on whole cycles; half as many in the other studies")
    it.add_argument("--seeds", type=int, default=3, help="seeds of heads and of the split")
    it.add_argument("--tables", type=int, default=20, help="tables of each kind and length")
    return it


def main(args: list[str] | None = None) -> None:
    """Run the studies, print and save their results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.steps, options.seeds, options.tables = TINY, 8, 1, 2
    report = Report("cyclic", options)
    torch.set_num_threads(1)  # tensors are small
    from prefrep.modules.remembered import Reading
    from prefrep.nn.backbone import Backbone

    backbone = Backbone(place(options.model), frozen=True)
    readings = {layout: Reading(backbone, layout) for layout in ("single", "pair")}
    subsets(report, backbone, readings, 16 if options.quick else None)
    dimensions(report, backbone, readings["single"])
    completion(report)
    report.save()


# ---- the paper's subsets


def subsets(report: Report, backbone: Backbone, readings: dict[str, Reading], limit: int | None) -> None:
    """Evaluate on the four subsets: training data, unseen prompts, unseen comparisons."""
    from prefrep.data.cyclic import aspects_of
    from prefrep.data.sources import Source, read
    from prefrep.demo.quickstart import MODELS, make
    from prefrep.modules import on_states

    options = report.options
    omits = aspects_of(cast("list[RankedResponses]", list(read(Source(options.data, limit=limit)))))
    right: Marks = defaultdict(list)
    for omit, seed in itertools.product(omits, range(options.seeds)):
        for what, steps in (("prompts", options.steps), ("comparisons", options.steps // 2)):
            sets: dict[str, list[Comparison]] = {}
            for part in (f"seen-{what}", f"unseen-{what}"):
                source = Source(f"cyclic:{options.data}?omit={omit}&part={part}&seed={seed}", limit=limit)
                sets[part] = cast("list[Comparison]", list(read(source)))
            read_by = {layout: {part: reading.batch(sets[part]) for part in sets} for layout, reading in readings.items()}
            for name in MODELS:
                batches = read_by["pair" if name == "pairpm" else "single"]
                module = on_states.train(make(name, lambda: backbone), [batches[f"seen-{what}"]] * steps, seed)
                for part, comparisons in sets.items():
                    marks = on_states.correct(module, batches[part]).tolist()
                    right[omit, part, name].append(dict(zip((c.id for c in comparisons), marks, strict=True)))
        print(f"without {omit}, seed {seed}: done", flush=True)

    for part, title in PARTS.items():
        report.table(
            f"{title}. Mean of the seeds ({options.seeds}) [95 % Wilson interval for the comparisons of one]",
            ["", "n", *MODELS.values()],
            [
                [f"without {omit}", round(size(right[omit, part, "bt"])), *(cell(right[omit, part, name]) for name in MODELS)]
                for omit in omits
            ],
        )
    for part in ("unseen-prompts", "unseen-comparisons"):
        paired(report, part, right, MODELS)
    report.raw["accuracy"] = {"/".join(key): [mean(marks.values()) for marks in runs] for key, runs in right.items()}
    trained = [marks for (_, part, name), runs in right.items() if (part, name) == ("seen-prompts", "gpm_d4") for marks in runs]
    report.goal("GPM, d = 4, on the cycles it was trained on, worst run", min(mean(marks.values()) for marks in trained), 1.0)


def size(runs: Sequence[dict[str, bool]]) -> float:
    """Return the mean number of comparisons per run."""
    return mean(len(marks) for marks in runs)


def cell(runs: Sequence[dict[str, bool]]) -> str:
    """Return the mean accuracy over seeds; the interval counts the comparisons of one seed, since seeds share them."""
    from prefrep.metrics.intervals import accuracy_interval

    n, share = round(size(runs)), mean(mean(marks.values()) for marks in runs)
    low, high = accuracy_interval(round(share * n), n)
    return f"{share:.3f} [{low:.3f}, {high:.3f}]"


def paired(report: Report, part: str, right: Marks, models: dict[str, str]) -> None:
    """Compare every two models on the same prompts, which are resampled together with their comparisons, subsets and seeds."""
    from prefrep.metrics.intervals import stream
    from prefrep.metrics.paired import bootstrap_difference, holm

    marks: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in models}
    for (_, where, name), runs in right.items():
        for id, hit in (item for run in runs for item in run.items() if where == part):
            marks[name][id.rpartition("/")[0]].append(hit)
    shares = {name: {prompt: mean(hits) for prompt, hits in found.items()} for name, found in marks.items()}
    prompts = sorted(shares["bt"])
    pairs = list(itertools.combinations(models, 2))
    found = [
        bootstrap_difference(*([shares[name][prompt] for prompt in prompts] for name in pair), 10_000, stream(0, "/".join(pair)))
        for pair in pairs
    ]
    rows = [
        [f"{models[a]} minus {models[b]}", f"{it.mean:+.3f} [{it.low:+.3f}, {it.high:+.3f}]", f"{p:.3f}"]
        for (a, b), it, p in zip(pairs, found, holm([it.p for it in found]), strict=True)
    ]
    head = ["", "difference [95 % bootstrap]", "p (Holm)"]
    report.table(f"{PARTS[part]}: all subsets and seeds, paired by prompt (n = {len(prompts)})", head, rows)


# ---- longer cycles


def dimensions(report: Report, backbone: Backbone, reading: Reading) -> None:
    """Find the smallest dimension that represents cycles of a length: bound, free embeddings, heads on hidden states."""
    from prefrep.data.sources import read
    from prefrep.demo.quickstart import LEARNING_RATE
    from prefrep.modules import GeneralPreference, on_states
    from prefrep.modules.preference import adamw
    from prefrep.nn.heads import GPMHead

    options = report.options
    steps = options.steps if options.quick else FREE_STEPS
    records = cast("list[RankedResponses]", list(read(options.data)))
    rows, raw = [], {}
    for length, kind in itertools.product(LENGTHS[::3] if options.quick else LENGTHS, KINDS):
        if length == 3 and kind == "tournament":  # the cycle itself
            continue
        tables = [structure(length, kind, torch.Generator().manual_seed(100 * length + i)) for i in range(options.tables)]
        free = torch.stack(tables)
        signs, values = (smallest(free, DIMS, loss, STARTS, steps) for loss in ("sign", "value"))
        comparisons = [c for i, table in enumerate(tables) for c in labelled(together(records, 2 * i, length), table, seed=i)]
        batch, heads, at_two = reading.batch(comparisons), [], []
        for seed in range(options.seeds):
            for dim in DIMS:
                head = partial(GPMHead, dim=dim, normalize=False)
                module = GeneralPreference(lambda: backbone, head, optimizer=adamw(LEARNING_RATE))
                share = on_states.correct(on_states.train(module, [batch] * (options.steps // 2), seed), batch).float().mean().item()
                at_two += [share] if dim == 2 else []
                if share == 1:
                    break
            heads.append(dim if share == 1 else None)
        rows.append([f"{length}, {kind}", length if kind == "cycle" else length * (length - 1) // 2, spread(signs), spread(heads),
                     f"{mean(at_two):.3f}", 2 if kind == "cycle" else rank_bound(length), spread(values)])  # fmt: skip
        raw[f"{length}/{kind}"] = {"sign": signs, "value": values, "heads": heads, "heads_d2": at_two}
        print(f"length {length}, {kind}: done", flush=True)
    report.table(
        f"Smallest dimension of {', '.join(map(str, DIMS))} that gets all comparisons right (signs), or all log-odds of a table of ones "
        f"(values): {options.tables} tables of each kind; a head holds all of them at once, {options.seeds} seeds",
        ["length, compared", "pairs", "signs, free", "signs, heads", "heads, d = 2: right", "values, bound", "values, free"],
        rows,
    )
    report.raw["dimensions"] = raw
    exact = [dim == rank_bound(int(key.split("/")[0])) for key, it in raw.items() if "tournament" in key for dim in it["value"]]
    report.goal("tournaments whose values need as many free dimensions as the rank bound says", mean(exact), 1.0)


def together(records: Sequence[RankedResponses], first: int, count: int) -> RankedResponses:
    """Return a prompt with its answers, plus those of the next prompt if there are too few."""
    here, there = records[first % len(records)], records[(first + 1) % len(records)]
    return replace(here, responses=(here.responses + there.responses)[:count], ratings={}, scores=None)


def labelled(record: RankedResponses, table: torch.Tensor, seed: int) -> list[Comparison]:
    """Return the comparisons of a table among a record's answers in random order."""
    from prefrep.records import Comparison

    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed)).tolist()
    return [
        Comparison(record.prompt, record.responses[order[i]], record.responses[order[j]], id=f"{record.source}:{i}>{j}")
        for i, j in (table > 0).nonzero().tolist()
    ]


def spread(found: Sequence[int | None]) -> str:
    """Return how often each dimension was the smallest: `2 x 8, 4 x 12`."""
    names = ["none" if dim is None else str(dim) for dim in found]
    counts = {name: names.count(name) for name in (*map(str, DIMS), "none") if name in names}
    return ", ".join(name if len(counts) == 1 else f"{name} x {n}" for name, n in counts.items())


# ---- inference of unseen comparisons


def completion(report: Report) -> None:
    """Infer hidden comparisons of tables of known rank from the others."""
    from prefrep.metrics.intervals import bootstrap_means, percentile_interval, stream

    options = report.options
    count, steps, rows = options.tables, options.steps if options.quick else FREE_STEPS, []
    for rank in RANKS:
        generator = torch.Generator().manual_seed(rank)
        tables = scores(torch.randn(count, ANSWERS, rank, generator=generator))
        draws = torch.rand(tables.shape, generator=generator).triu(1)
        seen = (draws + draws.mT < KNOWN) & ~torch.eye(ANSWERS, dtype=torch.bool)
        hidden = (~seen).triu(1)
        cells = []
        for dim in (1, *DIMS):
            found = scores(fit(tables * seen, dim, "value", STARTS, steps))
            errors = (((found - tables[:, None]) ** 2) * seen[:, None]).sum((-1, -2))
            best = found[torch.arange(count), errors.argmin(1)]  # the restart with the best fit to the observed pairs
            share = [float((it * table > 0)[away].float().mean()) for it, table, away in zip(best, tables, hidden, strict=True)]
            low, high = percentile_interval(bootstrap_means(np.array(share), 10_000, stream(0, f"{rank}/{dim}")))
            cells.append(f"{mean(share):.3f} [{low:.3f}, {high:.3f}]")
        rows.append([f"rank {rank}", *cells])
    report.table(
        f"Unseen comparisons that can be inferred: {count} random tables of {ANSWERS} answers, log-odds of {KNOWN:.0%} of the pairs seen; "
        "right signs among the others [95 % bootstrap over tables]",
        ["", "Bradley-Terry", *(f"d = {dim}" for dim in DIMS)],
        rows,
    )


if __name__ == "__main__":
    main()
