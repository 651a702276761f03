"""The rounds of a post-training run on disk: what was sampled, what the reference says of it, how it was judged.

    rounds/0/samples.jsonl      K responses of pi_0 to each prompt, whether they ended by themselves, and the blank that a
                                plain template writes in front of them, where it was sampled (`leads`)
    rounds/0/opponents.jsonl    M responses of pi_0 to each, for objectives whose opponent is a mixture
    rounds/0/reference.jsonl    log-probabilities of these responses under pi_0 (round t: under pi_t, and under pi_0)
    rounds/0/labels.jsonl       prompt, responses, scores, best, worst, the whole table: a ranked list that PreferenceData reads
    rounds/0/about.json         what made them

The files are the interface: callbacks write them, batch by batch, and training reads them. Whoever dies in between goes on after the last
whole batch; since every batch is made from the same weights and a seed of its own, the result is that of an undisturbed run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefrep.disk import keep_lines, replace_text
from prefrep.errors import DataError

Line = dict[str, Any]


class Rounds:
    """Tables of lines, one folder per round, each line about one prompt of the round.

    Args:
        root: The folder of all rounds.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, number: int) -> Path:
        """The folder of a round."""
        return self.root / str(number)

    def read(self, number: int, name: str) -> dict[int, Line]:
        """The whole lines of a table so far, by row."""
        found: dict[int, Line] = {}
        for file in self._parts(number, name):
            content = file.read_bytes()
            for place, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
                try:
                    entry = json.loads(line)
                    found[entry["row"]] = entry
                except (ValueError, KeyError, TypeError):
                    raise DataError(f"{file}:{place}: not a line that prefrep wrote; delete the file, and it is made again") from None
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
        """Makes what a table still lacks, group by group; each group is on disk before the next one begins.

        Args:
            number: The round.
            name: The table.
            about: Everything that decides what the lines say, as plain data; lines made from other things are not mixed with it.
            groups: The rows of the table, in the batches that they are made in.
            make: Lines of the rows of a group, in their order, without the key `row`. It must not depend on earlier calls.
            rank: This process, which makes every `world_size`-th group.
            world_size: Number of processes.
            fresh: Whether the present weights are those that the lines are about, so that lines can be made at all.
            begins: Whether nothing was learnt from the round yet, so that all of it can be made again.
            stopping: Asked before each group; the table stays incomplete where the answer is yes.

        Raises:
            DataError: The table was begun from other things, or lacks lines that can no longer be made.
        """
        self._check(number, name, about, fresh, begins, write=rank == 0)
        done = self.read(number, name).keys()
        missing = [group for group in groups[rank::world_size] if not done >= set(group)]
        if not missing:
            return
        if not fresh:
            raise DataError(
                f"{self.folder(number)}: {name}.jsonl is not complete, and the policy that it is about is gone; go on from a checkpoint "
                f"of the beginning of round {number}, or begin again in another default_root_dir"
            )
        file = self.folder(number) / (f"{name}.jsonl" if rank == 0 else f"{name}.{rank}.jsonl")
        file.parent.mkdir(parents=True, exist_ok=True)  # this process may be the first
        keep_lines(file)
        total, had = sum(map(len, groups[rank::world_size])), sum(map(len, groups[rank::world_size])) - sum(map(len, missing))
        with (
            file.open("a") as out,
            tqdm(total=total, initial=had, desc=f"round {number}: {name}", unit=" prompts", disable=None if rank == 0 else True) as bar,
        ):
            for group in missing:
                if stopping():
                    break
                lines = [json.dumps({"row": row, **line}) + "\n" for row, line in zip(group, make(group), strict=True) if row not in done]
                out.write("".join(lines))
                out.flush()
                bar.update(len(group))

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
                # Deleted in its middle, a round cannot be made again: its policy is gone. Earlier rounds are always wanted.
                way = f"delete {file.parent}" if begins else "go on with the settings that made them, since steps of it are taken already"
                raise DataError(
                    f"{file.parent}: its {name} were made by another run ({what}); name another --trainer.default_root_dir, or {way}"
                )
        elif write:
            replace_text(file, json.dumps({**known, name: settings}, indent=1) + "\n")


def batches(rows: int, size: int) -> list[range]:
    """Rows 0, 1, .. in groups of `size`, the last one perhaps smaller."""
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


def _agrees(before: Any, now: Any) -> bool:
    """Whether settings are those of before; what older versions wrote down beside them decides nothing."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agrees(before.get(key), now[key]) for key in now)
    return bool(before == now)


def plain(thing: object) -> Line:
    """The settings of an object: its class and its public attributes that are plain data."""
    settings = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
    return {"class": type(thing).__name__} | {n: v for n, v in settings.items() if isinstance(v, (int, float, str, bool, list, type(None)))}


def digest(texts: Iterable[str | bytes]) -> str:
    """A short fingerprint of some texts in their order."""
    found = hashlib.sha256()
    for text in texts:
        content = text.encode() if isinstance(text, str) else text
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()[:16]
