"""What an encoder counts, as sentences and as plain data."""

from __future__ import annotations

from collections import Counter

SPELLED = "with control tokens in a text"


class Tallies:
    """Counts of an encoder.

    Args:
        template: Name of the template.
        events: Numbers of responses by the way they were rendered, and of what the template left out; the renderer goes on counting.
    """

    def __init__(self, template: str, events: Counter[str]) -> None:
        self.template, self.events = template, events
        self.counts: Counter[str] = Counter()

    def report(self) -> str:
        """Return the counts as a sentence."""
        events = [f"{count} {name}" for name, count in sorted(self.counts.items()) if name != "records" and count]
        return f"{self.counts['records']} records" + (": " + ", ".join(events) if events else ", none truncated or dropped")

    def reading(self) -> str:
        """Return how responses were rendered, and what the template left out, as a sentence."""
        events = ", ".join(f"{n} {name}" for name, n in sorted(self.events.items()))
        return f"template {self.template}: {events or 'nothing rendered'}"

    def tallies(self) -> dict[str, dict[str, int]]:
        """Return the counts and events as plain data."""
        return {"counts": dict(self.counts), "events": dict(self.events)}

    def findings(self) -> Counter[str]:
        """Return a copy of the events, with the number of records that have control tokens in a text."""
        spelled = {name: count for name, count in self.counts.items() if name == SPELLED}
        return self.events + Counter(spelled)
