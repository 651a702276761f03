"""Training throughput in preference pairs per second: prefix sharing, padding, TRL, a loop like the official GPM trainer's.

Full fine-tuning with the Bradley-Terry loss, which all of them have. Every round is a new batch of pairs, the same for all. Time is
measured in bf16; that all compute the same loss is checked in fp32 on few pairs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from importlib.util import find_spec
from statistics import median

from benchmarks import pairs
from benchmarks.common import Report, arguments, interleave, median_ratio, release
from benchmarks.models import SMOLLM2, TINY, tokenizer_of
from benchmarks.training import ANYWHERE, OTHERS, QUICK, VARIANTS, Ours, Stepper, stepper
from prefrep.data.trees import Datum
from prefrep.errors import first_line

EXACT_PAIRS = 2  # fp32 takes twice the memory
AGREE = 1e-5  # largest difference of losses in fp32
GOALS = {("shared", "TRL"): 3.0, ("shared", "official manner"): 3.0, ("unshared", "TRL"): 2.5}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name, folder, or random:llama-1b")
    it.add_argument("--data", help="preference pairs; default: generated with the lengths of HH")
    it.add_argument(
        "--sets",
        nargs="+",
        choices=("shared", "unshared"),
        default=["shared", "unshared"],
        help="pairs with a common prompt, and unrelated pairs",
    )
    it.add_argument("--pairs", type=int, default=8, help="pairs per batch")
    it.add_argument("--rounds", type=int, default=3, help="number of measured batches")
    it.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=ANYWHERE, help="of ours")
    it.add_argument("--others", nargs="*", choices=OTHERS, default=list(OTHERS), help="trainers to compare with")
    it.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.pairs, options.rounds, options.variants = TINY, 2, 1, QUICK
    report = Report("train_throughput", options)
    if "TRL" in options.others and find_spec("trl") is None:
        report.note("TRL is not installed (benchmarks/run installs it), so it is not compared")
        options.others.remove("TRL")
    tokenizer = tokenizer_of(options.model)
    for precision, size, rounds in (("bf16", options.pairs, options.rounds), ("fp32", min(options.pairs, EXACT_PAIRS), 1)):
        first: Ours | None = None
        steppers: dict[str, Stepper] = {}
        for name in [*variants(options, precision), *options.others]:
            steppers[name] = made = stepper(name, options.model, tokenizer, precision, options.device, first)
            first = first or (made if isinstance(made, Ours) else None)
        # On a GPU layers compile for minutes: first what does not, so that a benchmark that is cut off has figures.
        plain = {name: it for name, it in steppers.items() if not compiles(name)}
        groups = [plain, steppers] if options.device == "cuda" and len(plain) < len(steppers) else [steppers]
        for kind, group in ((kind, group) for group in groups for kind in options.sets):
            count = size * (rounds + 1)
            if kind == "shared" and options.data:
                source, data = "pairs of the file", pairs.from_file(options.data, tokenizer, count)
            else:
                source = "generated pairs, a common prompt" if kind == "shared" else "generated pairs, nothing in common"
                data = pairs.generated(tokenizer, count, kind == "shared", 0.2 if options.quick else 1.0)
            also = ", with compiled layers" if group is not groups[0] else ""
            found = compare(report, f"{precision}, {source}{also}", group, data, size, exact=precision == "fp32")
            if precision == "bf16" and group is groups[-1]:
                goals(report, kind, found)
        del steppers, first, made, plain, groups, group
        release()
    report.save()


def variants(options: argparse.Namespace, precision: str) -> list[str]:
    """Return the variants of ours to run: in fp32 on CUDA none whose layers a compiler would take a minute for, which `kernels` checks."""
    skip = precision == "fp32" and options.device == "cuda"
    return [name for name in options.variants if not (skip and compiles(name))]


def compiles(name: str) -> bool:
    """Return whether a trainer is a variant of ours whose layers are compiled."""
    return name in VARIANTS and bool(VARIANTS[name].backbone.get("compile"))


def goals(report: Report, kind: str, seconds: dict[str, list[float]]) -> None:
    """Record the goals of a set of pairs: of the fastest variant with trees against the others."""
    trees = [name for name in seconds if name in VARIANTS and VARIANTS[name].layout == "trees"]
    ours = min(trees, key=lambda name: median(seconds[name]), default="")
    where = "common prompts" if kind == "shared" else "nothing shared"
    for (of, other), target in GOALS.items():
        if of == kind:
            figure = median_ratio(seconds[other], seconds[ours]) if ours and other in seconds else None
            report.goal(f"training, {where}: {ours or 'trees'} against {other}", figure, target, unit="x")


def compare(
    report: Report, title: str, steppers: dict[str, Stepper], data: Sequence[Datum], size: int, exact: bool
) -> dict[str, list[float]]:
    """Time all trainers on the same batches; return seconds by name."""
    batches = [data[i : i + size] for i in range(0, len(data), size)]
    warm: dict[str, float] = {}
    losses: dict[str, list[float]] = {name: [] for name in steppers}
    largest = max(batches[1:], key=pairs.padded)
    for name, it in list(steppers.items()):
        start = time.perf_counter()
        # Afterwards everything is compiled, and no step allocates memory for the first time (on a virtual machine that can
        # take longer than the step).
        try:
            for batch in [batches[0][: size // 2 or 1], largest] if isinstance(it, Ours) else [largest]:
                it.step(batch)
                it.clear()
        except Exception as error:  # of a compiler, or of memory: the others go on
            report.note(f"{title}: {name} FAILED and is left out ({first_line(error)})")
            del steppers[name], losses[name]
            continue
        warm[name] = time.perf_counter() - start
    if not steppers:
        return {}

    def run(name: str, turn: list[int]) -> float:
        seconds = steppers[name].step(batches[1 + turn[0]])
        steppers[name].clear()
        losses[name].append(steppers[name].loss)
        turn[0] += 1
        return seconds

    turns: dict[str, list[int]] = {name: [0] for name in steppers}
    seconds = interleave({name: lambda name=name: run(name, turns[name]) for name in steppers}, len(batches) - 1)  # type: ignore[misc]

    first = next(iter(steppers))
    difference = {name: max(abs(a - b) for a, b in zip(values, losses[first], strict=True)) for name, values in losses.items()}
    baseline = "TRL" if "TRL" in steppers else first
    measured = batches[1:]
    report.table(
        f"{title}: {size} pairs a step, {len(measured)} steps; distinct tokens {median(pairs.distinct(b) for b in measured):.0f}, "
        f"padded {median(pairs.padded(b) / pairs.distinct(b) for b in measured):.1f} times as many",
        ["", f"speed / {baseline}", "pairs/s", "s/step", "distinct tokens/s", "loss differs by", "warm-up s"],
        [
            [
                name,
                median_ratio(seconds[baseline], seconds[name]),
                median(size / s for s in seconds[name]),
                median(seconds[name]),
                median(pairs.distinct(b) / s for b, s in zip(measured, seconds[name], strict=True)),
                f"{difference[name]:.1e}",
                warm[name],
            ]
            for name in steppers
        ],
    )
    worst = max(difference.values())
    if exact:
        agree = all(value <= AGREE for value in difference.values())  # max() can ignore a NaN
        verdict = "agree" if agree else "DO NOT AGREE: the times below compare different computations"
        report.note(f"{title}: losses of all variants {verdict} to {AGREE:g} in fp32 (largest difference {worst:.1e})")
    report.raw[title] = {"seconds": seconds, "losses": losses}
    return seconds


if __name__ == "__main__":
    main()
