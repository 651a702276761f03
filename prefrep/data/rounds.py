"""The rounds of a post-training run on disk: samples, reference log-probabilities, labels.

    rounds/0/samples.jsonl      K responses of pi_0 to each prompt, whether they are finished, and the space that a plain template
                                puts in front of them, if it was sampled (`leads`); from samplers that tell, their tokens (`ids`),
                                log-probabilities and mean entropies (nats, at temperature 1), and whether these are of float32 (`exact`)
    rounds/0/opponents.jsonl    M responses of pi_0 to each prompt, for objectives with a mixture as the opponent
    rounds/1/earlier.jsonl      K responses of an earlier round's policy to each prompt, for objectives that play against it
    rounds/0/reference.jsonl    log-probabilities of these responses under pi_0 (round t: under pi_t, and under pi_0)
    rounds/1/earlier_reference.jsonl    log-probabilities of the samples under an earlier round's policy, likewise
    rounds/0/labels.jsonl       prompt, responses, scores, best, worst, table: ranked responses that PreferenceData reads
    rounds/0/policy.safetensors the trainable weights of pi_0 (round t: of pi_t), for objectives that refer to earlier rounds
    rounds/0/about.json         the settings behind each of them

Callbacks write the files batch by batch, and training reads them. An interrupted run resumes after the last complete batch. Every batch
depends on the weights and a seed of its own only, so the result equals that of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefrep.console import listening
from prefrep.disk import keep_lines, replace_text
from prefrep.errors import DataError
from prefrep.room import saving

Line = dict[str, Any]


class Rounds:
    """Tables of lines, one folder per round, one line per prompt.

    Args:
        root: Folder of all rounds.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, number: int) -> Path:
        """Return the folder of a round."""
        return self.root / str(number)

    def weights(self, number: int) -> Path:
        """Return the file of a round's policy."""
        return self.folder(number) / "policy.safetensors"

    def read(self, number: int, name: str) -> dict[int, Line]:
        """Return the complete lines of a table so far, by row. Raises DataError: a line is broken."""
        found: dict[int, Line] = {}
        for file in self._parts(number, name):
            content = file.read_bytes()
            for place, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
                try:
                    entry = json.loads(line)
                    found[entry["row"]] = entry
                except (ValueError, KeyError, TypeError):
                    raise DataError(f"{file}:{place}: not a line that prefrep wrote; delete the file to compute it again") from None
        return found

    def fill(
        self,
        number: int,
        name: str,
        about: Mapping[str, Any],
        groups: Sequence[Sequence[int]],
        make: Callable[[Sequence[int]], Iterable[Line]],
        *,
        rank: int = 0,
        world_size: int = 1,
        fresh: bool = True,
        begins: bool = True,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compute the missing lines of a table, group by group; each group is on disk before the next one starts.

        Args:
            number: Number of the round.
            name: Name of the table.
            about: All settings that the lines depend on, as plain data; a table never mixes settings.
            groups: Rows of the table, in batches.
            make: Computes the lines of a group, in order, without the key `row`. It must not depend on earlier calls.
            rank: Rank of this process, which computes every `world_size`-th group.
            world_size: Number of processes.
            fresh: Whether the current weights are those of the round, so that missing lines can be computed.
            begins: Whether the round has not trained yet, so that all of it can be computed again.
            stopping: Asked before each group; the table stays incomplete where the answer is yes.

        Raises:
            DataError: The table has other settings, or missing lines can no longer be computed.
        """
        self._check(number, name, about, fresh, begins, write=rank == 0)
        done = self.read(number, name).keys()
        missing = [group for group in groups[rank::world_size] if not done >= set(group)]
        if not missing:
            return
        if not fresh:
            raise DataError(
                f"{self.folder(number)}: {name}.jsonl is not complete, and the policy of the round no longer exists; resume from a "
                f"checkpoint of the beginning of round {number}, or start again in another default_root_dir"
            )
        file = self.folder(number) / (f"{name}.jsonl" if rank == 0 else f"{name}.{rank}.jsonl")
        file.parent.mkdir(parents=True, exist_ok=True)  # this process can be the first
        keep_lines(file)
        total, had = sum(map(len, groups[rank::world_size])), sum(map(len, groups[rank::world_size])) - sum(map(len, missing))
        with (
            saving(file),
            file.open("a") as out,
            tqdm(
                total=total,
                initial=had,
                desc=f"round {number}: {name}",
                unit=" prompts",
                disable=None if rank == 0 else True,
                ncols=80,
                miniters=1,  # else a small step after a large one is not shown
                bar_format="{desc} {n_fmt}/{total_fmt} left {remaining}{postfix}",
            ) as bar,
        ):
            shown = _Shown(bar)
            for group in missing:
                if stopping():
                    break
                with listening(partial(shown.hear, len(group))):
                    made = {row: line for row, line in zip(group, make(group), strict=True) if row not in done}
                out.write("".join(json.dumps({"row": row, **line}) + "\n" for row, line in made.items()))
                out.flush()
                shown.complete(len(group), sum(_tokens(line) for line in made.values()))

    def _parts(self, number: int, name: str) -> list[Path]:
        folder = self.folder(number)
        return [file for file in (folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}.[0-9]*.jsonl"))) if file.exists()]

    def _check(self, number: int, name: str, about: Mapping[str, Any], fresh: bool, begins: bool, write: bool) -> None:
        file = self.folder(number) / "about.json"
        settings = json.loads(json.dumps(about))
        known = json.loads(file.read_text()) if file.exists() else {}
        if name in known and self._parts(number, name):
            differences = [key for key in settings if not _agrees(known[name].get(key), settings[key]) and (fresh or key != "weights")]
            if differences:
                key = differences[0]
                what = "other weights" if key == "weights" else f"{key} {known[name].get(key)!r:.80}, not {settings.get(key)!r:.80}"
                # After its first step the policy of a round no longer exists, and later rounds need all earlier ones.
                same = "continue with the settings that produced them, since the round has trained already"
                way = f"delete {file.parent}" if begins else same
                raise DataError(
                    f"{file.parent}: its {name} were made by another run ({what}); set another --trainer.default_root_dir, or {way}"
                )
        elif write:
            replace_text(file, json.dumps({**known, name: settings}, indent=1, sort_keys=True) + "\n")


class _Shown:
    """Prompts and tokens of a table in its line of progress, within a group too where its work tells of itself."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._began, self._tokens, self._inside, self._ahead = bar, time.perf_counter(), 0, 0, 0

    def hear(self, prompts: int, tokens: int, done: float) -> None:
        """Add what a group of some prompts has told: tokens since the last time, share of the group that is done."""
        self._inside += tokens
        ahead = int(done * prompts) - self._ahead
        if ahead > 0:  # what starts anew within a group, such as a second pass, does not count backwards
            self._ahead += ahead
            self._rate(self._tokens + self._inside)
            self._bar.update(ahead)

    def complete(self, prompts: int, tokens: int) -> None:
        """Add a complete group."""
        self._tokens += tokens or self._inside
        self._rate(self._tokens)
        self._bar.update(prompts - self._ahead)
        self._inside = self._ahead = 0

    def _rate(self, tokens: int) -> None:
        if tokens:
            self._bar.set_postfix_str(f"{tokens / (time.perf_counter() - self._began):.0f} tok/s", refresh=False)


def _tokens(line: Line) -> int:
    """Return the number of tokens of a line's responses, 0 if it does not tell."""
    return sum(line["lengths"]) if "lengths" in line else sum(map(len, line.get("ids", ())))


def batches(rows: int, size: int) -> list[range]:
    """Return rows 0, 1, .. in groups of `size`; the last group can be smaller."""
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


def _agrees(before: Any, now: Any) -> bool:
    """Return whether settings agree; keys that only older versions wrote do not count."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agrees(before.get(key), now[key]) for key in now)
    return bool(before == now)


def plain(thing: object) -> Line:
    """Return the class of an object and its public attributes that are plain data."""
    settings = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
    return {"class": type(thing).__name__} | {n: v for n, v in settings.items() if isinstance(v, (int, float, str, bool, list, type(None)))}


def digest(texts: Iterable[str | bytes]) -> str:
    """Return a short digest of a sequence of texts."""
    found = hashlib.sha256()
    for text in texts:
        content = text.encode() if isinstance(text, str) else text
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()[:16]
