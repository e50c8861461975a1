"""All small graphs and a graph network."""

from __future__ import annotations

from typing import Annotated, Any

import annotated_types as at
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rheostat.core.errors import MachineError
from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.lab.tensor_task import Rows, TensorTask, Trial
from rheostat.lab.workload import Metric, Workload

NODES = 7
"""The most that a graph of the atlas has."""
TRAINING = 1000
"""How many graphs there are to train on."""


@register("workload", "atlas_gnn")
def atlas_gnn(
    hidden: Count = 32,
    layers: Count = 4,
    batch: Annotated[int, at.Ge(1), at.Le(TRAINING)] = 50,
) -> Workload:
    """All 1,251 graphs of two to seven nodes, and a network to learn how well they hold together.

    The target is a graph's algebraic connectivity, the second smallest eigenvalue of its Laplacian
    (0 where it is in pieces, 7 at most), scaled to mean 0 and standard deviation 1 over the graphs
    to train on. Every fifth graph, in the order of the atlas, is held out (251 graphs), the others
    are for training (1,000). The model passes messages: in each layer every node adds up its
    neighbours and itself, a two-layer perceptron looks at the sum (Xu et al. 2019), and what it
    finds, normalised, is added to what the node holds; sum and maximum over all nodes go through
    one more perceptron (9,825 parameters as it is). It starts from ones: it is told nothing but who
    is joined to whom. The loss is the squared error; test_r2 is the share of the variance that is
    explained. Linear fits explain 0.81 of it (from nodes, edges, the variance of degrees, and
    squares) and 0.91 (with the smallest degree besides); graphs that no such network can tell apart
    leave 0.996 at most.
    Source: Read and Wilson, "An Atlas of Graphs" (1998), as networkx ships it.
    hidden: numbers that a node holds.
    layers: rounds of messages.
    batch: graphs a batch; the last, smaller batch of an epoch is left out.
    """
    metrics = {
        "test_r2": Metric("maximize", worst=0.0, unit="share of variance", best=1.0),
        "test_loss": Metric("minimize", worst=1.0, unit="variances", best=0.0),
    }

    def load() -> TensorTask:
        trial = Trial(lambda: _Messages(hidden, layers), functional.mse_loss, _measure, _complement)
        return TensorTask(*_split(), trial, batch)

    return Workload(metrics, load)


def _split() -> tuple[Rows, Rows]:
    """Graphs as matrices (7, 7), 1 on the diagonal for a node and beside it for an edge."""
    try:
        import networkx
    except ImportError:
        raise MachineError(
            'the workload atlas_gnn needs networkx: pip install "rheostat[study]"'
        ) from None
    atlas: list[Any] = [graph for graph in networkx.graph_atlas_g() if len(graph) >= 2]
    graphs = np.zeros((len(atlas), NODES, NODES), dtype=np.float32)
    connectivity = np.zeros((len(atlas), 1))
    for index, graph in enumerate(atlas):
        joined = networkx.to_numpy_array(graph)
        n = len(joined)
        graphs[index, :n, :n] = joined + np.eye(n)
        laplacian = np.diag(joined.sum(1)) - joined
        connectivity[index] = np.linalg.eigvalsh(laplacian)[1]
    # Rounded: the last digits of eigenvalues are those of the machine's linear algebra.
    connectivity = connectivity.round(6)
    out = np.arange(len(atlas)) % 5 == 0
    mean, deviation = connectivity[~out].mean(), connectivity[~out].std()
    targets = ((connectivity - mean) / deviation).round(6).astype(np.float32)
    train, held_out = (
        (torch.from_numpy(graphs[mask]), torch.from_numpy(targets[mask])) for mask in (~out, out)
    )
    return train, held_out


class _Messages(nn.Module):
    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [1] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.ReLU(),
            )
            for width in widths
        )
        self.head = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, graphs: Tensor) -> Tensor:
        """Graphs (n, 7, 7) -> what is predicted of each (n, 1)."""
        there = graphs.diagonal(dim1=1, dim2=2).unsqueeze(2)
        nodes = there
        for layer in self.layers:
            # The first sum is of ones, and joins none of the numbers that a node holds later.
            nodes = (nodes if nodes.shape[2] > 1 else 0) + layer(graphs @ nodes) * there
        return self.head(torch.cat([nodes.sum(1), nodes.amax(1)], 1))


def _measure(predicted: Tensor, targets: Tensor) -> dict[str, float]:
    loss = functional.mse_loss(predicted, targets).item()
    return {"test_r2": 1 - loss / targets.var(correction=0).item(), "test_loss": loss}


def _complement(examples: Rows) -> Rows:
    """Each graph is shown by the edges that it lacks; the target stays that of the graph."""
    graphs, targets = examples
    there = graphs.diagonal(dim1=1, dim2=2)
    whole = there.unsqueeze(2) * there.unsqueeze(1)
    return whole - graphs + torch.diag_embed(there), targets
