"""The configurations that travel with prefrep, one per model."""

from __future__ import annotations

from pathlib import Path

from prefrep.disk import expanded
from prefrep.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"  # in a checkout a link to configs/, where people edit them


def config_names() -> list[str]:
    """Return the names of all shipped configurations, such as `preference/gpm`."""
    return sorted(str(file.relative_to(CONFIGS).with_suffix("")) for file in CONFIGS.rglob("*.yaml"))


def config_file(name: str | Path) -> Path:
    """Return the file that a `--config` means: a file of that path, else the shipped configuration of that name.

    Args:
        name: A path, or the name of a shipped configuration with or without `configs/` and `.yaml`, such as `preference/gpm`.

    Raises:
        ConfigError: There is neither.
    """
    path = expanded(name)
    if path.is_file():
        return path
    short = str(name).removeprefix("configs/").removesuffix(".yaml")
    if short in (known := config_names()):
        return CONFIGS / f"{short}.yaml"
    import difflib

    near = difflib.get_close_matches(short, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "`prefrep config` lists the shipped ones"
    raise ConfigError(f"--config {name}: no such file, and no shipped configuration of that name; {hint}")
