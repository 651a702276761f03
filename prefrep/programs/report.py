"""Run folders as one page for people."""

from __future__ import annotations

from pathlib import Path


def report(runs: list[str], *, out: str | None = None) -> list[Path]:
    """Write one page about runs: training curves, evaluations, mistakes, and which differences are significant.

    The page needs no network and holds no scripts. A Markdown file stands beside it, with its plots in a folder. Embeddings of responses
    are in TensorBoard: tensorboard --logdir RUN.

    Examples:
        prefrep report runs/mine
        prefrep report runs/a runs/b --out report.html

    Args:
        runs: Folders of trainings, evaluations or sweeps; several are compared.
        out: HTML file to write; default: in the one run, by its name, or report.html here for several.

    Returns:
        The files that were written.

    Raises:
        PrefrepError: A folder holds nothing to report on.
    """
    from prefrep.errors import UsageError
    from prefrep.locks import writing
    from prefrep.reports import found, page

    folders = [Path(run) for run in runs]
    # Not report.html inside a run: its Markdown would be report.md, and a sweep has one of its own.
    file = Path(out) if out else folders[0] / f"{folders[0].resolve().name}.html" if len(folders) == 1 else Path("report.html")
    if file.suffix not in (".html", ".htm"):
        raise UsageError(f"--out {file}: the page is HTML; name a file that ends in .html")
    evidence = found.find(folders)  # before the lock, which makes missing folders
    with writing(file):
        written = page.write(page.build(evidence), file)
    print(f"written: {', '.join(map(str, written))}")
    return written
