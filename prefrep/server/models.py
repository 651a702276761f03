"""The models of a server: loaded in the background, asked by name."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefrep.errors import PrefrepError, UsageError
from prefrep.evaluation.layout import versions
from prefrep.io.fingerprint import fingerprint
from prefrep.judges.named import from_recipe, identity_of, is_recipe
from prefrep.scoring.interface import PreferenceScorer
from prefrep.scoring.scorer import Scorer
from prefrep.server.engine import Engine
from prefrep.server.metrics import Metrics
from prefrep.server.refusals import Refusal
from prefrep.server.settings import Serving
from prefrep.server.written import Interviewer, Queue

log = logging.getLogger(__name__)


def named(models: list[str]) -> dict[str, str]:
    """Return folders by name, from `NAME=FOLDER` or `FOLDER`, whose last part is then the name; or recipes of judges that write.

    Raises:
        UsageError: Two have one name, or one has no name or no folder.
    """
    found: dict[str, str] = {}
    for each in models:
        name, equals, folder = each.partition("=")
        if is_recipe(each) and not is_recipe(folder):
            name, folder = Path(each).stem if os.path.exists(each) else "judge", each
        elif not equals or os.path.exists(each):
            parts = [part for part in Path(each).parts if part not in ("export", "/", "..")]
            name, folder = parts[-1] if parts else "model", each
        if not name or not folder:
            raise UsageError(f"--model {each}: write FOLDER, or NAME=FOLDER")
        if name in found:
            raise UsageError(f"--model {each}: there is a model {name!r} already; write NAME=FOLDER with another name")
        found[name] = folder
    return found


@dataclass
class Served:
    """One model.

    Args:
        name: Its name in requests.
        folder: Its folder, or the recipe of a judge.
        engine: Its queue.
        about: What /v1/models says about it.
    """

    name: str
    folder: str
    engine: Queue
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def pairwise(self) -> bool:
        """Whether it only compares."""
        return self.engine.scorer.pairwise


class Models:
    """Models that are loaded, or that will be.

    Args:
        folders: Folders and recipes of judges by name; the first answers requests that name none.
        load: Loads the scorer of a folder.
        settings: How the server answers.
        metrics: Counts the work.
    """

    def __init__(self, folders: dict[str, str], load: Callable[[str], PreferenceScorer], settings: Serving, metrics: Metrics) -> None:
        self.folders, self._load, self._settings, self._metrics = folders, load, settings, metrics
        self._served: dict[str, Served] = {}
        self.error: BaseException | None = None
        self.stopping = False

    @property
    def ready(self) -> bool:
        """Whether all models are loaded and the server goes on."""
        return len(self._served) == len(self.folders) and not self.stopping

    def load(self) -> None:
        """Load all models; an error is kept in `error`."""
        try:
            for name, folder in self.folders.items():
                started = time.monotonic()
                engine, about = (self._judge if is_recipe(folder) else self._model)(name, folder)
                self._metrics.waiting.labels(name).set_function(partial(getattr, engine, "waiting"))
                self._served[name] = Served(name, folder, engine, about)
                log.info("%s: %s from %s, %.1f s", name, self._served[name].about["head"], folder, time.monotonic() - started)
        except Exception as error:
            self.error = error

    def _model(self, name: str, folder: str) -> tuple[Engine, dict[str, Any]]:
        scorer = self._load(folder)
        assert isinstance(scorer, Scorer)
        if self._settings.rendered and scorer.model.head.layout == "pair":
            raise UsageError(f"--rendered: {folder} reads pairs and renders both responses itself; leave the option out")
        return Engine(scorer, self._metrics.of(name), self._settings.queue, self._settings.text_tokens), _about(name, folder, scorer)

    def _judge(self, name: str, recipe: str) -> tuple[Interviewer, dict[str, Any]]:
        if self._settings.rendered:
            raise UsageError(f"--rendered: {name} is a judge that writes, which reads conversations; leave the option out")
        judge = from_recipe(recipe)
        judge.load()
        described = identity_of(recipe, judge)
        about = _listed(name, judge.pairwise) | {
            "head": type(judge).__name__, "dim": None, "layout": "written", "blocks": False, "chat": True, "template": judge.manner.prompt,
            "max_length": None, "fingerprint": described["fingerprint"], "versions": versions(), "describe": described,
        }  # fmt: skip
        return Interviewer(judge, self._metrics.of(name), self._settings.queue), about

    def __call__(self, name: str | None) -> Served:
        """Return a model by name, or the first one.

        Raises:
            Refusal: 404 there is none of that name, 503 it is not loaded yet.
        """
        wanted = next(iter(self.folders)) if name is None else name
        if wanted not in self.folders:
            raise Refusal(404, f"model: there is no {wanted[:80]!r}; this server has {', '.join(self.folders)}")
        if wanted not in self._served:
            raise Refusal(503, "the model is being loaded; try again in some seconds", retry_after="2")
        return self._served[wanted]

    def all(self) -> list[Served]:
        """Return the models that are loaded."""
        return list(self._served.values())

    def close(self) -> None:
        """Answer what is queued and end all threads."""
        for each in self.all():
            each.engine.close()

    def check(self) -> None:
        """Raise what loading raised."""
        if isinstance(self.error, PrefrepError):
            raise self.error
        if self.error is not None:
            raise PrefrepError(f"a model could not be loaded ({type(self.error).__name__}: {self.error})") from self.error


def _about(name: str, folder: str, scorer: Scorer) -> dict[str, Any]:
    """Return what tells a model from others, its settings and versions."""
    described = scorer.describe()
    head = scorer.model.head
    return _listed(name, scorer.pairwise) | {
        "head": type(head).__name__,
        "dim": head.dim,
        "layout": head.layout,
        "blocks": hasattr(head, "block_scores"),
        "chat": scorer.chats,
        "template": scorer.encode.template,
        "max_length": scorer.encode.max_length,
        "fingerprint": fingerprint(folder),
        "versions": described["versions"],
        "describe": {**described, "encoded": {}},
    }


def _listed(name: str, pairwise: bool) -> dict[str, Any]:
    """Return what is said of models and judges alike."""
    rules = ["group", "anchor"] if pairwise else ["reward", "group", "anchor"]
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "prefrep", "pairwise": pairwise, "rules": rules}
