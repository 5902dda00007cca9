"""Every kernel of a 64-bit Arm build under emulation, against the exact product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arm_kernels import Cases, build_arm, kernel_names, missing_tools
from bench.count_arm_instructions import per_weight
from kernel_cases import STORED, exact_product
from native_kernels import DENSE_DTYPES
from numerics import Float64s, assert_within, matmul_bound
from ops_models import sparse

from slc.ops import bitmap

pytestmark = pytest.mark.skipif(bool(missing_tools()), reason=f"needs {missing_tools()}")

Owed = tuple[str, Float64s, Float64s]  # what a case is called, its exact result, the bound

V8_0, V8_2 = "cortex-a72", "cortex-a76"  # without sdot, with it
ROWS = (1, 2, 3, 5, 17)  # m
# n, k, density, group
SHAPES = [
    (1, 1, 1.0, 64),
    (5, 63, 0.5, 64),
    (33, 64, 0.3, 64),
    (17, 130, 0.05, 128),
    (20, 257, 0.9, 64),
    (70, 65, 0.0, 64),
    (65, 600, 0.5, 320),
    (3, 1100, 1.0, 128),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_arm(tmp_path_factory.mktemp("arm-build"))


def add_sparse(
    cases: Cases, names: list[str], S: np.ndarray, m: int, group: int, seed: int
) -> list[Owed]:
    """All sparse kernels for these weights and m rows of x, with and without a bias."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((m, S.shape[1])).astype(np.float32)
    bias = rng.standard_normal(S.shape[0]).astype(np.float32) if m % 2 else None
    owed = []
    for kind, arguments in STORED.items():
        blob = bitmap.encode(S, group=group, **arguments)
        for level in ("f32", "int8"):
            exact, bound = exact_product(X, blob, bias, level)
            ops = ["sparse_gemm"] + (["sparse_gemv"] if m <= 3 else [])
            prefixes = tuple(f"{op}_{kind}_{level}_" for op in ops)
            for name in [name for name in names if name.startswith(prefixes)]:
                cases.sparse(name, blob, X, bias)
                owed.append((f"{name} N {S.shape[0]} K {S.shape[1]} m {m}", exact, bound))
    return owed


def check(results: list[np.ndarray], owed: list[Owed]) -> None:
    for result, (context, exact, bound) in zip(results, owed, strict=True):
        assert_within(result, exact, bound, context)


def test_the_library_is_built_for_arm(program: Path) -> None:
    header = (program.parent / "libslc_ops.so").read_bytes()[:20]
    em_aarch64 = 183
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == em_aarch64


def test_which_kernels_a_processor_gets(program: Path) -> None:
    old, new = kernel_names(program, V8_0), kernel_names(program, V8_2)
    assert {name.split("__")[1] for name in old} == {"generic", "neon"}
    dotprod = [name for name in new if name.endswith("__dotprod")]
    assert dotprod
    assert sorted(new) == sorted(old + dotprod)


@pytest.mark.parametrize("cpu", [V8_0, V8_2])
def test_sparse_kernels(program: Path, tmp_path: Path, cpu: str) -> None:
    """An instruction that the processor lacks would end the program."""
    names, cases, owed = kernel_names(program, cpu), Cases(tmp_path), []
    for seed, (n, k, density, group) in enumerate(SHAPES):
        S = sparse(n, k, density, seed)
        for m in ROWS:
            owed += add_sparse(cases, names, S, m, group, seed)
    assert cases.names() == {name for name in names if name.startswith("sparse_")}
    check(cases.run(program, cpu), owed)


@pytest.mark.parametrize("cpu", [V8_0, V8_2])
def test_all_mask_bytes(program: Path, tmp_path: Path, cpu: str) -> None:
    names, cases = kernel_names(program, cpu), Cases(tmp_path)
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    S = np.tile(bits, (1, 17)) * np.random.default_rng(0).standard_normal((256, 136))
    owed = add_sparse(cases, names, S.astype(np.float32), 2, 64, 1)
    check(cases.run(program, cpu), owed)


def test_activations_round_halves_to_even(program: Path, tmp_path: Path) -> None:
    X = np.arange(-31.5, 32.5, dtype=np.float32)[None]
    X[0, 0] = 127  # the step is 1
    blob = bitmap.encode(np.eye(64, dtype=np.float32), **STORED["i8"])
    exact, bound = exact_product(X, blob, None, "int8")
    assert exact[0, 32:35].round().tolist() == [0, 2, 2]
    names, cases = kernel_names(program, V8_2), Cases(tmp_path)
    names = [name for name in names if "_i8_int8_" in name]
    for name in names:
        cases.sparse(name, blob, X)
    check(cases.run(program, V8_2), [(name, exact, bound) for name in names])


def test_a_row_of_a_gemm_does_not_depend_on_its_neighbours(program: Path, tmp_path: Path) -> None:
    """Bit for bit: how rows of x are split over threads must not change the numbers."""
    names = [name for name in kernel_names(program, V8_2) if name.startswith("sparse_gemm")]
    S, counts = sparse(40, 300, 0.5), (17, 1, 6, 11)
    X = np.random.default_rng(0).standard_normal((17, 300)).astype(np.float32)
    cases = Cases(tmp_path)
    for name in names:
        blob = bitmap.encode(S, **STORED[name.split("_")[2]])
        for m in counts:
            cases.sparse(name, blob, X[:m])
    results = cases.run(program, V8_2)
    for i, name in enumerate(names):
        whole, *parts = results[len(counts) * i : len(counts) * (i + 1)]
        for part in parts:
            np.testing.assert_array_equal(part, whole[: len(part)], name)


@pytest.mark.parametrize("cpu", [V8_0, V8_2])
def test_adapter_kernels(program: Path, tmp_path: Path, cpu: str) -> None:
    rng = np.random.default_rng(0)
    cases, owed = Cases(tmp_path), []
    names = [name for name in kernel_names(program, cpu) if name.startswith("adapter_dot")]
    for rows, k in [(1, 1), (4, 8), (7, 63), (66, 130)]:
        for m in ROWS:
            X = rng.standard_normal((m, k)).astype(np.float32)
            for name in names:
                W = (30 * rng.standard_normal((rows, k))).clip(-127, 127)
                W = W.astype(DENSE_DTYPES[name.split("_")[2]])
                exact = X.astype(np.float64) @ W.astype(np.float64).T
                cases.dense(name, W, X)
                owed.append((f"{name} rows {rows} k {k} m {m}", exact, matmul_bound(X, W)))
    check(cases.run(program, cpu), owed)


# Instructions a weight at N 8, K 512, density 0.5, as g++ 12 compiles: generic, neon, dotprod.
GEMV_INSTRUCTIONS = {
    "f16_f32": (12.8, 1.9, None),
    "i8_int8": (4.7, 1.3, 1.2),
    "i4rows_int8": (7.6, 1.7, 1.6),
}


@pytest.mark.parametrize("kind", GEMV_INSTRUCTIONS)
def test_gemv_takes_a_third_of_the_generic_instructions(
    kind: str, program: Path, tmp_path: Path
) -> None:
    """An emulator can't time, but it counts: a loop that a compiler spoils is found here."""
    S = sparse(8, 512, 0.5)
    prefix = f"sparse_gemv_{kind}_"
    found = {
        name.split("__")[1]: per_weight(program, name, S, tmp_path)
        for name in kernel_names(program, V8_2)
        if name.startswith(prefix)
    }
    known = dict(zip(("generic", "neon", "dotprod"), GEMV_INSTRUCTIONS[kind], strict=True))
    assert found.keys() == {isa for isa, count in known.items() if count is not None}
    for isa in found.keys() - {"generic"}:
        assert 3 * found[isa] <= found["generic"], (found, known)
