"""doctor and inspect: what is wrong, and what is there."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from artifact.graphs import sparse_matrix, two_layers, write_artifact

import slc.ops
from slc.compiler.artifact import cuda_images, elf, this_machine
from slc.compiler.artifact.artifact import host_platform
from slc.compiler.artifact.doctor import Finding, diagnose, doctor, explain
from slc.compiler.artifact.inspect import inspect
from slc.compiler.artifact.manifest import (
    hash_files,
    read_manifest,
    write_json,
    write_manifest,
)
from slc.compiler.errors import ArtifactError
from slc.ops import bitmap


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """With the op library inside, as an export makes it."""
    folder = write_artifact(tmp_path / "out")
    shutil.copyfile(slc.ops.library_path(), folder / "libslc_ops.so")
    edit(folder, lambda m: m["op_library"].update(file="libslc_ops.so"))
    return folder


def edit(folder: Path, change) -> None:
    """Changes the manifest and vouches for the files as they are now."""
    manifest = read_manifest(folder)
    manifest["files"] = hash_files(folder)
    library = manifest["files"].get("libslc_ops.so")
    manifest["op_library"]["sha256"] = library and library["sha256"]
    change(manifest)
    write_manifest(folder, manifest)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_nothing_is_wrong(out: Path) -> None:
    assert doctor(out) == []
    assert doctor() == []


def test_no_artifact(tmp_path: Path) -> None:
    finding = only(doctor(tmp_path))
    assert finding.what == f"{tmp_path} has no manifest.json"
    assert finding.fix == "name a folder that slc export wrote"


def test_damaged_manifest(out: Path) -> None:
    manifest = read_manifest(out)
    del manifest["linears"][0]["choice"]
    write_json(out / "manifest.json", manifest)
    finding = only(doctor(out))
    assert finding.what.endswith("manifest.json is damaged: linears[0].choice is missing")
    assert finding.fix == "export the model again"


def test_no_words_of_onnxruntimes_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = two_layers()
    unused = ir.tensor(np.ones(3, np.float32), name="unused")
    f32 = ir.TensorType(ir.DataType.FLOAT)
    model.graph.register_initializer(
        ir.Value(name="unused", shape=unused.shape, type=f32, const_value=unused)
    )
    doctor(write_artifact(tmp_path / "warns", model))
    assert capfd.readouterr().err == ""


def test_altered_file(out: Path) -> None:
    with open(out / "model.onnx", "ab") as file:
        file.write(b"\0")
    assert "model.onnx has" in doctor(out)[0].what


def test_library_of_another_processor(out: Path) -> None:
    library = out / "libslc_ops.so"
    code = bytearray(library.read_bytes())
    code[18:20] = (0xB7).to_bytes(2, "little")
    library.write_bytes(code)
    assert elf.machine(library) == "aarch64"
    edit(out, lambda m: None)
    finding = only(doctor(out))
    assert finding.what == f"libslc_ops.so is for aarch64, the artifact for {host_platform()}"
    library.write_bytes(b"not a library")
    assert elf.machine(library) is None
    edit(out, lambda m: None)
    assert "no known processor" in only(doctor(out)).what


def test_artifact_of_another_platform(out: Path) -> None:
    (out / "libslc_ops.so").unlink()

    def change(manifest: dict) -> None:
        manifest["device"]["platform"] = "linux-riscv64"
        manifest["op_library"] = {"file": None, "sha256": None, "note": "no library at hand"}

    edit(out, change)
    findings = doctor(out)
    assert [f.severity for f in findings] == ["warning", "warning"]
    assert findings[0].what == "no library at hand"
    assert "linux-riscv64" in findings[1].what


def test_runtime_too_old(out: Path) -> None:
    edit(out, lambda m: m["device"].update(ort_min="99.0"))
    assert "is older than 99.0" in only(doctor(out)).what


def test_genai_too_old(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = this_machine.version
    monkeypatch.setattr(
        this_machine, "version", lambda *p: "0.8.3" if "genai" in p[0] else version(*p)
    )
    assert doctor(out) == []
    (out / "genai_config.json").write_text("{}")
    edit(out, lambda m: None)
    assert "onnxruntime-genai 0.8.3" in only(doctor(out)).what


def test_genai_too_old_for_the_last_logits_alone(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = this_machine.version
    monkeypatch.setattr(
        this_machine, "version", lambda *p: "0.11.4" if "genai" in p[0] else version(*p)
    )
    (out / "genai_config.json").write_text("{}")
    edit(out, lambda m: None)
    assert doctor(out) == []
    monkeypatch.setattr("slc.compiler.artifact.doctor.gives_last_logits", lambda model: True)
    finding = only(doctor(out))
    assert "0.11.4 wants the logits of every token" in finding.what
    assert "--logits all" in finding.fix


def test_cuda_without_cuda(out: Path) -> None:
    shutil.copyfile(slc.ops.library_path(), out / "libslc_ops_cuda.so")
    edit(out, lambda m: m.update(provider="cuda"))
    assert "no CUDA provider" in only(doctor(out)).what


def test_cuda_without_its_kernels(out: Path) -> None:
    edit(out, lambda m: m.update(provider="cuda"))
    found = [one for one in doctor(out) if "libslc_ops_cuda.so is missing" in one.what]
    assert "make cuda" in only(found).fix
    shutil.copyfile(slc.ops.library_path(), out / "libslc_ops_cuda.so")
    with (out / "libslc_ops_cuda.so").open("r+b") as file:
        file.seek(18)
        file.write((183).to_bytes(2, "little"))  # EM_AARCH64
    edit(out, lambda m: None)
    assert any("libslc_ops_cuda.so is for aarch64" in one.what for one in doctor(out))


def test_corrupt_blob_that_the_manifest_vouches_for(out: Path) -> None:
    data = bytearray((out / "model.onnx.data").read_bytes())
    start = data.index(b"SLCB")
    data[start + 200] ^= 1
    (out / "model.onnx.data").write_bytes(data)
    edit(out, lambda m: None)
    assert only(doctor(out)).what.startswith("the weights first.packed are damaged: ")


def test_no_library_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLC_OPS_LIBRARY", "/nowhere/libslc_ops.so")
    assert "no op library" in only(doctor()).what


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Fatal error: ai.slc:BitmapSparseGemm(-1) is not a registered function/op", "without"),
        ("Failed to load library libslc_ops.so with error: x: wrong ELF class", "another kind"),
        ("/lib/libc.so.6: version `GLIBC_2.38' not found", "newer C library"),
        ("Failed to load library a with error: a: cannot open shared object file", "can't be"),
        ("Unsupported version '25' in custom op 'X'", "older than the API"),
        ("Domain already set in registry", "two op libraries"),
        ("libcudart.so.12: cannot open shared object file", "CUDA libraries"),
        ("Unsupported model IR version: 10, max supported IR version: 9", "too old"),
        ("com.microsoft:GatherBlockQuantized(-1) is not a registered function/op", "too old"),
        ("ai.slc: got onnxruntime 1.16.3, wanted 1.17 or newer", "older than any"),
        ("Cuda interface not available: Failed to load library: x.so", "built without CUDA"),
        ("CUDA error: no kernel image is available for execution", "no kernels for this GPU"),
        ("custom_ops_library must not contain path traversal (..): ../x.so", "outside the model"),
    ],
)
def test_known_error_texts(text: str, meaning: str) -> None:
    finding = explain(text)
    assert finding is not None
    assert meaning in finding.what


def test_unregistered_library_in_onnxruntimes_own_words(out: Path) -> None:
    import onnxruntime

    with pytest.raises(Exception, match=r"ai\.slc") as caught:
        onnxruntime.InferenceSession(out / "model.onnx")
    finding = explain(str(caught.value))
    assert finding is not None
    assert "without the op library" in finding.what


def test_library_registered_twice_in_onnxruntimes_own_words(out: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for _ in range(2):
        options.register_custom_ops_library(str(out / "libslc_ops.so"))
    with pytest.raises(Exception, match="Domain") as caught:
        onnxruntime.InferenceSession(out / "model.onnx", options)
    assert explain(str(caught.value)) is not None


def test_data_in_onnxruntimes_own_words(out: Path, tmp_path: Path) -> None:
    """Each fault is staged, and onnxruntime itself says what is wrong."""
    import onnxruntime

    data = out / "model.onnx.data"
    whole = data.read_bytes()

    def words() -> Finding | None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.register_custom_ops_library(str(out / "libslc_ops.so"))
        with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
            onnxruntime.InferenceSession(out / "model.onnx", options)
        return explain(str(caught.value))

    data.write_bytes(whole[:5000])
    assert "cut off" in words().what
    broken = bytearray(whole)
    broken[whole.index(b"SLCB") + 200] ^= 1
    data.write_bytes(broken)
    assert "weights are damaged" in words().what
    data.unlink()
    assert "missing or cut off" in words().what
    (tmp_path / "elsewhere").write_bytes(whole)
    data.symlink_to(tmp_path / "elsewhere")
    assert "is a link" in words().what
    (out / "model.onnx").write_bytes(b"no graph")
    assert "no readable graph" in words().what


def test_library_that_is_cut_off_is_not_loaded(out: Path) -> None:
    """Loading it would end the process."""
    library = out / "libslc_ops.so"
    library.write_bytes(library.read_bytes()[:100_000])
    assert elf.cut_off(library)
    assert not elf.cut_off(Path(slc.ops.library_path()))
    assert "has 100000 bytes" in only(doctor(out)).what
    edit(out, lambda m: None)
    assert only(doctor(out)).what == "libslc_ops.so is cut off"


def test_library_that_needs_a_newer_glibc(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = elf.glibc_needed(out / "libslc_ops.so")
    assert needed is not None
    assert needed.startswith("2.")
    monkeypatch.setattr("slc.compiler.artifact.doctor.glibc", lambda: "2.5")
    assert only(doctor(out)).what == f"libslc_ops.so needs glibc {needed} and this machine has 2.5"


def test_cpu_that_lacks_what_the_artifact_was_made_for(out: Path) -> None:
    edit(out, lambda m: m["device"].update(isa=["amx_int8", "warp_drive"]))
    finding = only(doctor(out))
    assert finding.severity == "warning"
    assert "warp_drive" in finding.what
    assert diagnose(out).passed


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m["memory"].update(predicted_bytes=7), "add up to 10,042,600 bytes"),
        (lambda m: m["op_library"].update(sha256="0" * 64), "two different hashes"),
        (lambda m: m["linears"][0].update(N=7), "says N 7 of first and its packed weights say 160"),
        (lambda m: m["linears"][0]["choice"].update(value_type="i8"), "value type i8 of first"),
    ],
)
def test_manifest_that_contradicts_itself(out: Path, spoil, words: str) -> None:
    edit(out, spoil)
    assert words in only(doctor(out)).what


def fat_binary(*images: tuple[int, int]) -> bytes:
    """As nvcc lays it out, of (kind, SM); 8 bytes of kernel each."""
    parts = [
        struct.pack("<HHIQ12xI32x", kind, 0x101, 64, 8, sm) + b"kernel.." for kind, sm in images
    ]
    inside = b"".join(parts)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(inside)) + inside


def test_gpus_that_a_library_holds_kernels_for(tmp_path: Path) -> None:
    library = tmp_path / "libonnxruntime_providers_cuda.so"
    # What the aarch64 wheel of onnxruntime-gpu 1.31.1 holds: nothing for Orin, nothing for Thor.
    cubins = b"".join(fat_binary((2, sm)) for sm in (89, 90, 120, 121))
    library.write_bytes(b"\x7fELF code" + cubins + b"more code")
    held = cuda_images.images(library)
    assert (held.cubins, held.ptx) == ({89, 90, 120, 121}, frozenset())
    assert [held.run_on(sm) for sm in (87, 89, 90, 110, 120, 121)] == [
        False,
        True,
        True,
        False,
        True,
        True,
    ]
    (finding,) = this_machine.check_images(library, 87)
    assert "sm_89, sm_90, sm_120, sm_121 and this GPU is sm_87" in finding.what
    assert "JetPack" in finding.fix
    library.write_bytes(fat_binary((2, 80), (1, 90)))
    held = cuda_images.images(library)
    assert str(held) == "sm_80, PTX of sm_90"
    assert [held.run_on(sm) for sm in (75, 86, 89, 90, 110)] == [False, True, True, True, True]
    assert list(this_machine.check_images(library, 110)) == []
    library.write_bytes(fat_binary((2, 80))[:30])
    assert str(cuda_images.images(library)) == "no GPU"


def test_two_onnxruntimes_in_one_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "version", lambda *p: "1.32.0")
    findings = doctor(out)
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.32.0" in only(findings).what


def test_other_text_is_not_explained() -> None:
    assert explain("something else") is None


def test_inspect_artifact(tmp_path: Path) -> None:
    found = inspect(write_artifact(tmp_path / "out", two_layers(slots=True)))
    json.dumps(found, allow_nan=False)
    assert found["kind"] == "artifact"
    assert found["operators"] == {
        "Relu": 1,
        "ai.slc.BitmapSparseGemm": 2,
        "ai.slc.ConcatAdapterDown": 1,
        "ai.slc.ConcatAdapterUp": 1,
    }
    assert found["inputs"] == [{"name": "x", "dtype": "FLOAT", "shape": ["batch", "length", 96]}]
    assert [slot["name"] for slot in found["slots"]] == ["slot.A", "slot.B"]
    assert found["linears"][0]["bits_per_weight"] == pytest.approx(8 * 17000 / (160 * 96))
    assert found["totals"]["weight_bytes"] == 42600
    assert found["totals"]["weights"] == 160 * 96 + 40 * 160


def test_inspect_blob(tmp_path: Path) -> None:
    matrix = sparse_matrix(0, 33, 70)
    path = tmp_path / "w.bin"
    blob = bitmap.encode(matrix, "i8", 64)
    blob.tofile(path)
    found = inspect(path)
    json.dumps(found)
    assert (found["kind"], found["n"], found["k"]) == ("blob", 33, 70)
    assert found["nnz"] == np.count_nonzero(matrix)
    assert found["bits_per_weight"] == pytest.approx(8 * blob.size / matrix.size)
    path.write_bytes(blob.tobytes()[:-1])
    with pytest.raises(ArtifactError, match="not a sound packed blob"):
        inspect(path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="not a sound packed blob"):
        inspect(path)


def test_inspect_checkpoint(tmp_path: Path) -> None:
    from slc.compiler.api import structure

    weight = ir.tensor(sparse_matrix(0, 64, 80, density=1.0), name="w")
    f32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["n", 64]), type=f32)
    w = ir.Value(name="w", shape=weight.shape, type=f32, const_value=weight)
    node = ir.node("MatMul", [x, w], name="product")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", f32, ir.Shape(["n", 80])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 18}, name="one")
    ir.save(ir.Model(graph, ir_version=9), tmp_path / "one.onnx")
    structure(tmp_path / "one.onnx", tmp_path / "one.slr", density=0.5, rank=4, method="salr")
    found = inspect(tmp_path / "one.slr")
    json.dumps(found)
    assert found["kind"] == "checkpoint"
    assert found["meta"]["method"] == "salr"
    row = found["linears"][0]
    assert (row["N"], row["K"], row["nnz"], row["rank"]) == (80, 64, 80 * 32, 4)
