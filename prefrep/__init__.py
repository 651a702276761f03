"""Train, evaluate and use preference models.

Every program is a function of the same name: `prefrep.fit`, `prefrep.score`, `prefrep.eval.pairs`, `prefrep.sweep`, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time they are imported when they are first used
    from prefrep.programs import eval as eval
    from prefrep.programs.adapt import adapt as adapt
    from prefrep.programs.cache import cache as cache
    from prefrep.programs.config import config as config
    from prefrep.programs.cyclic import cyclic as cyclic
    from prefrep.programs.export import export as export
    from prefrep.programs.fit import fit as fit
    from prefrep.programs.fit import predict as predict
    from prefrep.programs.fit import test as test
    from prefrep.programs.fit import validate as validate
    from prefrep.programs.inspect import inspect as inspect
    from prefrep.programs.label import label as label
    from prefrep.programs.quickstart import quickstart as quickstart
    from prefrep.programs.report import report as report
    from prefrep.programs.score import score as score
    from prefrep.programs.serve import serve as serve
    from prefrep.programs.sweep import sweep as sweep

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("prefrep")
    from importlib import import_module  # `from prefrep import` would ask this function again

    programs = import_module("prefrep.programs")
    if name in programs.NAMES:
        return programs.load(name)
    raise AttributeError(f"module 'prefrep' has no attribute {name!r}")


def __dir__() -> list[str]:
    from prefrep.programs import NAMES

    return [*globals(), "__version__", *NAMES]
