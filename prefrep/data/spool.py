"""Sequences on disk, for datasets larger than memory."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from prefrep.errors import DataError
from prefrep.room import saving

Item = TypeVar("Item")

_ITEMS, _ENDS = "items", "ends"
# All that a pickle may name: records, labelled pairs, encoded data, and what columns of Parquet files hold beside JSON's types. None of it
# runs code.
_ADMITTED = frozenset(
    [("prefrep.records", name) for name in ("Message", "Comparison", "RankedResponses")]
    + [("prefrep.data.trees", name) for name in ("Datum", "unpacked")]
    + [("prefrep.labels.rows", "Labelled")]
    + [("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")]
    + [("decimal", "Decimal")]
)


class _Reader(pickle.Unpickler):
    """Reads pickles of data alone: somebody else may have written what lies in a cache folder."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of `_ADMITTED`; names with dots, which lead from there to other objects, are in no pair of it."""
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a record")
        return super().find_class(module, name)


class Spool(Sequence[Item], Generic[Item]):
    """A sequence in a temporary file, with 8 bytes per item in memory. The file goes with the spool.

    Access is random and works in forked and spawned processes. The file is in `TMPDIR`, without a name where the system allows it; the page
    cache holds recently read items. Items are records, labelled pairs, encoded data (`data.trees.Datum`) or plain data; access raises
    `DataError` where the file holds anything else, or is damaged.

    Args:
        items: The items, consumed one by one.
        folder: Empty folder for the sequence, which stays there (`opened` reads it again); None: a temporary file.
    """

    def __init__(self, items: Iterable[Item], folder: Path | None = None) -> None:
        self._file: Any
        self._path: str
        self._file, self._path = _temporary() if folder is None else ((folder / _ITEMS).open("w+b"), str(folder / _ITEMS))
        self._ends = array("q", [0])
        end, place = 0, Path(tempfile.gettempdir()) if folder is None else Path(self._path)
        for item in items:  # which may be read from other disks
            with saving(place):
                end += self._file.write(pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL))
            self._ends.append(end)
        with saving(place):
            self._file.flush()
        self._order: Sequence[int] | None = None
        if folder is not None:
            with saving(place), (folder / _ENDS).open("wb") as ends:
                self._ends.tofile(ends)

    @classmethod
    def opened(cls, folder: Path) -> Spool[Any]:
        """Return the sequence that was written to a folder."""
        ends = array("q")
        ends.frombytes((folder / _ENDS).read_bytes())
        return _opened(str(folder / _ITEMS), ends, None)

    def reordered(self, order: Sequence[int]) -> Spool[Item]:
        """Return a view of the items in another order, with repetitions; it shares the file."""
        other: Spool[Item] = object.__new__(Spool)
        other.__dict__ |= self.__dict__ | {"_order": order}
        return other

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._order is None else len(self._order)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        place = index if self._order is None else self._order[index]
        start, stop = self._ends[place], self._ends[place + 1]
        try:
            # pread, since forked processes share the file offset
            item: Item = _Reader(io.BytesIO(os.pread(self._file.fileno(), stop - start, start))).load()
        except Exception as error:  # a damaged pickle can raise anything
            file = Path(self._path)
            where, remedy = f"a temporary file in {tempfile.gettempdir()}", "records may hold texts, numbers, dates, lists and dictionaries"
            if file.name == _ITEMS:
                where, remedy = str(file), f"delete {file.parent}"
            raise DataError(f"{where}: item {place} cannot be read ({error}); {remedy}") from error
        return item

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle for spawned processes, which open the file while this one lives and do not delete it."""
        return _reopened, (self._path, _identity(self._file), self._ends, self._order)


def _temporary() -> tuple[Any, str]:
    """Return a temporary file that goes with this process, however that ends, and a path by which other processes can open it."""
    file: Any = tempfile.TemporaryFile()
    path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
    try:
        with open(path, "rb"):
            return file, path
    except OSError:  # no Linux: others need a name, and a process that is killed leaves it
        file = tempfile.NamedTemporaryFile(prefix="prefrep-", suffix=".spool")
        return file, file.name


def _identity(file: Any) -> tuple[int, int]:
    about = os.fstat(file.fileno())
    return about.st_dev, about.st_ino


def _reopened(path: str, identity: tuple[int, int], ends: array[int], order: Sequence[int] | None) -> Spool[Any]:
    """Open the file of a spool in another process; its number may stand for another file once the spool is gone."""
    found = _opened(path, ends, order)
    if _identity(found._file) != identity:
        raise DataError(f"{path}: the temporary file of this data is gone; keep the data where they were made until others have read them")
    return found


def _opened(path: str, ends: array[int], order: Sequence[int] | None) -> Spool[Any]:
    spool: Spool[Any] = object.__new__(Spool)
    spool._file, spool._path = open(path, "rb"), path
    spool._ends, spool._order = ends, order
    return spool
