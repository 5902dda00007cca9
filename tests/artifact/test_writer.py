"""The bytes of model.onnx and model.onnx.data."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from artifact.graphs import two_layers

from slc.compiler.artifact import writer
from slc.compiler.artifact.writer import (
    DATA_FILE,
    INLINE_BYTES,
    LARGE_BYTES,
    MODEL_FILE,
    write_model,
)
from slc.compiler.block_tensor import BlockTensor
from slc.compiler.errors import ModelError, PostconditionError
from slc.compiler.frontends import onnx_file
from slc.targets.detect import usable_cores


def chain(*tensors: ir.TensorProtocol, inputs: int = 0) -> ir.Model:
    """y = x + t0 + t1 …; the first `inputs` of the tensors are overridable."""
    first = tensors[0]
    kind = ir.TensorType(first.dtype)
    x = ir.Value(name="x", shape=ir.Shape(["n"]), type=kind)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="chain")
    total = x
    for i, tensor in enumerate(tensors):
        value = ir.Value(name=f"t{i}", shape=tensor.shape, type=kind, const_value=tensor)
        graph.register_initializer(value)
        if i < inputs:
            graph.inputs.append(value)
        node = ir.node("Add", [total, value], name=f"add{i}")
        node.outputs[0].name = f"s{i}"
        graph.append(node)
        total = node.outputs[0]
    total.type, total.shape = kind, ir.Shape(["n"])
    graph.outputs.append(total)
    return ir.Model(graph, ir_version=9)


def floats(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def write_source(folder: Path, arrays: list[np.ndarray]) -> list[ir.ExternalTensor]:
    """Arrays in one data file, unaligned on purpose."""
    tensors, data = [], b"\1\2\3"
    for i, array in enumerate(arrays):
        tensors.append(
            ir.ExternalTensor(
                "source.data", len(data), array.nbytes, ir.DataType.FLOAT,
                shape=ir.Shape(array.shape), name=f"t{i}", base_dir=folder,
            )
        )  # fmt: skip
        data += array.tobytes()
    (folder / "source.data").write_bytes(data)
    return tensors


def test_round_trip_of_every_kind_of_tensor(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    arrays = [floats(i, 1000) for i in range(3)]
    external = write_source(source, arrays[:1])[0]
    lazy = ir.LazyTensor(lambda: ir.Tensor(arrays[1]), ir.DataType.FLOAT, ir.Shape([1000]))
    write_model(chain(external, lazy, ir.Tensor(arrays[2])), out)
    x = floats(9, 1000)
    session = onnxruntime.InferenceSession(out / MODEL_FILE)
    wanted = ((x + arrays[0]) + arrays[1]) + arrays[2]
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], wanted)


def test_offsets_are_aligned_and_small_tensors_inline(tmp_path: Path) -> None:
    sizes = [63, 64, 1001, LARGE_BYTES // 4, 77, LARGE_BYTES // 4 + 1]
    records = write_model(chain(*(ir.Tensor(floats(i, n)) for i, n in enumerate(sizes))), tmp_path)
    assert [r.size_bytes for r in records] == [4 * n for n in sizes]
    end = 0
    for record in records:
        if record.size_bytes < INLINE_BYTES:
            assert record.offset is None
            continue
        assert record.offset is not None
        assert record.offset >= end
        assert record.offset % (4096 if record.size_bytes >= LARGE_BYTES else 64) == 0
        end = record.offset + record.size_bytes
    assert (tmp_path / DATA_FILE).stat().st_size == end
    stored = onnx.load(tmp_path / MODEL_FILE, load_external_data=False).graph.initializer
    for record, proto in zip(records, stored, strict=True):
        entries = {e.key: e.value for e in proto.external_data}
        if record.offset is None:
            assert not entries
            continue
        length = str(record.size_bytes)
        assert entries == {"location": DATA_FILE, "offset": str(record.offset), "length": length}


def test_same_model_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write_model(two_layers(slots=True), folder)
    assert digests(folders[0]) == digests(folders[1])


def test_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = two_layers(slots=True)
    before = [v.const_value for v in model.graph.initializers.values()]
    write_model(model, tmp_path)
    assert all(
        a is v.const_value for a, v in zip(before, model.graph.initializers.values(), strict=True)
    )


def test_duplicates_are_written_once(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    shared = ir.Tensor(floats(0, 500))
    a = write_source(source, [floats(1, 500)])[0]
    b = ir.ExternalTensor(
        "source.data", a.offset, a.length, a.dtype, shape=a.shape, name="b", base_dir=source
    )
    records = write_model(chain(shared, shared, a, b), out)
    assert records[0].offset == records[1].offset
    assert records[2].offset == records[3].offset
    assert records[0].offset != records[2].offset
    assert (out / DATA_FILE).stat().st_size == 2048 + 2000


@pytest.mark.parametrize("ahead", [0, 2, 100])
def test_lazy_tensors_are_evaluated_once_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """`ahead`: tensors that there is room for, the one that is written among them."""
    monkeypatch.setattr(writer, "AHEAD_BYTES", 4 * 4096 * ahead)
    order: list[int] = []
    made: list[weakref.ref[ir.Tensor]] = []
    alive: list[int] = []

    def make(i: int):
        def evaluate() -> ir.Tensor:
            order.append(i)
            alive.append(sum(ref() is not None for ref in made))
            tensor = ir.Tensor(np.full(4096, i, np.float32))
            made.append(weakref.ref(tensor))
            return tensor

        return evaluate

    lazies = [ir.LazyTensor(make(i), ir.DataType.FLOAT, ir.Shape([4096])) for i in range(5)]
    write_model(chain(*lazies), tmp_path)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert max(alive) <= max(0, min(ahead, 5) - 1)
    data = np.fromfile(tmp_path / DATA_FILE, np.float32)
    np.testing.assert_array_equal(data[::4096], range(5))  # whoever was first


def test_rank_0_slots_stay_inline_and_overridable(tmp_path: Path) -> None:
    write_model(two_layers(slots=True), tmp_path)
    proto = onnx.load(tmp_path / MODEL_FILE, load_external_data=False)
    slots = {p.name: p for p in proto.graph.initializer if p.name.startswith("slot")}
    assert {name: list(p.dims) for name, p in slots.items()} == {
        "slot.A": [0, 96],
        "slot.B": [160, 0],
    }
    assert not any(p.external_data for p in slots.values())
    assert {"slot.A", "slot.B"} <= {value.name for value in proto.graph.input}


def test_large_overridable_initializer_stays_inline(tmp_path: Path) -> None:
    records = write_model(chain(ir.Tensor(floats(0, 500)), inputs=1), tmp_path)
    assert [r.offset for r in records] == [None]
    assert not (tmp_path / DATA_FILE).exists()
    session = onnxruntime.InferenceSession(tmp_path / MODEL_FILE)
    ones = np.ones(500, np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": ones, "t0": ones})[0], 2 * ones)


def test_blobs_are_external_and_shape_vectors_inline(tmp_path: Path) -> None:
    model = two_layers()
    shape = ir.Tensor(np.arange(900, dtype=np.int64), name="shape")
    value = ir.Value(
        name="shape", shape=shape.shape, type=ir.TensorType(shape.dtype), const_value=shape
    )
    model.graph.register_initializer(value)
    offsets = {record.name: record.offset for record in write_model(model, tmp_path)}
    assert offsets["shape"] is None
    assert offsets["first.packed"] is not None
    assert offsets["second.packed"] is not None


def test_sub_byte_and_bfloat16_and_strided(tmp_path: Path) -> None:
    import ml_dtypes

    nibbles = np.arange(-8, 8, dtype=np.int8).repeat(64).astype(ml_dtypes.int4)
    brains = floats(0, 300).astype(ml_dtypes.bfloat16)
    strided = floats(1, 600).reshape(20, 30).T
    model = chain(ir.Tensor(floats(2, 100)))
    for name, array in (("n", nibbles), ("b", brains), ("s", strided)):
        tensor = ir.Tensor(array, name=name)
        model.graph.register_initializer(
            ir.Value(
                name=name,
                shape=tensor.shape,
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        )
    records = {r.name: r for r in write_model(model, tmp_path)}
    assert records["n"].size_bytes == 512
    loaded = ir.load(tmp_path / MODEL_FILE).graph.initializers
    for name, array in (("n", nibbles), ("b", brains), ("s", strided)):
        np.testing.assert_array_equal(loaded[name].const_value.numpy(), array)


def test_truncated_source_is_the_models_fault(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    tensor = write_source(source, [floats(0, 1000)])[0]
    (source / "source.data").write_bytes(b"x" * 1003)
    with pytest.raises(ModelError, match=r"source\.data ends 3000 bytes before the end of 't0'"):
        write_model(chain(tensor), out)
    (source / "source.data").unlink()
    with pytest.raises(ModelError, match=r"can't be read from source\.data"):
        write_model(chain(tensor), out)


def test_lazy_tensor_of_another_size_is_a_bug(tmp_path: Path) -> None:
    lazy = ir.LazyTensor(lambda: ir.Tensor(floats(0, 99)), ir.DataType.FLOAT, ir.Shape([100]))
    with pytest.raises(PostconditionError, match="declared with 400 bytes and has 396"):
        write_model(chain(lazy), tmp_path)


def test_invalid_graph_is_a_bug(tmp_path: Path) -> None:
    model = chain(ir.Tensor(floats(0, 100)))
    model.graph.append(ir.node("Add", [model.graph.inputs[0]], name="broken"))
    with pytest.raises(PostconditionError, match="not valid ONNX"):
        write_model(model, tmp_path)


def test_external_attribute_is_carried_along(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    array = floats(0, 200)
    tensor = write_source(source, [array])[0]
    model = chain(ir.Tensor(floats(1, 200)))
    node = ir.node("Constant", [], {"value": tensor}, name="constant")
    node.outputs[0].name = "c"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape([200])
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    write_model(model, out)
    session = onnxruntime.InferenceSession(out / MODEL_FILE)
    np.testing.assert_array_equal(session.run(["c"], {"x": array})[0], array)
    assert node.attributes["value"].value is tensor


def test_progress_counts_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    tensors = [ir.Tensor(floats(i, 100)) for i in range(3)]
    write_model(chain(*tensors), tmp_path, progress=lambda *step: seen.append(step))
    assert seen == [(400, 1200, "t0"), (800, 1200, "t1"), (1200, 1200, "t2")]


def test_memory_stays_at_one_tensor(tmp_path: Path) -> None:
    """256 MB of mapped and lazy tensors of 16 MB each: the process grows by far less."""
    script = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        import onnx_ir as ir
        from artifact.test_writer import chain, write_model
        folder, count, size = Path(sys.argv[1]), 8, 1 << 22
        with open(folder / "source.data", "wb") as file:
            for i in range(count):
                file.write(np.full(size, i, np.float32).tobytes())
        tensors = [
            ir.ExternalTensor("source.data", 4 * size * i, 4 * size, ir.DataType.FLOAT,
                              shape=ir.Shape([size]), name=f"t{i}", base_dir=folder)
            for i in range(count)
        ] + [
            ir.LazyTensor(lambda i=i: ir.Tensor(np.full(size, i, np.float32)), ir.DataType.FLOAT,
                          ir.Shape([size]))
            for i in range(count)
        ]
        model = chain(*tensors)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (folder / "out").mkdir()
        write_model(model, folder / "out")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert int(result.stdout) * 1024 < 40e6


def test_outputs_without_a_shape_are_read_and_written(tmp_path: Path) -> None:
    """ONNX's checker refuses them and onnxruntime runs them."""
    model = two_layers()
    model.graph.outputs[0].shape = None
    write_model(model, tmp_path)
    assert onnx_file.read(tmp_path / "model.onnx").graph.outputs[0].shape is None


def test_a_tensor_made_in_pieces_is_never_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are those of the pieces in their order, whichever is ready first."""
    monkeypatch.setattr(writer, "AHEAD_BYTES", 1000)
    alive: list[int] = []
    made: list[weakref.ref[np.ndarray]] = []

    def piece(index: int) -> np.ndarray:
        time.sleep(0.002 * (index % 2 == 0))
        alive.append(sum(ref() is not None for ref in made))
        block = np.full(200, index, np.float32)
        made.append(weakref.ref(block))
        return block

    tensor = BlockTensor(
        lambda: (functools.partial(piece, index) for index in range(20)),
        ir.DataType.FLOAT, ir.Shape([4000]),
    )  # fmt: skip
    wanted = np.repeat(np.arange(20, dtype=np.float32), 200)
    np.testing.assert_array_equal(tensor.numpy(), wanted)
    alive.clear()
    made.clear()
    (record,) = write_model(chain(tensor), tmp_path)
    assert (tmp_path / DATA_FILE).read_bytes() == wanted.tobytes()
    assert record.size_bytes == wanted.nbytes
    assert max(alive) <= usable_cores() + 1  # those in the making, and the one that is written


def test_a_piece_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "AHEAD_BYTES", 0)

    def fails() -> np.ndarray:
        raise ModelError("gone")

    with pytest.raises(ModelError, match="gone"):
        write_model(
            chain(BlockTensor(lambda: [fails], ir.DataType.FLOAT, ir.Shape([4000]))), tmp_path
        )
    short = BlockTensor(
        lambda: [lambda: np.zeros(3999, np.float32)], ir.DataType.FLOAT, ir.Shape([4000])
    )
    with pytest.raises(PostconditionError, match="16000 bytes"):
        write_model(chain(short), tmp_path)


def test_small_tensors_are_made_while_a_large_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The large one waits for a small one behind it, which must have been begun meanwhile."""
    monkeypatch.setattr(writer, "AHEAD_BYTES", 10_000)
    monkeypatch.setattr(writer, "usable_cores", lambda: 2)
    begun = threading.Event()

    def large() -> ir.TensorProtocol:
        assert begun.wait(timeout=60)
        return ir.Tensor(np.ones(5000, np.float32))

    def small() -> ir.TensorProtocol:
        begun.set()
        return ir.Tensor(np.zeros(1000, np.float32))

    lazies = [
        ir.LazyTensor(large, ir.DataType.FLOAT, ir.Shape([5000])),
        ir.LazyTensor(small, ir.DataType.FLOAT, ir.Shape([1000])),
    ]
    write_model(chain(*lazies), tmp_path)
    data = np.frombuffer((tmp_path / DATA_FILE).read_bytes(), np.float32)
    assert data[:5000].all()
    assert not data[5000:].any()
