"""Cyclic comparisons as files that any trainer reads."""

from __future__ import annotations

from pathlib import Path

from prefrep.writers import writes


@writes("out", folder=True)
def cyclic(ratings: str, *, out: str) -> dict[str, int]:
    """Write the cyclic comparisons of rated responses, one file for each left-out aspect.

    The files hold TRL's explicit conversations. prefrep itself needs no files: --data.train 'cyclic:openbmb/UltraFeedback?omit=honesty'
    makes a subset from the ratings while it reads.

    Examples:
        prefrep cyclic bundled:ultrafeedback-mini --out data/cyclic
        prefrep cyclic openbmb/UltraFeedback --out data/cyclic

    Args:
        ratings: Responses rated by aspect, as UltraFeedback has them: a file, a folder, a hub data set owner/name, or bundled:NAME.
        out: Folder for `without-<aspect>.jsonl`.

    Returns:
        Number of comparisons by file name.

    Raises:
        PrefrepError: The ratings cannot be read, or have no cycles.
    """
    from prefrep.data.cyclic import Subset, aspects_of
    from prefrep.data.explicit import explicit_row
    from prefrep.data.sources import read
    from prefrep.disk import replace_lines
    from prefrep.errors import DataError
    from prefrep.records import RankedResponses

    aspects = aspects_of(record for record in read(ratings) if isinstance(record, RankedResponses))
    if not aspects:
        raise DataError(f"{ratings}: no ratings by aspect; cycles are made from responses that are rated on four aspects or more")
    without: list[DataError] = []
    counts: dict[str, int] = {}
    for aspect in aspects:
        try:
            comparisons = list(Subset(ratings, aspect).comparisons(read(ratings)))
        except DataError as error:  # the other subsets may have cycles
            without.append(error)
            continue
        file = Path(out) / f"without-{aspect.replace('/', '-')}.jsonl"
        replace_lines(file, map(explicit_row, comparisons))
        counts[file.name] = len(comparisons)
        print(f"{file}: {len(comparisons)} comparisons, cycles on {len(comparisons) // 3} prompts")
    if len(without) == len(aspects):
        raise without[0]
    for each in without:
        print(f"no file: {each}")
    return counts
