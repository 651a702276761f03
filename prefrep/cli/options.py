"""Options that several programs take."""

from __future__ import annotations

import argparse
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1, as a type of argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def add_loading(parser: Any) -> Any:
    """Adds how a model is loaded and runs: `--device`, `--dtype`, `--batch-tokens`; returns the group for more."""
    group = parser.add_argument_group("how the model runs")
    group.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda where there is one)")
    group.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights (default: as trained)")
    group.add_argument(
        "--batch-tokens", metavar="N", type=positive, default=4096, help="tokens read at a time; scores do not depend on it (default: 4096)"
    )
    return group


def add_workers(parser: Any) -> None:
    """Adds `--workers`."""
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        default=1,
        help="processes that score, one GPU each where there are any; what is written does not depend on it (default: 1)",
    )


def add_bootstrap(parser: Any) -> None:
    """Adds how intervals are drawn: `--bootstrap`, `--seed`."""
    parser.add_argument("--bootstrap", metavar="N", type=positive, default=2000, help="resamples for the intervals (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
