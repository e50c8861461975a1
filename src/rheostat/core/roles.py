"""Parameter roles: what a parameter is for, found from the module that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast, get_args

from torch import Tensor, nn

Role = Literal[
    "embedding", "head", "norm", "bias", "matrix", "convolution", "vector", "scalar", "other"
]
ROLES: tuple[str, ...] = get_args(Role)

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    nn.modules.batchnorm._NormBase,  # pyright: ignore[reportPrivateUsage]  (every BatchNorm and InstanceNorm)
)
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)  # pyright: ignore[reportPrivateUsage]
_HEADS = ("head", "lm_head", "classifier", "output", "fc_out", "score")


def roles(model: nn.Module) -> dict[str, Role]:
    """Parameter name -> role, each tied parameter once, under its first name.

    "embedding" is the weight of an nn.Embedding (also where the head shares it), "head" the weight
    of the last nn.Linear of the model or of one named so (head, lm_head, classifier, output,
    fc_out, score), "norm" anything in a normalisation layer, or in a module whose class name ends
    in Norm, "bias" a parameter named bias, "convolution" a weight of a convolution, "matrix" what
    else has two dimensions or more, "vector" one, "scalar" none; "other" is never empty-handed:
    it holds what has no elements.
    """
    owners = {name: module for module, name in _owned(model)}
    last = next(
        (
            name
            for name, owner in reversed(owners.items())
            if isinstance(owner, nn.Linear) and name.endswith("weight")
        ),
        None,
    )
    named = dict(model.named_parameters())
    return {name: _role(name, param, owners[name], last) for name, param in named.items()}


def _owned(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    modules = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    for prefix, module in modules:
        for name, _ in module.named_parameters(recurse=False):
            yield module, f"{prefix}.{name}" if prefix else name


def _role(name: str, param: Tensor, owner: nn.Module, last_linear: str | None) -> Role:
    leaf = name.rpartition(".")[2]
    module_name = name.rpartition(".")[0].rpartition(".")[2]
    if param.numel() == 0:
        return "other"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(owner, _NORMS) or type(owner).__name__.endswith("Norm"):
        return "norm"
    if "bias" in leaf and param.ndim == 1:
        return "bias"
    if isinstance(owner, _CONVOLUTIONS):
        return "convolution"
    if isinstance(owner, nn.Linear) and (name == last_linear or module_name in _HEADS):
        return "head"
    if param.ndim >= 2:
        return "matrix"
    return "vector" if param.ndim == 1 else "scalar"
