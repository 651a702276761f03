"""Sampling of responses from a language model, for post-training and for the answer files of benchmarks."""

from prefrep.generation.base import Sampled, Sampler
from prefrep.generation.served import VLLMServerSampler
from prefrep.generation.tilted import TiltedSampler
from prefrep.generation.transformers import TransformersSampler
from prefrep.generation.vllm import VLLMSampler

__all__ = ["Sampled", "Sampler", "TiltedSampler", "TransformersSampler", "VLLMSampler", "VLLMServerSampler"]
