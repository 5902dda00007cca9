"""Trained parts become a checkpoint: order, stacking, tables, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from structure.models import chain, weight

from slc.compiler.errors import ModelError
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.structured import restore_weights
from slc.compiler.frontends.weights import weight_array
from slc.compiler.linear import Linear, SourceRows
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.trained import TrainedPart, thin_svd, write_trained

EPS = np.finfo(np.float32).eps


def part(N: int, K: int, *, rank: int = 3, density: float = 0.2, seed: int = 0) -> TrainedPart:
    rng = np.random.default_rng(seed)
    S = rng.standard_normal((N, K), dtype=np.float32) * (rng.random((N, K)) < density)
    B = rng.standard_normal((N, rank), dtype=np.float32)
    A = rng.standard_normal((rank, K), dtype=np.float32)
    return TrainedPart(S.astype(np.float32), B, A)


def named(source: Source) -> Source:
    """Every Linear of the chain comes from a parameter of its own name."""
    linears = [
        dataclasses.replace(li, sources=(SourceRows(f"{li.name}.weight", 0, li.N),))
        for li in source.linears
    ]
    return dataclasses.replace(source, linears=linears)


def split_first(source: Source, *stops: int) -> Source:
    """The first Linear is fused of as many parameters, p0, p1, …, that end at `stops`."""
    first = source.linears[0]
    starts = (0, *stops[:-1])
    rows = [SourceRows(f"p{i}", a, b) for i, (a, b) in enumerate(zip(starts, stops, strict=True))]
    linear = dataclasses.replace(first, sources=tuple(rows))
    return dataclasses.replace(source, linears=[linear, *source.linears[1:]])


def write(source: Source, folder: Path, parts: dict[str, TrainedPart]) -> StructuredCheckpoint:
    return write_trained(source, folder / "m.slr", parts, method="test", settings={"rank": 3})


def bound(part: TrainedPart) -> np.ndarray:
    """How far S + B·A may move when B·A is factored again.

    The factors are rounded to f32 once (each entry of B and A by eps/2 of its size) and values
    below eps·σ₁ are dropped, of which there are at most r; the product is then rounded r times.
    """
    size = np.linalg.norm(part.B) * np.linalg.norm(part.A)
    return EPS * ((2 * len(part.A) + 2) * size + np.abs(part.S))


def test_reads_back_in_order_of_importance(tmp_path: Path) -> None:
    source = named(chain(tmp_path))
    parts = {f"{li.name}.weight": part(li.N, li.K, seed=i) for i, li in enumerate(source.linears)}
    made = write(source, tmp_path, parts)
    assert made.meta.method == "test"
    assert list(made.names) == [li.name for li in source.linears]
    for linear in source.linears:
        given = parts[f"{linear.name}.weight"]
        entry = made.entry(linear.name)
        assert (entry.nnz, entry.rank) == (np.count_nonzero(given.S), 3)
        _, value = made.sparse(linear.name)
        assert np.all(np.diff(np.abs(value)) <= 0)
        assert np.all(np.diff(entry.singular_values) <= 0)
        assert np.array_equal(made.sparse_matrix(linear.name), given.S)
        assert np.all(np.abs(made.dense(linear.name) - given.surrogate()) <= bound(given))
        error = np.sum((weight(source, linear) - given.surrogate()) ** 2)
        assert entry.plain.at_rank(3) == pytest.approx(error, rel=1e-4)


def test_a_slice_is_the_best_of_its_rank(tmp_path: Path) -> None:
    source = named(chain(tmp_path))
    linear = source.linears[0]
    given = part(linear.N, linear.K, rank=6)
    made = write(source, tmp_path, {f"{linear.name}.weight": given})
    assert made.names == (linear.name,)
    L = (given.B @ given.A).astype(np.float64)
    sigma = np.linalg.svd(L, compute_uv=False)
    for rank in range(7):
        A, B = made.adapter(linear.name, rank)
        lost = np.linalg.norm(L - B.astype(np.float64) @ A)
        # The factors' rounding moves L by at most `bound`, entry by entry.
        slack = np.linalg.norm(bound(given))
        assert lost <= np.sqrt(np.sum(sigma[rank:] ** 2)) + slack


@pytest.mark.parametrize("shared", [False, True])
def test_siblings_are_stacked(tmp_path: Path, shared: bool) -> None:
    source = split_first(chain(tmp_path), 10, 16, 40)
    linear = source.linears[0]
    parts = {
        f"p{i}": part(rows.stop - rows.start, linear.K, seed=i)
        for i, rows in enumerate(linear.sources)
    }
    if shared:
        A = parts["p0"].A
        parts = {name: dataclasses.replace(one, A=A) for name, one in parts.items()}
    made = write(source, tmp_path, parts)
    assert made.entry(linear.name).rank == (3 if shared else 9)
    wanted = np.concatenate([parts[f"p{i}"].surrogate() for i in range(3)])
    slack = np.concatenate([bound(parts[f"p{i}"]) for i in range(3)])
    assert np.all(np.abs(made.dense(linear.name) - wanted) <= 3 * slack)


def test_rows_that_were_not_trained_stay_as_they_are(tmp_path: Path) -> None:
    source = split_first(chain(tmp_path), 10, 40)
    linear = source.linears[0]
    made = write(source, tmp_path, {"p0": part(10, linear.K)})
    W = weight(source, linear)
    assert np.array_equal(made.sparse_matrix(linear.name)[10:], W[10:])
    A, B = made.adapter(linear.name)
    # B's untrained rows are zero but for the rounding of an orthonormal basis in f64.
    assert np.all(np.abs(B[10:] @ A) <= EPS * np.abs(W).max())


def test_a_mask_keeps_its_zeros(tmp_path: Path) -> None:
    source = named(chain(tmp_path))
    linear = source.linears[0]
    given = part(linear.N, linear.K)
    mask = given.S != 0
    mask[:2] = True
    made = write(source, tmp_path, {"layer.0.weight": dataclasses.replace(given, mask=mask)})
    index, _ = made.sparse(linear.name)
    assert sorted(index.tolist()) == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(("rank", "density"), [(0, 0.2), (3, 0.0), (0, 0.0), (3, 1.1)])
def test_empty_and_full_parts(tmp_path: Path, rank: int, density: float) -> None:
    source = named(chain(tmp_path))
    linear = source.linears[1]
    given = part(linear.N, linear.K, rank=rank, density=density)
    made = write(source, tmp_path, {"layer.1.weight": given})
    entry = made.entry(linear.name)
    assert (entry.rank, entry.nnz) == (rank, np.count_nonzero(given.S))
    assert np.all(np.abs(made.dense(linear.name) - given.surrogate()) <= bound(given))


def with_table(source: Source, *, tied: bool) -> Source:
    """A table of 300 rows of 24 before the chain; `tied`: y = h·tableᵀ behind it."""
    rng = np.random.default_rng(5)
    tensor = ir.tensor(rng.standard_normal((300, 24), dtype=np.float32), name="table")
    table = ir.Value(
        name="table", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape
    )
    graph = source.graph.graph
    graph.register_initializer(table)
    ids = ir.Input("ids", ir.Shape(["batch"]), ir.TensorType(ir.DataType.INT64))
    graph.inputs.append(ids)
    gather = ir.node("Gather", [table, ids], {"axis": 0}, name="lookup")
    x = graph.inputs[0]
    add = ir.node("Add", [x, gather.outputs[0]], name="add")
    first = next(node for node in graph if node.name == "n0")
    graph.insert_before(first, [gather, add])
    first.replace_input_with(0, add.outputs[0])
    rows = (SourceRows("table.weight", 0, 300),)
    linears = [Linear("table", 300, 24, "table", False, ("lookup",), "embedding", 1.0, rows)]
    linears += source.linears
    if tied:
        head = ir.node("Gemm", [add.outputs[0], table], {"transB": 1}, name="head")
        graph.append(head)
        logits = head.outputs[0]
        logits.name, logits.shape = "logits", ir.Shape(["batch", 300])
        logits.type = ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(logits)
        linears.append(Linear("head", 300, 24, "table", False, ("head",), "lm_head", 1.0, rows))
    return dataclasses.replace(source, linears=linears)


@pytest.mark.parametrize("tied", [False, True])
def test_a_table_holds_the_surrogate_and_a_tied_head_has_an_entry(
    tmp_path: Path, tied: bool
) -> None:
    source = with_table(chain(tmp_path), tied=tied)
    before = weight_array(source, source.linears[0])
    given = part(300, 24)
    made = write(source, tmp_path, {"table.weight": given})
    assert made.names == (("head",) if tied else ())
    assert np.array_equal(weight_array(source, source.linears[0]), before)  # source is unchanged
    base = ir.load(made.base_model)
    restore_weights(base, made)
    table = base.graph.initializers["table"].const_value.numpy()
    assert np.array_equal(table, given.surrogate())
    if tied:
        assert np.all(np.abs(made.dense("head") - given.surrogate()) <= bound(given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"layer.9.weight": p}, "'layer.9.weight' is in no Linear"),
        (lambda p: {"layer.0.weight": dataclasses.replace(p, S=p.S[1:])}, "another model's"),
        (lambda p: {"layer.0.weight": dataclasses.replace(p, A=p.A[1:])}, "another model's"),
        (lambda p: {"layer.0.weight": dataclasses.replace(p, A=p.A * np.inf)}, "not finite"),
    ],
)
def test_refusals(tmp_path: Path, change, message: str) -> None:
    source = named(chain(tmp_path))
    with pytest.raises(ModelError, match=message):
        write(source, tmp_path, change(part(40, 24)))
    assert not list(tmp_path.glob("*.slr*"))


def test_thin_svd_drops_what_is_not_there() -> None:
    rng = np.random.default_rng(0)
    B, A = rng.standard_normal((30, 4)), rng.standard_normal((4, 20))
    twice_B, twice_A = np.hstack([B, B]), np.vstack([A, A])
    new_B, new_A, sigma = thin_svd(twice_B.astype(np.float32), twice_A.astype(np.float32))
    exact = np.linalg.svd(2 * B @ A, compute_uv=False)[:4]
    assert new_B.shape == (30, 4)
    assert new_A.shape == (4, 20)
    # The inputs were rounded to f32: σ moves by at most eps/2·(‖B‖‖A‖)·2 in Frobenius norm.
    slack = 2 * EPS * np.linalg.norm(twice_B) * np.linalg.norm(twice_A)
    assert np.all(np.abs(sigma - exact) <= slack)
