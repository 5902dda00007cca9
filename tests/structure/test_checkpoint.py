"""The folder: prefixes, restarts, equal bytes, the base graph, damage."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structure.models import chain, contents, statistics, weight

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import decompose

METHODS = ("salr", "oats")


def make(
    folder: Path, name: str = "m.slr", *, method: str = "salr", **options
) -> StructuredCheckpoint:
    source = chain(folder)
    given = {"density": 0.5, "rank": 6, "iterations": 4, **options}
    moments = statistics(source) if method == "oats" else None
    return decompose(source, folder / name, method=method, statistics=moments, **given)


@pytest.fixture(scope="module", params=METHODS)
def checkpoint(request, tmp_path_factory: pytest.TempPathFactory) -> StructuredCheckpoint:
    return make(tmp_path_factory.mktemp("slr"), method=request.param)


def test_reads_back_what_was_made(checkpoint: StructuredCheckpoint, tmp_path: Path) -> None:
    source = chain(tmp_path)
    assert checkpoint.linears == source.linears
    assert list(checkpoint.names) == [linear.name for linear in source.linears]
    assert checkpoint.refusals == source.refusals
    assert checkpoint.meta.kind == "onnx"
    assert checkpoint.meta.source_sha256 == "00ff"
    assert checkpoint.meta.settings["rank"] == 6
    for linear in source.linears:
        W, entry = weight(source, linear), checkpoint.entry(linear.name)
        left = W - checkpoint.dense(linear.name)
        assert np.sum(left**2) == pytest.approx(entry.plain.at_rank(entry.rank), rel=1e-3)
        assert entry.row_wise == (checkpoint.meta.method == "oats")
        scale = checkpoint.scale(linear.name)
        assert (scale is None) == (checkpoint.meta.method == "salr")


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_slice_is_a_prefix(checkpoint: StructuredCheckpoint, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(checkpoint.names))
    entry = checkpoint.entry(name)
    nnz = data.draw(st.integers(0, entry.nnz))
    rank = data.draw(st.integers(0, entry.rank))
    index, value = checkpoint.sparse(name)
    A, B = checkpoint.adapter(name)
    some_index, some_value = checkpoint.sparse(name, nnz)
    np.testing.assert_array_equal(some_index, index[:nnz])
    np.testing.assert_array_equal(some_value, value[:nnz])
    some_A, some_B = checkpoint.adapter(name, rank)
    np.testing.assert_array_equal(some_A, A[:rank])
    np.testing.assert_array_equal(some_B, B[:, :rank])
    assert some_A.flags.c_contiguous
    assert some_B.flags.c_contiguous
    S = checkpoint.sparse_matrix(name, nnz)
    assert S.shape == (entry.N, entry.K)
    np.testing.assert_array_equal(S.reshape(-1)[some_index], some_value)
    assert np.count_nonzero(S) <= nnz
    mask = checkpoint.mask(name, nnz)
    np.testing.assert_array_equal(np.sort(some_index), np.flatnonzero(mask))
    np.testing.assert_array_equal(checkpoint.placed(name, nnz)[1], mask)
    if entry.K % 64 == 0:
        counts = mask.reshape(entry.N, -1, 64).sum(axis=2)
        np.testing.assert_array_equal(checkpoint.word_counts(name, nnz), counts)
    same_index, given_back = checkpoint.sparse(name, nnz, rank)
    np.testing.assert_array_equal(same_index, some_index)
    if not entry.row_wise or rank == entry.rank:
        np.testing.assert_array_equal(given_back, some_value)
    S = checkpoint.sparse_matrix(name, nnz, rank)
    bound = (rank + 4) * np.finfo(np.float32).eps * (np.abs(S) + np.abs(some_B) @ np.abs(some_A))
    dense = S.astype(np.float64) + some_B.astype(np.float64) @ some_A
    assert np.all(np.abs(checkpoint.dense(name, nnz, rank) - dense) <= bound)


def test_a_lower_density_is_what_decomposing_at_it_keeps(tmp_path: Path) -> None:
    high, low = make(tmp_path, density=0.7), make(tmp_path, "low.slr", density=0.3)
    for name in low.names:
        nnz = low.entry(name).nnz
        assert nnz == round(0.3 * low.entry(name).linear.numel)
        for one, two in zip(high.sparse(name, nnz), low.sparse(name), strict=True):
            np.testing.assert_array_equal(one, two)


def test_predicts_the_error_of_a_slice(checkpoint: StructuredCheckpoint, tmp_path: Path) -> None:
    source = chain(tmp_path)
    for linear in source.linears:
        entry, W = checkpoint.entry(linear.name), weight(source, linear)
        scale = checkpoint.scale(linear.name)
        D = np.ones(linear.K) if scale is None else scale.astype(np.float64)
        for fraction in (0.25, 0.6, 1.0):
            nnz = round(fraction * entry.nnz)
            error = np.sum(((W - checkpoint.dense(linear.name, nnz)) * D) ** 2)
            tolerance = 1e-3 if fraction == 1 else 0.1
            assert checkpoint.error(linear.name, nnz) == pytest.approx(error, rel=tolerance)
        bare = np.sum(((W - checkpoint.sparse_matrix(linear.name)) * D) ** 2)
        assert checkpoint.error(linear.name, rank=0) == pytest.approx(bare, rel=1e-3)
        given_back = np.sum(((W - checkpoint.dense(linear.name, rank=0)) * D) ** 2)
        if entry.row_wise:  # S takes back what the adapter loses on its support
            assert given_back < 0.8 * bare
        else:
            assert given_back == pytest.approx(bare, rel=1e-6)


def test_more_than_there_is_is_refused(checkpoint: StructuredCheckpoint) -> None:
    name = checkpoint.names[0]
    entry = checkpoint.entry(name)
    with pytest.raises(RequestError, match=f"nnz {entry.nnz + 1}"):
        checkpoint.sparse(name, entry.nnz + 1)
    with pytest.raises(RequestError, match="rank 7"):
        checkpoint.adapter(name, 7)
    with pytest.raises(ModelError, match="no Linear 'nobody'"):
        checkpoint.entry("nobody")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", [0, 4])
def test_density_0_reads_back(tmp_path: Path, method: str, rank: int) -> None:
    made = make(tmp_path, method=method, density=0.0, rank=rank)
    for name in made.names:
        entry = made.entry(name)
        index, value = made.sparse(name)
        A, B = made.adapter(name)
        assert (index.size, value.size, len(A), B.shape[1]) == (0, 0, entry.rank, entry.rank)
        assert index.dtype == np.uint32
        assert value.dtype == A.dtype == B.dtype == np.float32
        np.testing.assert_array_equal(made.dense(name), (B @ A).reshape(entry.N, entry.K))
        assert not made.dense(name, 0, 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_equal_bytes_from_one_worker_and_from_several(tmp_path: Path, method: str) -> None:
    one = make(tmp_path, "one.slr", method=method, jobs=1)
    several = make(tmp_path, "several.slr", method=method, jobs=3)
    assert contents(one.path) == contents(several.path)


def test_fed_with_the_surrogate_the_base_computes_the_model(
    checkpoint: StructuredCheckpoint,
) -> None:
    session = ort.InferenceSession(str(checkpoint.base_model))
    inputs = {i.name: i.shape for i in session.get_inputs()}
    x = np.random.default_rng(1).standard_normal((5, 24), dtype=np.float32)
    feeds, wanted = {"x": x}, x
    for linear in checkpoint.linears:
        W = checkpoint.dense(linear.name)
        feeds[linear.weight] = np.ascontiguousarray(W.T) if linear.transposed else W
        assert inputs[linear.weight] == list(feeds[linear.weight].shape)
        wanted = np.maximum(wanted @ W.T, 0)
    (got,) = session.run(None, feeds)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_weight_that_others_read_stays_in_the_base(tmp_path: Path) -> None:
    import onnx_ir as ir

    source = chain(tmp_path)
    graph = source.graph.graph
    add = ir.node("Identity", [graph.initializers["w1"]], name="alone")
    total = ir.node("ReduceSum", [add.outputs[0]], {"keepdims": 0}, name="total")
    total.outputs[0].name, total.outputs[0].type = "t", ir.TensorType(ir.DataType.FLOAT)
    total.outputs[0].shape = ir.Shape([])
    graph.extend([add, total])
    graph.outputs.append(total.outputs[0])
    made = decompose(source, tmp_path / "m.slr", method="salr", density=0.5, rank=1)
    base = ir.load(made.base_model)
    assert [value.name for value in base.graph.inputs] == ["x", "w0", "w2", "w3"]
    assert list(base.graph.initializers) == ["w1"]
    assert "w1" in graph.initializers  # the source is as it was


def test_goes_on_after_a_kill(tmp_path: Path) -> None:
    whole = make(tmp_path, "whole.slr")
    source = chain(tmp_path)
    read: list[str] = []
    stop_at: list[int] = [2]

    def reading(linear):
        if len(read) == stop_at[0]:
            raise KeyboardInterrupt
        read.append(linear.name)
        return weight(source, linear)

    options = {"method": "salr", "density": 0.5, "rank": 6, "iterations": 4, "jobs": 1}
    with pytest.raises(KeyboardInterrupt):
        decompose(source, tmp_path / "m.slr", read=reading, **options)
    assert not (tmp_path / "m.slr").exists()
    linears = tmp_path / "m.slr.partial" / "linears"
    finished = {p.name: p.stat().st_ino for p in linears.iterdir()}
    assert len(finished) == 2
    (linears / "00009.safetensors").write_bytes(b"of another model")
    (linears / "00001.writing").write_bytes(b"cut short")
    stop_at[0] = -1
    made = decompose(source, tmp_path / "m.slr", read=reading, **options)
    after = {p.name: p.stat().st_ino for p in (made.path / "linears").iterdir()}
    assert finished.items() <= after.items()  # the same files, not the same contents written again
    assert contents(made.path) == contents(whole.path)
    assert not (tmp_path / "m.slr.partial").exists()


@pytest.mark.parametrize("change", ["settings", "weight"])
def test_what_is_left_of_another_run_is_not_taken(tmp_path: Path, change: str) -> None:
    make(tmp_path, "m.slr", density=0.4 if change == "settings" else 0.5)
    (tmp_path / "m.slr").rename(tmp_path / "m.slr.partial")
    source = chain(tmp_path, seed=1 if change == "weight" else 0)
    fresh = decompose(source, tmp_path / "fresh.slr", method="salr", density=0.5, rank=6)
    made = decompose(source, tmp_path / "m.slr", method="salr", density=0.5, rank=6)
    assert contents(made.path) == contents(fresh.path)


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m.slr").mkdir()
    (tmp_path / "m.slr" / "mine").write_text("x")
    with pytest.raises(RequestError, match="exists already"):
        make(tmp_path)
    assert contents(tmp_path) == {"m.slr/mine": b"x"}


def test_a_second_run_to_the_same_name_is_refused(tmp_path: Path) -> None:
    source = chain(tmp_path)
    refused: list[str] = []

    def reading(linear):
        with pytest.raises(RequestError, match="is being written by another process") as error:
            make(tmp_path, density=0.1)
        refused.append(str(error.value))
        return weight(source, linear)

    made = decompose(
        source, tmp_path / "m.slr", method="salr", density=0.5, rank=6, jobs=1, read=reading
    )
    assert len(refused) == len(made.names)
    assert contents(made.path) == contents(make(tmp_path, "fresh.slr").path)


@pytest.mark.parametrize("fails", [False, True])
def test_an_existing_checkpoint_is_replaced_when_the_new_one_is_whole(
    tmp_path: Path, fails: bool
) -> None:
    source, path = chain(tmp_path), make(tmp_path, density=0.2).path
    before = contents(path)

    def reading(linear):
        assert contents(path) == before
        if fails:
            raise KeyboardInterrupt
        return weight(source, linear)

    options = {"method": "salr", "density": 0.5, "rank": 6, "replace": True}
    if fails:
        with pytest.raises(KeyboardInterrupt):
            decompose(source, path, read=reading, **options)
        assert contents(path) == before
    else:
        decompose(source, path, read=reading, **options)
        assert contents(path) == contents(make(tmp_path, "fresh.slr").path)
        assert {p.name for p in tmp_path.iterdir()} == {"m.slr", "fresh.slr"}


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path: Path) -> None:
    path = make(tmp_path).path
    before = contents(path)
    path.rename(tmp_path / "m.slr.replaced")
    with pytest.raises(RequestError, match="exists already"):
        make(tmp_path)
    assert contents(tmp_path) == {f"m.slr/{name}": data for name, data in before.items()}


def test_replace_takes_no_folder_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "m.slr").mkdir()
    (tmp_path / "m.slr" / "mine").write_text("x")
    with pytest.raises(RequestError, match="is no structured checkpoint"):
        make(tmp_path, replace=True)
    assert contents(tmp_path) == {"m.slr/mine": b"x"}


def edit_index(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads((path / "slr.json").read_text())
    change(document)
    (path / "slr.json").write_text(json.dumps(document))


def edit_header(path: Path, change: Callable[[dict], None]) -> None:
    """Rewrites the header of the first Linear's file and slr.json's size of it."""
    file = path / "linears" / "00000.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    size = file.stat().st_size
    edit_index(path, lambda d: d["files"].update({"linears/00000.safetensors": size}))


def truncate(path: Path, listed: bool) -> None:
    file = path / "linears" / "00000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    if listed:
        size = file.stat().st_size
        edit_index(path, lambda d: d["files"].update({"linears/00000.safetensors": size}))


def rename(header: dict, old: str, new: str) -> None:
    header[new] = header.pop(old)


def add_tensor(header: dict) -> None:
    end = max(row["data_offsets"][1] for name, row in header.items() if name != "__metadata__")
    header["E"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda p: (p / "slr.json").unlink(), "slr.json"),
    "garbled index": (lambda p: (p / "slr.json").write_text("{"), "slr.json"),
    "other json": (lambda p: (p / "slr.json").write_text("[]"), "not a structured checkpoint"),
    "version 2": (lambda p: edit_index(p, lambda d: d.update(version=2)), "format version 2"),
    "no linears": (lambda p: edit_index(p, lambda d: d.pop("linears")), "linears"),
    "negative nnz": (
        lambda p: edit_index(p, lambda d: d["linears"][0]["entry"].update(nnz=-1)),
        "nnz is -1",
    ),
    "missing file": (lambda p: (p / "linears/00001.safetensors").unlink(), "00001.safetensors"),
    "missing base": (lambda p: (p / "base/model.onnx").unlink(), "base/model.onnx"),
    "short base": (lambda p: (p / "base/model.onnx").write_bytes(b""), "model.onnx"),
    "truncated": (lambda p: truncate(p, False), "00000.safetensors"),
    "truncated and listed so": (lambda p: truncate(p, True), "00000.safetensors"),
    "missing tensor": (lambda p: edit_header(p, lambda h: rename(h, "A", "C")), "no tensor 'A'"),
    "extra tensor": (lambda p: edit_header(p, add_tensor), "unknown tensor 'E'"),
    "other shape": (
        lambda p: edit_header(p, lambda h: h["A"].update(shape=h["A"]["shape"][::-1])),
        "'A' as F32",
    ),
    "other type": (lambda p: edit_header(p, lambda h: h["A"].update(dtype="I32")), "'A' as I32"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_when_the_folder_is_opened(tmp_path: Path, damage: str) -> None:
    path = make(tmp_path).path
    StructuredCheckpoint(path)
    act, said = DAMAGE[damage]
    act(path)
    with pytest.raises(ModelError, match=said):
        StructuredCheckpoint(path)


@pytest.mark.parametrize(
    ("tensor", "value", "said"),
    [
        ("S.index", 2**32 - 1, "S.index 4294967295"),
        ("S.index", None, "twice"),
        ("S.value", np.float32(np.nan), "S.value"),
        ("A", np.float32(np.inf), "adapter"),
    ],
)
def test_damage_inside_a_tensor_is_named_when_it_is_read(
    tmp_path: Path, tensor: str, value, said: str
) -> None:
    made = make(tmp_path)
    file = made.path / "linears" / "00000.safetensors"
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    start = 8 + length + json.loads(data[8 : 8 + length])[tensor]["data_offsets"][0]
    data[start : start + 4] = (
        data[start + 4 : start + 8] if value is None else np.array(value).astype("<f4" if
        isinstance(value, np.float32) else "<u4").tobytes()
    )  # fmt: skip
    file.write_bytes(data)
    damaged = StructuredCheckpoint(made.path)
    with pytest.raises(ModelError, match=said):
        damaged.dense(made.names[0])
    damaged.dense(made.names[1])  # the others are as good as before
