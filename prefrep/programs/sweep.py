"""A grid of runs, and which differences between them are significant."""

from __future__ import annotations

from pathlib import Path


def sweep(
    *,
    config: str | None = None,
    out: str | None = None,
    set: list[str] | None = None,
    workers: int = 1,
    storage: str | None = None,
    retry: bool = False,
    report_only: str | None = None,
    import_: list[str] | None = None,
) -> Path:
    """Train and score every point of a grid, and test which differences are significant.

    The same command resumes an interrupted sweep. Started a second time on the same folder, here or on another machine that sees the
    folder, it shares the work.

    Examples:
        prefrep sweep --config sweep/paper-frozen --set data.train=train.jsonl --set data.val=val.jsonl --out runs/ablation --workers 2
        prefrep sweep --report-only runs/ablation

    Args:
        config: Sweep file, or a shipped one such as `sweep/dim`.
        out: Folder for everything; a sweep that was begun there is resumed.
        set: A value for all points, as KEY=VALUE; may be repeated.
        workers: Processes that take points.
        storage: URL of an Optuna database instead of a journal in the folder: sqlite:///FILE, or postgresql://USER@HOST/NAME (extra
            `postgresql`).
        retry: Run failed points again.
        report_only: Write table, report and plots of the points that a sweep in this folder has finished by now.
        import_: Module whose heads and other parts configurations may name; may be repeated.

    Returns:
        The report.

    Raises:
        ConfigError: The sweep file or a point's configuration is wrong.
        PrefrepError: Points failed; the report covers the others.
    """
    from prefrep.errors import DataError, UsageError, require_at_least
    from prefrep.locks import writing
    from prefrep.reports.sweep import write

    def report(folder: Path) -> None:
        with writing(folder / "report.md", waits=True):  # another worker may be writing it
            write(folder)

    if report_only:
        folder = Path(report_only)
        if not (folder / "points").is_dir():
            raise DataError(f"{folder}: no points/ there, so this is not the folder of a sweep; name the --out of one")
        report(folder)
        print((folder / "report.md").read_text())
        return folder / "report.md"
    if not config or not out:
        raise UsageError("a sweep needs --config FILE and --out DIR; --report-only DIR needs neither")
    require_at_least("--workers", workers, 1)
    from prefrep.parts import import_declared, import_modules
    from prefrep.sweeps.run import run

    import_declared()
    import_modules(import_)
    run(config, Path(out), set or [], workers, storage, retry, report)
    return Path(out) / "report.md"
