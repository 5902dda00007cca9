"""Which GPUs a library holds kernels for, and which GPU this machine has. Needs no CUDA toolkit.

nvcc puts kernels into a library as fat binaries. The layout, as far as it is read here
(little-endian):

    fat binary   u32 magic 0xBA55ED50, u16 version 1, u16 header bytes, u64 bytes of the images
    image        u16 kind (1 PTX, 2 cubin), u16 -, u32 header bytes, u64 bytes behind the header,
                 12 bytes -, u32 SM at offset 28 (86 for sm_86), …

libslc_ops_cuda.so has none: its cubins, which are ELF files of machine 190, and its PTX, which is
text with a line `.target sm_80`, lie in it as they are.

A cubin runs on GPUs of its own major version whose minor is at least its own; PTX is compiled by
the driver for any GPU from its SM on.
"""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b"\x50\xed\x55\xba\x01\x00"
_FAT_HEADER = struct.Struct("<IHHQ")
_IMAGE_HEADER = struct.Struct("<HHIQ12xI")
_KINDS = {1: "ptx", 2: "cubin"}
_SM = range(30, 200)  # what a real image may be for; anything else is a chance match
_ELF, _PTX = b"\x7fELF\x02\x01", b"\n.target sm_"
_ELF_ABI_VERSION, _ELF_MACHINE, _ELF_FLAGS = 8, 18, 48
_EM_CUDA, _ABI_CUDA_13 = 190, 8
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclasses.dataclass(frozen=True)
class Images:
    """The SMs that a library has kernels for."""

    cubins: frozenset[int]
    ptx: frozenset[int]

    def run_on(self, sm: int) -> bool:
        """Whether kernels can run on a GPU of compute capability `sm` (87 for 8.7)."""
        exact = any(one // 10 == sm // 10 and one <= sm for one in self.cubins)
        return exact or any(one <= sm for one in self.ptx)

    def __str__(self) -> str:
        """For people: "sm_80, sm_90, PTX of sm_90"."""
        names = [f"sm_{one}" for one in sorted(self.cubins)]
        return ", ".join(names + [f"PTX of sm_{one}" for one in sorted(self.ptx)]) or "no GPU"


def images(library: Path) -> Images:
    """The images of every fat binary in a file; none of what holds none.

    Raises:
      OSError: the file can't be read.
    """
    found: dict[str, set[int]] = {"ptx": set(), "cubin": set()}
    with open(library, "rb") as file:
        if library.stat().st_size == 0:
            return Images(frozenset(), frozenset())
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(_MAGIC)
            while at >= 0:
                for kind, sm in _images_at(data, at):
                    found[kind].add(sm)
                at = data.find(_MAGIC, at + len(_MAGIC))
            for kind, sm in _plain_images(data):
                found[kind].add(sm)
    return Images(frozenset(found["cubin"]), frozenset(found["ptx"]))


def _images_at(data: mmap.mmap, at: int) -> Iterator[tuple[str, int]]:
    """(kind, SM) of each image of the fat binary at an offset."""
    if at + _FAT_HEADER.size > len(data):
        return
    _, _, header_bytes, size = _FAT_HEADER.unpack_from(data, at)
    at += header_bytes
    end = min(at + size, len(data))
    while at + _IMAGE_HEADER.size <= end:
        kind, _, header_bytes, size, sm = _IMAGE_HEADER.unpack_from(data, at)
        if kind not in _KINDS or sm not in _SM or header_bytes < _IMAGE_HEADER.size:
            return
        yield _KINDS[kind], sm
        at += header_bytes + size


def _plain_images(data: mmap.mmap) -> Iterator[tuple[str, int]]:
    """(kind, SM) of cubins and PTX that lie in a file outside fat binaries."""
    at = data.find(_ELF, 1)  # not the file itself
    while at >= 0:
        if at + _ELF_FLAGS + 4 <= len(data):
            (machine,) = struct.unpack_from("<H", data, at + _ELF_MACHINE)
            (flags,) = struct.unpack_from("<I", data, at + _ELF_FLAGS)
            # Since CUDA 13 the SM is the second byte of the flags.
            sm = (flags >> 8 if data[at + _ELF_ABI_VERSION] >= _ABI_CUDA_13 else flags) & 0xFF
            if machine == _EM_CUDA and sm in _SM:
                yield "cubin", sm
        at = data.find(_ELF, at + len(_ELF))
    at = data.find(_PTX)
    while at >= 0:
        digits = re.match(rb"\d+", data[at + len(_PTX) : at + len(_PTX) + 3])
        if digits and int(digits[0]) in _SM:
            yield "ptx", int(digits[0])
        at = data.find(_PTX, at + len(_PTX))


def device_sm() -> int | None:
    """Compute capability of the first GPU as its driver says (87 for 8.7); None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if driver.cuInit(0) != 0:
        return None
    device, part, sm = ctypes.c_int(), ctypes.c_int(), 0
    if driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    for attribute in (_MAJOR, _MINOR):
        if driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device) != 0:
            return None
        sm = 10 * sm + part.value
    return sm
