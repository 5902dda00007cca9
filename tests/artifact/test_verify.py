"""verify: a correct artifact passes, every planted fault is caught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from artifact.graphs import HIDDEN, RANK, K, N, two_layers, write_artifact
from onnx.reference import ReferenceEvaluator

import slc.ops
from slc.compiler.artifact import dense, linear_check
from slc.compiler.artifact.dense import UNIT_ROUNDOFF, dense_reference, gamma
from slc.compiler.artifact.manifest import hash_files, read_manifest, write_manifest
from slc.compiler.artifact.sessions import run, written_session
from slc.compiler.artifact.tolerance import check_output
from slc.compiler.artifact.verify import verify
from slc.compiler.errors import ArtifactError, ModelError
from slc.ops.bitmap_sparse_gemm import bitmap_sparse_gemm


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out")


def evaluate(model: ir.Model, **feeds: np.ndarray) -> np.ndarray:
    """By the numpy references, without native code."""
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=slc.ops.reference_ops())
    return evaluator.run(None, feeds)[0]


@pytest.mark.parametrize("value_type", ["f16", "i8"])
@pytest.mark.parametrize("slots", [False, True])
def test_correct_artifact_passes(tmp_path: Path, value_type: str, slots: bool) -> None:
    out = write_artifact(tmp_path / "out", two_layers(value_type=value_type, slots=slots))
    report = verify(out, memory=False)
    assert report.passed
    assert [check.op for check in report.linears] == [
        "BitmapSparseGemm",
        "ConcatAdapterDown",
        "ConcatAdapterUp",
        "BitmapSparseGemm",
    ]
    assert len(report.outputs) == 3
    assert all(0 < c.max_error < c.max_tolerance / 4 for c in report.outputs)
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("value_type", "encoding", "layout", "level"),
    [
        ("i8", "bitmap", "rows", 4),
        ("i4", "bitmap", "rows", 4),
        ("i4", "bitmap", "planes", 4),
        ("i4", "bitmap", "planes", 1),
        ("f16", "delta", "rows", 1),
        ("i8", "delta", "rows", 1),
    ],
)
def test_every_way_of_storing_passes(
    tmp_path: Path, value_type: str, encoding: str, layout: str, level: int
) -> None:
    model = two_layers(value_type=value_type, encoding=encoding, layout=layout, level=level)
    report = verify(write_artifact(tmp_path / "out", model), memory=False)
    assert report.passed
    levels = [check.accuracy_level for check in report.linears]
    assert levels == [1, 1, 1, 1] + ([4, 4] if level == 4 else [])
    shipped = [d for d in report.distances if d.against == "as shipped"]
    assert len(shipped) == (3 if level == 4 else 0)
    assert all(d.max_error > 0 and d.cosine > 0.999 for d in shipped)


@pytest.mark.parametrize("value_type", ["i8", "i4"])
def test_level_4_is_held_to_the_rounding_of_its_contract(value_type: str) -> None:
    """By the numpy reference; with activations in f32 the same bound is exceeded."""
    model = two_layers(value_type=value_type, level=4)
    node = next(node for node in model.graph if node.op_type == "BitmapSparseGemm")
    x = np.random.default_rng(0).standard_normal((5, K)).astype(np.float32)
    packed, bias = (
        model.graph.initializers[n].const_value.numpy() for n in ("first.packed", "bias")
    )
    y = bitmap_sparse_gemm(x, packed, bias, N=HIDDEN, K=K, accuracy_level=4)
    values = {"x": x, str(node.outputs[0].name): y}
    check = linear_check.check_node(node, values)
    assert check.passed
    assert check.accuracy_level == 4
    y[2, 7] *= np.float32(1.001)
    assert linear_check.check_node(node, values).cell == (2, 7)
    node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    assert not linear_check.check_node(node, values).passed


def test_dense_reference_means_the_same(tmp_path: Path) -> None:
    """Against the operators' own numpy references, in f32, within the bound of both sums."""
    model = two_layers(slots=True)
    x = np.random.default_rng(0).standard_normal((2, 3, K)).astype(np.float32)
    wanted = evaluate(model, x=x)
    with written_session(dense_reference(model)) as session:
        got = run(session, {"x": x})["y"]
    np.testing.assert_allclose(got, wanted, atol=float(gamma(K + HIDDEN + RANK)) * 40)
    assert slc.ops.DOMAIN in model.opset_imports  # the model itself is untouched


@pytest.mark.parametrize("opset", [7, 8, 9, 18])
@pytest.mark.parametrize(("slots", "offset"), [(False, 0), (False, 2), (True, 0)])
def test_graphs_of_old_opsets_run(opset: int, slots: bool, offset: int) -> None:
    model = two_layers(slots=slots)
    model.opset_imports[""] = opset
    if offset:
        up = next(node for node in model.graph if node.op_type == "ConcatAdapterUp")
        up.attributes["offset"] = ir.AttrInt64("offset", offset)
        model.graph.initializers["B"].const_value = ir.Tensor(
            np.ones((HIDDEN, RANK - offset), np.float16), name="B"
        )
        model.graph.initializers["B"].shape = ir.Shape([HIDDEN, RANK - offset])
    x = np.random.default_rng(0).standard_normal((2, 3, K)).astype(np.float32)
    wanted = evaluate(model, x=x)
    with written_session(dense_reference(model)) as session:
        got = run(session, {"x": x})["y"]
    np.testing.assert_allclose(got, wanted, atol=float(gamma(K + HIDDEN + RANK)) * 40)


def test_dense_reference_of_int8_adapters_gate_offset_and_live_slots() -> None:
    rng = np.random.default_rng(3)
    f32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape([2, K]), type=f32)
    y0 = ir.Value(name="y0", shape=ir.Shape([2, N]), type=f32)
    graph = ir.Graph([x, y0], [], nodes=[], opset_imports={"": 18, slc.ops.DOMAIN: 1}, name="g")

    def constant(name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
        return value

    a = [
        constant("a0", rng.integers(-127, 128, (4, K)).astype(np.int8)),
        constant("a1", rng.standard_normal((3, K)).astype(np.float16)),
        constant("slot.a", np.zeros((0, K), np.float32)),
    ]
    b = [
        constant("b0", rng.integers(-127, 128, (N, 2)).astype(np.int8)),
        constant("slot.b", np.zeros((N, 0), np.float32)),
    ]
    a[2].shape, b[1].shape = ir.Shape(["r", K]), ir.Shape([N, "r"])
    graph.inputs.extend([a[2], b[1]])
    scale_a = constant("scale_a", rng.random(4).astype(np.float32) / 127)
    scale_b = constant("scale_b", rng.random(N).astype(np.float32) / 127)
    gate = ir.Value(name="gate", shape=ir.Shape(["R"]), type=f32)
    graph.inputs.append(gate)
    down = ir.node("ConcatAdapterDown", [x, scale_a, gate, *a], domain=slc.ops.DOMAIN, name="down")
    down.outputs[0].name = "h"
    up = ir.node(
        "ConcatAdapterUp", [y0, down.outputs[0], scale_b, *b], {"offset": 4},
        domain=slc.ops.DOMAIN, name="up",
    )  # fmt: skip
    up.outputs[0].name, up.outputs[0].type = "y", f32
    graph.extend([down, up])
    graph.outputs.append(up.outputs[0])
    model = ir.Model(graph, ir_version=9)
    for rank in (0, 1):
        feeds = {
            "x": rng.standard_normal((2, K)).astype(np.float32),
            "y0": rng.standard_normal((2, N)).astype(np.float32),
            "slot.a": rng.standard_normal((rank, K)).astype(np.float32),
            "slot.b": rng.standard_normal((N, rank)).astype(np.float32),
            "gate": rng.random(7 + rank).astype(np.float32),
        }
        wanted = evaluate(model, **feeds)
        with written_session(dense_reference(model)) as session:
            got = run(session, feeds)["y"]
        np.testing.assert_allclose(got, wanted, atol=float(gamma(K + 8)) * K)


def test_f16_activations_are_computed_wide_and_rounded() -> None:
    model = two_layers()
    half = ir.TensorType(ir.DataType.FLOAT16)
    for value in [*model.graph.inputs, *model.graph.outputs]:
        value.type = half
    for node in model.graph:
        node.outputs[0].type = half
    x = np.random.default_rng(0).standard_normal((1, 3, K)).astype(np.float16)
    wanted = evaluate(model, x=x)
    with written_session(dense_reference(model)) as session:
        got = run(session, {"x": x})["y"]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, wanted, atol=2**-8)


def flip_sign(matrix: np.ndarray) -> np.ndarray:
    return _changed(matrix, lambda value: -value)


def one_percent(matrix: np.ndarray) -> np.ndarray:
    return _changed(matrix, lambda value: value * np.float32(1.01))


def _changed(matrix: np.ndarray, change) -> np.ndarray:
    """One weight of ordinary size: the median of all that are stored."""
    stored = np.argwhere(matrix)
    sizes = np.abs(matrix[tuple(stored.T)])
    row, column = stored[np.argsort(sizes)[len(sizes) // 2]]
    matrix[row, column] = change(matrix[row, column])
    return matrix


# One per cent of one weight of the first layer drowns behind the second one's rounding: the check
# of each operator, below, is there for it.
@pytest.mark.parametrize(("fault", "rows"), [(flip_sign, HIDDEN), (flip_sign, N), (one_percent, N)])
def test_one_wrong_weight_is_caught_in_the_outputs(
    out: Path, monkeypatch: pytest.MonkeyPatch, fault, rows: int
) -> None:
    """The kernel computes with other weights than the blob decodes to."""
    decode = dense.decode_packed

    def wrong(tensor: ir.TensorProtocol) -> np.ndarray:
        matrix = decode(tensor)
        return fault(matrix) if matrix.shape[0] == rows else matrix

    monkeypatch.setattr(dense, "decode_packed", wrong)
    report = verify(out, memory=False)
    assert not report.passed
    assert not all(check.passed for check in report.outputs)
    assert all(check.passed for check in report.linears)


@pytest.mark.parametrize("fault", [flip_sign, one_percent])
@pytest.mark.parametrize(("rows", "node"), [(HIDDEN, 0), (N, 3)])
def test_one_wrong_weight_is_caught_and_its_operator_named(
    out: Path, monkeypatch: pytest.MonkeyPatch, fault, rows: int, node: int
) -> None:
    decode = linear_check.decode_packed
    changed = []

    def wrong(tensor: ir.TensorProtocol) -> np.ndarray:
        matrix = decode(tensor)
        if matrix.shape[0] != rows:
            return matrix
        before = matrix.copy()
        matrix = fault(matrix)
        changed.append(int(np.argwhere(matrix != before)[0][0]))
        return matrix

    monkeypatch.setattr(linear_check, "decode_packed", wrong)
    report = verify(out, memory=False)
    assert [check.passed for check in report.linears] == [i != node for i in range(4)]
    assert report.linears[node].cell[1] == changed[0]
    assert report.linears[node].used > 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_overflow_is_no_pass(tmp_path: Path, value: float) -> None:
    """The dense reference overflows alike, and a bound of NaN holds nothing."""
    model = two_layers()
    bias = model.graph.initializers["bias"]
    bias.const_value = ir.Tensor(np.full(HIDDEN, value, np.float32), name="bias")
    report = verify(write_artifact(tmp_path / "out", model), memory=False)
    assert not any(check.passed for check in report.outputs)
    assert not report.linears[0].passed
    json.dumps(report.to_json(), allow_nan=False)


def test_wrong_adapter_is_caught(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = linear_check.adapter_rows
    monkeypatch.setattr(linear_check, "adapter_rows", lambda *args: rows(*args) * 1.01)
    report = verify(out, memory=False)
    failed = [check.op for check in report.linears if not check.passed]
    assert failed == ["ConcatAdapterDown", "ConcatAdapterUp"]


def test_altered_data_is_reported_and_altered_graph_is_not_run(out: Path) -> None:
    data = out / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-64])
    report = verify(out)
    assert not report.passed
    assert len(report.checksum_problems) == 1
    assert report.outputs == []


def test_altered_library_is_reported_and_not_run(out: Path) -> None:
    (out / "libslc_ops.so").write_text("ho")
    manifest = read_manifest(out)
    manifest["op_library"]["file"] = "libslc_ops.so"
    manifest["files"] = hash_files(out)
    write_manifest(out, manifest)
    (out / "libslc_ops.so").write_text("hi")
    report = verify(out)
    assert report.checksum_problems == [
        "libslc_ops.so was altered: its sha256 is not the manifest's"
    ]
    assert report.outputs == []


def test_reference_that_is_another_model(out: Path, tmp_path: Path) -> None:
    for name in ("x", "z"):
        f32 = ir.TensorType(ir.DataType.FLOAT)
        x = ir.Value(name=name, shape=ir.Shape(["batch", "length", K]), type=f32)
        weight = ir.tensor(np.ones((K, 3), np.float32), name="w")
        w = ir.Value(name="w", shape=weight.shape, type=f32, const_value=weight)
        node = ir.node("MatMul", [x, w])
        other = node.outputs[0]
        other.name, other.type, other.shape = "other", f32, ir.Shape(["batch", "length", 3])
        graph = ir.Graph(
            [x], [other], nodes=[node], initializers=[w], opset_imports={"": 18}, name="g"
        )
        ir.save(ir.Model(graph, ir_version=9), tmp_path / f"{name}.onnx")
    with pytest.raises(ModelError, match="is another model: no output has"):
        verify(out, reference=tmp_path / "x.onnx", memory=False)
    with pytest.raises(ModelError, match=r"another model: it takes the inputs \['z'\] and the"):
        verify(out, reference=tmp_path / "z.onnx", memory=False)


def test_checksums_only(out: Path) -> None:
    report = verify(out, checksums_only=True)
    assert report.passed
    assert report.outputs == []


def test_given_inputs(out: Path) -> None:
    report = verify(out, inputs={"x": np.ones((1, 1, K), np.float32)}, memory=False)
    assert [check.probe for check in report.outputs] == ["given inputs"]
    assert report.passed
    with pytest.raises(ArtifactError, match=r"takes the inputs \['x'\] and was given \['z'\]"):
        verify(out, inputs={"z": np.ones(1, np.float32)})


def test_progress_ends_where_it_said(out: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    verify(out, memory=False, progress=lambda *step: steps.append(step))
    files = {"model.onnx", "model.onnx.data"}  # hashed first, counted in bytes
    assert [step[2] in files for step in steps[:3]] == [True, True, False]
    steps = steps[2:]
    assert [step[:2] for step in steps] == [(i, len(steps)) for i in range(len(steps))]


def test_perturbation_is_seeded_and_of_the_size_of_gamma() -> None:
    model = two_layers()
    name = "second.packed.dense"

    def weights(**kwargs) -> np.ndarray:
        return dense_reference(model, **kwargs).graph.initializers[name].const_value.numpy()

    exact = weights()
    moved = weights(perturb=UNIT_ROUNDOFF, seed=1)
    np.testing.assert_array_equal(moved, weights(perturb=UNIT_ROUNDOFF, seed=1))
    assert (moved != weights(perturb=UNIT_ROUNDOFF, seed=2)).any()
    np.testing.assert_array_equal(exact == 0, moved == 0)
    terms = np.count_nonzero(exact, axis=0) + 4
    stored = exact != 0
    relative = np.abs(moved[stored].astype(np.float64) / exact[stored] - 1)
    sizes = np.broadcast_to(gamma(terms), exact.shape)[stored]
    assert (np.abs(relative - sizes) <= 2 * UNIT_ROUNDOFF).all()
    signs = np.sign(moved[stored] / exact[stored] - 1)
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)


def test_gamma_bounds_a_real_sum() -> None:
    """The theorem that everything rests on, on f32 sums in the worst order numpy offers."""
    rng = np.random.default_rng(0)
    for n in (1, 10, 1000):
        x, w = rng.standard_normal((2, n)).astype(np.float32)
        total = np.float32(0)
        for product in x * w:
            total = np.float32(total + product)
        exact = np.sum(x.astype(np.float64) * w)
        bound = float(gamma(n)) * np.sum(np.abs(x.astype(np.float64) * w))
        assert abs(float(total) - exact) <= bound


class TestCheckOutput:
    y = np.linspace(-1, 1, 100, dtype=np.float32)
    moved = (y + np.float32(1e-5),)

    def check(self, got: np.ndarray):
        return check_output("y", "p", got, self.y, self.moved)

    def test_tolerance_is_four_deviations_and_a_floor(self) -> None:
        check = self.check(self.y)
        assert check.passed
        assert check.max_error == 0
        assert check.max_tolerance == pytest.approx(4e-5, rel=0.02)

    def test_a_cell_too_far(self) -> None:
        far = self.y.copy()
        far[50] += np.float32(5e-5)
        assert not self.check(far).passed
        far[50] = self.y[50] + np.float32(3e-5)
        assert self.check(far).passed

    def test_nan_and_shape(self) -> None:
        bad = self.y.copy()
        bad[3] = np.nan
        assert not self.check(bad).passed
        assert not self.check(self.y[:-1]).passed
        assert not self.check(self.y.astype(np.float64)).passed

    @pytest.mark.parametrize("value", [np.inf, np.nan])
    def test_equal_overflow_fails(self, value: float) -> None:
        y = np.array([value, 1], np.float32)
        assert not check_output("y", "p", y, y, [y]).passed
        y = np.ones(2, np.float32)
        overflown = np.array([value, 1], np.float32)
        assert not check_output("y", "p", y + 1, y, [overflown]).passed


@pytest.mark.parametrize(("budget", "passed"), [(None, True), (10**9, True), (1, False)])
def test_measured_memory_against_the_budget(out: Path, budget: int | None, passed: bool) -> None:
    manifest = read_manifest(out)
    manifest["memory"]["budget_bytes"] = budget
    write_manifest(out, manifest)
    report = verify(out)
    assert report.memory is not None
    assert report.memory.measured_bytes > (out / "model.onnx.data").stat().st_size
    assert report.memory.budget_bytes == budget
    assert report.passed == report.memory.passed == passed
