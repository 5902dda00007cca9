"""Each matrix's rank against its density, at equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from structure.models import chain, weight

from slc.compiler import api
from slc.compiler.errors import RequestError
from slc.compiler.structure import hessian
from slc.compiler.structure.balance import TRIAL_ITERATIONS, Size, at_rank, balanced
from slc.compiler.structure.calibration import Moments
from slc.compiler.structure.decompose import decompose
from slc.compiler.structure.metric import Metric

N, K = 48, 64
BITS = {None: 16, "i8": 8, "i4": 4}


def gram(width: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((4 * width, width))
    return (x.T @ x / len(x)).astype(np.float32)


def loss(W: np.ndarray, H: np.ndarray, size: Size, value_type: str | None) -> float:
    made = hessian.decompose_matrix(
        W.copy(), H, density=size.density, rank=size.rank, iterations=TRIAL_ITERATIONS,
        value_type=value_type,
    )  # fmt: skip
    E = W - made.B @ made.A
    E.reshape(-1)[made.index] -= made.value
    metric = Metric.of(H)
    return metric.loss(E * metric.scale)


def planted(rank: int, density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((N, rank)) @ rng.standard_normal((rank, K))
    S = rng.standard_normal((N, K)) * (rng.random((N, K)) < density) * 4
    return (L + S + 0.1 * rng.standard_normal((N, K))).astype(np.float32)


@pytest.mark.parametrize("value_type", [None, "i8", "i4"])
def test_the_size_follows_the_matrix_at_equal_bytes(value_type: str | None) -> None:
    H, size = gram(K, 1), Size(0.3, 4)
    options = {"seed": 0, "value_type": value_type, "group": 64}
    of_rank = balanced(planted(8, 0.1, 0), H, size, **options)
    of_values = balanced(planted(1, 0.4, 0), H, size, **options)
    assert of_values != size
    if value_type is None:  # the cheaper a value, the more of even a planted L goes to S
        assert of_rank.rank > of_values.rank
        assert of_rank.density < of_values.density
    for W, found in ((planted(8, 0.1, 0), of_rank), (planted(1, 0.4, 0), of_values)):
        assert loss(W, H, found, value_type) <= loss(W, H, size, value_type)
        spent, allowed = (
            s.density * N * K * BITS[value_type] + 16 * s.rank * (N + K) for s in (found, size)
        )
        assert spent == pytest.approx(allowed)


def test_sizes_that_there_are_not() -> None:
    assert at_rank((N, K), Size(0.1, 2), 8, None) is None  # the values would be fewer than none
    assert at_rank((N, K), Size(0.1, 2), N + 1, None) is None
    assert at_rank((N, K), Size(0.95, 40), 10, "i4") == Size(1.0, 10)


@pytest.mark.parametrize("size", [Size(0.0, 0), Size(0.0, 3), Size(0.5, 0), Size(1.0, 2)])
@pytest.mark.parametrize("kind", ["random", "zero", "one row"])
def test_the_ends(size: Size, kind: str) -> None:
    W = np.random.default_rng(0).standard_normal((1 if kind == "one row" else N, K))
    W = (W * (kind != "zero")).astype(np.float32)
    found = balanced(W, gram(K, 2), size, seed=0, value_type=None, group=64)
    assert 0 <= found.density <= 1
    assert 0 <= found.rank <= min(W.shape)


def test_a_checkpoint_of_many_sizes(tmp_path: Path) -> None:
    source = chain(tmp_path)
    made = decompose(
        source, tmp_path / "m.slr", method="hessian", density=0.4, rank=6, iterations=5, jobs=1,
        moments=lambda some: {li.name: Moments(gram(li.K, 0), np.zeros(li.K)) for li in some},
        balance=True,
    )  # fmt: skip
    assert made.meta.settings["balance"] == 1
    for linear in source.linears:
        wanted = balanced(
            weight(source, linear), gram(linear.K, 0), Size(0.4, 6), seed=0, value_type=None,
            group=64,
        )  # fmt: skip
        entry = made.entry(linear.name)
        assert entry.nnz == round(wanted.density * linear.numel)
        assert entry.rank <= wanted.rank  # fewer where S leaves nothing


def test_only_of_hessian(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--balance: got the method salr"):
        api.structure(tmp_path, tmp_path / "m.slr", balance=True)
    assert list(tmp_path.iterdir()) == []
