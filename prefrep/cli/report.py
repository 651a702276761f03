"""`bin/report`: run folders as one page, for people: training, evaluations, mistakes, and which differences are real."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefrep.cli import friendly


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(
        prog="report",
        description=__doc__,
        epilog="The page needs no network and holds no scripts; plots of the Markdown are in a folder beside it. Embeddings of responses "
        "are in TensorBoard: tensorboard --logdir RUN.",
    )
    it.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a training, an evaluation or a sweep; with several, they are compared"
    )
    it.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="HTML file to write, with FILE.md beside it (default: in the one RUN, by its name; of several: report.html here)",
    )
    return it


def main(args: list[str] | None = None) -> int:
    """Writes a report.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code.

    Raises:
        PrefrepError: A folder holds nothing to report on.
    """
    it = parser()
    given = it.parse_args(args)
    # Not report.html: its Markdown would be report.md, and a sweep has one of its own.
    out = given.out or (given.runs[0] / f"{given.runs[0].resolve().name}.html" if len(given.runs) == 1 else Path("report.html"))
    if out.suffix not in (".html", ".htm"):
        it.error(f"--out {out}: the page is HTML; name a file that ends in .html")
    from prefrep.reports import found, page

    written = page.write(page.build(found.find(given.runs)), out)
    print(f"written: {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    friendly.run(main)
