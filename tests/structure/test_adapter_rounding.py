"""Adapters in int8: bounds from the steps, edge cases, and what dividing the sizes gains."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slc.compiler.structure.adapter_rounding import RoundedAdapter, round_adapter, round_rows

UNIT_F64 = 2.0**-53


@st.composite
def factors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A: [r, K] and B: [N, r], components and rows of any size from subnormal to 2^63."""
    N, K, r = draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(0, 6))
    values = st.floats(-1, 1, width=32)
    powers = st.integers(-149, 62)
    A = draw(hnp.arrays(np.float32, (r, K), elements=values))
    B = draw(hnp.arrays(np.float32, (N, r), elements=values))
    A = np.ldexp(A, draw(hnp.arrays(np.int32, (r, 1), elements=powers)))
    B = np.ldexp(B, draw(hnp.arrays(np.int32, (N, 1), elements=powers)))
    return A.astype(np.float32), B.astype(np.float32)


def decoded(made: RoundedAdapter) -> tuple[np.ndarray, np.ndarray]:
    """Â and B̂ with their scales, f64: 8 bits times 24 are exact there."""
    A = made.A * made.A_scale.astype(np.float64)[:, None]
    return A, made.B * made.B_scale.astype(np.float64)[:, None]


@given(factors())
def test_the_product_is_within_half_a_step_of_each_factor(pair: tuple) -> None:
    """|B̂·Â - B·A| <= |B'|·s/2 + (t/2)·|Â| with |B'| <= |B̂| + t/2, and what f64 rounds."""
    A, B = pair
    made = round_adapter(A, B)
    a, b = decoded(made)
    half_s = made.A_scale.astype(np.float64)[:, None] / 2
    half_t = made.B_scale.astype(np.float64)[:, None] / 2
    steps = ((np.abs(b) + half_t) @ half_s) + half_t * np.abs(a).sum(axis=0)
    wide_a, wide_b = A.astype(np.float64), B.astype(np.float64)
    # Dividing rounds twice and multiplying once in each factor, each of three products r times.
    size = np.abs(wide_b) @ np.abs(wide_a) + (np.abs(b) + half_t) @ (np.abs(a) + half_s)
    f64 = (6 + 3 * len(A)) * UNIT_F64 * size
    assert (np.abs(b @ a - wide_b @ wide_a) <= steps + f64).all()


@given(factors())
def test_levels_are_symmetric_and_reached(pair: tuple) -> None:
    made = round_adapter(*pair)
    for levels, scale in ((made.A, made.A_scale), (made.B, made.B_scale)):
        assert levels.dtype == np.int8
        assert scale.dtype == np.float32
        largest = np.abs(levels.astype(int)).max(axis=1, initial=0)
        assert (largest <= 127).all()
        normal = scale >= np.finfo(np.float32).tiny
        assert (largest[normal] == (127 if levels.shape[1] else 0)).all()


@given(factors(), st.data())
def test_how_sizes_were_divided_before_makes_no_difference(
    pair: tuple, data: st.DataObject
) -> None:
    """Powers of two are exact, unless they leave f32's normal numbers."""
    A, B = (np.where(np.abs(x) < 2.0**-80, 0, x).clip(-1e9, 1e9) for x in pair)
    power = data.draw(hnp.arrays(np.int32, len(A), elements=st.integers(-40, 40)))
    moved = round_adapter(np.ldexp(A, power[:, None]), np.ldexp(B, -power))
    for field, value in vars(round_adapter(A, B)).items():
        np.testing.assert_array_equal(getattr(moved, field), value)


def test_rank_0_and_rows_of_zeros() -> None:
    made = round_adapter(np.zeros((0, 5), np.float32), np.zeros((7, 0), np.float32))
    assert (made.A.shape, made.B.shape) == ((0, 5), (7, 0))
    assert (made.A_scale.shape, made.B_scale.shape) == ((0,), (7,))
    assert not made.B_scale.any()
    A = np.float32([[1, -2, 3], [0, 0, 0]])
    B = np.float32([[1, 1], [0, 0], [0, 5]])
    made = round_adapter(A, B)
    a, b = decoded(made)
    assert (made.A_scale[1], made.B_scale[1], made.B_scale[2]) == (0, 0, 0)  # 5·0 is nothing
    np.testing.assert_allclose(b @ a, B @ A, rtol=0, atol=3 / 254 * (1 + 1e-6))


def test_one_row_and_one_component() -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((1, 400)).astype(np.float32)
    made = round_adapter(A, np.float32([[-3.0]]))
    a, b = decoded(made)
    assert made.B.tolist() == [[-127]]
    step = 3 * np.abs(A).max() / 127
    assert np.abs(b @ a + 3 * A).max() <= step / 2 * (1 + 1e-6)


def test_beyond_f32_is_an_infinite_scale() -> None:
    huge = np.full((1, 2), 3e38, np.float32)
    assert np.isinf(round_adapter(huge, np.full((3, 1), 3e38, np.float32)).A_scale).all()
    assert np.isfinite(round_adapter(huge, np.full((3, 1), 1, np.float32)).A_scale).all()


def orthonormal(seed: int, rows: int, r: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, r)))[0]


def test_the_error_is_that_of_rounding_to_the_nearest() -> None:
    """A uniform error in half a step either way has variance step²/12; 3 % is 5 sigma here."""
    A = orthonormal(1, 700, 32).T.astype(np.float32)
    B = orthonormal(2, 500, 32).astype(np.float32)
    made = round_adapter(A, B)
    a, b = decoded(made)
    s, t = made.A_scale.astype(np.float64), made.B_scale.astype(np.float64)
    of_a = np.square(b).sum(axis=0) @ np.square(s) * 700 / 12
    of_b = np.square(t).sum() / 12 * np.square(a).sum()
    square = np.square(b @ a - B.astype(np.float64) @ A).sum()
    assert abs(square / (of_a + of_b) - 1) < 0.03


def test_dividing_the_sizes_spares_weak_components() -> None:
    """B's part of the error with sizes as 1/i, beside columns of equal norm and all in B."""
    sigma = 1 / np.arange(1, 65)
    A, B = orthonormal(1, 512, 64).T, orthonormal(2, 768, 64)

    def lost(power: float) -> float:
        levels, scale = round_rows(B * sigma**power)
        error = levels * scale.astype(np.float64)[:, None] - B * sigma**power
        return float(np.linalg.norm(error * sigma ** (1 - power)))  # A's rows are orthonormal

    made = round_adapter((A * sigma[:, None]).astype(np.float32), B.astype(np.float32))
    b = made.B * made.B_scale.astype(np.float64)[:, None]
    ours = float(np.linalg.norm((b / sigma**0.25 - B) * sigma))
    np.testing.assert_allclose(ours, lost(0.25), rtol=0.01)
    assert ours < 0.66 * lost(0)
    assert ours < 0.3 * lost(1)
