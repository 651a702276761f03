"""Loading and saving models without the output of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from transformers.utils import logging


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bars and the load report of transformers, whose settings are restored afterwards.

    Use it where prefrep itself checks for missing weights. Downloads from the hub keep their progress bars, which
    `transformers.utils.logging.disable_progress_bar` would turn off too.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with patch.object(logging, "_tqdm_active", False):
            yield
    finally:
        logging.set_verbosity(verbosity)
