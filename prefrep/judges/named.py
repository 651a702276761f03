"""Judges and models that command lines name: exported folders, servers, Python functions, and recipes of judges."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefrep.errors import ConfigError, DataError, UsageError
from prefrep.judges.base import Comparer, Judge
from prefrep.judges.rules import RuleJudge
from prefrep.parts import make, parse
from prefrep.scoring.interface import PreferenceScorer
from prefrep.scoring.loading import Scoring, fingerprint_of, is_url

if TYPE_CHECKING:
    from prefrep.judges.generative import GenerativeJudge

WRITES = "GenerativeJudge"


def comparer(
    name: str, device: str = "auto", batch_tokens: int = 4096, trust_remote_code: bool = False, kind: str | None = None
) -> Comparer:
    """Return a scorer of an exported folder or of a server, the judge of a rule, or a judge that writes.

    Args:
        name: Path of an exported folder, its id on the hub, URL of a server, dotted path of a function (`RuleJudge`), or what
            `is_recipe` takes. Names with a slash and existing paths are folders or ids.
        device: See `Scorer.from_pretrained`.
        batch_tokens: See `Scorer`.
        trust_remote_code: See `Scorer.from_pretrained`.
        kind: See `Scorer.from_pretrained`.

    Raises:
        CheckpointError: The folder cannot be loaded.
        ConfigError: The function cannot be imported, or the device is not available.
    """
    if is_url(name):
        from prefrep.scoring.remote import RemoteScorer

        return RemoteScorer(name)
    if is_recipe(name):
        return from_recipe(name)
    if "/" not in name and not Path(name).exists():
        return RuleJudge(name)
    from prefrep.scoring import Scorer  # imports torch, which rules do not need

    return Scorer.from_pretrained(name, device, batch_tokens=batch_tokens, trust_remote_code=trust_remote_code, kind=kind)


def is_recipe(name: str) -> bool:
    """Return whether a name is a recipe of a judge that writes: `GenerativeJudge model=NAME form=grades`, or a YAML file of one."""
    return name.split(maxsplit=1)[:1] == [WRITES] or name.endswith((".yaml", ".yml"))


def from_recipe(name: str) -> GenerativeJudge:
    """Return the judge that a recipe means, see `is_recipe`.

    Raises:
        DataError: There is no such file.
        ConfigError: It is no recipe of a judge that writes.
    """
    from prefrep.judges.generative import GenerativeJudge

    recipe: Any = name
    if name.split(maxsplit=1)[:1] != [WRITES]:
        import yaml

        try:
            recipe = yaml.safe_load(Path(name).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{name}: cannot be read ({error.strerror}); name a YAML file with class: {WRITES} and its arguments"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: no YAML ({str(error).splitlines()[0]}); it needs class: {WRITES} and its arguments") from error
        if isinstance(recipe, dict) and "class_path" in recipe:  # as configurations of training write it
            recipe = {"class": str(recipe["class_path"]).rpartition(".")[2], **(recipe.get("init_args") or {})}
        if not isinstance(recipe, dict) or recipe.get("class") != WRITES:
            raise ConfigError(f"{name}: is no recipe of a judge; it needs class: {WRITES} and its arguments")
    judge = make(parse(recipe, "--judge"), Judge)  # type: ignore[type-abstract]
    assert isinstance(judge, GenerativeJudge)
    return judge


def open_model(model: str, how: Scoring) -> PreferenceScorer:
    """Return whoever a command line names as its model: a judge that writes by its recipe, or see `open_scorer`.

    Raises:
        PrefrepError: It cannot be read.
    """
    if is_recipe(model):
        if how.settings:
            raise UsageError(f"{how.settings.strip()}: the recipe of a judge says how it is asked; leave it out")
        return from_recipe(model)
    from prefrep.scoring.workers import open_scorer

    return open_scorer(model, how)


def identity_of(model: str, scorer: Comparer) -> dict[str, Any]:
    """Return name, fingerprint and description of whoever `open_model` or `comparer` gave, as plain data."""
    described = scorer.describe()
    if isinstance(scorer, RuleJudge):
        return {"path": model, **described}
    if is_recipe(model):
        known = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
        return {"path": f"{described['model']} (judge)", "fingerprint": known, **described}
    return {"path": model, "fingerprint": fingerprint_of(model), **described}
