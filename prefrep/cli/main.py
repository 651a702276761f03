"""The command `prefrep`: finds the program, derives its parser, and runs it."""

from __future__ import annotations

import difflib
import inspect
import sys

from prefrep import programs
from prefrep.cli import friendly
from prefrep.errors import UsageError

EXAMPLES = """examples:
  prefrep quickstart
  prefrep fit --config preference/gpm --data.train train.jsonl --data.val val.jsonl --trainer.default_root_dir runs/mine
  prefrep score --model runs/mine/export --data pairs.jsonl --out scores.jsonl

`prefrep PROGRAM --help` shows a program's options. Each is a function too: prefrep.score(model=..., data=..., out=...)."""


def main(args: list[str] | None = None) -> int:
    """Run a program.

    Args:
        args: Arguments without `prefrep`; None: those of the process.

    Returns:
        Exit code: 0; 2 where no program is named.

    Raises:
        PrefrepError: There is no such program or option, or what the program raises.
    """
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(overview(), file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] == "--version":
        import prefrep

        print(f"prefrep {prefrep.__version__}")
        return 0
    name, *rest = args
    if name not in programs.NAMES:
        raise _unknown(name, programs.NAMES, "prefrep")
    from prefrep.console import quiet

    quiet()
    if name in programs.LIGHTNING:
        from prefrep.training.cli import run as run_lightning

        run_lightning(args)
        return 0
    program = programs.load(name)
    if name == "eval":
        benchmarks = program.__all__
        if not rest or rest[0] in ("-h", "--help"):
            print(_listing("usage: prefrep eval BENCHMARK [--option VALUE ...]", {"benchmarks and measures": benchmarks}, program), end="",
                  file=sys.stdout if rest else sys.stderr)  # fmt: skip
            return 0 if rest else 2
        benchmark, *rest = rest
        if benchmark not in benchmarks:
            raise _unknown(benchmark, benchmarks, "prefrep eval")
        name, program = f"eval {benchmark}", getattr(program, benchmark)
    from prefrep.cli.parser import call

    call(program, f"prefrep {name}", rest)
    return 0


def overview() -> str:
    """Return what `prefrep --help` prints."""
    return _listing("usage: prefrep PROGRAM [--option VALUE ...]", programs.GROUPS, None) + "\n" + EXAMPLES


def _listing(usage: str, groups: dict[str, tuple[str, ...]], home: object) -> str:
    """Programs with the first lines of their docstrings, in groups."""
    lines = [usage]
    for title, names in groups.items():
        lines += ["", f"{title.strip()}"]
        for name in names:
            doc = inspect.getdoc(programs.load(name) if home is None else getattr(home, name)) or ""
            lines.append(f"  {name:<16}{doc.splitlines()[0].rstrip('.')}")
    return "\n".join(lines) + "\n"


def _unknown(name: str, known: tuple[str, ...], where: str) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return UsageError(f"there is no `{where} {name}`; {hint}")


def run() -> None:
    """Run the command of this process and end it."""
    friendly.run(main)


if __name__ == "__main__":
    run()
