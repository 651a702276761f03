"""Answers of the first policy, which the runs of a sweep share: they are kept by content, and sampled once."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from prefrep import caching
from prefrep.caching import cache_folder
from prefrep.data.identity import identity
from prefrep.data.rounds import Line, digest
from prefrep.generation import Sampler
from prefrep.nn.backbone import Backbone
from prefrep.records import Messages

log = logging.getLogger(__name__)
LINES = "held_out.jsonl"


class FirstAnswers:
    """A table of held-out answers, under everything that it depends on; machines round differently, so they are part of that.

    Args:
        backbone: The policy before its first step. Call it under the autocast of sampling.
        sampler: Samples the answers.
        prompts: What is asked.
        settings: Seeds and sizes.
    """

    def __init__(self, backbone: Backbone, sampler: Sampler, prompts: Sequence[Messages], settings: Line) -> None:
        device = next(backbone.parameters()).device
        encoder, ends = sampler.encoder(backbone) if hasattr(sampler, "encoder") else (None, [])
        asked = digest(ids.tobytes() for ids in encoder.prompts(prompts)) if encoder else digest(map(str, prompts))
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
        self._about = {
            "policy": identity(backbone.twin(), device.type),
            "prompts": asked,
            "ends": ends,
            "settings": settings,
            "machine": [device.type, where, torch.get_num_threads()],
            "versions": [version("prefrep"), torch.__version__],
        }

    def lines(self) -> dict[int, Line]:
        """Return the lines by row; none if they are not kept."""
        place = caching.find(cache_folder() / "first-answers", self._about)
        if place is None:
            return {}
        log.info("held-out answers of the first policy are taken from %s", place)
        lines = [json.loads(line) for line in (place / LINES).read_text(encoding="utf-8").splitlines()]
        return {line.pop("row"): line for line in lines}

    def keep(self, lines: dict[int, Line]) -> None:
        """Keep a complete table; an unwritable cache costs nothing but the sharing."""
        content = "".join(json.dumps(lines[row]) + "\n" for row in sorted(lines))
        try:
            caching.keep(
                cache_folder() / "first-answers", self._about, lambda folder: (folder / LINES).write_text(content, encoding="utf-8")
            )
        except OSError as error:
            log.warning("%s: held-out answers of the first policy are not shared with other runs (%s)", cache_folder(), error)


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return what libraries choose kernels and block sizes by, which decide the order of sums: model, caches and instructions of the CPU.

    Args:
        info: Description of the CPU by Linux; elsewhere only the architecture and PyTorch's choice are known.
    """
    named = ("vendor_id", "model name", "cpu family", "model", "stepping", "cache size", "flags", "CPU implementer", "CPU part", "Features")
    found = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    if info.exists():
        first = info.read_text(encoding="utf-8").split("\n\n")[0]  # of the first core
        lines = (line.partition(":") for line in first.splitlines())
        found += [f"{name.strip()} {value.strip()}" for name, _, value in lines if name.strip() in named]
    return digest(found)
