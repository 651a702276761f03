"""Recipes of parts: round trips, and what a recipe may name."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefrep import declared, parts, typed
from prefrep.errors import ConfigError
from prefrep.generation import TransformersSampler
from prefrep.io import heads as every_head  # noqa: F401 - recipes may name all of them
from prefrep.judges import Judge, RuleJudge
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.losses import LogisticLoss, PreferenceLoss, RegressionLoss
from prefrep.nn.objectives import GPOObjective, NashMDObjective, PolicyObjective
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew, SkewOperator
from prefrep.parts import MissingPartError, Part, PartError, make, recipe


class Tool(Part):
    """A kind of part that only these tests have."""


@dataclass
class Saw(Tool):
    teeth: int = 30
    names: tuple[str, ...] = ("a",)


class Drill(Tool):
    def __init__(self, bits: list[int], inner: Tool | None = None, make_inner: Callable[[int], Tool] | None = None, **more: Any) -> None:
        self.all, self.inner = bits, inner
        self.made = None if make_inner is None else make_inner(7)


class Hammer(Drill):
    def __init__(self, weight: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.grams = weight * 1000


class Sealed(Tool):
    def __init__(self, secret: object = None, callback: Callable[[str], int] = len) -> None:
        self.secret = secret


CASES: list[tuple[Any, type[Part], tuple[Any, ...], dict[str, Any]]] = [
    (BTHead(8), PreferenceHead, (8,), {"class": "BTHead"}),
    (PairHead(8, "tokens", ("x", "y")), PreferenceHead, (8,), {"class": "PairHead", "readout": "tokens", "answers": ["x", "y"]}),
    (
        GPMHead(8, 4, partial(GatedSkew, variant="scaled_softmax"), False), PreferenceHead, (8,),
        {"class": "GPMHead", "dim": 4, "skew": {"class": "GatedSkew", "variant": "scaled_softmax"}, "normalize": False},
    ),
    (
        GPMHead(8, skew=lambda dim, hidden: LearnedSkew(dim, hidden)), PreferenceHead, (8,),
        {"class": "GPMHead", "dim": 2, "skew": {"class": "LearnedSkew"}, "normalize": True},
    ),
    (HybridHead(8, 6), PreferenceHead, (8,), {"class": "HybridHead", "dim": 6, "skew": {"class": "BlockSkew"}, "normalize": True}),
    (BlockSkew(4, 8), SkewOperator, (4, 8), {"class": "BlockSkew"}),
    (LogisticLoss(0.1), PreferenceLoss, (), {"class": "LogisticLoss", "tau": 0.1, "smoothing": 0.0, "learn_tau": False}),
    (
        RegressionLoss(target=5), PreferenceLoss, (),
        {"class": "RegressionLoss", "tau": 1.0, "target": 5, "smoothing": 0.0, "learn_tau": False},
    ),
    (
        NashMDObjective(0.1), PolicyObjective, (),
        {
            "class": "NashMDObjective", "beta": 0.1, "opponent": 0.25, "anchor": 0.25, "select": "best_worst", "self_comparison": True,
            "log_z": "zero",
        },
    ),
    (RuleJudge("prefrep.judges.concise"), Judge, (), {"class": "RuleJudge", "rule": "prefrep.judges.concise"}),
    (
        TransformersSampler(0.5), Part, (),
        {
            "class": "prefrep.generation.transformers.TransformersSampler", "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 256,
            "template": "auto", "top_k": 0, "dtype": "auto", "tokens": 2**16,
        },
    ),
    (Saw(12, ("b", "c")), Tool, (), {"class": f"{__name__}.Saw", "teeth": 12, "names": ["b", "c"]}),
    (
        Hammer(2.5, bits=[1, 2], inner=Saw()), Tool, (),
        {
            "class": f"{__name__}.Hammer", "weight": 2.5, "bits": [1, 2], "make_inner": None,
            "inner": {"class": f"{__name__}.Saw", "teeth": 30, "names": ["a"]},
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("part", "kind", "supplied", "expected"), CASES, ids=lambda value: type(value).__name__)
def test_round_trip(part: Any, kind: type[Part], supplied: tuple[Any, ...], expected: dict[str, Any]) -> None:
    written = recipe(part, len(supplied))
    assert written | {"class": expected["class"]} == expected
    assert written["class"] in (expected["class"], expected["class"].rpartition(".")[2])
    again = make(written | {"class": expected["class"]}, kind, *supplied)
    assert type(again) is type(part) and recipe(again, len(supplied)) == written


def test_restricted_numbers_become_plain() -> None:
    from prefrep.nn.skew import EvenDim

    assert type(recipe(GPMHead(8, EvenDim(4)), 1)["dim"]) is int


def test_a_factory_is_a_recipe_too() -> None:
    made = parts.factory({"class": "GPMHead", "dim": 4, "skew": {"class": "LearnedSkew"}}, PreferenceHead, 1)  # type: ignore[type-abstract]
    heads = [made(8), made(16)]
    assert [head.value_head.in_features for head in heads] == [8, 16]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "no recipe"),
        ({}, "no recipe"),
        ({"class": 3}, "no recipe"),
        (
            {"class": "NoHead"},
            "unknown head 'NoHead'; prefrep has BTHead, GPMHead, HybridHead, IdealPointHead, "
            "LayeredHead, MarkedPairHead, MixtureHead, ObjectivesHead, PairHead, PersonalHead",
        ),
        ({"class": "BlockSkew"}, "unknown head"),
        ({"class": "PreferenceHead"}, "unknown head"),
        ({"class": "prefrep.nn.skew.BlockSkew"}, "no PreferenceHead"),
        ({"class": "prefrep.nn.heads.NoHead"}, "prefrep.nn.heads has no head NoHead"),
        ({"class": "os.system"}, "os has no head system"),
        ({"class": "BTHead", "dim": 2}, "BTHead has no argument 'dim'"),
        ({"class": "BTHead", "hidden_size": 2}, "no argument 'hidden_size'"),
        ({"class": "GPMHead", "dim": 3}, "GPMHead.dim.*positive even"),
        ({"class": "GPMHead", "dim": "4"}, "GPMHead.dim must be a whole number"),
        ({"class": "GPMHead", "normalize": 1}, "GPMHead.normalize must be true or false"),
        ({"class": "GPMHead", "skew": "BlockSkew"}, "no recipe of a SkewOperator"),
        ({"class": "GPMHead", "skew": {"class": "GatedSkew", "variant": "x"}}, "GatedSkew.variant must be one of softmax, "),
        ({"class": "PairHead", "answers": ["a"]}, "PairHead.answers must be"),
    ],
)
def test_wrong_recipes(data: Any, message: str) -> None:
    with pytest.raises(PartError, match=message):
        make(data, PreferenceHead, 8)  # type: ignore[type-abstract]


def test_a_recipe_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the caller does."""
    (tmp_path / "stranger.py").write_text("from prefrep.nn.heads import BTHead\nclass Theirs(BTHead):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPartError, match="belongs to the package stranger.*--import stranger"):
        make({"class": "stranger.Theirs"}, PreferenceHead, 8)  # type: ignore[type-abstract]
    assert "stranger" not in sys.modules
    monkeypatch.setattr(declared, "_imported", {})
    parts.import_modules(["stranger"])
    assert parts.imported() == ["stranger"]
    assert type(make({"class": "stranger.Theirs"}, PreferenceHead, 8)).__name__ == "Theirs"  # type: ignore[type-abstract]
    with pytest.raises(ConfigError, match=r"--import no\.such: cannot be imported"):
        parts.import_modules(["no.such"])


def test_only_plain_data_is_recorded_and_read() -> None:
    with pytest.raises(PartError, match="argument secret is a object"):
        recipe(Sealed(object()))
    with pytest.raises(PartError, match="callback is not plain data"):
        make({"class": f"{__name__}.Sealed", "callback": "os.system"}, Tool)


def test_objects_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As formats of data will be: those of named modules, and those that entry points declare."""

    class Kind:
        pass

    class Point:
        def __init__(self, name: str, thing: Any) -> None:
            self.name, self.value, self.dist, self.thing = name, "x:y", None, thing

        def load(self) -> Any:
            if isinstance(self.thing, Exception):
                raise self.thing
            return self.thing

    module, theirs = types.ModuleType("mine"), types.ModuleType("theirs")
    one, two, three = Kind(), Kind(), Kind()
    module.MY_STARS, theirs.STARS = one, two  # type: ignore[attr-defined]
    monkeypatch.setattr(declared, "_imported", {"mine": module})
    monkeypatch.setattr(declared, "_entry_points", lambda: (Point("moons", three), Point("all", theirs), Point("no", 5)))
    assert parts.named(Kind) == {"my-stars": one, "stars": two, "moons": three}
    monkeypatch.setattr(declared, "_entry_points", lambda: (Point("broken", ImportError("no numpy")),))
    with pytest.raises(ConfigError, match="its part broken .* cannot be imported .*no numpy"):
        parts.named(Kind)


def test_parameters_behind_kwargs() -> None:
    assert list(typed.parameters(Hammer)) == ["weight", "bits", "inner", "make_inner"]
    assert typed.parameters(GPOObjective)["clamp"].default is None


@pytest.mark.parametrize(
    ("hint", "value", "found"),
    [
        (float, 1, 1.0), (int, 3, 3), (str, "x", "x"), (bool, True, True), (list[str], ["a"], ["a"]),
        (tuple[str, str], ["a", "b"], ("a", "b")),
        (int | None, None, None), (dict[str, Any], {"a": [1]}, {"a": [1]}), (Path, "a/b", Path("a/b")), (Any, {"x": 1}, {"x": 1}),
        (dict[str, Any], {"a": "no", "b": "5", "c": "null", "d": "[1]"}, {"a": "no", "b": "5", "c": "null", "d": "[1]"}),
        (list[Any], ["5"], ["5"]), (Sequence[str], ["5", "no"], ["5", "no"]), (str | int, "5", "5"), (str | int, 5, 5),
    ],
)  # fmt: skip
def test_values_that_fit(hint: Any, value: Any, found: Any) -> None:
    checked = typed.checked("x", hint, value)
    assert checked == found and type(checked) is type(found)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (float, "1", "a number"), (int, 1.5, "a whole number"), (int, True, "a whole number"), (bool, "true", "true or false"),
        (bool, 1, "true or false"), (str, 5, "a text"), (list[int], "x", "a list"), (list[int], ["x"], "a list"),
        (dict[str, int], [1], "a mapping"), (int, None, "a whole number"), (int | None, "x", "a whole number or null"),
        (float, 10**400, "a number"),
        (type, "os.system", "not plain data"), (Callable[[], int], "os.getpid", "not plain data"), (Tool, {}, "not plain data"),
    ],
)  # fmt: skip
def test_values_that_do_not(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"where.*{message}"):
        typed.checked("where", hint, value)
