"""Do all attention kernels compute the same? Hidden states at the ends of sequences, and gradients of all weights, against eager in fp32.

Each kernel reads the same pairs: padded, one sequence per row, or as token trees. The loss is a fixed random projection of the hidden
states that heads read. An error is the norm of the difference over the norm of the reference. In bf16 a kernel may be off as far as eager
attention on padded sequences is, times `SLACK`: rounding has no better standard. A kernel that the device does not have says so and is left
out on a CPU; on a GPU it counts as wrong. Compiled kernels come last, since a compiler takes a minute for each.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import pairs
from benchmarks.common import Report, arguments, synchronize
from benchmarks.models import LLAMA_WIDE, TINY, place, tokenizer_of
from benchmarks.training import PRECISIONS
from prefrep.data.encode import pad_id
from prefrep.data.trees import Datum, Layout, collate
from prefrep.nn.backbone import Backbone

EXACT = 1e-4
SLACK = 2.0
REFERENCE = "padded, eager"


class Kernel(NamedTuple):
    """A kernel and the batches that it reads."""

    layout: Layout
    backbone: dict[str, Any]


KERNELS = {
    REFERENCE: Kernel("padded", {"attention": "eager"}),
    "padded, sdpa": Kernel("padded", {"attention": "sdpa"}),
    "trees, dense mask": Kernel("trees", {"attention": "sdpa"}),
    "trees, blocks": Kernel("trees", {"attention": "trees"}),
    "trees, FlexAttention": Kernel("trees", {"attention": "flex_attention"}),
    "trees, blocks, compiled": Kernel("trees", {"attention": "trees", "compile": True}),
    "trees, FlexAttention, compiled": Kernel("trees", {"attention": "flex_attention", "compile": True}),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=LLAMA_WIDE, help="bundled name, folder, or random:llama-wide")
    it.add_argument("--pairs", type=int, default=4)
    it.add_argument("--kernels", nargs="+", choices=tuple(KERNELS), default=list(KERNELS))
    it.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return it


def main(args: list[str] | None = None) -> None:
    """Compares, prints, writes."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.pairs = TINY, 2
        options.kernels = [name for name in options.kernels if "compiled" not in name]  # a compiler takes a minute
    report = Report("kernels", options)
    tokenizer = tokenizer_of(options.model)
    data = pairs.generated(tokenizer, options.pairs, True, 0.2 if options.quick else 1.0)
    torch.set_float32_matmul_precision("highest")
    exact = outcome(options.model, KERNELS[REFERENCE], "fp32", options.device, data)
    allowed = dict.fromkeys(PRECISIONS, EXACT)
    plain = dict.fromkeys([REFERENCE, *(name for name in options.kernels if not KERNELS[name].backbone.get("compile"))])
    for names in (list(plain), [name for name in options.kernels if name not in plain]):
        for precision in PRECISIONS if names else ():
            compare(report, names, precision, exact, allowed, data)
    report.save()


def compare(
    report: Report, names: Sequence[str], precision: str, exact: tuple[Tensor, Tensor], allowed: dict[str, float], data: Sequence[Datum]
) -> None:
    """Compare kernels in a precision; the reference sets what is allowed in bf16."""
    model, device = report.options.model, report.options.device
    rows: list[list[Any]] = []
    worst = 0.0
    for name in names:
        start = time.perf_counter()
        try:
            found = outcome(model, KERNELS[name], precision, device, data)
        except Exception as error:  # whatever a kernel raises on a device that it does not support
            report.note(f"{precision}, {name}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
            worst = math.inf if device == "cuda" else worst
            continue
        off = [apart(a, b) for a, b in zip(found, exact, strict=True)]
        largest = math.inf if any(map(math.isnan, off)) else max(off)  # max() can ignore a NaN
        if name == REFERENCE and precision == "bf16" and math.isfinite(largest):
            allowed[precision] = SLACK * largest
        over = largest / allowed[precision]
        rows.append([name, f"{off[0]:.1e}", f"{off[1]:.1e}", "right" if over <= 1 else "WRONG", time.perf_counter() - start])
        worst = max(worst, over)
    kind = ", compiled" if KERNELS[names[0]].backbone.get("compile") else ""
    report.table(
        f"{precision}{kind}: errors up to {allowed[precision]:.1e} are rounding",
        ["", "hidden states", "gradients", "", "seconds, first call"],
        rows,
    )
    figure = worst if rows or worst else None
    report.goal(f"kernels, {precision}{kind}: largest error over what rounding explains", figure, 1.0, at_least=False)


def outcome(model: str, kernel: Kernel, precision: str, device: str, data: Sequence[Datum]) -> tuple[Tensor, Tensor]:
    """Hidden states at the ends of all sequences [M, H], and the gradients of all weights as one vector, in fp32 on the CPU."""
    torch.manual_seed(0)
    backbone = Backbone(place(model), **kernel.backbone).to(device)
    batch = collate(data, pad_id(backbone.tokenizer()), kernel.layout, row_tokens=256).to(device)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        hidden = backbone(batch.ids, batch.positions, batch.until, batch.padded).flatten(0, 1)[batch.end].float()
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).to(device)
    (hidden * weights).mean().backward()
    synchronize()
    gradients = [parameter.grad.flatten().float().cpu() for parameter in backbone.parameters() if parameter.grad is not None]
    return hidden.detach().cpu(), torch.cat(gradients)


def apart(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((found - exact).norm() / exact.norm())


if __name__ == "__main__":
    main()
