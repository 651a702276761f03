"""`bin/cyclic`: the cyclic sub-sets of rated responses, as files that any trainer reads (TRL's explicit conversations)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefrep.cli import friendly

if TYPE_CHECKING:
    from prefrep.records import Comparison, Messages

EXAMPLES = """examples:
  bin/cyclic bundled:ultrafeedback-mini --out data/cyclic
  bin/cyclic openbmb/UltraFeedback --out data/cyclic
prefrep itself needs no files: --data.train 'cyclic:openbmb/UltraFeedback?omit=honesty' reads a sub-set from the ratings.
"""


def main(args: list[str] | None = None) -> int:
    """Writes `without-<aspect>.jsonl` for every aspect of the ratings and prints how many comparisons each holds.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code.

    Raises:
        PrefrepError: The ratings cannot be read, or have no cycles.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="bin/cyclic", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument(
        "ratings", help="rated responses, as UltraFeedback has them: a file, a folder, a hub data set owner/name, or bundled:NAME"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    given = parser.parse_args(args)

    from prefrep.data.cyclic import Subset, aspects_of
    from prefrep.data.sources import read
    from prefrep.disk import replace_lines
    from prefrep.errors import DataError
    from prefrep.records import RankedResponses

    aspects = aspects_of(record for record in read(given.ratings) if isinstance(record, RankedResponses))
    if not aspects:
        raise DataError(f"{given.ratings}: no ratings by aspect; cycles are made from responses that are rated on four aspects or more")
    without: list[DataError] = []
    for aspect in aspects:
        try:
            comparisons = list(Subset(given.ratings, aspect).comparisons(read(given.ratings)))
        except DataError as error:  # the other sub-sets may have cycles
            without.append(error)
            continue
        file = given.out / f"without-{aspect.replace('/', '-')}.jsonl"
        replace_lines(file, map(row, comparisons))
        print(f"{file}: {len(comparisons)} comparisons, cycles on {len(comparisons) // 3} prompts")
    if len(without) == len(aspects):
        raise without[0]
    for each in without:
        print(f"no file: {each}")
    return 0


def row(comparison: Comparison) -> dict[str, Any]:
    """A comparison as a row of TRL's explicit conversations, which `data.formats` reads back."""

    def turns(messages: Messages) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.content} for message in messages]

    return {
        "prompt": turns(comparison.prompt),
        "chosen": turns(comparison.chosen),
        "rejected": turns(comparison.rejected),
        "subset": comparison.subset,
        "id": comparison.id,
    }


if __name__ == "__main__":
    friendly.run(main)
