"""A dense matrix in a few bits per weight, as onnxruntime's MatMulNBits stores it.

W ≈ scale · (code − 2^(bits−1)), one scale per `group` columns, no other zero point
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from slc.compiler.errors import RequestError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_BLOCK_ELEMS = 1 << 18  # rounded at once: what that takes beside W stays in the cache

BITS = (2, 3, 4, 8)
INT8_GROUPS = (128, 64, 32, 16)
BITS_OF: Mapping[str, int] = {"int8": 8, "int4": 4}  # of the encodings that MatMulNBits reads


@dataclasses.dataclass(frozen=True)
class DenseCodes:
    """Codes and scales of W [N, K].

    Attributes:
      codes: u8 [N, K], 0 … 2^bits − 1.
      scales: f32 [N, groups], of either sign.
      bits: per code.
      group: columns that share a scale; the last group of a row may have fewer.
    """

    codes: U8
    scales: F32
    bits: int
    group: int

    def matrix(self) -> F32:
        """The weights, f32 [N, K]."""
        wide = np.repeat(self.scales, self.group, axis=1)[:, : self.codes.shape[1]]
        return wide * (self.codes.astype(np.float32) - np.float32(2 ** (self.bits - 1)))

    def packed(self) -> U8:
        """MatMulNBits' B: u8 [N, groups, group·bits/8], of 4 bits the first code in the low half.

        Only for 4 and 8 bits. What pads the last group is zero weights.
        """
        N, K = self.codes.shape
        groups = self.scales.shape[1]
        padded = np.full((N, groups * self.group), 2 ** (self.bits - 1), np.uint8)
        padded[:, :K] = self.codes
        blocks = padded.reshape(N, groups, self.group)
        return blocks if self.bits == 8 else blocks[..., ::2] | blocks[..., 1::2] << np.uint8(4)


def unpacked(packed: U8, scales: F32, *, bits: int, group: int, K: int) -> DenseCodes:
    """What `DenseCodes.packed` made its argument of."""
    if bits == 4:
        packed = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return DenseCodes(packed.reshape(len(packed), -1)[:, :K], scales, bits, group)


def block_bytes(bits: int, group: int) -> int:
    """Bytes of one group's codes."""
    return group * bits // 8


def int8_group(K: int) -> int:
    """Columns per scale of an 8-bit weight: the largest of 128, 64, 32, 16 that divides K, or K."""
    return next((group for group in INT8_GROUPS if K % group == 0), K)


def round_matrix(W: F32, *, bits: int, group: int) -> DenseCodes:
    """Every weight to the nearest of its group's levels: what needs no activations.

    Args:
      W: f32 [N, K], finite.
      bits: 2, 3, 4 or 8.
      group: columns that share a scale.

    Raises:
      RequestError: bits or group can't be.
    """
    codes = np.empty(W.shape, np.uint8)
    scales = np.empty((len(W), -(-W.shape[1] // max(1, group))), np.float32)
    half = 2 ** (bits - 1)
    step = max(1, _BLOCK_ELEMS // max(1, W.shape[1]))
    for start in range(0, max(1, len(W)), step):  # once for an empty W too, which checks bits
        rows = W[start : start + step]
        some = scales[start : start + step] = group_scales(rows, bits, group)
        wide = np.repeat(some, group, axis=1)[:, : W.shape[1]]
        steps = np.divide(rows, wide, out=np.zeros_like(rows), where=wide != 0)
        codes[start : start + step] = np.clip(np.rint(steps) + half, 0, 2 * half - 1)
    return DenseCodes(codes, scales, bits, group)


def group_scales(W: F32, bits: int, group: int) -> F32:
    """Scales that take the largest weight of each group to the level farthest from 0.

    Of 8 bits to the last but one, ±127: there its opposite has a level as well, which costs less
    than the half step that a 257th would save.

    Raises:
      RequestError: bits or group can't be.
    """
    if bits not in BITS:
        raise RequestError(f"bits: got {bits}, wanted one of {', '.join(map(str, BITS))}")
    if group < 1:
        raise RequestError(f"group: got {group}, wanted 1 or more columns")
    N, K = W.shape
    groups = -(-K // group)
    padded = np.zeros((N, groups * group), np.float32)
    padded[:, :K] = W
    by_group = padded.reshape(N, groups, group)
    at = np.abs(by_group).argmax(axis=2)[..., None]
    largest = np.take_along_axis(by_group, at, axis=2)[..., 0]
    farthest = 2 ** (bits - 1) - (bits == 8)
    return np.asarray(largest / np.float32(-farthest), np.float32)
