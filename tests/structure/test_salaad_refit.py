"""The refit: projections against closed forms, training on the set, resuming, edges."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from structure.tied import EPS, Tied, train
from torch import nn

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.structure.salaad import Salaad
from slc.compiler.structure.salaad_export import trained_parts
from slc.compiler.structure.salaad_refit import Refit

N, K, RANK = 48, 64, 3


def planted(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """L of rank RANK and S of 5 % entries, five times as large."""
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((N, RANK)) @ rng.standard_normal((RANK, K))
    S = 5 * rng.choice([-1, 1], (N, K)) * (rng.random((N, K)) < 0.05)
    return torch.from_numpy(L.astype(np.float32)), torch.from_numpy(S.astype(np.float32))


def refit_of_planted() -> tuple[Refit, torch.Tensor, torch.Tensor]:
    L, S = planted()
    return Refit(L + S, S, RANK, int(torch.count_nonzero(S))), L, S


def test_a_point_of_the_set_is_split_into_itself() -> None:
    refit, L, S = refit_of_planted()
    assert torch.equal(refit.support, S != 0)
    # Sums of at most K products of numbers up to the largest, each rounded.
    slack = K * EPS * float((L + S).abs().max())
    assert (refit.X - L - S).abs().max() <= slack
    assert (refit.S - S).abs().max() <= 10 * slack  # SPLITS rounds of it


def test_a_change_on_the_support_is_taken_whole() -> None:
    refit, _, _ = refit_of_planted()
    before = refit.X
    change = torch.randn(N, K, generator=torch.Generator().manual_seed(1)) * refit.support
    refit.move(change)
    # The low-rank part is the projection of zero: nothing is rounded but the sum.
    assert (refit.X - before - change).abs().max() <= 2 * EPS * refit.X.abs().max()


def test_the_tangent_projection_is_one() -> None:
    """P² = P, the rest is orthogonal to it, and U·M + M'·Vᵀ is kept, to f32's rounding."""
    refit, _, _ = refit_of_planted()
    rng = torch.Generator().manual_seed(2)
    Z = torch.randn(N, K, generator=rng)
    once = refit._tangent(Z)
    slack = 3 * K * EPS * float(Z.norm())
    assert (refit._tangent(once) - once).abs().max() <= slack
    assert abs(float((once * (Z - once)).sum())) <= slack * float(Z.norm())
    inside = refit.U @ torch.randn(RANK, K, generator=rng) + (
        torch.randn(N, RANK, generator=rng) @ refit.V.T
    )
    assert (refit._tangent(inside) - inside).abs().max() <= 3 * K * EPS * float(inside.norm())


def test_what_the_retraction_takes_back_is_of_second_order() -> None:
    """A step along the tangent leaves the set by the square of its length."""
    change = torch.randn(N, K, generator=torch.Generator().manual_seed(3))
    lost = []
    for length in (0.04, 0.02, 0.01):
        refit, _, _ = refit_of_planted()
        refit.move(length * change)
        lost.append(refit.retract()[1])
        assert torch.equal(refit.S != 0, refit.support)
        rank = int((torch.linalg.svdvals(refit.X - refit.S) > 1e-4).sum())
        assert rank == RANK
    for longer, shorter in itertools.pairwise(lost):
        assert 3.3 <= longer / shorter <= 4.7  # 4, and terms of third order


def test_a_quadratic_reaches_the_planted_point() -> None:
    """½‖X − M‖² from a disturbed M: M is on the set, so the loss goes to rounding's."""
    L, S = planted()
    layer = nn.Linear(K, N, bias=False)
    noise = 0.1 * torch.randn(N, K, generator=torch.Generator().manual_seed(4))
    layer.weight.data = L + S + noise
    nnz = int(torch.count_nonzero(S))
    salaad = Salaad(
        layer, target_rank=RANK / N, target_density=nnz / (N * K), every=5, start=1, refit_from=1
    )
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(60):
        layer.weight.grad = layer.weight.detach() - (L + S)
        salaad.add_gradient()
        optimizer.step()
        salaad.step()
    (figures,) = salaad.figures()
    assert (figures.rank, figures.nnz) == (RANK, nnz)
    error = (layer.weight.detach() - L - S).norm() / (L + S).norm()
    assert error <= 1e-4
    (part,) = trained_parts(salaad).values()
    assert np.abs(part.surrogate() - layer.weight.detach().numpy()).max() <= K * EPS * 10
    assert np.count_nonzero(part.S) <= nnz
    assert part.A.shape == (RANK, K)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_to_the_bit_inside_a_refit(dtype: torch.dtype, tmp_path: Path) -> None:
    def fresh(seed: int) -> tuple[Tied, Salaad]:
        torch.manual_seed(seed)
        model = Tied(dtype=dtype)
        return model, Salaad(model, every=4, rho=0.05, refit_from=13, stacks=[("q_proj", "k_proj")])

    model, salaad = fresh(0)
    losses, _ = train(model, salaad, 0, 30)
    other, other_salaad = fresh(0)
    some, optimizer = train(other, other_salaad, 0, 18)
    state = {
        "model": other.state_dict(), "optimizer": optimizer.state_dict(),
        "salaad": other_salaad.state_dict(),
    }  # fmt: skip
    torch.save(state, tmp_path / "state.pt")
    resumed, resumed_salaad = fresh(9)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=3e-3)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed_salaad.load_state_dict(saved["salaad"])
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    rest, _ = train(resumed, resumed_salaad, 18, 30, optimizer)
    assert some + rest == losses
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    for block, twin in zip(salaad.blocks, resumed_salaad.blocks, strict=True):
        assert block.figures == twin.figures
        assert torch.equal(block.surrogate(), twin.surrogate())


def test_small_steps_are_not_lost_in_bf16() -> None:
    """L + S are f32: steps below bf16's rounding of a weight add up though it does not move."""
    layer = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(layer.weight)
    salaad = Salaad(layer, target_rank=0.0, target_density=1.0, every=50, start=1, refit_from=1)
    salaad.step()
    block = salaad.blocks[0]
    start = block.surrogate()
    block._refit.move(torch.full((8, 8), 2.0**-12))
    block._place()
    assert torch.equal(layer.weight, torch.ones(8, 8, dtype=torch.bfloat16))
    salaad.step()  # the optimizer did nothing: nothing may be taken for a step
    assert torch.equal(block.surrogate(), start + 2.0**-12)


@pytest.mark.parametrize(("rank", "density"), [(0.0, 0.3), (0.3, 0.0), (1.0, 1.0)])
def test_edges(rank: float, density: float) -> None:
    model = Tied()
    salaad = Salaad(
        model, target_rank=rank, target_density=density, every=2, rho=0.05, refit_from=5
    )
    train(model, salaad, 0, 12)
    assert float(salaad.penalty()) == 0.0
    for block, figures in zip(salaad.blocks, salaad.figures(), strict=True):
        assert figures.nnz == round(density * block.N * block.K)
        assert figures.rank <= round(rank * min(block.N, block.K))
        X = block.X().detach()
        assert (X - block.surrogate()).abs().max() <= 64 * EPS * X.abs().max()
        assert (figures.rank > 0) == (rank > 0)


@pytest.mark.parametrize(("rank", "density"), [(0.15, 0.0), (0.0, 0.001)])
def test_a_small_matrix_keeps_something(rank: float, density: float) -> None:
    """0.15 of two rows is less than one component: one is left, and it trains."""
    layer = nn.Linear(32, 2, bias=False)
    salaad = Salaad(layer, target_rank=rank, target_density=density, every=2, start=1, refit_from=1)
    salaad.step()
    (figures,) = salaad.figures()
    assert (figures.rank, figures.nnz) == ((1, 0) if rank else (0, 1))
    before = layer.weight.detach().clone()
    assert before.any()
    with torch.no_grad():
        layer.weight.add_(1.0)
    salaad.step()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(("saved", "loaded"), [(5, 40), (5, None), (None, 7), (40, 7)])
def test_a_state_decides_whether_the_refit_has_begun(saved: int | None, loaded: int | None) -> None:
    def fresh(refit_from: int | None) -> tuple[Tied, Salaad]:
        torch.manual_seed(0)
        model = Tied()
        return model, Salaad(model, every=2, rho=0.05, refit_from=refit_from)

    model, salaad = fresh(saved)
    train(model, salaad, 0, 9)
    other, other_salaad = fresh(loaded)
    other.load_state_dict(model.state_dict())
    other_salaad.load_state_dict(salaad.state_dict())
    train(other, other_salaad, 9, 14)
    for block in other_salaad.blocks:
        assert block.refitted
        assert (
            block.X().detach() - block.surrogate()
        ).abs().max() <= 64 * EPS * block.X().abs().max()
    with pytest.raises(RequestError, match="the refit has begun"):
        other_salaad.update()


def test_a_zero_matrix() -> None:
    layer = nn.Linear(8, 6, bias=False)
    layer.weight.data.zero_()
    salaad = Salaad(layer, every=2, start=1, refit_from=1)
    for _ in range(5):
        salaad.step()
    assert not layer.weight.any()
    assert torch.isfinite(salaad.blocks[0].surrogate()).all()


def test_a_weight_that_is_not_finite_is_refused() -> None:
    model = Tied()
    salaad = Salaad(model, every=2, rho=0.1, refit_from=3)
    train(model, salaad, 0, 5)
    with torch.no_grad():
        model.up.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"'up\.weight' is not finite"):
        salaad.step()


def test_a_refit_before_the_start_is_refused() -> None:
    with pytest.raises(RequestError, match="refit_from is 3: give a step from start, 5"):
        Salaad(Tied(), start=5, refit_from=3)
