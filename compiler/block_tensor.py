"""Tensors that can be had piece by piece, so that no one ever holds a large one whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir


class BlockTensor(ir.LazyTensor):
    """A lazy tensor made in pieces.

    Attributes:
      blocks: makes contiguous arrays, little-endian, whose bytes one after another are the
        tensor's; every call begins anew.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterable[np.ndarray]],
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(self._whole, dtype, shape, name=name)
        self.blocks = blocks

    def _whole(self) -> ir.TensorProtocol:
        whole = np.empty(self.shape.numpy(), self.dtype.numpy())
        flat, start = whole.reshape(-1), 0
        for block in self.blocks():
            flat[start : start + block.size] = block.reshape(-1)
            start += block.size
        return ir.Tensor(whole, dtype=self.dtype, name=self.name)
