"""What prefrep keeps for later runs, shown and deleted."""

from __future__ import annotations

from typing import Any


def cache(*, clear: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Show what is kept for later runs, with sizes, or delete it.

    It lies in $PREFREP_CACHE, or else in ~/.cache/prefrep. All of it can be made again; the answers of judges that write (verdicts) may
    have cost money. Nothing else in that folder is shown or deleted.

    Examples:
        prefrep cache
        prefrep cache --clear features --clear encoded

    Args:
        clear: What to delete, by its name in the list; may be repeated. No program of prefrep should run meanwhile.

    Returns:
        Size in bytes, number of entries and days since the last use of each, before anything is deleted.

    Raises:
        UsageError: Nothing of that name is kept.
        OSError: A folder cannot be deleted.
    """
    import shutil
    import time

    from prefrep.caching import cache_folder, kept, kinds
    from prefrep.errors import UsageError
    from prefrep.room import size

    found = {place.name: kept(place) for place in kinds()}
    if wrong := [name for name in clear or [] if name not in found]:
        raise UsageError(f"--clear {wrong[0]}: nothing of that name is in {cache_folder()} ({', '.join(found) or 'it is empty'})")
    now = time.time()
    about: dict[str, dict[str, Any]] = {
        name: {"bytes": each.size, "entries": each.entries, "days": max(0.0, now - each.used) / 86_400} for name, each in found.items()
    }
    print(f"{cache_folder()}: {size(sum(each.size for each in found.values()))}")
    for name, each in about.items():
        print(f"  {name:20} {size(each['bytes']):>10} {each['entries']:>8} entries, last used {each['days']:.0f} days ago")
    for name in dict.fromkeys(clear or []):
        shutil.rmtree(cache_folder() / name)
        print(f"deleted: {name}")
    return about
