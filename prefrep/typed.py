"""Values from files, held to the annotations of the function or class that takes them.

jsonargparse decides what fits, as for a configuration, with one difference: nothing here imports or builds what a value names. Annotations
that are not plain data (classes, functions) are therefore refused, unless they are data classes, which are checked field by field.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from prefrep.errors import ConfigError

T = TypeVar("T")
_PLAIN = (type(None), bool, int, float, str, Path)
_HELD = (Sequence, Set, Mapping)
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path", type(None): "null"}


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the constructor parameters of a class with resolved annotations.

    Parameters behind `**kwargs` are those of the next class in the method resolution order that defines a constructor.

    Args:
        kind: The class.
    """
    found: dict[str, inspect.Parameter] = {}
    for owner in kind.__mro__:
        init = vars(owner).get("__init__")
        if init is None or owner is object:
            continue
        signature = list(inspect.signature(init).parameters.values())[1:]
        hints = _hints(inspect.unwrap(init))
        for each in signature:
            if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) and each.name not in found:
                found[each.name] = each.replace(annotation=hints.get(each.name, Any))
        if all(each.kind is not each.VAR_KEYWORD for each in signature):
            break
    return found


def _hints(function: Any) -> dict[str, Any]:
    """Return annotations; those that cannot be resolved, such as names imported for type checkers alone, are `Any`."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # one name that does not resolve spoils all
        space = vars(sys.modules[function.__module__])
        found: dict[str, Any] = {}
        for name, text in function.__annotations__.items():
            try:
                found[name] = eval(text, space) if isinstance(text, str) else text  # an annotation of imported code, not of a file
            except Exception:
                found[name] = Any
        return found


def arguments(
    where: str, kind: type, data: Any, supplied: int = 0, convert: Callable[[str, inspect.Parameter, Any], Any] | None = None
) -> dict[str, Any]:
    """Return constructor arguments from a mapping: all known, none missing, each converted.

    Args:
        where: Name of the mapping in error messages.
        kind: The class.
        data: The mapping.
        supplied: Number of leading parameters that the mapping does not hold.
        convert: Converts a value: (where, parameter, value); None: `checked` against the annotation.

    Raises:
        ConfigError: It is no mapping, or an argument is unknown, missing or wrong.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping of names to values, got {data!r:.80}")
    known = dict(list(parameters(kind).items())[supplied:])
    if strange := [name for name in data if name not in known]:
        raise ConfigError(f"{where} has no argument {strange[0]!r}; there are: {', '.join(known) or 'none'}")
    if missing := [name for name, each in known.items() if each.default is each.empty and name not in data]:
        raise ConfigError(f"{where} lacks {missing[0]}")
    if convert is None:
        return {name: checked(f"{where}.{name}", known[name].annotation, value) for name, value in data.items()}
    return {name: convert(f"{where}.{name}", known[name], value) for name, value in data.items()}


def construct(where: str, kind: type[T], data: Any) -> T:
    """Return an object of a class whose arguments are plain data. Arguments and errors as in `arguments`."""
    return kind(**arguments(where, kind, data))


def checked(where: str, hint: Any, value: Any) -> Any:
    """Return a value as its annotation has it: a number for `float`, a tuple for `tuple`, an object for a data class.

    Args:
        where: Name of the value in error messages.
        hint: The annotation.
        value: JSON data.

    Raises:
        ConfigError: The value does not fit, or the annotation is not one of plain data.
    """
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    if (kind := _data_class(hint)) is not None:
        return None if value is None and hint is not kind else construct(where, kind, value)
    if not _is_plain(hint):
        raise ConfigError(f"{where} is not plain data, so a file cannot hold it")
    if isinstance(hint, type) and hint not in _PLAIN and issubclass(hint, (int, float, str)):  # a restricted type has a message of its own
        base = next(each for each in (int, float, str) if issubclass(hint, each))
        number = checked(where, base, value)
        try:
            hint(number)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        return number
    if _is(value, hint):  # jsonargparse reads the texts of `Any` as YAML: "no" and "5" would change their type
        return value
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        found = parser.parse_object({"value": value}).value
    except (jsonargparse.ArgumentError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"{where} must be {described(hint)}, got {value!r:.80}") from error
    if isinstance(found, bool) != isinstance(value, bool) or (isinstance(value, str) and not isinstance(found, (str, Path, Enum))):
        raise ConfigError(f"{where} must be {described(hint)}, got {value!r:.80}")  # JSON has types; only shells write numbers as texts
    if found is None and not _accepts_none(hint):
        raise ConfigError(f"{where} must be {described(hint)}, got null")
    return found


def described(hint: Any) -> str:
    """Return an annotation in words: `a whole number`, `one of a, b`, `a list`."""
    if get_origin(hint) is Annotated:
        return described(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return f"one of {', '.join(str(each) for each in get_args(hint))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(described(each) for each in get_args(hint))
    kind = get_origin(hint) or hint
    for base, words in _WORDS.items():
        if isinstance(kind, type) and issubclass(kind, base):
            return words
    return "a mapping" if isinstance(kind, type) and issubclass(kind, Mapping) else "a list"


def _is(value: Any, hint: Any) -> bool:
    """Return whether JSON data already have the type of their annotation, so that nothing has to be converted."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(_is(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(key, inner[0]) and _is(each, inner[1]) for key, each in value.items())
    return hint is Any or hint is type(value)


def _accepts_none(hint: Any) -> bool:
    return hint is type(None) or hint is None or any(_accepts_none(each) for each in get_args(hint) if get_origin(hint) is not Literal)


def _data_class(hint: Any) -> type | None:
    """Return the data class of `C` or `C | None`."""
    kinds = [each for each in get_args(hint) if each is not type(None)] if get_origin(hint) in (Union, types.UnionType) else [hint]
    return kinds[0] if len(kinds) == 1 and isinstance(kinds[0], type) and dataclasses.is_dataclass(kinds[0]) else None


def _is_plain(hint: Any) -> bool:
    if hint is Any or hint is None or hint is Ellipsis or get_origin(hint) is Literal:
        return True
    if get_origin(hint) is Annotated:
        return _is_plain(get_args(hint)[0])
    if (origin := get_origin(hint)) is not None:
        known = origin in (Union, types.UnionType) or (isinstance(origin, type) and issubclass(origin, _HELD))
        return known and all(_is_plain(each) for each in get_args(hint))
    return isinstance(hint, type) and issubclass(hint, (*_PLAIN, *_HELD, Enum))
