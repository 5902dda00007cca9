"""Artifacts for Arm boards, run under emulation by a program that has only onnxruntime.

Each cell takes an artifact exported here, with the library for aarch64 in it, and runs it with
examples/cpp_app (cross-compiled for glibc 2.28) on an aarch64 onnxruntime from PyPI, on a processor
without sdot (Cortex-A72, Armv8.0) and one with it (Cortex-A76). An instruction that a processor
lacks ends the program.

Not run, and why:
  - decoders on 1.19.2: it refuses the graph of the genai builder, and slc export refuses devices
    that have it (tests/test_ort_matrix.py).
  - onnxruntime 1.32: crashes in its own static initialisers under qemu 7.2.
  - --provider cuda: no emulator has the GPU.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from cpp_app import build_app, run_app, zig, zig_options
from moved_inputs import rounding, with_scaled_inputs, without_the_last_byte
from native_kernels import run

from slc.compiler import export
from slc.compiler.artifact import elf
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.sessions import quiet_options
from slc.compiler.artifact.tolerance import SEEDS, check_output
from slc.targets import load
from slc.targets.target import version_tuple

EMULATOR = "qemu-aarch64-static"
SYSROOT = Path("/usr/aarch64-linux-gnu")
V8_0, V8_2 = "cortex-a72", "cortex-a76"
RUNTIMES = ("1.19.2", "1.23.2")  # what JetPack 5's Python resolves, and JetPack 6's
IDS = (101, 7592, 2088, 2003, 1037, 3231, 102)
LLAMA_IDS = (5, 77, 23, 41, 500, 9, 300)
LLAMA_HEAD_SIZE = 16


def missing() -> str:
    """What has to be installed before anything here works; empty when nothing is missing."""
    wanted = {
        f"{EMULATOR} (Debian: qemu-user-static)": which(EMULATOR) is not None,
        f"{SYSROOT}/lib/libstdc++.so.6 (Debian: libc6-arm64-cross, libstdc++6-arm64-cross)": (
            SYSROOT / "lib" / "libstdc++.so.6"
        ).exists(),
        "the package ziglang": find_spec("ziglang") is not None,
    }
    return ", ".join(name for name, there in wanted.items() if not there)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_app(tmp_path_factory.mktemp("cpp-app-arm"), *zig_options("aarch64"))


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """libonnxruntime.so of each release, out of its wheel for aarch64."""
    return {v: libonnxruntime(v, tmp_path_factory.mktemp(f"ort-{v}")) for v in RUNTIMES}


def libonnxruntime(version: str, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
         "--platform", "manylinux_2_28_aarch64", "--python-version", "3.10", "-d", str(folder),
         f"onnxruntime=={version}"],
        check=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if "/libonnxruntime.so." in n]
        return Path(archive.extract(name, folder))


@dataclass(frozen=True)
class Exported:
    """An artifact and what its first output is held to.

    Attributes:
      folder: of the artifact.
      here: its first output in a session on this machine.
      ids: of the tokens that it ran on.
      moved: the same output, each time with other signs in `rounding`.
    """

    folder: Path
    ids: tuple[int, ...]
    here: np.ndarray
    moved: list[np.ndarray]


def feeds(session: Any, tokens: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What cpp_app makes of these ids."""
    ids = np.array([tokens], np.int64)
    made = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    made["token_type_ids"] = np.zeros_like(ids)
    for entry in session.get_inputs():
        if entry.name.startswith("past_key_values."):
            made[entry.name] = np.zeros((1, entry.shape[1], 0, LLAMA_HEAD_SIZE), np.float32)
    return {entry.name: made[entry.name] for entry in session.get_inputs()}


def own_session(folder: Path) -> Any:
    return Artifact.open(folder).session(sess_options=quiet_options())


def exported(folder: Path, ids: tuple[int, ...]) -> Exported:
    """What this machine's session gives, and what rounding may do to it."""
    session = own_session(folder)
    inputs = feeds(session, ids)
    here = session.run([session.get_outputs()[0].name], inputs)[0]
    moved = [with_scaled_inputs(folder, inputs, rounding(seed)) for seed in SEEDS]
    return Exported(folder, ids, here, moved)


def emulator(cpu: str) -> list[str]:
    return [EMULATOR, "-L", str(SYSROOT), "-cpu", cpu]


def check_on(program: Path, library: Path, cpu: str, made: Exported, result: Path) -> str:
    """Run an artifact on one emulated processor and hold its first output to this machine's."""
    done = run_app(
        program, made.folder, "--ids", ",".join(map(str, made.ids)), "--ort", library, "--threads",
        "2", "--repeats", "0", "--output", result, emulator=emulator(cpu),
    )  # fmt: skip
    assert done.returncode == 0, f"{cpu}: {done.returncode}\n{done.stdout}{done.stderr}"
    got = np.fromfile(result, made.here.dtype).reshape(made.here.shape)
    check = check_output("first output", cpu, got, made.here, made.moved)
    assert check.passed, check
    return done.stdout


# device -> how S of MiniLM is kept. f16: activations in f32; i8 and i4: in int8, by sdot or not.
ENCODERS = {
    "raspberry-pi-4": "i8",
    "raspberry-pi-5": "i4",
    "jetson": "f16",
    "jetson-xavier-nx": "i8",
}
# (device, onnxruntime, processor). Both Pis' run on either processor: what one lacks must be found
# out at run time. The Jetsons' on their own kind of core and runtime only.
CELLS = [
    *itertools.product(("raspberry-pi-4", "raspberry-pi-5"), RUNTIMES, (V8_0, V8_2)),
    ("jetson", "1.23.2", V8_2),
    ("jetson-xavier-nx", "1.19.2", V8_0),  # its cores have no sdot
]


@pytest.fixture(scope="module")
def encoders(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """MiniLM for every device; the first export keeps its decomposition for the others."""
    folder = tmp_path_factory.mktemp("encoders")
    checkpoint = folder / "minilm.slr"
    made: dict[str, Exported] = {}
    for device, values in ENCODERS.items():
        options = {"device": device, "provider": "cpu", "values": values, "density": 0.5, "rank": 8}
        if made:
            out = export(checkpoint, folder / device, **options)
        else:
            out = export(minilm, folder / device, save_structured=checkpoint, **options)
        made[device] = exported(out, IDS)
    return made


@pytest.fixture(scope="module")
def decoder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("decoder") / "out"
    options = {"density": 0.5, "rank": 8, "values": "i8", "context": 64}
    return exported(export(tiny_llama, out, device="raspberry-pi-4", **options), LLAMA_IDS)


def test_an_instruction_that_a_processor_lacks_ends_the_program(tmp_path: Path) -> None:
    """What makes a return code of 0 below say something."""
    sdot, program = ".inst 0x4e809400", tmp_path / "sdot"  # sdot v0.4s, v0.16b, v0.16b
    source = tmp_path / "sdot.c"
    source.write_text(f'int main(void) {{ __asm__ volatile("{sdot}" ::: "v0"); return 0; }}\n')
    options = ["-target", "aarch64-linux-gnu.2.28", "-O3", "-s"]  # as zig.cmake: what it has cached
    run([str(zig()), "cc", *options, str(source), "-o", str(program)])
    assert run_app(program, emulator=emulator(V8_0)).returncode == -signal.SIGILL
    assert run_app(program, emulator=emulator(V8_2)).returncode == 0


@pytest.mark.parametrize("device", ENCODERS)
def test_the_library_fits_the_device(device: str, encoders: dict[str, Exported]) -> None:
    library = encoders[device].folder / "libslc_ops.so"
    manifest = Artifact.open(encoders[device].folder).manifest
    assert elf.machine(library) == "aarch64"
    assert manifest["op_library"]["note"] is None
    needed = elf.glibc_needed(library)
    assert needed is not None
    assert version_tuple(needed) <= version_tuple(load(device).glibc_min)


@pytest.mark.parametrize(("device", "version", "cpu"), CELLS)
def test_encoder(
    device: str, version: str, cpu: str, encoders: dict[str, Exported], program: Path,
    runtimes: dict[str, Path], tmp_path: Path,
) -> None:  # fmt: skip
    printed = check_on(program, runtimes[version], cpu, encoders[device], tmp_path / "result")
    assert printed.startswith(f"onnxruntime {version}\nlast_hidden_state float32 [1, 7, 384]:")


@pytest.mark.parametrize("device", ENCODERS)
def test_a_wrong_kernel_would_be_found(device: str, encoders: dict[str, Exported]) -> None:
    made = encoders[device]
    inputs = feeds(own_session(made.folder), made.ids)
    wrong = with_scaled_inputs(made.folder, inputs, without_the_last_byte)
    assert not check_output("first output", "wrong", wrong, made.here, made.moved).passed


@pytest.mark.parametrize("cpu", [V8_0, V8_2])
def test_decoder(
    cpu: str, decoder: Exported, program: Path, runtimes: dict[str, Path], tmp_path: Path
) -> None:
    printed = check_on(program, runtimes["1.23.2"], cpu, decoder, tmp_path / "result")
    assert "\nlogits float32 [1, 1, 512]:" in printed
    assert "\npresent.0.key float32 [1, 2, 7, 16]:" in printed
