"""Judges that command lines name: an exported folder or a Python function."""

from __future__ import annotations

from pathlib import Path

from prefrep.judges.base import Comparer
from prefrep.judges.rules import RuleJudge
from prefrep.scoring.loading import is_url


def comparer(
    name: str, device: str = "auto", batch_tokens: int = 4096, trust_remote_code: bool = False, kind: str | None = None
) -> Comparer:
    """Return a scorer of an exported folder or of a server, or the judge of a rule.

    Args:
        name: Path of an exported folder, its id on the hub, URL of a server, or dotted path of a function (`RuleJudge`). Names with a
            slash and existing paths are folders or ids.
        device: See `Scorer.from_pretrained`.
        batch_tokens: See `Scorer`.
        trust_remote_code: See `Scorer.from_pretrained`.
        kind: See `Scorer.from_pretrained`.

    Raises:
        CheckpointError: The folder cannot be loaded.
        ConfigError: The function cannot be imported, or the device is not available.
    """
    if is_url(name):
        from prefrep.scoring.remote import RemoteScorer

        return RemoteScorer(name)
    if "/" not in name and not Path(name).exists():
        return RuleJudge(name)
    from prefrep.scoring import Scorer  # imports torch, which rules do not need

    return Scorer.from_pretrained(name, device, batch_tokens=batch_tokens, trust_remote_code=trust_remote_code, kind=kind)
