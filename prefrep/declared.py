"""Modules and objects of other packages that may be used: those that the caller names, and those that installed distributions declare.

`prefrep.parts` says what they are for, and re-exports these functions.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from prefrep.errors import ConfigError, PrefrepError

GROUP = "prefrep.parts"
T = TypeVar("T")
_imported: dict[str, types.ModuleType] = {}


def import_modules(names: Sequence[str] | None) -> None:
    """Import modules, so that recipes and configurations can name their parts.

    Args:
        names: Dotted names, as `--import` takes them.

    Raises:
        ConfigError: A module cannot be imported.
    """
    for name in names or ():
        try:
            _imported[name] = import_module(name)
        except Exception as error:  # a module can raise anything
            if isinstance(error, PrefrepError):
                raise
            reason = f"{type(error).__name__}: {error}"
            remedy = "install its package, or set PYTHONPATH to the folder it is in"
            raise ConfigError(f"--import {name}: cannot be imported ({reason}); {remedy}") from error


def imported() -> list[str]:
    """Return the names of the modules that `import_modules` has imported, for processes that this one starts."""
    return list(_imported)


@functools.cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist is not None else point.value
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{package}: its part {point.name} ({point.value}) cannot be imported ({reason}); update it") from error


def import_declared() -> None:
    """Import the parts that installed distributions declare, so that configurations can name their classes without a module.

    Raises:
        ConfigError: One cannot be imported.
    """
    for point in _entry_points():
        _load(point)


def declared(path: str) -> Iterator[Any]:
    """Yield the objects whose entry point declares an import path, by itself or with its module; only these are imported.

    Args:
        path: `package.module.Class`.

    Raises:
        ConfigError: One cannot be imported.
    """
    for point in _entry_points():
        if path in (f"{point.module}.{point.attr}", point.value) or (not point.attr and path.startswith(f"{point.module}.")):
            yield _load(point)


def named(kind: type[T]) -> dict[str, T]:
    """Return the instances of a class that entry points declare and that modules of `import_modules` hold, by name.

    Args:
        kind: A class that is not a `Part`, such as a format of data.

    Raises:
        ConfigError: A declared part cannot be imported.
    """
    found: dict[str, T] = {}
    for point in _entry_points():
        thing = _load(point)
        if isinstance(thing, kind):
            found[point.name] = thing
        elif isinstance(thing, types.ModuleType):
            found |= _held(thing, kind)
    for module in _imported.values():
        found |= _held(module, kind)
    return found


def _held(module: types.ModuleType, kind: type[T]) -> dict[str, T]:
    return {name.lower().replace("_", "-"): each for name, each in vars(module).items() if isinstance(each, kind)}
