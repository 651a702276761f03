"""What samplers with vLLM share: what it draws, where, and how its responses end."""

from __future__ import annotations

from torch import distributed

from prefrep.data.encode import Encoder
from prefrep.errors import ConfigError
from prefrep.generation.base import Sampled, Settings, split
from prefrep.web import ServerError


class VLLM(Settings):
    """A sampler that hands weights to an engine of vLLM; arguments and errors as in `Settings`."""

    def check(self) -> None:
        """Check that vLLM draws at this temperature, and that the run has one process.

        Raises:
            ConfigError: It does not, or has several.
        """
        who = type(self).__name__
        if self.temperature and not 0.01 <= self.temperature <= 2:
            raise ConfigError(f"{who}: vLLM samples at temperatures from 0.01 to 2, or greedily at 0, got {self.temperature}")
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ConfigError(f"{who} takes the weights of one process; train with --trainer.devices 1, or use TransformersSampler")

    def _drawn(self, responses: int) -> int:
        """Return how many responses to draw: vLLM refuses several greedy ones, which would be equal."""
        return responses if self.temperature > 0 else 1

    def _sampled(self, whole: str, reason: str, encoder: Encoder, where: str) -> Sampled:
        """Return a response; raises ServerError if it was cut off for another reason than its length."""
        if reason not in ("stop", "length"):
            raise ServerError(f"{where}: a response ended with {reason!r}; run the same command again")
        text, lead = split(whole, encoder)
        return Sampled(text, reason == "stop", lead)
