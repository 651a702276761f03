"""Hardware utilisation of a training step: share of what its matrix products alone would take, and a profile of the rest.

Useful work is that of distinct tokens: with N weights in linear layers and T distinct tokens, full training multiplies 6 N T (forward,
gradient of inputs, gradient of weights) and LoRA 4 N T + 6 N_adapters T. Padding and recomputation do not count. Attention between tokens
that see each other is counted separately: 12 L H per pair for L layers of width H (queries x keys and weights x values, forward
and twice that backward). The rate is that of the fastest of the products that occur in a step (each layer's width by its own, T rows),
measured in the same process.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import pairs
from benchmarks.common import Report, arguments, interleave, release, timed
from benchmarks.models import SMOLLM2, TINY, matrices, tokenizer_of
from benchmarks.training import GRADIENTS, PRECISIONS, QUICK, VARIANTS, Ours, Variant
from prefrep.data.trees import Datum
from prefrep.nn.lora import LoRA

LONG = 0.02  # seconds of products in one timing, so that launching them on a GPU does not count
GOAL, GOAL_TILES = 0.8, 0.45  # on a CPU; and where products are so fast (AMX, a GPU) that everything else is the limit


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name, folder, or random:llama-1b")
    it.add_argument("--data", help="preference pairs; default: generated with the lengths of HH")
    it.add_argument("--precision", nargs="+", choices=tuple(PRECISIONS), default=["bf16", "fp32"])
    it.add_argument("--pairs", type=int, default=8, help="pairs per batch; half of them in fp32")
    it.add_argument("--rounds", type=int, default=5, help="number of measured batches")
    it.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=["trees", "trees, compiled"])
    it.add_argument("--no-lora", action="store_true", help="only full fine-tuning")
    it.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.pairs, options.rounds, options.variants = TINY, 2, 1, QUICK
    report = Report("utilisation", options)
    tokenizer = tokenizer_of(options.model)
    count = options.pairs * (options.rounds + 1)
    data = (
        pairs.from_file(options.data, tokenizer, count)
        if options.data
        else pairs.generated(tokenizer, count, True, 0.2 if options.quick else 1)
    )
    best: dict[str, float] = {}
    for precision in options.precision:
        size = options.pairs if precision == "bf16" else max(1, options.pairs // 2)  # activations take twice the memory
        batches = [data[i : i + size] for i in range(0, size * (options.rounds + 1), size)]
        steppers: dict[str, Ours] = {}
        first: Ours | None = None
        for name, lora in product(options.variants, [False] if options.no_lora else [False, True]):
            steppers[f"{name}, LoRA" if lora else name] = made = Ours(
                options.model,
                tokenizer,
                with_lora(VARIANTS[name]) if lora else VARIANTS[name],
                precision,
                options.device,
                None if lora else first,
            )
            first = first or made
        assert first is not None
        shares = compare(report, precision, steppers, batches, options)
        full = [name for name, it in steppers.items() if it.variant.backbone.get("lora") is None and it.variant.layout == "trees"]
        if full:
            name = max(full, key=lambda name: shares[name])
            best[precision] = shares[name]
            spent(report, precision, steppers[name], batches[1], options.device)
        del steppers, first, made
        release()
    goal = GOAL_TILES if options.device == "cuda" or "amx_bf16" in report.machine["device"] else GOAL
    report.goal("training step, bf16: distinct-token FLOPs of the rate of its own products", best.get("bf16"), goal)
    report.save()


def with_lora(variant: Variant) -> Variant:
    """Return the trainer with rank-16 adapters on every linear layer."""
    return replace(variant, backbone=variant.backbone | {"lora": LoRA()})


def rate(dtype: torch.dtype, device: str, shapes: Sequence[tuple[int, int, int]]) -> tuple[float, str]:
    """Return the FLOP/s of the fastest of several matrix products, and its shape."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    flops: dict[str, int] = {}
    for m, k, n in shapes:
        name = f"{m} x {k} x {n}"
        found[name] = (torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype))
        flops[name] = 2 * m * k * n
    counts = dict.fromkeys(found, 3)

    def multiply(name: str) -> None:
        a, b = found[name]
        for _ in range(counts[name]):
            torch.mm(a, b)

    runs = {name: timed(partial(multiply, name)) for name in found}
    for _ in range(2):  # the first products find their kernel; the second tell how many are needed
        first = interleave(runs, 1)
    counts = {name: max(3, math.ceil(LONG / (first[name][0] / 3))) for name in found}
    seconds = {name: min(times) / counts[name] for name, times in interleave(runs, 5).items()}
    name = max(seconds, key=lambda name: flops[name] / seconds[name])
    return flops[name] / seconds[name], name


def occurring(transformer: nn.Module, tokens: int) -> list[tuple[int, int, int]]:
    """Return the shapes (m, k, n) of the forward products of a transformer's linear layers with so many tokens."""
    layers = [module.weight.shape for name, module in transformer.named_modules() if isinstance(module, nn.Linear) and "lora_" not in name]
    return sorted({(tokens, width, out) for out, width in layers})


def work(stepper: Ours, data: Sequence[Datum]) -> tuple[float, float]:
    """Return the FLOPs of distinct tokens in one step: linear layers, attention."""
    backbone = stepper.module.backbone
    config = backbone.model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    base = 4 if backbone.lora else 6
    tokens = pairs.distinct(data)
    matrix = base * matrices(backbone.transformer) * tokens + 6 * matrices(backbone.transformer, adapters=True) * tokens
    return matrix, 12 * config.num_hidden_layers * config.num_attention_heads * head * pairs.seen(data)


def compare(
    report: Report, precision: str, steppers: dict[str, Ours], batches: list[list[Datum]], options: argparse.Namespace
) -> dict[str, float]:
    """Time all variants on the same batches; return the share of the rate of their products by name."""
    some = next(iter(steppers.values())).module.backbone.transformer
    shapes = occurring(some, int(median(pairs.distinct(batch) for batch in batches[1:])))
    peak, shape = rate(PRECISIONS[precision], options.device, shapes)
    for stepper in steppers.values():
        for batch in (batches[0][: len(batches[0]) // 2 or 1], max(batches[1:], key=pairs.padded)):  # see train_throughput
            stepper.step(batch)
            stepper.clear()

    def run(name: str, turn: list[int]) -> float:
        seconds = steppers[name].step(batches[1 + turn[0]])
        steppers[name].clear()
        turn[0] += 1
        return seconds

    turns: dict[str, list[int]] = {name: [0] for name in steppers}
    seconds = interleave({name: lambda name=name: run(name, turns[name]) for name in steppers}, len(batches) - 1)  # type: ignore[misc]
    peak, shape = max(
        (peak, shape), rate(PRECISIONS[precision], options.device, shapes)
    )  # before and after, since the best rate is the reference
    rows, shares = [], {}
    for name, times in seconds.items():
        amounts = [work(steppers[name], batch) for batch in batches[1:]]
        shares[name] = median(matrix / s / peak for (matrix, _), s in zip(amounts, times, strict=True))
        attention = median((matrix + attention) / s / peak for (matrix, attention), s in zip(amounts, times, strict=True))
        rates = median(matrix / s / 1e9 for (matrix, _), s in zip(amounts, times, strict=True))
        tokens = median(pairs.distinct(batch) / s for batch, s in zip(batches[1:], times, strict=True))
        rows.append([name, f"{shares[name]:.1%}", f"{attention:.1%}", rates, tokens, median(times)])
    report.table(
        f"{precision}: of {peak / 1e9:.0f} GFLOP/s ({shape}); "
        f"{len(batches[0])} pairs, {median(pairs.distinct(b) for b in batches[1:]):.0f} distinct tokens a step",
        ["", "share of the matrix rate", "with attention", "GFLOP/s", "distinct tokens/s", "s/step"],
        rows,
    )
    report.raw[precision] = {"matrix_rate": peak, "shape": shape, "seconds": seconds}
    return shares


KINDS = {  # part of an operator's name -> row of the profile; the first match counts
    "FlexAttention": ("flex_attention",),  # also as a compiled kernel
    "compiled pointwise kernels": ("cpp_fused", "triton_", "CompiledFxGraph"),  # the last: compiled CPU code and its wrapper
    "attention": ("scaled_dot_product", "flash_attention", "_softmax", "bmm", "tree_attention", "baddbmm", "fmha"),
    "matrix products": ("::mm", "::addmm", "::linear", "mkldnn", "gemm", "nvjet", "cutlass"),
    "casts and copies": ("_to_copy", "::copy_", "::clone", "::contiguous", "::cat", "Memcpy"),
    "gathering and scattering": ("index", "embedding", "gather", "scatter"),
}


def spent(report: Report, precision: str, stepper: Ours, data: Sequence[Datum], device: str) -> None:
    """Profile one step and report where its time goes."""
    stepper.step(data)
    stepper.clear()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as recorded:
        seconds = stepper.step(data)
    stepper.clear()
    shares: dict[str, float] = defaultdict(float)
    names: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    events = [
        event for event in recorded.events() or [] if event.device_type == DeviceType.CPU
    ]  # the time of a kernel also counts for its launcher
    ready = max((event.time_range.end for event in events if event.name == GRADIENTS), default=float("inf"))
    for event in events:
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        kind = "clipping and AdamW" if event.time_range.start >= ready else kind_of(event.name)
        shares[kind] += own
        names[kind][event.name] += own
    total = sum(shares.values()) or 1.0
    rows = [
        [kind, f"{own / total:.1%}", own / 1e6, ", ".join(sorted(names[kind], key=lambda name: -names[kind][name])[:4])]
        for kind, own in sorted(shares.items(), key=lambda item: -item[1])
        if own / total >= 0.002
    ]
    name = next(name for name, variant in VARIANTS.items() if variant == stepper.variant)
    report.table(f"{precision}, {name}: one step under the profiler ({seconds:.2f} s)", ["", "share", "s", "mostly"], rows)


def kind_of(name: str) -> str:
    """Return the row of the profile for the self time of an operator."""
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return "norms, activations, rotary, other" if name.startswith("aten::") else "Python, autograd, trainer"


if __name__ == "__main__":
    main()
