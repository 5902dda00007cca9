"""Writes S and L = B·A that training made into a structured checkpoint, parameter by parameter.

A training method knows the parameters of its own model; an exported graph has fused, renamed and
transposed them. `Linear.sources` says which rows came from which parameter, so the parts of a fused
Linear are stacked here: S row block by row block, and L by one thin decomposition of the stack.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.errors import ModelError
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array, weight_tensor
from slc.compiler.linear import Linear, SourceRows
from slc.compiler.progress import Progress
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import slc_version
from slc.compiler.structure.decomposition import F32, Decomposition, measured
from slc.compiler.structure.ordering import Index, global_order
from slc.compiler.structure.records import CheckpointMeta
from slc.compiler.structure.writer import CheckpointWriter

Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class TrainedPart:
    """S + B·A of one parameter of the source model.

    Attributes:
      S: f32 [N, K], zero where nothing is stored.
      B: f32 [N, r].
      A: f32 [r, K]; r may be 0.
      mask: bool [N, K], the positions to store though some hold zero; None stores the non-zeros.
    """

    S: F32
    B: F32
    A: F32
    mask: Mask | None = None

    def surrogate(self) -> F32:
        """S + B·A, f32 [N, K]."""
        dense: F32 = self.S + self.B @ self.A
        return dense


def write_trained(
    source: Source,
    path: Path,
    parts: Mapping[str, TrainedPart],
    *,
    method: str,
    settings: dict[str, float | int],
    replace: bool = False,
    progress: Progress | None = None,
) -> StructuredCheckpoint:
    """Makes the structured checkpoint `path` of a trained model.

    Linears and lm_head get an entry, ordered by importance: S by magnitude, L by singular value. An
    embedding stays a table in the base, with S + B·A as its content; so does the table of a tied
    lm_head, which itself computes with its entry. Errors are measured against the source's weights.
    Rows of a fused Linear whose parameter was not trained go into S whole.

    Args:
      source: the model as it was saved after training, with the vanilla weights X.
      path: NAME.slr.
      parts: by the source's parameter name, e.g. "model.layers.0.self_attn.q_proj.weight".
      method: for slr.json: what made the parts.
      settings: for slr.json: its numbers.
      replace: a checkpoint at `path` gives way to the new one once that is whole.
      progress: called as progress(done, total, name of the Linear).

    Raises:
      ModelError: a part is not finite, its shape is not its parameter's, or no Linear of the source
        holds its parameter.
      RequestError: `path` exists or another process writes it.
    """
    trained = [li for li in source.linears if any(s.parameter in parts for s in li.sources)]
    _check_parts(trained, parts)
    meta = CheckpointMeta(
        method, settings, source.kind, source.path.name, source.find_sha256(), slc_version()
    )
    with CheckpointWriter(path, meta, _with_tables(source, trained, parts), replace=replace) as out:
        for done, linear in enumerate(trained, 1):
            if linear.kind != "embedding":
                W = weight_array(source, linear)
                stacked = _stacked(linear, W, parts)
                fingerprint = _fingerprint(out.fingerprint(linear, W), stacked)
                out.write(linear, _ordered(W, stacked), fingerprint)
            if progress is not None:
                progress(done, len(trained), linear.name)
        return out.finish()


def _check_parts(trained: list[Linear], parts: Mapping[str, TrainedPart]) -> None:
    """Every part is finite, of its parameter's shape, and belongs to a Linear."""
    shapes = {
        rows.parameter: (rows.stop - rows.start, linear.K)
        for linear in trained
        for rows in linear.sources
    }
    for name, part in parts.items():
        if name not in shapes:
            raise ModelError(
                f"the trained parameter {name!r} is in no Linear of the model: it was renamed, "
                "changed after it was saved, or is too small to be one; leave it out"
            )
        N, K = shapes[name]
        got = part.S.shape, part.B.shape, part.A.shape
        rank = len(part.A)
        if got != ((N, K), (N, rank), (rank, K)) or not _same_shape(part.mask, part.S):
            raise ModelError(
                f"the trained parameter {name!r} has S, B and A of shapes {got} where its weight "
                f"is [{N}, {K}]: the parts are another model's"
            )
        if not all(np.isfinite(array).all() for array in (part.S, part.B, part.A)):
            raise ModelError(
                f"the trained parameter {name!r} has an S or L that is not finite: go back to a "
                "checkpoint from before training diverged"
            )


def _same_shape(mask: Mask | None, S: F32) -> bool:
    return mask is None or mask.shape == S.shape


def _with_tables(source: Source, trained: list[Linear], parts: Mapping[str, TrainedPart]) -> Source:
    """The source with S + B·A as the content of every trained embedding; its own is unchanged."""
    tables = [linear for linear in trained if linear.kind == "embedding"]
    if not tables:
        return source
    graph = source.graph.clone()
    for linear in tables:
        value = graph.graph.initializers[linear.weight]
        dtype = weight_tensor(source.graph, linear.weight).dtype
        stacked = _stacked(linear, weight_array(source, linear), parts)
        table = stacked.surrogate()
        table = np.ascontiguousarray(table.T if linear.transposed else table)
        value.const_value = ir.Tensor(table.astype(dtype.numpy()), name=linear.weight)
    return dataclasses.replace(source, graph=graph)


def _stacked(linear: Linear, W: F32, parts: Mapping[str, TrainedPart]) -> TrainedPart:
    """The parts of a Linear as one; what no part covers is S, from W [N, K]."""
    pieces = [(rows, parts[rows.parameter]) for rows in linear.sources if rows.parameter in parts]
    if len(pieces) == 1 and (pieces[0][0].start, pieces[0][0].stop) == (0, linear.N):
        return pieces[0][1]
    S, mask = W.copy(), np.ones(W.shape, np.bool_)
    for rows, part in pieces:
        S[rows.start : rows.stop] = part.S
        mask[rows.start : rows.stop] = part.S != 0 if part.mask is None else part.mask
    B, A = _stacked_adapter(linear.N, pieces)
    return TrainedPart(S, B, A, mask)


def _stacked_adapter(N: int, pieces: list[tuple[SourceRows, TrainedPart]]) -> tuple[F32, F32]:
    """B [N, r] and A [r, K] of L's row blocks; pieces that share one A are not given it twice."""
    first = pieces[0][1].A
    if all(np.array_equal(part.A, first) for _, part in pieces):
        B = np.zeros((N, len(first)), np.float32)
        for rows, part in pieces:
            B[rows.start : rows.stop] = part.B
        return B, first
    A = np.concatenate([part.A for _, part in pieces])
    B = np.zeros((N, len(A)), np.float32)
    start = 0
    for rows, part in pieces:
        B[rows.start : rows.stop, start : start + len(part.A)] = part.B
        start += len(part.A)
    return B, A


def _ordered(W: F32, part: TrainedPart) -> Decomposition:
    """The part in order of importance, with its errors against W [N, K], which is overwritten."""
    index = _sparse_order(part)
    B, A, sigma = thin_svd(part.B, part.A)
    return measured(W, index, part.S.reshape(-1)[index], B, A, sigma, order="global")


def _sparse_order(part: TrainedPart) -> Index:
    """Positions of S by falling magnitude; then the stored zeros, by rising position."""
    index = global_order(part.S, int(np.count_nonzero(part.S)))
    if part.mask is None:
        return index
    zeros = np.flatnonzero(part.mask & (part.S == 0)).astype(index.dtype)
    kept = part.mask.reshape(-1)[index]
    return np.concatenate([index[kept], zeros])


def thin_svd(B: F32, A: F32) -> tuple[F32, F32, F32]:
    """The singular value decomposition of B·A without forming it, split evenly.

    With QR of both factors, B·A = Q₁(R₁R₂ᵀ)Q₂ᵀ, and the middle is at most r × r. In f64: what comes
    out is exact to the rounding of f32 factors. Values below the rounding of the largest, which an
    L of lower rank than its factors leaves behind, are dropped.

    Args:
      B: f32 [N, r].
      A: f32 [r, K].

    Returns:
      B f32 [N, q], A f32 [q, K] and sigma f32 [q], falling, with q <= min(r, N, K); each factor of
      component i has norm sqrt(sigma[i]).
    """
    left, R1 = np.linalg.qr(B.astype(np.float64))
    right, R2 = np.linalg.qr(A.astype(np.float64).T)
    U, sigma, Vt = np.linalg.svd(R1 @ R2.T, full_matrices=False)
    tolerance = np.finfo(np.float32).eps * (sigma[0] if sigma.size else 0.0)
    rank = int(np.count_nonzero(sigma > tolerance))
    root = np.sqrt(sigma[:rank])
    new_B = (left @ U[:, :rank]) * root
    new_A = (root[:, None] * Vt[:rank]) @ right.T
    return (
        new_B.astype(np.float32),
        np.ascontiguousarray(new_A, np.float32),
        sigma[:rank].astype(np.float32),
    )


def _fingerprint(of_weight: str, part: TrainedPart) -> str:
    """Of the weight, the settings and the part."""
    digest = hashlib.sha256(of_weight.encode())
    for array in (part.S, part.B, part.A):
        digest.update(np.ascontiguousarray(array).data)
    if part.mask is not None:
        digest.update(np.packbits(part.mask).data)
    return digest.hexdigest()
