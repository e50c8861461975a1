"""What of a recipe does not fit a model: one check a function, as in `fit`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rheostat.recipes.look import Check, Found, Look, several, verb

MATRIX = {"orthogonalize", "normalize_neurons", "scale_by_shampoo", "scale_by_galore"}
FUSED = ("qkv", "in_proj_weight", "c_attn", "query_key_value")
"""What the names of several matrices in one have in them."""
COARSE = 1e-3
"""Half the distance of bfloat16 numbers at 0.5: a smaller change of such a weight is lost."""


def _vectors_for_matrices(look: Look) -> Found:
    flat = [name for name, param, _ in look.params if param.ndim < 2]
    found = look.first(MATRIX)
    if flat and found:
        place, name = found
        no_matrix = verb(flat, "is none", "are none")
        yield (
            place,
            (
                f"{name} is for matrices, and {several(flat)} {no_matrix}; give it a policy: "
                "match: {role: [matrix, convolution]}, and another rule for the rest"
            ),
        )


def _sparse_for_dense(look: Look) -> Found:
    sparse = [name for name, _, is_sparse in look.params if is_sparse]
    accumulating = (look.setting("accumulate") or 1) > 1
    if sparse and (accumulating or not look.match.rule.sparse):
        key = "accumulate" if accumulating and look.match.rule.sparse else "optimizer"
        place = (key,) if key == "accumulate" else look.at(key if look.rule.optimizer else "chain")
        yield (
            place,
            (
                f"{several(sparse)} {verb(sparse, 'has', 'have')} sparse gradients, which "
                f"{look.match.rule.name} cannot take; sgd, adagrad and sparse_adam can, without "
                "accumulation"
            ),
        )


def _lost_in_bfloat16(look: Look) -> Found:
    half = [name for name, param, _ in look.params if param.dtype == torch.bfloat16]
    lr = look.curve("lr") * look.factor
    if half and look.setting("precision") == "plain" and len(lr) and 0 < lr.max() < COARSE:
        yield (
            look.at("lr"),
            (
                f"is at most {lr.max():g}, and {several(half)} {verb(half, 'is', 'are')} bfloat16: "
                "a change of a weight of 0.5 by less than 0.001 is lost; set precision: master or "
                "stochastic"
            ),
        )


def _idle_precision(look: Look) -> Found:
    wanted = look.setting("precision")
    if wanted not in (None, "plain") and all(p.dtype.itemsize > 2 for _, p, _ in look.params):
        what = "and no parameter of this rule is half precision; leave it out"
        yield ("precision",), f"is {wanted}, {what}"


def _fused_matrices(look: Look) -> Found:
    for place, piece in look.placed:
        if piece.name != "orthogonalize" or not piece.origin or piece.origin.arguments["split"]:
            continue
        fused = [n for n, p, _ in look.params if p.ndim >= 2 and any(f in n.lower() for f in FUSED)]
        if fused:
            looks = verb(fused, "looks", "look")
            yield (
                place,
                (
                    f"{several(fused)} {looks} like several matrices, made orthogonal as one; say "
                    'what is in it: split: {"*.qkv.weight": [1, 1, 1]}'
                ),
            )


MODEL_CHECKS: Mapping[str, Check] = {
    "RH001": _vectors_for_matrices,
    "RH002": _sparse_for_dense,
    "RH011": _lost_in_bfloat16,
    "RH015": _idle_precision,
    "RH017": _fused_matrices,
}
"""Code -> what finds it on a model. RH016 is found by the policy itself."""
