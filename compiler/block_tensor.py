"""Tensors that are made piece by piece, so that no one ever holds a large one whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import onnx_ir as ir

Piece = Callable[[], np.ndarray]


class BlockTensor(ir.LazyTensor):
    """A lazy tensor made in pieces.

    Attributes:
      pieces: each makes a contiguous little-endian array; their bytes, one after another, are the
        tensor's. They may be called in any order, from any thread.
    """

    def __init__(
        self,
        pieces: Callable[[], Iterable[Piece]],
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(self._whole, dtype, shape, name=name)
        self.pieces = pieces

    def _whole(self) -> ir.TensorProtocol:
        whole = np.empty(self.shape.numpy(), self.dtype.numpy())
        flat, start = whole.reshape(-1), 0
        for piece in self.pieces():
            block = piece()
            flat[start : start + block.size] = block.reshape(-1)
            start += block.size
        return ir.Tensor(whole, dtype=self.dtype, name=self.name)


def in_order(pieces: Iterable[Piece], workers: int) -> Iterator[np.ndarray]:
    """What the pieces make, in their order; `workers` of them are made at a time."""
    left = iter(pieces)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[np.ndarray]] = deque(map(pool.submit, islice(left, workers)))
        while waiting:
            block = waiting.popleft().result()
            waiting.extend(map(pool.submit, islice(left, 1)))
            yield block
            del block
