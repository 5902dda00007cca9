"""Compiles kernels.cu for every GPU that libslc_ops_cuda.so is for, without a CUDA toolkit.

    python ops/csrc/cuda/build_images.py -o build/cuda

NVRTC, from PyPI, does it: 12.6 for everything that JetPack 6 and later drivers load, 13 for sm_110,
which 12.6 does not know and whose drivers are newer anyway. Writes one cubin per SM, the PTX for
GPUs to come, images.cc and images.S (what CMake compiles), and figures.json: of every kernel its
registers, the bytes of its stack, and how many instructions are matrix products.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import re
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent
# (package, the version of it that is meant, SMs as cubins, SMs as PTX)
RECIPES = (
    ("nvidia-cuda-nvrtc-cu12", "12.6", (80, 87, 90), (80,)),
    ("nvidia-cuda-nvrtc", "13", (110,), ()),
)
# What only one kind of GPU has is compiled for that alone; a cubin of sm_90 has no newer minor.
FEATURES = {90: "a"}  # wgmma
# The low 12 bits of a matrix product, of the 128 bits of an instruction since Volta: mma.sync, and
# wgmma with A in registers.
HMMA, HGMMA = 0x23C, 0xDF0
INSTRUCTION = struct.Struct("<QQ")
SYMBOL = struct.Struct("<IBBHQQ")
# Codes in .nv.info: registers, and the least stack that a function needs with all that it calls.
WITH_VALUE, REGISTERS, STACK = 4, 0x2F, 0x12


class BuildError(Exception):
    """What was wanted can't be built here; the message says why."""


def main() -> int:
    """Builds; 0 done, 2 impossible, with one line of why."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for what is made")
    given = parser.parse_args()
    try:
        build(given.out)
    except (BuildError, OSError) as error:
        print(f"build_images: {error}", file=sys.stderr)
        return 2
    return 0


def build(out: Path) -> None:
    """Makes everything into `out`.

    Raises:
        BuildError: NVRTC is not installed, of another version, or refuses the source.
    """
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for package, version, cubins, ptx in RECIPES:
        nvrtc = Nvrtc(package, version)
        jobs += [(nvrtc, sm, False) for sm in cubins] + [(nvrtc, sm, True) for sm in ptx]
    with ThreadPoolExecutor() as pool:  # NVRTC runs outside the interpreter's lock
        made = list(pool.map(lambda job: job[0].compile(job[1], ptx=job[2]), jobs))
    names = []
    figures: dict[str, Any] = {}
    for (nvrtc, sm, is_ptx), image in zip(jobs, made, strict=True):
        name = f"sm_{sm}.{'ptx' if is_ptx else 'cubin'}"
        (out / name).write_bytes(image)
        names.append((name, sm, is_ptx))
        if not is_ptx:
            figures[f"sm_{sm}"] = {"nvrtc": nvrtc.version, "kernels": kernel_figures(image)}
    (out / "figures.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    write_sources(out, names)


class Nvrtc:
    """libnvrtc of a PyPI package."""

    def __init__(self, package: str, version: str) -> None:
        try:
            self.version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise BuildError(
                f"{package} is not installed: pip install '{package}=={version}.*'"
            ) from None
        if not self.version.startswith(version + "."):
            raise BuildError(f"{package}: got {self.version}, wanted {version}.*")
        files = importlib.metadata.files(package) or ()
        found = [f for f in files if re.fullmatch(r"libnvrtc\.so\.\d+", f.name)]
        if not found:
            raise BuildError(f"{package} {self.version} has no libnvrtc.so")
        self._lib = ctypes.CDLL(str(found[0].locate()))
        self._lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, sm: int, *, ptx: bool) -> bytes:
        """kernels.cu for sm_`sm`: a cubin, or PTX with its final 0."""
        program = ctypes.c_void_p()
        source = (SOURCE / "kernels.cu").read_bytes()
        self._check(self._lib.nvrtcCreateProgram(
            ctypes.byref(program), source, b"kernels.cu", 0, None, None))  # fmt: skip
        architecture = f"compute_{sm}" if ptx else f"sm_{sm}{FEATURES.get(sm, '')}"
        options = [f"--gpu-architecture={architecture}", "--std=c++17", f"--include-path={SOURCE}",
                   "--fmad=true", "--restrict"]  # fmt: skip
        array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        if self._lib.nvrtcCompileProgram(program, len(options), array) != 0:
            raise BuildError(f"NVRTC {self.version} for sm_{sm}:\n{self._log(program)}")
        if "wgmma" in self._log(program):  # that it runs them one after another
            raise BuildError(f"NVRTC {self.version} for sm_{sm}:\n{self._log(program)}")
        image = self._result(program, "PTX" if ptx else "CUBIN")
        self._lib.nvrtcDestroyProgram(ctypes.byref(program))
        return image

    def _result(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._lib, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _log(self, program: ctypes.c_void_p) -> str:
        return self._result(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")

    def _check(self, result: int) -> None:
        if result != 0:
            reason = self._lib.nvrtcGetErrorString(result).decode()
            raise BuildError(f"NVRTC {self.version}: {reason}")


def write_sources(out: Path, names: list[tuple[str, int, bool]]) -> None:
    """images.S with the bytes, images.cc with the table that images.h declares."""
    assembly = [
        "# Made by build_images.py.",
        "  .section .rodata",
    ]
    for i, (name, _, _) in enumerate(names):
        assembly += [
            "  .balign 64",
            f"  .hidden slc_cuda_image_{i}",
            f"  .globl slc_cuda_image_{i}",
            f"slc_cuda_image_{i}:",
            f'  .incbin "{(out / name).resolve()}"',
        ]
    assembly.append('  .section .note.GNU-stack,"",%progbits')
    (out / "images.S").write_text("\n".join(assembly) + "\n")
    table = [
        "// Made by build_images.py.",
        '#include "images.h"',
        "",
        'extern "C" {',
        *[f"extern const unsigned char slc_cuda_image_{i}[];" for i in range(len(names))],
        "}",
        "",
        "namespace slc::cuda {",
        "const Image kImages[] = {",
        *[
            f"    {{{sm}, {'true' if is_ptx else 'false'}, slc_cuda_image_{i}}},"
            for i, (_, sm, is_ptx) in enumerate(names)
        ],
        "};",
        f"const int kImageCount = {len(names)};",
        "}  // namespace slc::cuda",
    ]
    (out / "images.cc").write_text("\n".join(table) + "\n")


def kernel_figures(cubin: bytes) -> dict[str, dict[str, int]]:
    """Of every kernel of a cubin: registers, bytes of stack, HMMA and HGMMA instructions, all.

    A cubin is an ELF file. Section `.text.NAME` has the instructions; `.nv.info` has attributes of
    functions: format 4, a code, u16 length 8, then the symbol's number and a value. A kernel that
    spills registers or indexes them has a stack.
    """
    sections = dict(_sections(cubin))
    attributes = _attributes(sections)
    figures = {}
    for name, body in sections.items():
        if not name.startswith(".text."):
            continue
        kernel = name.removeprefix(".text.")
        codes = [low & 0xFFF for low, _ in INSTRUCTION.iter_unpack(body)]
        figures[kernel] = {
            "registers": attributes[kernel, REGISTERS],
            "stack_bytes": attributes[kernel, STACK],
            "instructions": len(codes),
            "hmma": codes.count(HMMA),
            "hgmma": codes.count(HGMMA),
        }
    return figures


def _attributes(sections: dict[str, bytes]) -> dict[tuple[str, int], int]:
    """(function, code) -> value, of the attributes in .nv.info that have one."""
    symbols = [name for name, *_ in SYMBOL.iter_unpack(sections[".symtab"])]
    names, info = sections[".strtab"], sections[".nv.info"]
    found, at = {}, 0
    while at + 4 <= len(info):
        form, code, length = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != WITH_VALUE:  # the two bytes are the value itself
            continue
        if length == 8:
            symbol, value = struct.unpack_from("<II", info, at)
            begin = symbols[symbol]
            name = names[begin : names.index(b"\0", begin)].decode()
            found[name, code] = value
        at += length
    return found


def _sections(elf: bytes) -> Any:
    """(name, content) of a 64-bit little-endian ELF file."""
    offset = struct.unpack_from("<Q", elf, 40)[0]
    size, count, names_at = struct.unpack_from("<HHH", elf, 58)
    rows = [struct.unpack_from("<IIQQQQ", elf, offset + i * size) for i in range(count)]
    names = elf[rows[names_at][4] :]
    for name, _, _, _, at, length in rows:
        yield names[name : names.index(b"\0", name)].decode(), elf[at : at + length]


if __name__ == "__main__":
    sys.exit(main())
