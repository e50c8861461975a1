"""Policies: ordered, total, exclusive; roles from the modules; one norm over all rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.roles import roles


class Tiny(nn.Module):
    """A model with a parameter of every role."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.ones(4))
        self.gain = nn.Parameter(torch.ones(()))
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 9, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.embed(tokens).transpose(1, 2))).transpose(1, 2)
        return self.head(torch.tanh(self.hidden(x * self.scale * self.gain)))


def test_roles_come_from_the_modules() -> None:
    assert roles(Tiny()) == {
        "scale": "vector",
        "gain": "scalar",
        "embed.weight": "embedding",
        "conv.weight": "convolution",
        "conv.bias": "bias",
        "norm.weight": "norm",
        "norm.bias": "norm",
        "hidden.weight": "matrix",
        "hidden.bias": "bias",
        "head.weight": "head",
    }


def test_a_tied_head_is_an_embedding_once() -> None:
    model = Tiny()
    model.head.weight = model.embed.weight
    found = roles(model)
    assert found["embed.weight"] == "embedding"
    assert "head.weight" not in found
    assert sum(len(g["params"]) for g in rs.optimizer("adamw", model).param_groups) == 9


def _rules() -> tuple[rs.Transform, rs.Transform]:
    adam = rs.chain(rs.transforms.scale_by_adam(), rs.transforms.scale_by_learning_rate(1e-3))
    plain = rs.chain(rs.transforms.trace(0.9), rs.transforms.scale_by_learning_rate(1e-2))
    return adam, plain


def test_the_first_match_wins_and_every_parameter_is_claimed_once() -> None:
    adam, plain = _rules()
    model = Tiny()
    lines = [
        rs.match(plain, name="hidden.*", role="matrix"),
        rs.match(adam, role=("norm", "bias"), lr=5e-4),
        rs.match(adam),
    ]
    opt = rs.optimizer(rs.policy(*lines), model)
    names = [group["param_names"] for group in opt.param_groups]
    assert names[0] == ["hidden.weight"]
    assert names[1] == ["conv.bias", "norm.weight", "norm.bias", "hidden.bias"]
    claimed = [name for group in names for name in group]
    assert sorted(claimed) == sorted(name for name, _ in model.named_parameters())
    assert [group["lr"] for group in opt.param_groups] == [1e-2, 5e-4, 1e-3]
    assert set(opt.state[model.hidden.weight]) == {"step", "momentum_buffer"}
    assert "betas" not in opt.param_groups[0]
    model(torch.tensor([[1, 2, 3]])).square().mean().backward()
    opt.step()
    opt.load_state_dict(opt.state_dict())


def test_what_is_left_out_or_empty_is_an_error_that_names_it() -> None:
    adam, plain = _rules()
    with pytest.raises(InputError, match=r"no line claims scale \(role vector"):
        rs.optimizer(rs.policy(rs.match(adam, role="matrix")), Tiny())
    nobody = [rs.match(plain, name="decoder.*"), rs.match(adam)]
    with pytest.raises(InputError, match=r"name=\('decoder\.\*',\) claims no parameter"):
        rs.optimizer(rs.policy(*nobody), Tiny())
    optional = [rs.match(plain, name="decoder.*", optional=True), rs.match(adam)]
    assert len(rs.optimizer(rs.policy(*optional), Tiny()).param_groups) == 1
    with pytest.raises(InputError, match="unknown role 'matrx'; did you mean 'matrix'"):
        rs.optimizer(rs.policy(rs.match(adam, role="matrx"), rs.match(adam)), Tiny())
    with pytest.raises(InputError, match="at least one line"):
        rs.policy()


def test_a_clip_before_a_policy_takes_the_norm_of_all_parameters() -> None:
    # No Adam here: it would blow up the rounding of gradients that are zero but for rounding.
    (_, plain), (_, other_plain) = _rules(), _rules()
    model, twin = Tiny(), Tiny()
    twin.load_state_dict(model.state_dict())
    lines = rs.policy(rs.match(plain, role="matrix"), rs.match(other_plain))
    clipped = rs.optimizer(lines.after(rs.transforms.clip_by_global_norm(0.01)), model)
    unclipped = rs.optimizer(lines, twin)
    for _ in range(3):
        for net, opt in ((model, clipped), (twin, unclipped)):
            opt.zero_grad()
            net(torch.tensor([[1, 2, 3]])).square().mean().backward()
            if net is twin:
                torch.nn.utils.clip_grad_norm_(net.parameters(), 0.01)
            opt.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_matrices_without_a_model_are_said_to_be_taken_for_hidden_ones() -> None:
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    said = "muon: .* 3 are taken for hidden ones; give the model"
    for given in (net.parameters(), net.named_parameters()):
        with pytest.warns(UserWarning, match=said) as warned:
            rs.optimizer("muon", given)
        assert warned[0].filename == __file__
    # With the model, or matrices alone, nothing is guessed (and any warning is an error here).
    rs.optimizer("muon", net)
    rs.optimizer("muon", [param for param in net.parameters() if param.ndim == 2])


def test_what_a_weight_is_made_of_has_its_role() -> None:
    made = nn.utils.parametrizations
    model = nn.Sequential(
        made.weight_norm(nn.Embedding(9, 4)),
        made.weight_norm(nn.Conv2d(3, 4, 3)),
        made.spectral_norm(nn.Linear(4, 4)),
        made.weight_norm(nn.Linear(4, 4)),
        made.weight_norm(nn.Linear(4, 1)),
    )
    assert roles(model) == {
        "0.parametrizations.weight.original0": "vector",
        "0.parametrizations.weight.original1": "embedding",
        "1.bias": "bias",
        "1.parametrizations.weight.original0": "vector",
        "1.parametrizations.weight.original1": "convolution",
        "2.bias": "bias",
        "2.parametrizations.weight.original": "matrix",
        "3.bias": "bias",
        "3.parametrizations.weight.original0": "vector",
        "3.parametrizations.weight.original1": "matrix",
        "4.bias": "bias",
        "4.parametrizations.weight.original0": "vector",
        "4.parametrizations.weight.original1": "head",
    }
    alone = made.weight_norm(nn.Linear(1, 4))
    assert roles(alone) == {
        "bias": "bias",
        "parametrizations.weight.original0": "vector",
        "parametrizations.weight.original1": "head",
    }
    named = nn.ModuleDict({"score": made.weight_norm(nn.Linear(4, 4)), "last": nn.Linear(4, 2)})
    assert roles(named)["score.parametrizations.weight.original1"] == "head"
    nn.utils.parametrize.register_parametrization(model[1], "bias", nn.Identity())
    assert roles(model[1])["parametrizations.bias.original"] == "bias"
    counted = nn.BatchNorm1d(4)
    nn.utils.parametrize.register_parametrization(counted, "running_mean", nn.Identity())
    assert roles(counted) == {"weight": "norm", "bias": "norm"}
