"""`slc adapters add`: adapters of any rank for an artifact that was exported before there were any.

One artifact keeps all weights in float32, so that answers can be held against torch and PEFT in
float64 within what float32's rounding does; another is sparse, with blobs and adapters of ours, and
is switched from two threads.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.resources
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from examples.serve_stress import LEAK_BYTES, growth, resident_bytes
from slc.compiler import add_adapters, export, list_adapters, verify
from slc.compiler.artifact import sessions
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.dense import UNIT_ROUNDOFF, dense_reference, gamma
from slc.compiler.artifact.manifest import MANIFEST_FILE, read_manifest
from slc.compiler.artifact.sbom import read_sbom, said_files
from slc.compiler.artifact.staging import FolderLock
from slc.compiler.artifact.tolerance import SEEDS, OutputCheck, check_output
from slc.compiler.errors import ArtifactError, ModelError, RequestError, SlcError

pytestmark = pytest.mark.slow

TARGETS: dict[str, tuple[int, list[str]]] = {
    "alpha": (4, ["q_proj", "v_proj"]),
    "beta": (9, ["q_proj", "k_proj", "down_proj", "o_proj"]),
}
CASES = ((), ("alpha",), ("beta",), ("alpha", "beta"))
IDS = np.array([[5, 77, 230, 41, 300, 12, 9]])


def slc(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs `slc ARGUMENTS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "slc.compiler.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def save_lora(base: Any, folder: Path, seed: int, **options: Any) -> Path:
    """A PEFT folder for `base`, a transformers model; B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(init_lora_weights=False, **options)
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def llama(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def peft_folders(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("peft")
    return {
        name: save_lora(
            llama(tiny_llama), root / name, seed, r=rank, lora_alpha=2 * rank,
            target_modules=targets, use_rslora=name == "beta",
        )
        for seed, (name, (rank, targets)) in enumerate(TARGETS.items())
    }  # fmt: skip


@pytest.fixture(scope="module")
def bare(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in f32, two slots, no adapters. Tests copy it, or leave it as it was."""
    out = tmp_path_factory.mktemp("bare") / "out"
    return export(tiny_llama, out, values="dense", adapter_slots=2, logits="all")


@pytest.fixture(scope="module")
def added(
    bare: Path, peft_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same with both adapters, by the command; beta's folder has another name."""
    out = tmp_path_factory.mktemp("added") / "out"
    shutil.copytree(bare, out)
    other = shutil.copytree(peft_folders["beta"], out.parent / "checkpoint-9")
    done = slc("adapters", "add", out, peft_folders["alpha"], f"{other}=beta", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == {"artifact": str(out), "added": list_adapters(out)}
    return out


@pytest.fixture(scope="module")
def sparse(
    tiny_llama: Path, peft_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """S of density .5 and a residual adapter of rank 4, the others given to export."""
    out = tmp_path_factory.mktemp("sparse") / "out"
    texts = [str(path) for path in peft_folders.values()]
    return export(
        tiny_llama, out, density=0.5, rank=4, adapters=texts, adapter_slots=2, logits="all"
    )


def open_session(artifact: Path) -> ort.InferenceSession:
    """Without a warning for every slot."""
    return Artifact.open(artifact).session(sess_options=sessions.quiet_options())


def feeds_of(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    feeds: dict[str, np.ndarray] = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, 16), np.float32)
    return feeds


def loaded(artifact: Path) -> dict[str, ort.LoraAdapter]:
    files = {}
    for entry in list_adapters(artifact):
        files[entry["name"]] = ort.LoraAdapter()
        files[entry["name"]].Load(str(artifact / entry["file"]))
    return files


def run(session: ort.InferenceSession, adapters: Sequence[ort.LoraAdapter] = ()) -> np.ndarray:
    """Logits [1, 7, 512]."""
    options = ort.RunOptions()
    for adapter in adapters:
        options.add_active_adapter(adapter)
    return session.run(["logits"], feeds_of(session), options)[0]


class Torch:
    """Logits by torch and PEFT in float64, adapters beside the weights as PEFT runs them."""

    def __init__(self, base: Path, folders: dict[str, Path]) -> None:
        self._base, self._folders = base, folders
        self.exact = {names: self._logits(names) for names in CASES}
        self.perturbed = {names: [self._logits(names, seed) for seed in SEEDS] for names in CASES}

    def _logits(self, names: Sequence[str], seed: int | None = None) -> np.ndarray:
        import torch
        from peft import PeftModel

        model = llama(self._base)
        if names:
            model = PeftModel.from_pretrained(model, self._folders[names[0]], names[0])
            for name in names[1:]:
                model.load_adapter(self._folders[name], name)
            model.base_model.set_adapter(list(names))
        model = model.double().eval()
        if seed is not None:
            _perturb(model, seed)
        with torch.no_grad():
            return model(input_ids=torch.from_numpy(IDS)).logits.numpy()

    def check(self, names: Sequence[str], got: np.ndarray) -> OutputCheck:
        """Holds f32 logits, of all tokens or the last, against the exact ones.

        A dot product of n terms in f32 is the exact one of weights moved by at most γₙ, so moving
        every weight, A and B by γ of its row's length (and 4 roundings beside the sum) does to the
        logits what rounding may do: slc/compiler/artifact/tolerance.py derives the bound from it.
        """
        rows = slice(-got.shape[1], None)
        wanted = self.exact[tuple(names)][:, rows].astype(np.float32)
        perturbed = [logits[:, rows].astype(np.float32) for logits in self.perturbed[tuple(names)]]
        return check_output("logits", "+".join(names), got, wanted, perturbed)


def _perturb(model: Any, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed_tokens" not in name:
            signs = torch.randint(0, 2, parameter.shape) * 2 - 1
            bound = float(gamma(parameter.shape[1] + 4, UNIT_ROUNDOFF))
            parameter.data *= 1 + bound * signs


@pytest.fixture(scope="module")
def by_torch(tiny_llama: Path, peft_folders: dict[str, Path]) -> Torch:
    return Torch(tiny_llama, peft_folders)


def test_two_ranks_on_one_session(added: Path, by_torch: Torch) -> None:
    session, files = open_session(added), loaded(added)
    for names in (*CASES, *reversed(CASES)):
        check = by_torch.check(names, run(session, [files[name] for name in names]))
        assert check.passed, check
    # The bound is one of rounding: an adapter moves the logits by thousands of times that, and
    # no adapter passes for another.
    for names in CASES[1:]:
        moved = np.abs(by_torch.exact[names] - by_torch.exact[()]).max()
        assert moved > 1000 * by_torch.check(names, run(session)).max_tolerance
        assert not by_torch.check(names, run(session)).passed
    assert not by_torch.check(("alpha",), run(session, [files["beta"]])).passed


GENAI = """
import sys, numpy, onnxruntime_genai as og
folder, out, *order = sys.argv[1:]
model = og.Model(folder)
adapters = og.Adapters(model)
for name in {*order} - {"none"}:
    adapters.load(f"{folder}/adapters/{name}.onnx_adapter", name)
results = []
for name in order:
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=20, do_sample=False)
    generator = og.Generator(model, parameters)
    if name != "none":
        generator.set_active_adapter(adapters, name)
    generator.append_tokens(numpy.array([[5, 77, 230, 41, 300, 12, 9]], dtype=numpy.int32))
    logits = numpy.array(generator.get_output("logits"))
    results.append(logits.reshape(1, -1, logits.shape[-1])[:, -1:])
    del generator
numpy.save(out, numpy.stack(results))
"""


def test_two_ranks_by_genai(added: Path, by_torch: Torch, tmp_path: Path) -> None:
    """In a process of its own, as an app: one og.Model, an adapter for each generator."""
    out, order = tmp_path / "logits.npy", ["alpha", "beta", "none", "beta", "alpha"]
    done = subprocess.run(
        [sys.executable, "-c", GENAI, str(added), str(out), *order],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, got in zip(order, np.load(out), strict=True):
        check = by_torch.check([] if name == "none" else [name], got)
        assert check.passed, check


def test_run_with_binding_ignores_active_adapters(added: Path) -> None:
    """The limit that the README states, and the way around it that it gives."""
    session, files = open_session(added), loaded(added)
    without, wanted = run(session), run(session, [files["beta"]])
    binding = session.io_binding()
    for name, value in feeds_of(session).items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("logits")
    options = ort.RunOptions()
    options.add_active_adapter(files["beta"])
    session.run_with_iobinding(binding, options)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], without)
    file = ort.AdapterFormat.read_adapter(str(added / "adapters" / "beta.onnx_adapter"))
    for name, value in file.get_parameters().items():
        binding.bind_ortvalue_input(name, value)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], wanted)


def densely(artifact: Path, names: Sequence[str], **perturbed: Any) -> np.ndarray:
    """Logits of the artifact's decoded weights by standard operators, slots fed as inputs."""
    with sessions.written_session(
        dense_reference(Artifact.open(artifact).model(), **perturbed)
    ) as session:
        feeds = feeds_of(session)
        rng = np.random.default_rng(perturbed.get("seed", 0))
        for name in names:
            file = ort.AdapterFormat.read_adapter(str(artifact / f"adapters/{name}.onnx_adapter"))
            for key, value in file.get_parameters().items():
                array = value.numpy().astype(np.float64)
                if perturbed:
                    bound = gamma(array.shape[1] + 4, perturbed["perturb"])
                    array *= 1 + bound * rng.choice([-1.0, 1.0], array.shape)
                feeds[key] = array.astype(np.float32)
        return np.asarray(session.run(["logits"], feeds)[0])


REQUESTS, THREADS, SAMPLE_EVERY, LOAD_EVERY = 1000, 2, 8, 8


def test_a_thousand_switches_from_two_threads(sparse: Path) -> None:
    """Every answer is, to the bit, the one that a lone thread gets, which is right; memory is flat.

    Allowed is a megabyte of the allocator's coming and going (examples/serve_stress.py allows eight
    threads three) and 64 bytes a request. One copy of the smaller adapter kept by every request
    that has one would be three times that.
    """
    session, files = open_session(sparse), loaded(sparse)
    wanted = {names: run(session, [files[name] for name in names]) for names in CASES}
    for names in CASES:
        moved = [densely(sparse, names, perturb=UNIT_ROUNDOFF, seed=seed) for seed in SEEDS]
        check = check_output("logits", str(names), wanted[names], densely(sparse, names), moved)
        assert check.passed, check
        for other in CASES:
            same = np.abs(wanted[names] - wanted[other]).max() <= check.max_tolerance
            assert same == (names == other)
    resident: list[int] = []
    problems: list[str] = []
    switches = [0] * THREADS

    def serve(number: int) -> None:
        order = np.random.default_rng(number)
        for i in range(REQUESTS // THREADS):
            names = CASES[int(order.integers(len(CASES)))]
            own = loaded(sparse) if i % LOAD_EVERY == 0 else files
            try:
                got = run(session, [own[name] for name in names])
            except Exception as error:  # onnxruntime's own classes derive from Exception directly
                problems.append(f"thread {number}, request {i}: {error}")
                return
            if got.tobytes() != wanted[names].tobytes():
                problems.append(f"thread {number}, request {i}: not what {names} alone gives")
            switches[number] += 1
            if i % SAMPLE_EVERY == 0:
                resident.append(resident_bytes())

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sum(switches) == REQUESTS
    allowed = (1 << 20) + LEAK_BYTES * REQUESTS // 3
    smallest = min(entry["bytes"] for entry in list_adapters(sparse))
    assert smallest * 3 / 4 * REQUESTS / 3 > 2.5 * allowed  # such a leak would be seen
    grown = growth(resident)
    assert grown is not None
    print(f"{grown} bytes of growth in the last third, {allowed} allowed")
    assert grown <= allowed


def test_verify_passes_and_names_a_tampered_adapter(added: Path, tmp_path: Path) -> None:
    report = verify(added, memory=False)
    assert report.passed
    assert report.checksum_problems == []
    out = shutil.copytree(added, tmp_path / "out")
    file = out / "adapters" / "beta.onnx_adapter"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    done = slc("verify", out, "--checksums", "--json")
    assert done.returncode == 1
    assert "adapters/beta.onnx_adapter was altered" in done.stderr
    assert "alpha" not in done.stderr


def test_the_bill_of_materials_grows_with_the_adapters(
    added: Path, peft_folders: dict[str, Path], tmp_path: Path
) -> None:
    document = read_sbom(added)
    assert document is not None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    files = {name: entry["sha256"] for name, entry in read_manifest(added)["files"].items()}
    del files["sbom.cdx.json"]
    assert said_files(document) == files
    assert slc("verify", added, "--checksums").returncode == 0
    # What was altered before is not vouched for by a new one.
    out = shutil.copytree(added, tmp_path / "out")
    manifest = read_manifest(out)
    manifest["device"]["cores"] = 99
    (out / MANIFEST_FILE).write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    with pytest.raises(ArtifactError, match="do not belong together"):
        add_adapters(out, [f"{next(iter(peft_folders.values()))}=more"])
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before


def test_the_manifest_lists_what_export_and_add_make_alike(
    added: Path, sparse: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(added)
    package = importlib.resources.files("slc.compiler.artifact")
    schema = json.loads(package.joinpath("manifest.schema.json").read_text("utf-8"))
    jsonschema.validate(manifest, schema)
    # q and v, or q and k, are one Linear with their ranks joined; o and down have one each.
    assert manifest["adapters"]["loadable"] == [
        {"name": "alpha", "slot": 0, "rank": 8, "linears": 2},
        {"name": "beta", "slot": 1, "rank": 18, "linears": 6},
    ]
    assert read_manifest(sparse)["adapters"] == manifest["adapters"]
    for name in TARGETS:
        file = f"adapters/{name}.onnx_adapter"
        assert (added / file).read_bytes() == (sparse / file).read_bytes()
        assert manifest["files"][file]["bytes"] == (added / file).stat().st_size
    # A manifest without the list, as slc wrote them before there was one, says it by its files.
    del manifest["adapters"]["loadable"]
    out = shutil.copytree(added, tmp_path / "out")
    (out / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert list_adapters(out) == list_adapters(added)


def test_list_for_people_and_machines(added: Path, bare: Path) -> None:
    done = slc("adapters", "list", added, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "artifact": str(added), "slots": 2, "adapters": list_adapters(added),
    }  # fmt: skip
    for word in ("2 slots", "alpha", "beta", "adapters/alpha.onnx_adapter"):
        assert word in done.stderr
    assert list_adapters(bare) == []


def test_slots_are_filled_in_turn_or_as_asked(
    bare: Path, peft_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(bare, tmp_path / "out")
    alpha = peft_folders["alpha"]

    def slots(*texts: str, **options: Any) -> list[int]:
        return [entry["slot"] for entry in add_adapters(out, texts, **options)]

    assert slots(f"{alpha}=a", f"{alpha}=b", f"{alpha}=c") == [0, 1, 0]
    assert slots(f"{alpha}=d") == [1]
    assert slots(f"{alpha}=b", force=True) == [1]  # where it was
    assert slots(f"{alpha}=b", slot=0, force=True) == [0]
    assert [entry["name"] for entry in list_adapters(out)] == ["a", "b", "c", "d"]
    assert Artifact.open(out).check() == []


def test_a_session_keeps_an_adapter_that_is_replaced(
    added: Path, peft_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(added, tmp_path / "out")
    session, files = open_session(out), loaded(out)
    before = run(session, [files["alpha"]])
    add_adapters(out, [f"{peft_folders['beta']}=alpha"], force=True)
    np.testing.assert_array_equal(run(session, [files["alpha"]]), before)
    now = loaded(out)
    assert list_adapters(out)[0]["rank"] == 18
    assert np.abs(run(session, [now["alpha"]]) - before).max() > 1e-3
    assert Artifact.open(out).check() == []


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and inode, hidden ones included."""
    return {
        p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_ino)
        for p in folder.rglob("*")
        if p.is_file()
    }


def check_refused(
    artifact: Path, texts: Sequence[str], kind: type[SlcError], message: str, **options: Any
) -> None:
    """One sentence, and the artifact as it was."""
    before = contents(artifact)
    with pytest.raises(kind, match=message) as caught:
        add_adapters(artifact, texts, **options)
    assert "\n" not in str(caught.value)
    assert contents(artifact) == before
    assert not (artifact / ".slc-change").exists()


def test_an_artifact_without_slots(peft_folders: dict[str, Path], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="n")], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 48])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, tmp_path / "one.onnx")
    out = export(tmp_path / "one.onnx", tmp_path / "out", density=0.5, rank=2)
    texts = [str(peft_folders["alpha"])]
    check_refused(out, texts, ArtifactError, "without adapter slots; export .* --adapter-slots 1")
    done = slc("adapters", "add", out, *texts, "--json")
    assert done.returncode == 2
    assert "without adapter slots" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr
    with pytest.raises(ArtifactError, match="not an artifact folder"):
        add_adapters(tmp_path / "nothing", texts)


def test_an_adapter_of_another_model(bare: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    wider = LlamaConfig(hidden_size=96, intermediate_size=160, num_hidden_layers=2, **sizes)
    deeper = LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=3, **sizes)
    for config, message in (
        (wider, r"for a 96×96 'model\.layers\.0\.self_attn\.q_proj', and this model's is 64×64"),
        (deeper, r"'model\.layers\.2\.self_attn\.q_proj', which is no Linear of this model"),
    ):
        model = LlamaForCausalLM(config)
        path = save_lora(model, tmp_path / str(config.hidden_size), 0, target_modules=["q_proj"])
        check_refused(bare, [str(path)], ModelError, message)


def test_an_adapted_head_has_no_slot(bare: Path, tiny_llama: Path, tmp_path: Path) -> None:
    path = save_lora(llama(tiny_llama), tmp_path / "head", 0, target_modules=["lm_head", "q_proj"])
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    beside = [name for name in tensors if "lora" not in name]
    assert beside  # PEFT keeps a copy of the embedding with an adapted head
    message = f"holds '{beside[0]}', and an artifact can't tell .* save_embedding_layers=False"
    check_refused(bare, [str(path)], ModelError, message)
    save_file({name: value for name, value in tensors.items() if name not in beside}, file)
    check_refused(bare, [str(path)], ModelError, "adapts 'lm_head', which has no slot")


def test_names(added: Path, bare: Path, peft_folders: dict[str, Path]) -> None:
    alpha = str(peft_folders["alpha"])
    check_refused(added, [alpha], RequestError, r"'alpha' is taken .* --force")
    check_refused(bare, [f"{alpha}=x", f"{alpha}=x"], RequestError, "'x' is taken; add =NAME")
    for name in ("../evil", "a/b", "", ".hidden", "-x", "a b", "a\tb", "x" * 201):
        check_refused(bare, [f"{alpha}={name}"], RequestError, "wanted letters, digits and")
    for slot in (-1, 2):
        check_refused(bare, [alpha], RequestError, f"--slot: got {slot}, wanted 0 to 1", slot=slot)


def test_a_file_that_the_manifest_does_not_know_is_not_overwritten(
    bare: Path, peft_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(bare, tmp_path / "out")
    (out / "adapters").mkdir()
    (out / "adapters" / "alpha.onnx_adapter").write_bytes(b"mine")
    check_refused(out, [str(peft_folders["alpha"])], RequestError, "'alpha' is taken")


Damage = Callable[[Path], object]


def config(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        found = load_file(file)
        change(found)
        save_file(found, file)

    return damage


def each(change: Callable[[np.ndarray], np.ndarray], half: str = "") -> Damage:
    def all_of(found: dict[str, np.ndarray]) -> None:
        for name in found:
            if half in name:
                found[name] = np.ascontiguousarray(change(found[name]))

    return tensors(all_of)


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


DAMAGED: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "no adapter_config.json"),
    "no configuration": (lambda f: (f / "adapter_config.json").unlink(), "not a PEFT adapter"),
    "half a configuration": (
        lambda f: (f / "adapter_config.json").write_text('{"peft'), "not a PEFT configuration",
    ),
    "a configuration in latin-1": (
        lambda f: (f / "adapter_config.json").write_bytes(b'{"a": "\xe9"}'),
        "not a PEFT configuration",
    ),
    "no tensors": (
        lambda f: (f / "adapter_model.safetensors").unlink(), r"no adapter_model\.safetensors",
    ),
    "truncated": (truncated, "truncated or damaged"),
    "NaN": (each(lambda a: a * np.nan), "NaN or infinity"),
    "one half": (tensors(lambda t: t.pop(sorted(t)[0])), r"wants A \[r, K\] and B"),
    "nothing": (tensors(lambda t: t.clear()), "it adapts nothing"),
    "halves of two ranks": (each(lambda a: a[:3], "lora_A"), r"wants A \[r, K\] and B"),
    "rank 0": (
        each(lambda a: a[:0] if a.shape[0] == 4 else a[:, :0]), "rank 0 on .*, where at least 1",
    ),
    "another rank than it says": (config(r=8), "has rank 4 on .* its configuration says 8"),
    "a pattern of another rank": (
        config(rank_pattern={"v_proj": 5}), "rank 4 on .*v_proj' and its configuration says 5",
    ),
    "int8": (each(lambda a: a.astype(np.int8)), "of type int8, where floating point is wanted"),
    "beyond float32": (
        each(lambda a: a.astype(np.float64) * 1e300), "numbers beyond float32 on .*q_proj",
    ),
    "no finite scaling": (config(lora_alpha=float("inf")), "lora_alpha inf"),
    "beyond float32 once scaled": (config(lora_alpha=1e41), "beyond float32 on"),
    "a scaling in words": (config(lora_alpha="much"), "not a PEFT configuration"),
    "patterns in a list": (config(alpha_pattern=["q"]), "not a PEFT configuration"),
    "a pattern that is none": (config(alpha_pattern={"(": 1}), "not a PEFT configuration"),
    "another method": (config(peft_type="IA3"), "of type IA3"),
    "DoRA": (config(use_dora=True), "DoRA"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_adapter_and_none_beside_it_is_added(
    case: str, bare: Path, peft_folders: dict[str, Path], tmp_path: Path
) -> None:
    damage, message = DAMAGED[case]
    broken = shutil.copytree(peft_folders["alpha"], tmp_path / "broken")
    damage(broken)
    check_refused(bare, [str(peft_folders["beta"]), str(broken)], ModelError, message)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_types_are_taken(
    dtype: str, bare: Path, peft_folders: dict[str, Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    path = shutil.copytree(peft_folders["alpha"], tmp_path / "other")
    file = path / "adapter_model.safetensors"
    rounded = {name: t.to(getattr(torch, dtype)) for name, t in load_torch(file).items()}
    save_torch(rounded, file)
    out = shutil.copytree(bare, tmp_path / "out")
    (entry,) = add_adapters(out, [str(path)])
    read = ort.AdapterFormat.read_adapter(str(out / entry["file"])).get_parameters()
    (a_name,) = [name for name in read if "layers.0" in name and name.endswith("lora_A")]
    q, v = (
        rounded[f"base_model.model.model.layers.0.self_attn.{m}_proj.lora_A.weight"] for m in "qv"
    )
    # A is not scaled, so it is in f32 what it was in any type that f32 holds.
    wanted = torch.cat([q, v]).to(torch.float32).numpy()
    np.testing.assert_array_equal(read[a_name].numpy(), wanted)


def test_one_at_a_time(bare: Path, peft_folders: dict[str, Path]) -> None:
    with contextlib.closing(FolderLock(bare)):
        texts = [str(peft_folders["alpha"])]
        check_refused(bare, texts, ArtifactError, "being changed by another process; wait")


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_disk_that_fails_at_any_rename(
    step: int, added: Path, peft_folders: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two files and the manifest are put in place, one of them over an old one."""
    out = shutil.copytree(added, tmp_path / "out")
    texts = [f"{peft_folders['beta']}=alpha", f"{peft_folders['alpha']}=gamma"]
    replace, calls = os.replace, iter(range(100))

    def failing(source: Path, destination: Path) -> None:
        if next(calls) == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, destination)

    monkeypatch.setattr(os, "replace", failing)
    check_refused(out, texts, ArtifactError, "can't be changed: No space left", force=True)
    monkeypatch.undo()
    assert len(add_adapters(out, texts, force=True)) == 2
    assert Artifact.open(out).check() == []


KILLED = """
import os, sys
from slc.compiler import add_adapters
step, artifact, *texts = sys.argv[1:]
replace, calls = os.replace, iter(range(100))
def dying(source, destination):
    if next(calls) == int(step):
        os.kill(os.getpid(), 9)
    replace(source, destination)
os.replace = dying
add_adapters(artifact, texts, force=True)
"""


@pytest.mark.parametrize("step", [1, 2])
def test_the_next_change_takes_a_killed_one_back(
    step: int, added: Path, peft_folders: dict[str, Path], tmp_path: Path
) -> None:
    """kill -9 between two renames leaves a file that the manifest denies; verify says so."""
    out = shutil.copytree(added, tmp_path / "out")
    before = {name: data for name, (data, _) in contents(out).items()}
    texts = [f"{peft_folders['beta']}=alpha", f"{peft_folders['alpha']}=gamma"]
    done = subprocess.run([sys.executable, "-c", KILLED, str(step), str(out), *texts], check=False)
    assert done.returncode == -9
    problems = Artifact.open(out).check()
    assert problems[0].startswith("adapters/alpha.onnx_adapter has")
    assert len(problems) == step
    with pytest.raises(RequestError, match="'beta' is taken"):  # refused, after it was taken back
        add_adapters(out, [str(peft_folders["beta"])])
    assert {name: data for name, (data, _) in contents(out).items()} == before
