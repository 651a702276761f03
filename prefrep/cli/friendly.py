"""How the command ends when something is wrong: one sentence and an exit code, no traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from prefrep import room
from prefrep.errors import PrefrepError, Stopped, UsageError


def run(main: Callable[[], int | None]) -> None:
    """Run a program and end the process.

    Exit codes: what the program returns (None: 0); 1 for an error in the input or the file system; 2 for a command line that does not
    parse; 130 when interrupted, 143 when terminated.
    """
    try:
        code = main() or 0
    except Stopped as stop:
        traceback.clear_frames(stop.__traceback__)  # closes what was open in them, such as progress bars
        if str(stop):
            print(f"prefrep: {stop}", file=sys.stderr)
        code = stop.code
    except PrefrepError as error:
        print(f"prefrep: {_shown(error)}", file=sys.stderr)
        code = 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("prefrep: interrupted; what is written stays, and the same command resumes where the program can", file=sys.stderr)
        code = 130
    except SystemExit as error:
        if type(error).__name__ != "SIGTERMException":  # Lightning's way to end a run that receives SIGTERM; it has no code
            raise
        print("prefrep: terminated", file=sys.stderr)
        code = 143
    except BrokenPipeError:  # the reader of our output has gone
        code = 1
    except OSError as error:  # no room, no permission, a folder where a file belongs: the path tells more than a traceback
        problem = error.strerror
        if error.errno in (*room.FULL, *room.CLOSED) and isinstance(error.filename, str) and not hasattr(error, "explained"):
            problem = room.explained(error.errno, Path(error.filename))
        print(f"prefrep: {error.filename}: {problem}" if error.filename else f"prefrep: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _shown(error: PrefrepError) -> str:
    """Return a message as a terminal may print it: it can quote a file of unknown origin, which could hold control sequences."""
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in str(error))
