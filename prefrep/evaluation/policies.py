"""How policies under evaluation answer; options that programs share."""

from __future__ import annotations

from typing import Any, Literal

from prefrep.errors import require_at_least
from prefrep.parts import import_modules


class Answering:
    """How policies answer prompts.

    Args:
        max_new_tokens: Longest answer in tokens.
        batch_size: Prompts answered at a time.
        seed: Seed of the sampling.
        template: How prompts are rendered.
        engine: Sampling engine; vllm: extra `vllm`.
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as stored.
        trust_remote_code: Run Python code from the folders of the models.
        import_: Module whose parts the models may name; may be repeated.
        community: Who asks, for policies that were trained with `data.context`: a value of that column.

    Raises:
        ConfigError: A number is out of range, or a module cannot be imported.
    """

    def __init__(
        self,
        max_new_tokens: int = 1024,
        batch_size: int = 8,
        seed: int = 0,
        template: Literal["auto", "chat", "plain"] = "auto",
        engine: Literal["transformers", "vllm"] = "transformers",
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        trust_remote_code: bool = False,
        import_: list[str] | None = None,
        community: str = "",
    ) -> None:
        import_modules(import_)
        require_at_least("--batch-size", batch_size, 1)
        require_at_least("--max-new-tokens", max_new_tokens, 1)
        require_at_least("--seed", seed, 0)
        self.max_new_tokens, self.batch_size, self.seed, self.template = max_new_tokens, batch_size, seed, template
        self.community = community
        self.engine, self.device, self.dtype, self.trust_remote_code = engine, device, dtype, trust_remote_code

    def describe(self) -> dict[str, Any]:
        """Return the settings that can change an answer, except seed and batch size, which `generation` records itself."""
        asked = {"community": self.community} if self.community else {}
        return {"max_new_tokens": self.max_new_tokens, "template": self.template, "engine": self.engine} | asked


class Searching(Answering):
    """How policies answer prompts, at once or step by step, a step being a line (`prefrep.search`).

    Args:
        value: Model with a reward (folder, hub id or URL) that reads each step's end; the steps with the highest values go on.
        beams: With --value: beginnings of an answer that are kept.
        candidates: With --value: steps that are drawn for each of them.
        steps: With --value: longest answer in steps, in place of --max-new-tokens.
        step_tokens: With --value: longest step in tokens.
        **answering: See `Answering`.

    Raises:
        ConfigError: A number is out of range, or a module cannot be imported.
    """

    def __init__(
        self, value: str | None = None, beams: int = 4, candidates: int = 4, steps: int = 32, step_tokens: int = 64, **answering: Any
    ) -> None:
        super().__init__(**answering)
        for name, number in (("beams", beams), ("candidates", candidates), ("steps", steps), ("step-tokens", step_tokens)):
            require_at_least(f"--{name}", number, 1)
        self.value, self.beams, self.candidates, self.steps = value, beams, candidates, steps
        if value is not None:
            self.max_new_tokens = step_tokens

    def describe(self) -> dict[str, Any]:
        """Return the settings that can change an answer, see `Answering`; the value model is described where it is read."""
        search = {"beams": self.beams, "candidates": self.candidates, "steps": self.steps}
        return super().describe() | ({} if self.value is None else search)


def policy_name(path: str) -> str:
    """Return the last part of a folder, hub id or bundled name."""
    return path.rstrip("/").replace("bundled:", "").rsplit("/", 1)[-1]
