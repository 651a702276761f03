"""Parts as plain data: their recipes, and whose parts a recipe may name.

A *part* is anything that a configuration names by class: a head, a skew operator, a loss, a policy objective, a judge, a sampler. Its base
class inherits from `Part`, which records constructor arguments. A *recipe* is the class and these arguments as JSON data:

    recipe(GPMHead(64, dim=4), supplied=1)   ->   {"class": "GPMHead", "dim": 4, "normalize": true, "skew": {"class": "BlockSkew"}}
    make({"class": "GPMHead", "dim": 4}, PreferenceHead, 64)   ->   GPMHead(64, dim=4)

Classes of prefrep go by their name, all others by their import path. `supplied` counts the leading arguments that are not part of the
recipe, because the caller of `make` supplies them (the hidden size). Nested parts and factories of parts are recipes, too.

Recipes come from folders of unknown origin, so `make` imports nothing that a recipe names. It finds classes

* of prefrep,
* that an installed distribution declares under the entry-point group `prefrep.parts`,
* of modules that are imported already, by the caller's program or by `--import MODULE` (`import_modules`).

It builds a nested part only where the constructor's annotation asks for a part of that kind, and holds every other argument to its
annotation with jsonargparse, as in a configuration.

Parts that are objects, not classes, such as formats of data, are looked up by name: `named(Format)` returns the instances of `Format` that
entry points declare (under the entry point's name) and that modules of `import_modules` hold (under the name of the variable in lower case,
with dashes). Entry points name an object (`stars = "mypkg.formats:STARS"`) or a module with several parts (`mypkg = "mypkg"`).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import shlex
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from prefrep.declared import declared
from prefrep.declared import import_declared as import_declared
from prefrep.declared import import_modules as import_modules
from prefrep.declared import imported as imported
from prefrep.declared import named as named
from prefrep.errors import ConfigError, UsageError
from prefrep.typed import arguments, checked, parameters

Recipe = dict[str, Any]
P = TypeVar("P", bound="Part")

_classes: dict[str, type[Part]] = {}  # every imported part class by its import path


class PartError(ConfigError):
    """A recipe that cannot be written or followed."""


class MissingPartError(PartError):
    """A recipe of a class that is not here, or that may not be named; the rest of the recipe may be sound."""


class Part:
    """Base class of everything that a configuration names by class. It records the arguments of the constructor for `recipe`."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Register the class, and wrap its constructor."""
        super().__init_subclass__(**options)
        _classes[import_path(cls)] = cls
        if "__init__" in vars(cls):
            setattr(cls, "__init__", _recording(vars(cls)["__init__"]))  # noqa: B010 - mypy refuses the assignment


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def wrapped(self: Part, *args: Any, **kwargs: Any) -> None:
        vars(self).setdefault("_given", (args, kwargs))  # the outermost constructor is called first
        init(self, *args, **kwargs)

    return wrapped


def import_path(kind: type) -> str:
    """Return `package.module.Class`."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__.startswith("prefrep.") else import_path(kind)


# ---- from a part to its recipe


def recipe(part: Part, supplied: int = 0) -> Recipe:
    """Return the class and the constructor arguments of a part as JSON data, defaults included.

    Args:
        part: The part.
        supplied: Number of leading arguments to leave out.

    Raises:
        PartError: An argument is not plain data.
    """
    kind = type(part)
    given = vars(part).get("_given")
    if given is None:  # the constructor was generated, as that of a data class: attributes have the names of arguments
        return _complete(part, kind, {name: getattr(part, name) for name in parameters(kind) if hasattr(part, name)}, supplied)
    values: dict[str, Any] = {}
    bound = inspect.signature(kind).bind(*given[0], **given[1])
    for name, value in bound.arguments.items():
        values |= value if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return _complete(part, kind, values, supplied)


def _complete(part: Part, kind: type[Part], values: Mapping[str, Any], supplied: int) -> Recipe:
    """Return a recipe of a class with these arguments, and the defaults of the others."""
    known = list(parameters(kind).items())[supplied:]
    stated = {name: values.get(name, each.default) for name, each in known}
    found: Recipe = {"class": _name(kind)}
    return found | {name: _plain(part, name, value) for name, value in stated.items() if value is not inspect.Parameter.empty}


def _plain(part: Part, name: str, value: Any) -> Any:
    """Return an argument as JSON data."""
    match value:
        case None | bool():
            return value
        case Enum():
            return value.name
        case int() | float() | str():  # instances of restricted types become numbers
            return next(base(value) for base in (int, float, str) if isinstance(value, base))
        case Path():
            return str(value)
        case Mapping():
            return {str(key): _plain(part, name, each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(part, name, each) for each in value]
        case Part():
            return recipe(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(part, name, getattr(value, each.name)) for each in dataclasses.fields(value)}
    parameter = parameters(type(part)).get(name)
    wanted = None if parameter is None else _part_type(parameter.annotation)
    supplied = (wanted[1] if wanted else None) or 0
    if (found := _factory(value)) is not None:
        return _complete(part, *found, supplied)
    if wanted and isinstance(built := getattr(part, name, None), Part):  # a factory of another form, and what it built
        return recipe(built, supplied)
    raise PartError(
        f"{import_path(type(part))}: its argument {name} is a {type(value).__name__}, which a model folder cannot hold; take plain data "
        "(numbers, texts, lists) or a part"
    )


def _factory(value: Any) -> tuple[type[Part], dict[str, Any]] | None:
    """Return the class and the arguments of a factory: a class, `partial` of one, or what jsonargparse makes of a configuration."""
    if isinstance(value, type):
        return (value, {}) if issubclass(value, Part) else None
    if isinstance(value, functools.partial):
        candidates = [value.func, *value.args]
        if (kind := next((each for each in candidates if isinstance(each, type) and issubclass(each, Part)), None)) is not None:
            options = {key: each for key, each in value.keywords.items() if key in parameters(kind)}
            return kind, options
    return None


# ---- from a recipe to a part


def parse(part: str | Mapping[str, Any], option: str = "--step") -> Recipe:
    """Return the recipe that a command line or a YAML file means by a part.

    Args:
        part: A recipe, or `Strength action=flip head.class=GPMHead head.dim=4`: the class, and arguments as YAML under dotted names.
        option: How the command line calls it, for errors.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(part, Mapping):
        return dict(part)
    import yaml  # for command lines alone

    kind, *options = shlex.split(part) or [""]
    found: Recipe = {"class": kind}
    for each in options:
        key, equals, value = each.partition("=")
        inner: dict[str, Any] = found
        *outer, last = key.split(".")
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{option} '{part}': {name} has a value and arguments; write {name}.class=NAME for a part")
        if not equals or not last:
            raise UsageError(f"{option} '{part}': arguments are written NAME=VALUE, not '{each}'")
        try:
            inner[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"{option} '{part}': the value of {key} cannot be read ({str(error).splitlines()[0]})") from None
    return found


def make(data: Any, kind: type[P], *supplied: Any) -> P:
    """Build a part from its recipe.

    Args:
        data: The recipe.
        kind: What it has to be.
        supplied: Leading arguments of the constructor that the recipe leaves out.

    Raises:
        PartError: The class may not be named or is of another kind, or its arguments are wrong.
    """
    return factory(data, kind, len(supplied))(*supplied)


def factory(data: Any, kind: type[P], supplied: int = 0) -> Callable[..., P]:
    """Return the function of `supplied` arguments that builds a part from its recipe. Arguments and errors as in `make`."""
    if not isinstance(data, dict) or not isinstance(data.get("class"), str):
        raise PartError(f"{data!r:.80} is no recipe of a {kind.__name__}: it has no class")
    found = find(data["class"], kind)
    try:
        options = arguments(_name(found), found, {name: each for name, each in data.items() if name != "class"}, supplied, _argument)
    except ConfigError as error:
        raise PartError(str(error)) from error
    return functools.partial(found, **options)


def _argument(where: str, parameter: inspect.Parameter, value: Any) -> Any:
    """Return an argument as the constructor takes it: parts are built, everything else is held to its annotation."""
    wanted = _part_type(parameter.annotation)
    if wanted is None:
        return checked(where, parameter.annotation, value)
    kind, supplied = wanted
    if value is None and parameter.default is None:
        return None
    return make(value, kind) if supplied is None else factory(value, kind, supplied)


def _part_type(hint: Any) -> tuple[type[Part], int | None] | None:
    """Return the kind of part that an annotation asks for, and of a factory the number of its arguments; None: something else."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [each for each in get_args(hint) if each is not type(None)]
        return _part_type(kinds[0]) if len(kinds) == 1 else None
    if isinstance(hint, type) and issubclass(hint, Part):
        return hint, None
    if get_origin(hint) is collections.abc.Callable and isinstance(made := get_args(hint)[1], type) and issubclass(made, Part):
        given = get_args(hint)[0]
        return made, len(given) if isinstance(given, list) else 0
    return None


def find(name: str, kind: type[P]) -> type[P]:
    """Return the class of a name in a recipe, without importing what nobody declared.

    Args:
        name: Name of a class of prefrep, or an import path.
        kind: What it has to be.

    Raises:
        PartError: There is no such class among those that a recipe may name, or it is of another kind.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise PartError(f"{name!r:.80} is not the name of a class")
    own = {each.__name__: each for each in _subclasses(kind) if each.__module__.startswith("prefrep.") and not inspect.isabstract(each)}
    found: type[Part] | None = own.get(name) if "." not in name else _classes.get(name)
    if found is None and "." in name:
        found = _declared_class(name)
    if found is None:
        raise MissingPartError(_unknown(name, kind, own))
    if not issubclass(found, kind) or inspect.isabstract(found):
        raise PartError(f"{name} is no {kind.__name__}")
    return found


def class_names() -> set[str]:
    """Return the names of all part classes that are imported, whoever wrote them, without abstract ones."""
    return {kind.__name__ for kind in _classes.values() if not inspect.isabstract(kind)}


def _subclasses(kind: type[P]) -> Iterator[type[P]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _unknown(name: str, kind: type[Part], own: Mapping[str, type[Part]]) -> str:
    module = name.rpartition(".")[0]
    if module in sys.modules:
        return f"the module {module} has no {_word(kind)} {name.rpartition('.')[2]}; install the version of it that wrote this recipe"
    if not module or module.startswith("prefrep."):
        return f"unknown {_word(kind)} {name!r:.80}; prefrep has {', '.join(sorted(own))}"
    package = module.partition(".")[0]
    return (
        f"the {_word(kind)} {name} belongs to the package {package}, and a folder cannot have it imported; if you trust that package, "
        f"name it: --import {module} (Python: import {module})"
    )


def _word(kind: type) -> str:
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).split()
    return words[-1]  # PreferenceHead: head


def _declared_class(path: str) -> type[Part] | None:
    """Return a class that an entry point declares, by itself or with its module."""
    for found in declared(path):
        if isinstance(found, type) and issubclass(found, Part):
            return found
        if path in _classes:
            return _classes[path]
    return None
