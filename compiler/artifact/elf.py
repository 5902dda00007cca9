"""The few fields of an ELF header that say where a shared library can run."""

from __future__ import annotations

from pathlib import Path

_MACHINES = {0x03: "i386", 0x28: "arm", 0x3E: "x86_64", 0xB7: "aarch64", 0xF3: "riscv64"}
_HEADER_BYTES = 20


def machine(path: Path) -> str | None:
    """The instruction set of a little-endian ELF file, None when it is not one.

    Fields: bytes 0-3 magic, byte 5 the byte order (1 = little-endian), bytes 18-19 e_machine.
    """
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF" or header[5] != 1:
        return None
    code = int.from_bytes(header[18:20], "little")
    return _MACHINES.get(code, f"machine {code:#x}")
