"""Matrices made orthogonal: exact polynomials, stated bands, distance, what must not explode."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.references.matrices import on_singular_values
from torch import Tensor
from torch.optim._muon import (
    _zeropower_via_newtonschulz as torch_newton_schulz,  # pyright: ignore[reportPrivateUsage]
)

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import Hyper
from rheostat.transforms import orthogonal
from rheostat.transforms.orthogonal import (
    DEFAULT_STEPS,
    Coefficients,
    best_polynomials,
    in_parts,
    iteration,
    near_polar,
    step_scale,
)

PUBLISHED = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845749518, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945908, 0.37680408948524996),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]
"""Amsel et al. 2025 (arXiv:2505.16932), the list beside Algorithm 1."""

BANDS: dict[Coefficients, tuple[float, float, float]] = {
    "quintic": (0.002, 0.68, 1.21),
    "polar_express": (0.001, 0.85, 1.13),
    "polar_express_wide": (0.0037, 0.82, 1.18),
}
"""The set -> from which singular value on, as a fraction of the norm, the result lies between."""

NAMES = get_args(Coefficients)


def matrix(rows: int, columns: int, values: Tensor | None = None, seed: int = 0) -> Tensor:
    """A Gaussian matrix, or one with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    gauss = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if values is None:
        return gauss
    u, _, vt = torch.linalg.svd(gauss, full_matrices=False)
    return (u * values) @ vt


def polar(x: Tensor) -> Tensor:
    """The exact orthogonal factor."""
    u, _, vt = torch.linalg.svd(x.double(), full_matrices=False)
    return u @ vt


def distance(found: Tensor, exact: Tensor) -> float:
    """Relative, in the Frobenius norm."""
    return float((found.double() - exact).norm() / exact.norm())


def polynomials(name: Coefficients, values: np.ndarray) -> np.ndarray:
    """What a set makes of singular values."""
    for a, b, c in iteration(name).polynomials:
        values = a * values + b * values**3 + c * values**5
    return values


# -- the polynomials -------------------------------------------------------------------------------


def test_the_published_polynomials_come_out() -> None:
    found, _ = best_polynomials(1e-3, 8)
    np.testing.assert_allclose(found, PUBLISHED, rtol=1e-8)
    scaled = iteration("polar_express").polynomials
    np.testing.assert_allclose(scaled[0], np.array(PUBLISHED[0]) / 1.01 ** np.array([1, 3, 5]))
    np.testing.assert_allclose(scaled[-1], PUBLISHED[4], rtol=1e-9)


def test_a_best_polynomial_errs_equally_at_four_points() -> None:
    """Which is what makes it best (Chebyshev); the second one, whose range is not raised."""
    ((a, b, c),), error = best_polynomials(0.1, 1)
    x = np.linspace(0.1, 1, 100_001)
    off = a * x + b * x**3 + c * x**5 - 1
    assert np.abs(off).max() == pytest.approx(error, rel=1e-9)
    turns = [i for i in range(1, len(x) - 1) if (off[i] - off[i - 1]) * (off[i + 1] - off[i]) < 0]
    extremes = [off[0], *off[turns], off[-1]]
    np.testing.assert_allclose(extremes, np.array([-1, 1, -1, 1]) * error, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_bands_are_as_stated(name: Coefficients) -> None:
    floor, low, high = BANDS[name]
    values = polynomials(name, np.geomspace(floor, 1.0, 200_001))
    assert low <= values.min() < low + 0.01
    assert high - 0.01 < values.max() <= high + 1e-9
    # Below the floor singular values grow, and none is thrown far out.
    below = polynomials(name, np.geomspace(1e-9, floor, 20_001))
    assert (below > 0).all()
    assert below.max() <= high + 1e-9


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_wide_is_as_wide_as_can_be(steps: int) -> None:
    floor = orthogonal._widest_floor(steps)  # pyright: ignore[reportPrivateUsage]
    assert best_polynomials(floor, steps)[1] == pytest.approx(0.18, abs=1e-6)
    assert best_polynomials(0.98 * floor, steps)[1] > 0.18


# -- the products ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [None, 1, 2, 7])
@pytest.mark.parametrize("shape", [(5, 5), (40, 7), (7, 40), (1, 9), (200, 130), (130, 400)])
def test_products_do_what_the_polynomials_say(
    name: Coefficients, steps: int | None, shape: tuple[int, int]
) -> None:
    """In float64, by the Gram matrix or not: the same matrix as by singular values."""
    x = matrix(*shape)
    how = iteration(name, steps)
    expected = on_singular_values(x.numpy(), how.polynomials, 8 if how.tight else 2, 1e-7)
    found = near_polar(x, how, torch.float64, 1e-7, scale=3.0)
    np.testing.assert_allclose(found.numpy(), 3 * expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(512, 512), (200, 140), (300, 128), (140, 500), (48, 16)])
def test_no_further_from_the_polar_factor_than_torch(shape: tuple[int, int]) -> None:
    """In bfloat16, for Gaussian matrices, as random gradients are; the wide set is nearer."""
    x = matrix(*shape).float()
    exact = polar(x)
    theirs = distance(torch_newton_schulz(x, (3.4445, -4.775, 2.0315), 5, 1e-7), exact)
    found = {
        name: distance(near_polar(x, iteration(name), torch.bfloat16, 1e-7), exact)
        for name in NAMES
    }
    assert found["quintic"] < 1.05 * theirs
    assert found["polar_express_wide"] < theirs
    assert found["polar_express"] < 0.75 * theirs


def test_more_steps_come_as_near_as_the_precision_allows() -> None:
    values = torch.linspace(0.05, 1, 130, dtype=torch.float64)
    x = matrix(400, 130, values)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        found = near_polar(x, iteration("polar_express", 12), dtype, 1e-7)
        assert distance(found, polar(x)) < tolerance


def _spectra(size: int) -> dict[str, Tensor]:
    i = torch.arange(1, size + 1, dtype=torch.float64)
    low = torch.where(i <= 8, 1.0, 1e-2)
    return {"power": 1 / i, "steep": i**-2, "low rank": low, "rank 1": (i == 1).double()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(640, 160), (160, 640), (64, 16), (256, 32)])
def test_half_precision_stays_stable(name: Coefficients, shape: tuple[int, int]) -> None:
    """Singular values far below the rounding of a Gram matrix: nothing grows past the band."""
    for spectrum, values in _spectra(min(shape)).items():
        for seed in range(3):
            x = matrix(*shape, values, seed)
            found = near_polar(x, iteration(name), torch.bfloat16, 1e-7).double()
            assert float(torch.linalg.matrix_norm(found, 2)) < 1.45, (spectrum, seed)
            large = values > 0.02 * values.square().sum().sqrt()
            _, _, vt = torch.linalg.svd(x, full_matrices=False)
            kept = torch.linalg.svdvals(found @ vt[large].T)
            assert float(kept.min()) > 0.6, (spectrum, seed)


def test_without_fresh_gram_matrices_half_precision_explodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the test above is there to catch."""
    monkeypatch.setattr(orthogonal, "_phases", lambda steps, *_: [list(range(len(steps)))])
    x = matrix(640, 160, _spectra(160)["power"])
    found = near_polar(x, iteration("quintic"), torch.bfloat16, 1e-7).double()
    assert float(torch.linalg.matrix_norm(found, 2)) > 2.0


@given(
    name=st.sampled_from(NAMES),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    seed=st.integers(0, 99),
    power=st.integers(-18, 40),
)
def test_only_the_direction_counts(
    name: Coefficients, rows: int, columns: int, seed: int, power: int
) -> None:
    """Above eps a power of two changes nothing, transposition transposes, and signs are odd."""
    x = matrix(rows, columns, seed=seed).float()
    how = iteration(name)
    found = near_polar(x, how, torch.float32, 1e-7)
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(near_polar(x * 2.0**power, how, torch.float32, 1e-7), found, **close)
    torch.testing.assert_close(near_polar(x.T, how, torch.float32, 1e-7).T, found, **close)
    torch.testing.assert_close(near_polar(-x, how, torch.float32, 1e-7), -found, **close)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_zero_and_nearly_zero(name: Coefficients, dtype: torch.dtype) -> None:
    zero = torch.zeros(9, 4)
    assert torch.equal(near_polar(zero, iteration(name), dtype, 1e-7).float(), zero)
    assert torch.equal(near_polar(zero, iteration(name), dtype, 0.0).float(), zero)
    tiny = near_polar(1e-12 * torch.ones(9, 4), iteration(name), dtype, 1e-7)
    assert tiny.isfinite().all()


# -- the pieces ------------------------------------------------------------------------------------


def _run(piece: rs.Transform, u: Tensor, **numbers: float) -> Tensor:
    hyper = Hyper(**{**piece.hyperparameters, **numbers}, step=1.0, gradient=u)
    state = {name: buffer.make(u) for name, buffer in piece.buffers.items()}
    return piece.update(u, state, torch.zeros_like(u), hyper)


@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 4, 3, 2), (6,), (), (0, 3), (3, 0)])
def test_every_shape_is_a_matrix(shape: tuple[int, ...]) -> None:
    """First dimension the rows; a vector is one column; an empty one stays empty."""
    piece = rs.transforms.orthogonalize(dtype="float32", scale="spectral")
    u = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = _run(piece, u)
    assert found.shape == u.shape
    if u.numel():
        flat = _run(piece, u.reshape(shape[0] if shape else 1, -1))
        torch.testing.assert_close(found, flat.reshape(shape))


def test_the_update_is_neither_written_nor_returned() -> None:
    for shape in ((6, 4), (0, 3)):
        for piece in (rs.transforms.orthogonalize(dtype="float32"), rs.transforms.trace_ema()):
            u = torch.randn(shape)
            before = u.clone()
            found = _run(piece, u)
            assert torch.equal(u, before)
            assert found is not u
            assert found.dtype == torch.float32
            assert not u.numel() or found.data_ptr() != u.data_ptr()


def test_parts_are_matrices_of_their_own() -> None:
    whole = rs.transforms.orthogonalize(dtype="float32", split=[2, 1])
    alone = rs.transforms.orthogonalize(dtype="float32")
    u = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([_run(alone, part) for part in (u[:6], u[6:])])
    torch.testing.assert_close(_run(whole, u), expected)
    assert [len(part) for part in in_parts(u, [1, 2])] == [3, 6]
    with pytest.raises(InputError, match="9 rows cannot be divided as 1:1"):
        in_parts(u, [1, 1])


def test_scales() -> None:
    """For 12 rows and 3 columns, of which a third are kernel positions."""
    assert step_scale("original", 12, 3, 1) == 2.0
    assert step_scale("original", 3, 12, 1) == 1.0
    assert step_scale("moonlight", 12, 3, 1) == step_scale("match_rms", 3, 12, 1)
    assert step_scale("moonlight", 12, 3, 1) == pytest.approx(0.2 * math.sqrt(12))
    assert step_scale("spectral", 3, 12, 1) == 0.5
    assert step_scale("scion", 12, 3, 1) == 2.0
    assert step_scale("scion", 12, 27, 9) == pytest.approx(2.0 / 9)


def test_a_step_with_the_scale_of_adam() -> None:
    """moonlight: an orthogonal matrix of any shape has root mean square 0.2."""
    piece = rs.transforms.orthogonalize("polar_express", 9, "moonlight", "float32")
    for shape in ((30, 10), (10, 30), (20, 20)):
        rms = float(_run(piece, torch.randn(shape)).square().mean().sqrt())
        assert rms == pytest.approx(0.2, rel=0.02)


def test_trace_ema_is_a_running_mean() -> None:
    for nesterov in (True, False):
        piece = rs.transforms.trace_ema(0.75, nesterov)
        b = 0.0
        u = torch.zeros(3)
        state = {"momentum_buffer": torch.zeros(3)}
        for t in range(1, 6):
            u = torch.full((3,), float(t))
            b = 0.75 * b + 0.25 * t
            hyper = Hyper(momentum=0.75, step=t, gradient=u)
            found = piece.update(u, state, u, hyper)
            assert float(found[0]) == pytest.approx(0.75 * b + 0.25 * t if nesterov else b)


def test_every_number_of_steps_has_its_set() -> None:
    """Also many, whose polynomials all tend to the last; none is waited for without end."""
    for name in NAMES:
        for steps in (1, 2, 10, 30, 100):
            values = np.linspace(0.5, 1, 100)
            for a, b, c in iteration(name, steps).polynomials:
                values = a * values + b * values**3 + c * values**5
            # One step of the sets that are made for small singular values errs a lot.
            assert np.abs(values - 1).max() < (1.0 if steps <= 2 else 0.35), (name, steps)
    with pytest.raises(InputError, match="less than or equal to 100"):
        rs.transforms.orthogonalize(ns_steps=101)


def test_default_steps_cover_the_sets() -> None:
    assert set(DEFAULT_STEPS) == set(NAMES)
    assert [len(iteration(name).polynomials) for name in NAMES] == [5, 5, 4]


@pytest.mark.parametrize("name", get_args(Coefficients))
@pytest.mark.parametrize("power", [-10, 31, 40, 66, 400, 1000])
def test_float64_keeps_its_bits_where_its_squares_overflow_float32(
    name: Coefficients, power: int
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(6, 9, dtype=torch.float64)
    how = iteration(name)
    found = near_polar(matrix * 2.0**power, how, torch.bfloat16, 0.0)
    assert torch.equal(found, near_polar(matrix, how, torch.bfloat16, 0.0))
    assert found.isfinite().all()


@pytest.mark.parametrize("name", ["muon", "normuon", "scion"])
@pytest.mark.parametrize("size", [1e20, 1e100])
def test_large_float64_gradients_leave_finite_weights(name: str, size: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)).double()
    optimizer = rs.optimizer(name, model)
    before = [param.detach().clone() for param in model.parameters()]
    for param in model.parameters():
        param.grad = torch.randn_like(param) * size
    optimizer.step()
    for param, old in zip(model.parameters(), before, strict=True):
        assert param.isfinite().all()
        assert not torch.equal(param, old)
