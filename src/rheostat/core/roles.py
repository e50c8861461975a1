"""Parameter roles: what a parameter is for, found from the module that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, cast, get_args

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from rheostat.core.naming import bare, named_parameters

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
    it holds what has no elements. What a parametrization makes a weight of is as that weight, but
    the gain of a weight_norm is a "vector".
    """
    owned = _owned(model)
    names = bare(model, [one.name for one in owned.values()])
    owned = {
        key: one._replace(name=name) for (key, one), name in zip(owned.items(), names, strict=True)
    }
    last = next(
        (
            one.name
            for one in reversed(owned.values())
            if isinstance(one.module, nn.Linear) and one.name.endswith("weight")
        ),
        None,
    )
    named = zip(model.named_parameters(), named_parameters(model), strict=True)
    return {name: _role(owned[key], param, last) for (key, _), (name, param) in named}


class _Owned(NamedTuple):
    """What a parameter belongs to: the module, the parameter's name there, after the module's, and
    whether it only scales another parameter."""

    module: nn.Module
    name: str
    gain: bool = False


def _owned(model: nn.Module) -> dict[str, _Owned]:
    """Of every name: what is parametrized belongs to the module whose weight is computed of it."""
    modules = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
    found: dict[str, _Owned] = {}
    for prefix, module in modules.items():
        own = dict(module.named_parameters(prefix, recurse=False))
        weight = max(reversed(own), key=lambda name: own[name].numel(), default="")
        parts = ["", "", *prefix.split(".")]
        *holder, between, leaf = parts
        path = [part for part in holder if part]
        for name, param in own.items():
            if not isinstance(module, ParametrizationList) or between != "parametrizations":
                found[name] = _Owned(module, name)
                continue
            long = sum(length > 1 for length in param.shape)
            gain = name != weight and param.ndim > 1 and long <= 1
            found[name] = _Owned(modules[".".join(path)], ".".join([*path, leaf]), gain)
    return found


def _role(owned: _Owned, param: Tensor, last_linear: str | None) -> Role:
    owner, name, gain = owned
    leaf = name.rpartition(".")[2]
    module_name = name.rpartition(".")[0].rpartition(".")[2]
    if param.numel() == 0:
        return "other"
    if gain:
        return "vector"
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
