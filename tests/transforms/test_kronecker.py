"""What SOAP, Shampoo and PSGD have in common: statistics, decompositions, factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rheostat as rs
from rheostat.core.transform import Hyper
from rheostat.transforms import kronecker, whitening
from rheostat.transforms.kronecker import accumulate, eigen, matrix_shape, symmetric


def test_matrix_shapes() -> None:
    shapes = {(4, 3): (4, 3), (4, 3, 2): (4, 6), (5,): (0, 0), (): (0, 0), (0, 3): (0, 0)}
    assert {shape: matrix_shape(torch.zeros(shape)) for shape in shapes} == shapes


@pytest.mark.parametrize("size", [0, 5, 512, 1100])
def test_a_statistic_is_kept_by_blocks(size: int) -> None:
    """Of a long one only the blocks on and below the diagonal are computed."""
    statistic = torch.zeros(size, size, dtype=torch.float64)
    expected = statistic.clone()
    for seed in range(3):
        rows = torch.randn(
            size, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        accumulate(statistic, rows, 0.9)
        expected = 0.9 * expected + 0.1 * rows @ rows.T
    torch.testing.assert_close(symmetric(statistic), expected)
    if size > 600:
        assert not statistic[:512, 512:].any()


def test_eigenvectors_fall_back_to_float64_and_then_to_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    values, vectors = eigen(x @ x.T)
    torch.testing.assert_close((vectors * values) @ vectors.T, x @ x.T)
    real = torch.linalg.eigh

    def fails_in_single(matrix: Tensor) -> tuple[Tensor, Tensor]:
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("not converged")
        return real(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fails_in_single)
    values, vectors = eigen(x @ x.T)
    assert values.dtype == vectors.dtype == torch.float32
    torch.testing.assert_close((vectors * values) @ vectors.T, x @ x.T)
    monkeypatch.undo()
    values, vectors = eigen(torch.full((2, 3, 3), torch.nan))
    assert torch.equal(values, torch.zeros(2, 3))
    assert torch.equal(vectors, torch.eye(3).expand(2, 3, 3))


def test_inverse_roots() -> None:
    x = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices = x @ x.mT
    roots = kronecker._inverse_root(matrices, 0.0)  # pyright: ignore[reportPrivateUsage]
    unit = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    torch.testing.assert_close(roots @ roots @ roots @ roots @ matrices, unit)
    # The ridge is relative: a matrix a million times larger has a root 10^(-1.5) times as large.
    small, large = (
        kronecker._inverse_root(size * matrices, 0.1)  # pyright: ignore[reportPrivateUsage]
        for size in (1.0, 1e6)
    )
    torch.testing.assert_close(large, small * 10**-1.5)
    zero = kronecker._inverse_root(torch.zeros(1, 3, 3), 1e-6)  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(zero[0], torch.eye(3))


def test_the_norm_bound_is_a_lower_bound_and_near() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 3, 20):
        for _ in range(20):
            x = torch.randn(size, size + 2, generator=generator, dtype=torch.float64)
            exact = float(torch.linalg.matrix_norm(x @ x.T, 2))
            bound = float(whitening._norm_bound(x @ x.T))  # pyright: ignore[reportPrivateUsage]
            assert 0.5 * exact < bound < exact * (1 + 1e-9)
    assert float(whitening._norm_bound(torch.zeros(3, 3))) == 0.0  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("name", ["scale_by_soap", "scale_by_shampoo", "scale_by_kron"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 3, 2), (5,), (), (0, 3), (1, 7), (7, 1)])
def test_refreshes_follow_the_step_and_nothing_else(name: str, shape: tuple[int, ...]) -> None:
    """The same state, step and gradient give the same bits, in whatever piece; the update that
    comes in is not written, and no buffer goes out."""
    rhythm = {"precondition_frequency": 3}
    state: dict[str, Tensor] = {}
    pieces = [getattr(rs.transforms, name)(**rhythm) for _ in range(2)]
    param = torch.zeros(shape)
    states = [
        {key: buffer.make(param) for key, buffer in piece.buffers.items()} for piece in pieces
    ]
    for step in range(1, 9):
        u = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        results: list[Tensor] = []
        for which, (piece, state) in enumerate(zip(pieces, states, strict=True)):
            hyper = Hyper(
                **piece.hyperparameters,
                step=float(step),
                gradient=u,
                noise=lambda like, s=step: torch.randn(
                    like.shape, generator=torch.Generator().manual_seed(s)
                ),
            )
            before = u.clone()
            results.append(piece.update(u, state, param, hyper))
            assert torch.equal(u, before)
            assert all(results[-1] is not value for value in state.values())
            if which == 0 and step == 4:  # go on with a copy, as after a resume
                states[0] = {key: value.clone() for key, value in state.items()}
        assert results[0].shape == u.shape
        assert results[0].isfinite().all()
        assert torch.equal(results[0], results[1])


RULES = ["muon", "normuon", "scion", "shampoo", "soap", "psgd_kron", "galore", "adafactor"]


@pytest.mark.parametrize("name", [*RULES, "adafactor_bv"])
def test_the_layout_of_a_convolution_does_not_matter(name: str) -> None:
    """channels_last weights, whose buffers torch lays out alike, move as others do."""
    weights = torch.randn(4, 3, 3, 2, generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        param = torch.nn.Parameter(weights.clone(memory_format=layout))
        optimizer = rs.optimizer(name, [param], lr=0.01)
        for step in range(1, 15):
            gradient = torch.randn(weights.shape, generator=torch.Generator().manual_seed(step))
            param.grad = gradient.contiguous(memory_format=layout)
            optimizer.step()
        found.append(param.detach().contiguous())
    assert not torch.equal(found[0], weights)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
