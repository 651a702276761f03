"""Help comes at once and says what a program's docstring says; no program loads torch, which takes seconds, to show it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import prefrep
from prefrep import programs

BIN = Path(__file__).parents[2] / "bin"
EVALS = tuple(f"eval {name}" for name in programs.load("eval").__all__)
FUNCTIONS = [name for name in programs.NAMES if name not in (*programs.LIGHTNING, "eval")]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "prefrep", *arguments], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["", *FUNCTIONS, "eval", *EVALS])
def test_help_without_torch(name: str) -> None:
    code = f"""
import sys
from prefrep.cli.main import main
try:
    sys.exit(main({[*name.split(), "--help"]}))
finally:
    assert "torch" not in sys.modules
"""
    helped = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.startswith(f"usage: prefrep {name}".rstrip())


@pytest.mark.parametrize("name", [*FUNCTIONS, *EVALS])
def test_help_has_the_docstring_and_every_parameter(name: str) -> None:
    first, _, rest = name.partition(" ")
    function = getattr(programs.load(first), rest) if rest else programs.load(first)
    helped = " ".join(run(*name.split(), "--help").stdout.split())
    assert " ".join(inspect.getdoc(function).split("\n\n")[0].split()) in helped  # type: ignore[union-attr]
    assert "examples: prefrep " in helped
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert f"--{parameter.name.rstrip('_').replace('_', '-')}" in helped


def test_loading_options_reach_every_program_that_scores() -> None:
    for name in ("score", "eval pairs", "eval rewardbench", "eval rewardbench2"):
        assert all(option in run(*name.split(), "--help").stdout for option in ("--device", "--dtype", "--batch-tokens", "--workers"))


def test_overview_lists_every_program() -> None:
    helped = run("--help")
    assert helped.returncode == 0
    lines = helped.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("  prefrep")] == list(programs.NAMES)


def test_a_bare_call_is_a_mistake() -> None:
    bare = run()
    assert (bare.returncode, bare.stdout) == (2, "") and bare.stderr == run("--help").stdout


def test_version() -> None:
    assert run("--version").stdout == f"prefrep {prefrep.__version__}\n"


@pytest.mark.parametrize("file", [path for path in sorted(BIN.iterdir()) if path.name not in ("docs", "prefrep", "setup", "test")], ids=str)
def test_scripts_of_the_checkout_are_one_line_each(file: Path) -> None:
    _, line = file.read_text().splitlines()
    assert file.name in programs.NAMES and line == f'exec "$(dirname "${{BASH_SOURCE[0]}}")/prefrep" {file.name} "$@"'


@pytest.mark.parametrize("name", programs.NAMES)
def test_programs_are_functions_of_the_package(name: str) -> None:
    assert getattr(prefrep, name) is programs.load(name)
