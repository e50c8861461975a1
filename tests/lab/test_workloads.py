"""The workloads: data by content, splits that do not meet, models that learn what is claimed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from torch import nn

from rheostat.core.registry import component, components
from rheostat.lab.workload import Workload
from rheostat.signals.fingerprint import fingerprint

NAMES = ("atlas_gnn", "digits_cnn", "digits_mlp", "topics_transformer")
SIZES = {"atlas_gnn": 9825, "digits_cnn": 6090, "digits_mlp": 8970}
"""Parameters as the cards state them; the transformer's depend on the text."""


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    return {name: component(name, "workload").factory().load() for name in NAMES}


def test_these_are_the_workloads() -> None:
    assert [of.name for of in components("workload")] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_weights_and_batches(name: str, tasks: dict[str, Any]) -> None:
    task, again = tasks[name], component(name, "workload").factory().load()
    assert task.data == again.data
    for seed in (0, 1):
        one, two = task.model(seed), again.model(seed)
        assert fingerprint(one.state_dict()) == fingerprint(two.state_dict())
        pairs = itertools.islice(zip(task.batches(seed), again.batches(seed), strict=True), 3)
        assert all(fingerprint(a) == fingerprint(b) for a, b in pairs)
    assert fingerprint(next(task.batches(0))) != fingerprint(next(task.batches(1)))
    assert fingerprint(task.model(0).state_dict()) != fingerprint(task.model(1).state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_the_caller_is_drawn(name: str, tasks: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    tasks[name].model(0)
    next(tasks[name].batches(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_those_declared(name: str, tasks: dict[str, Any]) -> None:
    made: Workload = component(name, "workload").factory()
    found = tasks[name].evaluate(tasks[name].model(0))
    assert list(found) == list(made.metrics)
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_keeps_the_form_and_changes_the_inputs(name: str, tasks: dict[str, Any]) -> None:
    task = tasks[name]
    shifted = task.shifted(task.held_out)
    for before, after in zip(task.held_out, shifted, strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    assert not torch.equal(task.held_out[0], shifted[0])
    twice = task.shifted(shifted)  # each of these changes is its own inverse
    assert all(torch.equal(a, b) for a, b in zip(task.held_out, twice, strict=True))


@pytest.mark.parametrize("name", list(SIZES))
def test_sizes_are_as_the_cards_say(name: str, tasks: dict[str, Any]) -> None:
    assert sum(p.numel() for p in tasks[name].model(0).parameters()) == SIZES[name]
    assert f"{SIZES[name]:,} parameters" in " ".join(component(name).doc.split())


def test_the_digits_of_both_models_are_the_same(tasks: dict[str, Any]) -> None:
    flat, square = tasks["digits_mlp"], tasks["digits_cnn"]
    assert torch.equal(flat.held_out[0].view(-1, 1, 8, 8), square.held_out[0])
    assert torch.equal(flat.held_out[1], square.held_out[1])
    assert len(flat.held_out[1]) == 364
    assert np.bincount(flat.held_out[1].numpy()).min() >= 35  # every class, about alike


def test_the_target_of_a_graph_is_its_algebraic_connectivity(tasks: dict[str, Any]) -> None:
    """networkx computes it by another method."""
    task = tasks["atlas_gnn"]
    graphs, targets = task.held_out
    assert len(targets) == 251
    atlas = [g for g in networkx.graph_atlas_g() if len(g) >= 2][::5]
    slopes: list[float] = []
    for index in (20, 60, 120, 200, 250):
        graph = networkx.convert_node_labels_to_integers(atlas[index])
        joined = graphs[index].numpy()[: len(graph), : len(graph)] - np.eye(len(graph))
        assert np.array_equal(joined, networkx.to_numpy_array(graph))
        found = networkx.algebraic_connectivity(graph, tol=1e-10, seed=0)
        slopes.append(found)
    real = np.polynomial.Polynomial.fit(slopes, targets[[20, 60, 120, 200, 250], 0].numpy(), 1)
    assert np.allclose(real(np.array(slopes)), targets[[20, 60, 120, 200, 250], 0], atol=1e-4)


def test_a_graph_network_sees_no_order_of_the_nodes(tasks: dict[str, Any]) -> None:
    task = tasks["atlas_gnn"]
    model: nn.Module = task.model(0)
    graphs, _ = task.held_out
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(graphs), model(graphs[:, order][:, :, order]), atol=1e-5)


def test_the_transformer_sees_no_later_character(tasks: dict[str, Any]) -> None:
    task = tasks["topics_transformer"]
    model: nn.Module = task.model(0)
    text = task.held_out[0][:2].clone()
    with torch.no_grad():
        before = model(text)
        text[:, 40:] = 0
        after = model(text)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert not torch.allclose(before[:, 40:], after[:, 40:], atol=1e-2)
    # What is to be predicted is the next character.
    assert torch.equal(task.held_out[0][:, 1:], task.held_out[1][:, :-1])
