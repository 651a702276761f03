"""Features of pairs for `Route`: numbers in groups of equal size, and names, as indicators."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import ConfigError
from prefrep.records import Comparison, Messages, text

Floats = NDArray[np.float64]
Feature = Callable[[Comparison], float | str]


def feature(name: str) -> Feature:
    """Return a feature by name, see `Route`. Raises ConfigError: there is none, or the function cannot be imported."""
    if name in _FEATURES:
        return _FEATURES[name]
    if name.startswith("tag:"):
        return lambda pair: pair.tags.get(name.removeprefix("tag:"), "")
    module, _, function = name.rpartition(".")
    try:
        found: Feature = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(_FEATURES)
        raise ConfigError(f"Route.features: {name} is none of {known}, tag:NAME, and no function package.module.name ({error})") from error
    return found


def indicators(features: Mapping[str, Feature], pairs: Sequence[Comparison], bins: int) -> tuple[list[str], Floats]:
    """Return names and values, 0 or 1, of all groups of all features, [P, F]: quantiles of numbers, and names.

    Raises:
        ConfigError: A function fails, or gives something else than numbers or names.
    """
    names: list[str] = []
    columns: list[Floats] = []
    for name, compute in features.items():
        try:
            values = [compute(pair) for pair in pairs]
        except Exception as error:  # user code can raise anything
            raise ConfigError(f"Route.features: {name} failed ({type(error).__name__}: {error})") from error
        if all(isinstance(value, str) for value in values):
            kinds = sorted(set(map(str, values)))
            groups = [(f"{name} = {kind or '(none)'}", np.array([value == kind for value in values])) for kind in kinds]
        else:
            try:
                numbers = np.array(values, np.float64)
            except (TypeError, ValueError):
                raise ConfigError(f"Route.features: {name} must give numbers, or names, for all pairs") from None
            edges = np.unique(np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1]))
            place = np.searchsorted(edges, numbers, side="right")
            groups = [(f"{name}, part {k + 1} of {len(edges) + 1}", place == k) for k in range(len(edges) + 1)]
        names += [label for label, _ in groups]
        columns += [inside.astype(np.float64) for _, inside in groups]
    return names, np.stack(columns, 1)


def _words(messages: Messages) -> list[str]:
    return re.findall(r"\w+", text(messages).casefold())


def _similarity(pair: Comparison) -> float:
    a, b = set(_words(pair.chosen)), set(_words(pair.rejected))
    return len(a & b) / max(len(a | b), 1)


_FEATURES: dict[str, Feature] = {
    "prompt_words": lambda pair: len(_words(pair.prompt)),
    "words": lambda pair: len(_words(pair.chosen)) + len(_words(pair.rejected)),
    "length_difference": lambda pair: abs(len(_words(pair.chosen)) - len(_words(pair.rejected))),
    "similarity": _similarity,
    "subset": lambda pair: pair.subset,
    "criterion": lambda pair: pair.criterion,
}
