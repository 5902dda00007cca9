"""The CUDA kernels without a GPU: their index arithmetic in full, their bodies in an emulator.

Tensor cores add in an order of their own; the emulator adds one after the other, and so do the
warps' sums: the bound is that of K additions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_emulator import TILED, WIDE, CudaKernels, Plan
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kernels import build
from numerics import assert_within, matmul_bound, with_f16_output
from ops_models import sparse

from slc.ops import bitmap, tiles
from slc.ops.concat_adapter import concat_adapter_down, concat_adapter_up

DENSITIES = [0.0, 0.05, 0.3, 0.5, 0.9, 1.0]
VALUES = ["f16", "i8", "i4"]


@pytest.fixture(scope="module")
def cuda(build_folder: Path) -> CudaKernels:
    build(build_folder, "slc_cuda_emulated")
    return CudaKernels(build_folder / "libslc_cuda_emulated.so")


def test_a_block_has_every_position_once(cuda: CudaKernels) -> None:
    """WordOf and BitOf, their inverses, and the order that the numpy reference writes."""
    positions = np.arange(16 * 64).reshape(16, 64)
    order = tiles.to_blocks(positions)[0]
    seen = set()
    for row in range(16):
        for column in range(64):
            word, bit = (cuda.tile_map(name, row, column) for name in ("WordOf", "BitOf"))
            assert (cuda.tile_map("RowOf", word, bit), cuda.tile_map("ColumnOf", word, bit)) == (
                row, column,
            )  # fmt: skip
            assert order[32 * word + bit] == positions[row, column]
            seen.add((word, bit))
    assert len(seen) == 1024


def test_lanes_have_what_an_a_operand_wants(cuda: CudaKernels) -> None:
    """Every lane's four bits of a part are the rows and columns that mma.m16n8k16 asks of it."""
    for part in range(8):
        step, half = divmod(part, 2)
        for lane in range(32):
            word, first = cuda.tile_map("LaneWord", part, lane), cuda.tile_map("LaneBit", lane)
            for i in range(4):
                row = cuda.tile_map("LaneRow", lane) + 8 * half
                column = 16 * step + cuda.tile_map("LaneColumn", lane) + i
                assert cuda.tile_map("RowOf", word, first + i) == row
                assert cuda.tile_map("ColumnOf", word, first + i) == column


def test_values_before_a_lane(cuda: CudaKernels) -> None:
    rng = np.random.default_rng(0)
    words = [0, 0xFFFFFFFF, 0x80000000, 1, *rng.integers(0, 2**32, 200).tolist()]
    for word in words:
        for lane in range(32):
            below = word & (2 ** cuda.tile_map("LaneBit", lane) - 1)
            assert cuda.values_before(word, lane) == bin(below).count("1")


def test_units_are_those_of_the_format(cuda: CudaKernels) -> None:
    for code, value_type in enumerate(VALUES, 1):
        in_unit = cuda.tile_map("ValuesInUnit", code)
        counts = np.arange(1025)
        np.testing.assert_array_equal(tiles.units(counts, value_type), -(-counts // in_unit))
        assert cuda.tile_map("MaxUnits", code) == tiles.units(counts, value_type).max()


@given(blocks=st.integers(0, 500), splits=st.integers(1, 32))
@settings(max_examples=200, deadline=None)
def test_splits_take_every_block_once(cuda: CudaKernels, blocks: int, splits: int) -> None:
    taken = [
        split + nth * splits
        for split in range(splits)
        for nth in range(cuda.blocks_of_split(blocks, split, splits))
    ]
    assert sorted(taken) == list(range(blocks))


def test_the_emulated_mma_is_a_product(cuda: CudaKernels) -> None:
    """Of small integers: exact, so that every operand is where PTX says."""
    rng = np.random.default_rng(1)
    A = rng.integers(-8, 9, (16, 16)).astype(np.float16)
    B = rng.integers(-8, 9, (16, 8)).astype(np.float16)
    C = rng.integers(-8, 9, (16, 8)).astype(np.float32)
    np.testing.assert_array_equal(cuda.mma(A, B, C), C + A.astype(np.float32) @ B)


def _check(
    cuda: CudaKernels, S: np.ndarray, m: int, seed: int, *, value_type: str, group: int = 64,
    x_type: type = np.float16, plan: Plan | None = None,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    # Halves in either type: the kernels round X to f16.
    X = rng.standard_normal((m, S.shape[1])).astype(np.float16).astype(x_type)
    bias = rng.standard_normal(S.shape[0]).astype(np.float32) if seed % 2 else None
    blob = bitmap.encode(S, value_type, group, layout="tiles")
    W = bitmap.decode(blob).astype(np.float64)
    exact = X.astype(np.float64) @ W.T + (0 if bias is None else bias)
    bound = matmul_bound(X, W, bias, lanes=1)
    got = cuda.gemm(blob, X, bias, plan=plan, seed=seed)
    context = f"{value_type} N {S.shape[0]} K {S.shape[1]} m {m} seed {seed} {plan}"
    _assert_rounded(got, exact, bound, context)


def _assert_rounded(got: np.ndarray, exact: np.ndarray, bound: np.ndarray, what: str = "") -> None:
    """Within the bound of float32, and of one rounding more where the output is f16."""
    half = got.dtype == np.float16
    assert_within(got, exact, with_f16_output(bound, exact) if half else bound, what)


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 700),
    m=st.integers(1, 20),
    density=st.sampled_from(DENSITIES),
    value_type=st.sampled_from(VALUES),
    group=st.sampled_from([64, 128, 320]),
    x_type=st.sampled_from([np.float16, np.float32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_few_rows(cuda, n, k, m, density, value_type, group, x_type, seed) -> None:
    S = sparse(n, k, density, seed)
    _check(cuda, S, m, seed, value_type=value_type, group=group, x_type=x_type)


@pytest.mark.parametrize("m", [8, 9, 16, 17, 32, 33, 64, 65])
@pytest.mark.parametrize("value_type", VALUES)
def test_every_stream_kernel(cuda: CudaKernels, m: int, value_type: str) -> None:
    _check(cuda, sparse(35, 600, 0.5, m), m, m, value_type=value_type)


@pytest.mark.parametrize("kernel", ["tiled", "wide"])
@pytest.mark.parametrize("x_type", [np.float16, np.float32])
@pytest.mark.parametrize("value_type", VALUES)
@pytest.mark.parametrize(
    ("n", "k", "m"), [(64, 64, 128), (70, 200, 130), (17, 130, 5), (130, 63, 70), (1, 1, 1)]
)
def test_many_rows(
    cuda: CudaKernels, value_type: str, n: int, k: int, m: int, x_type: type, kernel: str
) -> None:
    S = sparse(n, k, 0.5, n)
    plan = TILED if kernel == "tiled" else WIDE[value_type]
    _check(cuda, S, m, k, value_type=value_type, group=128, x_type=x_type, plan=plan)


@pytest.mark.parametrize("cluster", [1, 2, 8])
@pytest.mark.parametrize("value_type", VALUES)
def test_many_blocks_of_many_rows(cuda: CudaKernels, value_type: str, cluster: int) -> None:
    """Slots that come round again, two thread blocks along X, a split that leaves some without."""
    plan = WIDE[value_type]._replace(cluster=cluster)
    S = sparse(140, 460, 0.5, 1)
    _check(cuda, S, plan.rows + 5, 1, value_type=value_type, group=64, plan=plan)


@pytest.mark.parametrize("plans", [{}, dict.fromkeys(VALUES, TILED), WIDE],
                         ids=["chosen", "tiled", "wide"])  # fmt: skip
@pytest.mark.parametrize("density", DENSITIES)
def test_every_density(cuda: CudaKernels, density: float, plans: dict[str, Plan]) -> None:
    for value_type in VALUES:
        plan = plans.get(value_type)
        _check(cuda, sparse(33, 260, density, 3), 7, 4, value_type=value_type, plan=plan)


# 700 columns are 11 blocks: some splits leave warps, and thread blocks, without any.
SPLITS = [
    *[Plan(8, warps, cluster) for warps in (1, 4, 16) for cluster in (1, 2, 8)],
    *[Plan(rows, 4, 4) for rows in (16, 32, 64)], Plan(128, 4, 2), Plan(128, 4, 8),
]  # fmt: skip


@pytest.mark.parametrize("plan", SPLITS, ids=str)
def test_every_split_of_k(cuda: CudaKernels, plan: Plan) -> None:
    """Over warps and over thread blocks of a cluster; large clusters take long to emulate."""
    for value_type in VALUES if plan.warps * plan.cluster <= 16 else ["i8"]:
        S = sparse(35, 700, 0.5, plan.warps)
        _check(cuda, S, plan.rows + 3, plan.cluster, value_type=value_type, group=128, plan=plan)


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 900),
    m=st.integers(1, 20),
    warps=st.integers(1, 16),
    cluster=st.integers(1, 8),
    value_type=st.sampled_from(VALUES),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_of_k(cuda, n, k, m, warps, cluster, value_type, seed) -> None:
    plan = Plan(8, warps, cluster)
    _check(cuda, sparse(n, k, 0.5, seed), m, seed, value_type=value_type, plan=plan)


@pytest.mark.parametrize(
    "plan", [Plan(8, 8), Plan(8, 4, 4), Plan(64, 8, 2), Plan(128, 4, 2), Plan(128, 8, 2)], ids=str
)
def test_a_split_gives_the_same_bits_in_any_order_of_threads(cuda: CudaKernels, plan: Plan) -> None:
    """Sums of warps and of thread blocks are added in a fixed order."""
    blob = bitmap.encode(sparse(35, 700, 0.5, 0), "i8", layout="tiles")
    X = np.random.default_rng(0).standard_normal((9, 700), np.float32)
    first = cuda.gemm(blob, X, plan=plan, seed=0)
    for seed in range(1, 4):
        np.testing.assert_array_equal(cuda.gemm(blob, X, plan=plan, seed=seed), first)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_matrices_of_any_size_of_values(cuda: CudaKernels, scale: float) -> None:
    """What 2^exponent alone can't say in a float: it comes as a product."""
    S = sparse(20, 100, 0.5, 5) * np.float32(scale)
    X = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float16).astype(np.float32)
    for value_type in VALUES:
        blob = bitmap.encode(S, value_type, layout="tiles")
        W = bitmap.decode(blob).astype(np.float64)
        assert_within(cuda.gemm(blob, X), X @ W.T, matmul_bound(X, W, lanes=1), value_type)


def _adapter(rng: np.random.Generator, rows: int, columns: int, dtype: type) -> tuple:
    if dtype is np.int8:
        scale = rng.uniform(0.5, 2, rows).astype(np.float32)
        return rng.integers(-127, 128, (rows, columns)).astype(np.int8), scale
    return rng.standard_normal((rows, columns)).astype(dtype), None


def _exact(matrix: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """An adapter's matrix in float64, its rows times their scales."""
    whole = matrix.astype(np.float64)
    return whole if scale is None else whole * scale[:, None].astype(np.float64)


@settings(max_examples=12, deadline=None)
@given(
    k=st.integers(1, 300),
    m=st.integers(1, 20),
    ranks=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    types=st.lists(st.sampled_from([np.float32, np.float16, np.int8]), min_size=4, max_size=4),
    x_type=st.sampled_from([np.float16, np.float32]),
    gated=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_down(cuda, k, m, ranks, types, x_type, gated, seed) -> None:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((m, k)).astype(x_type)
    made = [_adapter(rng, rank, k, dtype) for rank, dtype in zip(ranks, types, strict=False)]
    gate = rng.standard_normal(sum(ranks)).astype(np.float32) if gated else None
    if sum(ranks) == 0:
        return  # the host launches nothing
    A = [A for A, _ in made]
    got = cuda.down(X, A, [scale for _, scale in made], gate, seed)
    exact_A = np.concatenate([_exact(*pair) for pair in made])
    if gate is not None:
        exact_A *= gate[:, None].astype(np.float64)
    exact = X.astype(np.float64) @ exact_A.T
    bound = matmul_bound(X, exact_A)
    _assert_rounded(got, exact, bound)


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 100),
    m=st.integers(1, 20),
    ranks=st.lists(st.integers(0, 70), min_size=1, max_size=4),
    types=st.lists(st.sampled_from([np.float32, np.float16, np.int8]), min_size=4, max_size=4),
    x_type=st.sampled_from([np.float16, np.float32]),
    offset=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_up(cuda, n, m, ranks, types, x_type, offset, seed) -> None:
    rng = np.random.default_rng(seed)
    made = [_adapter(rng, n, rank, dtype) for rank, dtype in zip(ranks, types, strict=False)]
    H = rng.standard_normal((m, offset + sum(ranks) + 3)).astype(x_type)
    Y0 = rng.standard_normal((m, n)).astype(x_type)
    got = cuda.up(Y0, H, [B for B, _ in made], [scale for _, scale in made], offset, seed)
    exact_B = np.concatenate([_exact(*pair) for pair in made], axis=1)
    used = H[:, offset : offset + sum(ranks)]
    exact = Y0.astype(np.float64) + used.astype(np.float64) @ exact_B.T
    bound = matmul_bound(used, exact_B, Y0)
    _assert_rounded(got, exact, bound)


@pytest.mark.parametrize("types", [(np.float16, np.int8, np.float16), (np.int8,) * 3])
@pytest.mark.parametrize(
    ("n", "k", "m", "ranks"),
    [(96, 256, 40, (16, 8, 40)), (131, 203, 33, (5, 17, 1)), (16, 64, 9, (16, 0, 0)),
     (128, 700, 65, (4, 80, 12))],
)  # fmt: skip
def test_adapters_on_tensor_cores(cuda: CudaKernels, n, k, m, ranks, types) -> None:
    """More than eight rows of X in f16: matrices that four columns are read of at once, and not."""
    rng = np.random.default_rng(n)
    A = [_adapter(rng, rank, k, dtype) for rank, dtype in zip(ranks, types, strict=True)]
    B = [_adapter(rng, n, rank, dtype) for rank, dtype in zip(ranks, types, strict=True)]
    X = rng.standard_normal((m, k)).astype(np.float16)
    gate = rng.standard_normal(sum(ranks)).astype(np.float32)
    H = cuda.down(X, [one for one, _ in A], [scale for _, scale in A], gate)
    whole_A = np.concatenate([_exact(*one) for one in A]) * gate[:, None].astype(np.float64)
    _assert_rounded(H, X.astype(np.float64) @ whole_A.T, matmul_bound(X, whole_A, lanes=1), "down")
    used = rng.standard_normal((m, 3 + sum(ranks))).astype(np.float16)
    Y0 = rng.standard_normal((m, n)).astype(np.float16)
    Y = cuda.up(Y0, used, [one for one, _ in B], [scale for _, scale in B], 3)
    whole_B = np.concatenate([_exact(*one) for one in B], axis=1)
    exact = Y0.astype(np.float64) + used[:, 3:].astype(np.float64) @ whole_B.T
    _assert_rounded(Y, exact, matmul_bound(used[:, 3:], whole_B, Y0, lanes=1), "up")


def test_adapters_agree_with_the_reference(cuda: CudaKernels) -> None:
    """The order of scales and of H's columns is the contract's."""
    rng = np.random.default_rng(2)
    X, Y0 = rng.standard_normal((3, 40), np.float32), rng.standard_normal((3, 24), np.float32)
    A = [_adapter(rng, 5, 40, np.int8), _adapter(rng, 3, 40, np.int8)]
    B = [_adapter(rng, 24, 5, np.int8), _adapter(rng, 24, 3, np.float16)]
    gate = rng.standard_normal(8).astype(np.float32)
    scale = np.concatenate([s for _, s in A])
    wanted = concat_adapter_down(X, scale, gate, *[matrix for matrix, _ in A])
    H = cuda.down(X, [matrix for matrix, _ in A], [s for _, s in A], gate)
    np.testing.assert_allclose(H, wanted, rtol=1e-4)  # sums of 40 of like size: not near 0
    up = concat_adapter_up(Y0, wanted, B[0][1], *[matrix for matrix, _ in B])
    Y = cuda.up(Y0, wanted, [matrix for matrix, _ in B], [s for _, s in B])
    np.testing.assert_allclose(Y, up, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value_type", VALUES)
def test_a_good_blob_passes_the_devices_check(cuda: CudaKernels, value_type: str) -> None:
    blob = bitmap.encode(sparse(37, 200, 0.4, 1), value_type, layout="tiles")
    assert cuda.check(blob) == (set(), bitmap.read_header(blob).nnz)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_device_finds_every_wrong_bit_of_structure(cuda: CudaKernels, data) -> None:
    """A flipped bit of starts or masks: found, or at least not counted as nnz."""
    blob = bitmap.encode(sparse(37, 200, 0.4, 1), "i8", layout="tiles")
    header = bitmap.read_header(blob)
    at = header.sections
    ends = at.starts + 4 * (header.blocks + 1), at.where + 128 * header.blocks
    byte = data.draw(st.one_of(st.integers(at.starts, ends[0] - 1),
                               st.integers(at.where, ends[1] - 1)))  # fmt: skip
    blob[byte] ^= 1 << data.draw(st.integers(0, 7))
    faults, stored = cuda.check(blob)
    assert faults or stored != header.nnz


def test_the_device_finds_a_wrong_codebook(cuda: CudaKernels) -> None:
    blob = bitmap.encode(sparse(37, 200, 0.4, 1), "i4", layout="tiles")
    blob[bitmap.read_header(blob).sections.codebook + 3] = 100
    assert cuda.check(blob)[0] == {"codebook"}
