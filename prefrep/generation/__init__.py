"""Sampling of responses from a language model, for post-training and for the answer files of benchmarks."""

from prefrep.generation.base import Sampled, Sampler, Settings
from prefrep.generation.served import VLLMServerSampler
from prefrep.generation.tilted import TiltedSampler
from prefrep.generation.transformers import TransformersSampler
from prefrep.generation.vllm import VLLMSampler

Engines = TransformersSampler | VLLMSampler | VLLMServerSampler  # what post-training may sample with

__all__ = ["Engines", "Sampled", "Sampler", "Settings", "TiltedSampler", "TransformersSampler", "VLLMSampler", "VLLMServerSampler"]
