"""The few fields of an ELF file that say where a shared library can run."""

from __future__ import annotations

import re
import struct
from pathlib import Path

_MACHINES = {0x03: "i386", 0x28: "arm", 0x3E: "x86_64", 0xB7: "aarch64", 0xF3: "riscv64"}
_HEADER_BYTES = 64
_GLIBC = re.compile(rb"\x00GLIBC_(\d+(?:\.\d+)+)\x00")


def machine(path: Path) -> str | None:
    """The instruction set of a little-endian ELF file, None when it is not one.

    Fields: bytes 0-3 magic, byte 5 the byte order (1 = little-endian), bytes 18-19 e_machine.
    """
    header = _header(path)
    if header[:4] != b"\x7fELF" or len(header) < 20 or header[5] != 1:
        return None
    code = int.from_bytes(header[18:20], "little")
    return _MACHINES.get(code, f"machine {code:#x}")


def cut_off(path: Path) -> bool:
    """Whether a 64-bit file ends before its section table: loading it would kill the process.

    Fields: bytes 40-47 e_shoff, 58-59 e_shentsize, 60-61 e_shnum.
    """
    header = _header(path)
    if len(header) < _HEADER_BYTES:
        return True
    (offset,) = struct.unpack_from("<Q", header, 40)
    size, count = struct.unpack_from("<HH", header, 58)
    return bool(path.stat().st_size < offset + size * count)


def glibc_needed(path: Path) -> str | None:
    """The newest version of glibc's symbols that a library names, None when it names none."""
    found = {text.decode() for text in _GLIBC.findall(path.read_bytes())}
    return max(found, key=lambda text: tuple(map(int, text.split("."))), default=None)


def _header(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEADER_BYTES)
