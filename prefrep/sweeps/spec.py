"""Sweep files: the points of a grid, each a base configuration and values of dotted keys.

A file like this has 2 x (1 + 3) models and 24 points::

    base: configs/preference/gpm.yaml      # of all points that name none
    set: {data.val: val.jsonl}             # for all points
    grid: {data.batch_size: [16, 32]}      # crossed with everything below
    points:                                # optional: models of several kinds in one sweep
      BT: {base: configs/preference/bt.yaml}
      GPM: {grid: {model.head.dim: [2, 4, 8]}}
    seeds: [0, 1, 2]

A grid can be a list of grids, which are concatenated, for values that only make sense together.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefrep.errors import ConfigError
from prefrep.shipped import config_file

_KEYS = {"base", "set", "grid", "points", "seeds", "keep_models"}
_POINT_KEYS = {"base", "set", "grid"}
# Set by the engine.
_OURS = ("seed_everything", "data.seed", "trainer.default_root_dir", "ckpt_path", "config")
_LONGEST = 255 - len("point ")  # bytes: file systems limit names to 255, and the name of a point's lock is longer


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Args:
        model: Its name without the seed: points of one model differ only in the seed.
        seed: Seed of initial weights and of the order of the data.
        base: Configuration file.
        settings: Values of dotted keys, which override the base.
        values: The settings that distinguish points: the keys of grids, and `model`, the name among `points`.
    """

    model: str
    seed: int
    base: Path
    settings: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its folder; a name that is too long for a file system is shortened with a digest."""
        name = re.sub(r"[^\w.=+-]+", "-", f"{self.model} seed={self.seed}")
        if len(name.encode()) <= _LONGEST:
            return name
        mark = f"-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return name.encode()[: _LONGEST - len(mark)].decode(errors="ignore") + mark

    def arguments(self, folder: Path) -> list[str]:
        """Return the command line of `prefrep fit`."""
        found = ["--config", str(self.base)]
        ours = {"seed_everything": self.seed, "data.seed": self.seed, "trainer.default_root_dir": str(folder)}
        for key, value in {**self.settings, **ours}.items():
            # with an equals sign, since -1e-05 alone looks like an option
            found.append(f"--{key}={value if isinstance(value, str) else _written(value)}")
        return found


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Args:
        points: All runs, the seeds of one model next to each other.
        keep_models: Keep exported models and checkpoints of finished points beside their scores.
    """

    points: tuple[Point, ...]
    keep_models: bool = True


def read_sweep(path: Path, extra: Mapping[str, Any] | None = None) -> Sweep:
    """Read a sweep file.

    Args:
        path: The YAML file.
        extra: Values of dotted keys for all points, which override those of the file.

    Raises:
        ConfigError: It cannot be read or is invalid.
    """
    import yaml

    try:
        content = _yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name a sweep file, such as configs/sweep/dim.yaml") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    content = _mapping(content, f"{path}", _KEYS)
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in seeds):
        raise ConfigError(f"{path}: seeds must be a list of whole numbers from 0, got {seeds!r}")
    if not isinstance(keep := content.get("keep_models", True), bool):
        raise ConfigError(f"{path}: keep_models must be true or false, got {keep!r}")
    entries = content.get("points") or {"": {}}
    points = []
    for label, entry in _mapping(entries, f"{path}: points", None).items():
        where = f"{path}: points.{label}" if label else f"{path}"
        entry = _mapping(entry or {}, where, _POINT_KEYS)
        base = _base(entry.get("base", content.get("base")), path, where)
        shared = _settings(content.get("set"), where) | _settings(entry.get("set"), where) | dict(extra or {})
        common, own = _grids(content.get("grid"), f"{path}: grid"), _grids(entry.get("grid"), f"{where}: grid")
        grids = [first | second for first, second in itertools.product(common, own)]
        varied = list(dict.fromkeys(key for grid in grids for key in grid))
        if both := sorted(set(varied) & shared.keys()):
            raise ConfigError(f"{where}: {', '.join(both)} is set and varied at once; keep one of the two")
        for grid in grids:
            _tell_apart(grid, where)
        short = short_names(varied)
        for chosen in (chosen for grid in grids for chosen in _products(grid)):
            model = " ".join([*([label] if label else []), *(f"{short[key]}={_said(value)}" for key, value in chosen.items())]) or "base"
            values = ({"model": label} if label else {}) | chosen
            # An object before its parts: set after them, it would silently drop those that its class does not accept.
            settings = shared | dict(sorted(chosen.items(), key=lambda item: len(_parts(item[0]))))
            points += [Point(model, seed, base, settings, values) for seed in dict.fromkeys(seeds)]
    names = [point.name for point in points]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: two points are called {twice[0]}; give one of them another name under points")
    return Sweep(tuple(points), keep)


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the key and the value, parsed as YAML, of a setting such as `data.train=FILE`.

    Raises:
        ConfigError: It is not of this form.
    """
    import yaml

    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set takes KEY=VALUE, such as data.train=pairs.jsonl, got {text!r}")
    try:
        settings = {key: _yaml(value)}
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {value!r} is not YAML ({' '.join(str(error).split())})") from error
    return next(iter(_settings(settings, "--set").items()))


def _yaml(text: str) -> Any:
    """Parse YAML as the command line does: 1e-5 is a number, which PyYAML only accepts as 1.0e-5."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return yaml.load(text, loader)


def _mapping(value: object, where: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: must be a mapping, found {type(value).__name__}")
    if known is not None and (wrong := sorted(str(key) for key in value.keys() - known)):
        raise ConfigError(f"{where}: there is no key '{wrong[0]}'; known: {', '.join(sorted(known))}")
    return {str(key): item for key, item in value.items()}


def _settings(value: object, where: str) -> dict[str, Any]:
    found = _mapping(value or {}, f"{where}: set", None)
    for key, item in found.items():
        if key in _OURS:
            raise ConfigError(f"{where}: {key} is set by the sweep; seeds are listed under seeds, and the folder is --out")
        try:
            json.dumps(item)
        except (TypeError, ValueError) as error:  # dates and other types of YAML
            words = "must consist of text, numbers, lists and mappings"
            raise ConfigError(f"{where}: {key} {words} ({error}); write a date in quotes") from error
    return found


def _grids(value: object, where: str) -> list[dict[str, list[Any]]]:
    if isinstance(value, list) and value:
        return [_grid(item, f"{where}[{i}]") for i, item in enumerate(value)]
    return [_grid(value, where)]


def _grid(value: object, where: str) -> dict[str, list[Any]]:
    found = _settings(value, where)
    for key, items in found.items():
        if not isinstance(items, list) or not items:
            raise ConfigError(f"{where}: {key} must be a list of values, got {items!r}")
    return found


def _tell_apart(grid: Mapping[str, Sequence[Any]], where: str) -> None:
    """Refuse a key that the values of another varied key also set: one would override the other, and names of points would be wrong."""
    for outer, inner in itertools.permutations(grid, 2):
        whole, part = _parts(outer), _parts(inner)
        if said := [value for value in grid[outer] if part[: len(whole)] == whole and _says(value, part[len(whole) :])]:
            words = f"{inner} is varied, and {outer}={_said(said[0])} sets it too"
            raise ConfigError(f"{where}: {words}; remove it from one of the two")


def _parts(key: str) -> list[str]:
    """Return the parts of a dotted key without `init_args`, which the command line lets one omit."""
    return [part for part in key.split(".") if part != "init_args"]


def _says(value: object, path: Sequence[str]) -> bool:
    """Return whether a value sets a path below it; null does not."""
    if value is None or not path:
        return True
    if not isinstance(value, dict):
        return False
    inside = {**value, **(value.get("init_args") or {})}
    return path[0] in inside and _says(inside[path[0]], path[1:])


def _base(value: object, path: Path, where: str) -> Path:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: no base configuration; write base: preference/gpm")
    beside = path.parent / value
    try:
        return (beside if beside.is_file() else config_file(value)).absolute()
    except ConfigError as error:
        raise ConfigError(
            f"{where}: base {value}: no such file beside the sweep file or in this folder, and no shipped configuration"
        ) from error


def _products(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each dotted key, or the whole key if two share it."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _written(value: object) -> str:
    """Return a value as the command line reads it: JSON, except for infinity and NaN, which YAML spells differently."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else "-.inf" if value < 0 else ".inf"
    return json.dumps(value)


def _said(value: object) -> str:
    if isinstance(value, dict) and "class_path" in value:
        return "-".join([str(value["class_path"]).rsplit(".", 1)[-1], *(str(item) for item in (value.get("init_args") or {}).values())])
    return value if isinstance(value, str) else json.dumps(value)
