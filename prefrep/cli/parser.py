"""Command lines derived from functions: signature and docstring of a program are its options, its YAML keys and its help."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import jsonargparse
from docstring_parser import parse as parse_docstring

from prefrep.errors import UsageError
from prefrep.shipped import config_file

Program = Callable[..., Any]


class Parser(jsonargparse.ArgumentParser):
    """Parser of one program.

    Options are spelt `--batch-tokens` or `--batch_tokens`. A bool is a flag (`--restart`, `--no-restart`), a list may be repeated
    (`--set A=1 --set B=2`), and parameters that can be passed by position in Python can be so in the shell.

    Args:
        program: The function.
        name: How the shell calls it, such as `prefrep eval pairs`.
    """

    def __init__(self, program: Program, name: str) -> None:
        docs = parse_docstring(inspect.getdoc(program) or "")
        parameters = inspect.signature(program).parameters
        self._positional = next((key for key, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD), None)
        hints = {key: _without_none(hint) for key, hint in get_type_hints(program).items()}
        self._flags = {key for key, hint in hints.items() if hint is bool}
        self._lists = {key for key, hint in hints.items() if get_origin(hint) is list}
        shown = "" if self._positional is None else f" {self._positional.upper()}{' ...' if self._positional in self._lists else ''}"
        example = next((each.description for each in docs.meta if each.args == ["examples"]), None)
        super().__init__(
            prog=name,
            usage=f"{name}{shown} [--option VALUE ...]",
            description=_filled(f"{docs.short_description}\n\n{docs.long_description or ''}"),
            epilog=None if not example else "examples:\n" + textwrap.indent(example, "  "),
            formatter_class=_Formatter,
        )
        self._reads_config = "config" not in parameters  # else the program reads a file of its own kind there
        if self._reads_config:
            self.add_argument("--config", action="config", metavar="FILE", help="YAML file with values for these options.")
        self.names = [*self.add_function_arguments(program, as_group=False, sub_configs=False), "config", "help", "print_config"]
        for action in self._actions:  # also the parameters behind **kwargs, which only jsonargparse has resolved
            hint = _without_none(getattr(action, "_typehint", None))
            if action.dest in self.names and (hint is bool or get_origin(hint) is list):
                (self._flags if hint is bool else self._lists).add(action.dest)

    def arguments(self, args: list[str]) -> dict[str, Any]:
        """Return the keyword arguments that a command line means.

        Args:
            args: Command line without the program's name.

        Raises:
            UsageError: An option is unknown, lacks its value or has a wrong one.
        """
        found = self.parse_args(self._normalised(args)).as_dict()
        if self._reads_config:
            found.pop("config")
        return found

    def _normalised(self, args: list[str]) -> list[str]:
        """Write a command line in jsonargparse's spelling, each option in one piece: a value may begin with a dash."""
        files: list[str] = []  # first, so that options win over files wherever they stand
        found: list[str] = []
        lists: dict[str, list[str]] = {}
        rest = list(args)

        def keep(name: str, value: str) -> None:
            if name in self._lists:
                lists.setdefault(name, []).append(value)
            elif name == "config" and self._reads_config:
                files.append(f"--config={config_file(value)}")
            else:
                found.append(f"--{name}={value}")

        while rest:
            arg = rest.pop(0)
            if arg in ("-h", "--help"):
                found.append(arg)
            elif not arg.startswith("--"):
                if self._positional is None or (self._positional not in self._lists and f"--{self._positional}=" in "".join(found)):
                    raise UsageError(f"unexpected argument {arg!r}; options are written --name VALUE, see {self.prog} --help")
                keep(self._positional, arg)
            else:
                spelt, equals, value = arg.removeprefix("--").partition("=")
                name = self._known(spelt.replace("-", "_"), spelt)
                if name.removeprefix("no_") in self._flags and name not in self._flags:
                    keep(name.removeprefix("no_"), "false")
                elif equals:
                    keep(name, value)
                elif name == "print_config":
                    found.append(arg)
                elif name in self._flags:
                    keep(name, rest.pop(0) if rest and rest[0] in ("true", "false") else "true")
                elif not rest:
                    raise UsageError(f"--{spelt} needs a value; see {self.prog} --help")
                else:
                    keep(name, rest.pop(0))
        return files + found + [f"--{name}={json.dumps(values)}" for name, values in lists.items()]

    def _known(self, name: str, spelt: str) -> str:
        for each in (name, f"{name}_"):  # a trailing underscore is Python's way around its keywords: --from is from_
            if each in self.names or each.removeprefix("no_") in self._flags:
                return each
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.6)
        hint = f"did you mean --{near[0].rstrip('_')}?" if near else f"see {self.prog} --help"
        raise UsageError(f"there is no option --{spelt}; {hint}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as one sentence."""
        text = re.sub(r"\s+", " ", message.strip())
        if match := re.search(r'Parser key "(\w+)": (.*)', text):
            key, why = match.groups()
            text = f"--{key.rstrip('_')}: {_reason(why)}"
        elif missing := re.findall(r'"(\w+)"', text) if "required" in text else []:
            text = f"{' and '.join(f'--{each}' for each in missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise UsageError(f"{text[:500]}; see {self.prog} --help")


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Help as a person would write it: paragraphs and examples as they are, options with dashes, choices instead of types."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)  # type: ignore[no-untyped-call]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(text, indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.option_strings in (["-h", "--help"], ["--print_config"]):
            return str(action.option_strings[-1])
        spelt = str(action.option_strings[0]).rstrip("_").replace("_", "-")
        shown = action.metavar if action.metavar and action.metavar[0] not in "[{" else action.dest.strip("_").upper()
        return spelt if "{true," in (action.metavar or "") else f"{spelt} {shown}"

    def _expand_help(self, action: argparse.Action) -> str:
        if action.option_strings == ["--print_config"]:
            return "Print the values of all options as YAML and exit."
        text, _, types = super()._expand_help(action).partition(" (type: ")
        text, required, _ = text.partition(" (required")
        choices = re.findall(r"'([^']*)'", types) if "Literal" in types else []
        default = re.search(r"default: (.*)\)$", types, re.S)
        shown = ["required"] if required else [f"one of {', '.join(choices)}"] if choices else []
        shown += [f"default: {default[1]}"] if default and default[1] not in ("null", "False") else []
        return text + (f" ({'; '.join(shown)})" if shown else "")


def _without_none(hint: Any) -> Any:
    kinds = [each for each in get_args(hint) if each is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in get_args(hint) else hint


def _filled(text: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(part.split()), 100) for part in text.split("\n\n") if part.strip())


def _reason(why: str) -> str:
    """The parser's reason without its list of types that did not fit."""
    if choices := re.search(r"Expected one of \((.*?)\)|Expected a .*Literal\[(.*?)\]", why):
        return f"must be one of {next(filter(None, choices.groups()))}" + _given(why)
    if kind := re.search(r"(?:Expected an? |invalid )(?:<class ')?(\w+)", why):
        return f"must be {({'int': 'a whole number', 'float': 'a number', 'bool': 'true or false'}).get(kind[1], kind[1])}" + _given(why)
    return why


def _given(why: str) -> str:
    match = re.search(r"Given value: (.*)$|Got value: (\S+)", why)
    return f", got {next(filter(None, match.groups()))}" if match else ""


def call(program: Program, name: str, args: list[str]) -> Any:
    """Run a program with the arguments of a command line and return what it returns."""
    return program(**Parser(inspect.unwrap(program), name).arguments(args))
