"""What is compiled: the layers of a model if asked for, and FlexAttention where its kernels can be generated."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils._triton import has_triton_package
from transformers.modeling_layers import GradientCheckpointingLayer

from prefrep.errors import first_line

log = logging.getLogger(__name__)

VERSIONS = 64  # of a function that torch.compile keeps; beyond 8, its default, FlexAttention would run uncompiled, on whole matrices
TRIAL = 160  # tokens: more than one block of FlexAttention


def compile_layers(model: nn.Module) -> None:
    """Have the layers of a model compiled at their first call, where there is a compiler."""
    if lacking := _missing():
        log.warning("Backbone.compile needs %s, and none was found: layers are not compiled", lacking)
        return
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):  # the base class of every decoder layer in transformers
            layer.compile(dynamic=True)


def _missing() -> str:
    """Return what the compiler lacks on this machine, in words; empty: nothing."""
    if not torch.cuda.is_available():
        return "" if shutil.which(os.environ.get("CXX", "c++")) else "a C++ compiler (c++, or $CXX)"
    if not has_triton_package():
        return "the package triton"
    named = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]  # where Triton looks
    return "" if any(map(shutil.which, named)) else "a C compiler (gcc, clang, or $CC)"


def keep_versions() -> None:
    """Let torch.compile keep a version of FlexAttention for every kind of layer, mask and mode, in this thread."""
    if torch._dynamo.config.recompile_limit < VERSIONS:
        torch._dynamo.config.recompile_limit = VERSIONS


def flex_compiles(backbone: nn.Module, device: torch.device, mixed: torch.dtype | None = None) -> bool:
    """Return whether a backbone that reads trees with FlexAttention can do so here, with a line in the log if not.

    The probes of `nn.probes` compile nothing. Here the kernels are generated, and backward too if the model trains: Triton or a C compiler
    may be missing, or a kernel may not exist for the width of a head.

    Args:
        backbone: The backbone.
        device: Its device.
        mixed: Dtype of autocast, whose kernels are others than those of the weights' dtype; None: there is none.
    """
    places = torch.arange(TRIAL, device=device)[None]
    mode = backbone.training
    backbone.eval()  # dropout of adapters would draw random numbers
    try:
        with torch.enable_grad(), torch.autocast(device.type, mixed) if mixed is not None else nullcontext():
            found = backbone(5 + places % 7, places, torch.full_like(places, TRIAL), padded=False)
            if found.requires_grad:
                first = next(parameter for parameter in backbone.parameters() if parameter.requires_grad)
                torch.autograd.grad(found.sum(), first, allow_unused=True)  # leaves no gradient behind
    except torch.OutOfMemoryError:
        raise  # not a property of the kernel
    except Exception as error:  # whatever compilers raise
        log.warning("flex_attention cannot be compiled here, so attention: auto does not use it (%s)", first_line(error))
        return False
    finally:
        backbone.train(mode)
    return True
