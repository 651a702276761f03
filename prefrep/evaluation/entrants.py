"""Who takes part in a league: answer files, runs of post-training with their held-out answers, or language models that answer now."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefrep.data.rounds import Line, Rounds
from prefrep.data.turns import conversation
from prefrep.errors import DataError, UsageError
from prefrep.evaluation import winrate
from prefrep.evaluation.policies import policy_name
from prefrep.records import Message, Messages

HELD_OUT = "held_out"


@dataclass
class Entrant:
    """A policy with its answers.

    Args:
        name: Its name.
        answers: Answers to each prompt.
        kl: Estimates of KL to the initial policy in nats per answer, one for each run that measured it.
    """

    name: str
    answers: dict[Messages, list[Messages]] = field(default_factory=dict)
    kl: list[float] = field(default_factory=list)


def parse(given: Sequence[str], option: str = "--policy") -> dict[str, list[str]]:
    """Return paths by name of policies that are given as PATH or NAME=PATH; a name that occurs again adds another run of the policy.

    Args:
        given: What the option was given.
        option: Its name.

    Raises:
        UsageError: There are fewer than two policies, or two files have one name that nobody gave them.
    """
    found: dict[str, list[str]] = {}
    for each in given:
        name, sign, path = each.partition("=")
        if not sign or "/" in name:  # a path may hold an equals sign
            name, path = policy_name(each.removesuffix("/export")), each
            if name in found and winrate.is_answer_file(path):  # such as model_outputs.json of two folders, which are no runs of one policy
                raise UsageError(f"{option} {path}: another one is called {name} too; name both, as {option} NAME=PATH")
        found.setdefault(name, []).append(path)
    if len(found) < 2:
        raise UsageError(f"it takes two policies or more, each as {option} NAME=PATH; got {', '.join(found) or 'none'}")
    return found


def enter(name: str, paths: Sequence[str], data: str | None, generate: Callable[[str, str], Path]) -> Entrant:
    """Return a policy with the answers of all its runs.

    Args:
        name: Its name.
        paths: Answer files, run folders (their last held-out answers), folders of one round (`RUN/rounds/0`), or language models.
        data: Prompts for language models.
        generate: Answers the prompts by a language model (its path) into a folder (its name), and returns the answer file.

    Raises:
        UsageError: There are no prompts for a language model.
        PrefrepError: Answers cannot be read or generated.
    """
    found = Entrant(name)
    for number, path in enumerate(paths):
        if (folder := _round(Path(path))) is not None:
            _held_out(found, folder)
            continue
        if not winrate.is_answer_file(path):
            if data is None:
                raise UsageError(f"{path} is neither an answer file nor a run; if it is a language model, --data must name prompts for it")
            path = str(generate(path, f"{name}-{number}" if len(paths) > 1 else name))
        for prompt, answer in winrate.read_side(path, data).found.values():
            found.answers.setdefault(prompt, []).append(answer)
    return found


def _round(path: Path) -> Path | None:
    """Return the folder of a round with held-out answers: the path itself, or the last round of a run; None: it is something else."""
    if (path / f"{HELD_OUT}.jsonl").is_file():
        return path
    numbers = [int(each.parent.name) for each in path.glob(f"rounds/*/{HELD_OUT}.jsonl") if each.parent.name.isdigit()]
    return path / "rounds" / str(max(numbers)) if numbers else None


def _held_out(entrant: Entrant, folder: Path) -> None:
    lines = Rounds(folder.parent).read(int(folder.name) if folder.name.isdigit() else 0, HELD_OUT)
    if not lines:
        raise DataError(f"{folder}: holds no complete answer; let the run go on")
    for row in sorted(lines):
        answers = [(Message("assistant", text),) for text in lines[row]["responses"]]
        entrant.answers.setdefault(_prompt(lines[row]), []).extend(answers)
    file = folder / "metrics.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if f"{HELD_OUT}_kl_initial" in known:
        entrant.kl.append(float(known[f"{HELD_OUT}_kl_initial"]))


def _prompt(line: Line) -> Messages:
    """Return the prompt of held-out answers: the last turn, of which `before` are the turns above."""
    before = conversation(line["before"], "before") if "before" in line else ()
    return (*before, Message("user", line["prompt"]))
