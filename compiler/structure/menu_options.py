"""The options of one weight, and what each of them loses.

Dense codes come from error feedback in the metric of H (gptq.py). The correction of int4 is the
best of its rank in that metric: a truncated SVD of (W − Q)·F with H = F·Fᵀ, A divided by F again
(EoRA, arXiv 2410.21271). Slices of S and of the adapter are rounded as an export would round them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from slc.compiler.encoding import Layout, SparseValues
from slc.compiler.structure import gptq
from slc.compiler.structure.adapter_rounding import round_adapter
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.dense_codes import BITS_OF, int8_group, round_matrix
from slc.compiler.structure.layer_error import LayerError
from slc.compiler.structure.menu import (
    CORRECTED_GROUP,
    INT4_GROUPS,
    MenuOption,
    code_key,
    dense_option,
)
from slc.compiler.structure.stored_grid import StoredGrid
from slc.compiler.structure.svd import truncated_svd
from slc.ops import bitmap

CORRECTION_RANKS = (4, 8, 16, 32)
DENSITY_STEPS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.0)  # parts of the checkpoint's S
RANK_STEPS = (1.0, 0.5, 0.25, 0.0)  # parts of its rank
SPARSE_VALUES: tuple[SparseValues, ...] = ("f16", "i8", "i4")
SWEEPS = 4  # of coordinate descent behind error feedback in 4 bits
ROWS_OF_TABLES = 16384  # of a matrix with more rows it takes minutes and gains nothing
_GROUP = 64  # of i8 and i4 values, where the checkpoint states none


@dataclasses.dataclass(frozen=True)
class LinearMenu:
    """What menu_options found for one Linear.

    Attributes:
      options: each with its error.
      tensors: codes, scales and the correction, by their names in the file.
      probe: W [N, K] as the sensitivity is measured with, and its error.
    """

    options: list[MenuOption]
    tensors: dict[str, Any]
    probe: tuple[F32, float]


def dense_options(
    W: F32, metric: gptq.DampedHessian | None, layer: LayerError | None
) -> LinearMenu:
    """int8 and int4 of W [N, K]; without a metric to the nearest, errors per row of a table.

    In 8 bits too the metric matters: where one input is a thousand times larger than the others,
    rounding to the nearest lost more in 8 bits than error feedback in 4 (a down-projection of
    SmolLM2).
    """
    options: list[MenuOption] = []
    tensors: dict[str, Any] = {}
    sweeps = 0 if len(W) > ROWS_OF_TABLES else SWEEPS
    codes = {}
    for encoding, group in (("int8", int8_group(W.shape[1])), *(("int4", g) for g in INT4_GROUPS)):
        bits = BITS_OF[encoding]
        codes[encoding, group] = (
            round_matrix(W, bits=bits, group=group)
            if metric is None
            else gptq.quantize_matrix(
                W, metric, bits=bits, group=group, sweeps=0 if bits == 8 else sweeps
            )
        )

    def error(E: F32) -> float:
        return float(np.square(E).mean(axis=0).sum()) if layer is None else layer.of(E)

    for (encoding, group), made in codes.items():
        lost = error(W - made.matrix())
        options.append(dense_option(encoding, lost, W.size, group))
        tensors[f"{code_key(encoding, group)}.codes"] = made.packed()
        tensors[f"{code_key(encoding, group)}.scales"] = made.scales
    Q = codes["int4", CORRECTED_GROUP].matrix()
    return LinearMenu(options, tensors, (Q, error(W - Q)))


def correction_options(
    W: F32, Q: F32, H: F32, layer: LayerError
) -> tuple[list[MenuOption], dict[str, Any]]:
    """Ranks of the correction of Q in the metric of H, and its factors A [r, K] and B [N, r]."""
    E = W - Q
    rank = min(max(CORRECTION_RANKS), *W.shape)
    factor: F32 = np.linalg.cholesky(H.astype(np.float64)).astype(np.float32)
    B, scaled, _ = truncated_svd(np.asarray(E @ factor, np.float32), rank)
    A: F32 = np.ascontiguousarray(
        solve_triangular(factor, scaled.T, trans="T", lower=True, check_finite=False).T,
        np.float32,
    )
    options = []
    for some in sorted({min(r, rank) for r in CORRECTION_RANKS}):
        lost = layer.of(E - _int8_product(A[:some], B[:, :some]))
        corrected = dataclasses.replace(
            dense_option("int4", lost, W.size, CORRECTED_GROUP), rank=some, adapter_type="i8"
        )
        options.append(corrected)
    return options, {"correction.A": A, "correction.B": np.ascontiguousarray(B)}


def slice_options(
    W: F32, layer: LayerError, checkpoint: StructuredCheckpoint, name: str
) -> Iterator[MenuOption]:
    """Slices of the checkpoint's S and adapter, in each value type."""
    entry = checkpoint.entry(name)
    group = entry.group or _GROUP
    types = SPARSE_VALUES if entry.value_type is None else SPARSE_VALUES[1:]
    for rank in sorted({round(part * entry.rank) for part in RANK_STEPS}):
        A, B = checkpoint.adapter(name, rank)
        left = W - _int8_product(A, B)
        for nnz in sorted({round(part * entry.nnz) for part in DENSITY_STEPS}):
            S, mask = checkpoint.placed(name, nnz, rank)
            for value_type in types:
                grid = checkpoint.slice_grid(name, value_type, group, rank)
                lost = layer.of(left - _as_exported(S, mask, value_type, group, grid))
                yield MenuOption("bitmap", value_type, lost, nnz, rank, group, adapter_type="i8")


def _int8_product(A: F32, B: F32) -> F32:
    """B·A as two int8 factors give it back."""
    made = round_adapter(A, B)
    product: F32 = (made.B * made.B_scale[:, None]) @ (made.A * made.A_scale[:, None])
    return product


def _as_exported(
    S: F32, mask: Any, value_type: SparseValues, group: int, grid: StoredGrid | None
) -> F32:
    """S as a bitmap of this type gives it back."""
    if value_type == "f16":
        return S.astype(np.float16).astype(np.float32)
    levels = None if grid is None else bitmap.Grid(grid.scales, grid.codebook)
    # "planes" has one level of i4 fewer than "rows": an error that holds for both.
    layout: Layout = "planes" if value_type == "i4" else "rows"
    return bitmap.rounded(S, value_type, group, mask, layout=layout, grid=levels)
