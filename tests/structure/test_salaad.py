"""SALAAD on small torch models: the pass, the gradient, recovery, resuming, refusals."""

from __future__ import annotations

import contextlib
import copy
import math

import numpy as np
import pytest
import torch
from structure.tied import EPS, Tied, train
from torch import nn

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.structure.salaad import Salaad
from slc.compiler.structure.salaad_prox import soft_threshold, svt

torch.set_num_threads(1)  # the matrices are too small to share, and other tests run beside these


def fixed(M: np.ndarray, *, rho: float, alpha: float, beta: float) -> Salaad:
    """A `Salaad` over one weight that nothing trains, with constant α and β."""
    layer = nn.Linear(M.shape[1], M.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(M.astype(np.float32))
    salaad = Salaad(layer, rho=rho, k_alpha=0, k_beta=0)
    salaad.blocks[0].rank.weight, salaad.blocks[0].density.weight = alpha, beta
    return salaad


def test_a_pass_is_the_papers() -> None:
    """Three passes against the three updates written out; both in f32, so equal to rounding."""
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((12, 20)).astype(np.float32))
    rho, alpha, beta = 0.5, 0.8, 0.4
    salaad = fixed(X.numpy(), rho=rho, alpha=alpha, beta=beta)
    L = S = Y = torch.zeros(12, 20)
    for passes in range(1, 4):
        U, sigma, V = svt(X - S + Y / rho, alpha / rho)
        L = (U * sigma) @ V.T
        S = soft_threshold(X - L + Y / rho, beta / rho)
        Y = Y + rho * (X - L - S)
        salaad.update()
        block = salaad.blocks[0]
        # Every entry is a sum of at most 12 products and four terms of size <= 8, each rounded;
        # a pass hands its rounding to the next.
        slack = passes * 16 * 8 * EPS
        for got, wanted in ((block.L(), L), (block.S, S), (block.Y, Y)):
            assert (got - wanted).abs().max() <= slack
        assert block.figures is not None
        assert block.figures.nnz == torch.count_nonzero(S)


def test_recovers_a_planted_rpca_optimum() -> None:
    """Robust PCA (Candès et al. 2011): at β/α = 1/√max(N, K), L and S come back exactly."""
    rng = np.random.default_rng(0)
    N, K, rank = 60, 80, 3
    L0 = rng.standard_normal((N, rank)) @ rng.standard_normal((rank, K))
    S0 = 5 * rng.choice([-1, 1], (N, K)) * (rng.random((N, K)) < 0.05)
    M = L0 + S0
    rho = N * K / (4 * np.abs(M).sum())  # the usual step of this ADMM
    salaad = fixed(M, rho=rho, alpha=1.0, beta=1 / math.sqrt(max(N, K)))
    for _ in range(300):
        salaad.update()
    block = salaad.blocks[0]
    assert block.figures is not None
    assert block.figures.rank == rank
    assert torch.equal(block.S != 0, torch.from_numpy(S0 != 0))
    # At the optimum what is left is f32: each pass rounds sums of terms up to max|M| over K
    # products, and ADMM contracts the rest.
    slack = K * EPS * np.abs(M).max()
    assert np.abs(block.L().numpy() - L0).max() <= slack
    assert np.abs(block.S.numpy() - S0).max() <= slack


def test_the_gradient_is_the_penaltys() -> None:
    model = Tied()
    salaad = Salaad(model, every=1, rho=0.1)
    train(model, salaad, 0, 4)
    model.zero_grad()
    salaad.penalty().backward()
    by_autograd = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    salaad.add_gradient()
    assert len(by_autograd) == len(salaad.blocks) == 4
    for weight in salaad.weights():
        block = next(b for b in salaad.blocks if weight in b.weights)
        # Both are ρX + C in another order: three roundings of terms no larger than these.
        size = 0.1 * (weight.parameter.abs().max() + (block.L() + block.S).abs().max())
        slack = 3 * EPS * float((size + block.Y.abs().max()).detach())
        grad = weight.parameter.grad
        assert (grad - by_autograd[weight.name.replace("head", "embed")]).abs().max() <= slack


def test_penalty_before_the_first_pass_is_zero() -> None:
    salaad = Salaad(Tied())
    assert float(salaad.penalty()) == 0.0
    salaad.add_gradient()
    assert salaad.figures() == []


def test_a_tied_table_counts_once() -> None:
    tied, untied = Salaad(Tied()), Salaad(Tied(tied=False))
    assert [w.name for w in tied.weights()] == [
        "embed.weight", "q_proj.weight", "k_proj.weight", "up.weight",
    ]  # fmt: skip
    assert [w.kind for w in untied.weights()] == [
        "embedding", "linear", "linear", "linear", "lm_head",
    ]  # fmt: skip
    assert [(r.name, r.reason.split()[0]) for r in tied.refusals] == [("gate.weight", "has")]


def test_stacked_siblings_share_one_low_rank_part() -> None:
    model = Tied()
    salaad = Salaad(model, stacks=[("q_proj", "k_proj")], every=1, rho=0.1)
    block = salaad.blocks[1]
    assert block.name == "q_proj.weight+k_proj.weight"
    assert (block.N, block.K) == (32, 16)
    train(model, salaad, 0, 3)
    assert block.B.shape == (32, block.A.shape[0])
    with pytest.raises(RequestError, match="can't be stacked"):
        Salaad(model, stacks=[("q_proj", "up")])


def test_surrogate_swaps_and_comes_back_to_the_bit() -> None:
    model = Tied()
    salaad = Salaad(model, every=2, rho=0.1)
    train(model, salaad, 0, 6)
    before = copy.deepcopy(model.state_dict())
    with salaad.surrogate():
        block = salaad.blocks[1]
        assert torch.equal(model.q_proj.weight, block.L() + block.S)
        assert model.head.weight is model.embed.weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with contextlib.suppress(KeyError), salaad.surrogate():
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_to_the_bit(dtype: torch.dtype, tmp_path) -> None:
    def fresh() -> tuple[Tied, Salaad]:
        torch.manual_seed(0)
        model = Tied(dtype=dtype)
        return model, Salaad(model, every=4, rho=0.05, late_from=16, stacks=[("q_proj", "k_proj")])

    model, salaad = fresh()
    losses, _ = train(model, salaad, 0, 30)
    other, other_salaad = fresh()
    some, optimizer = train(other, other_salaad, 0, 17)
    state = {
        "model": other.state_dict(), "optimizer": optimizer.state_dict(),
        "salaad": other_salaad.state_dict(),
    }  # fmt: skip
    torch.save(state, tmp_path / "state.pt")
    torch.manual_seed(9)
    resumed = Tied(dtype=dtype)
    resumed_salaad = Salaad(resumed, every=4, rho=0.05, late_from=16, stacks=[("q_proj", "k_proj")])
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=3e-3)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    resumed_salaad.load_state_dict(saved["salaad"])
    rest, _ = train(resumed, resumed_salaad, 17, 30, optimizer)
    assert some + rest == losses
    assert resumed_salaad.passes == salaad.passes == 7
    for one, two in zip(salaad.blocks, resumed_salaad.blocks, strict=True):
        assert one.S.dtype == one.Y.dtype == one.B.dtype == torch.float32
        assert one.figures == two.figures
        for a, b in zip((one.S, one.Y, one.B, one.A), (two.S, two.Y, two.B, two.A), strict=True):
            assert torch.equal(a, b)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_the_controller_reaches_its_targets() -> None:
    """½‖X − M‖² with M low-rank and sparse: X gives way until rank and density are on target."""
    rng = np.random.default_rng(0)
    M = rng.standard_normal((96, 16)) @ rng.standard_normal((16, 64))
    M += 3 * rng.standard_normal((96, 64)) * (rng.random((96, 64)) < 0.05)
    layer = nn.Linear(64, 96, bias=False)
    goal = torch.from_numpy(M.astype(np.float32))
    layer.weight.data = goal.clone()
    salaad = Salaad(
        layer, target_rank=0.2, target_density=0.1, every=1, late_from=0, rho=1.0,
        k_alpha=0.05, k_beta=0.05,
    )  # fmt: skip
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    for _ in range(400):
        layer.weight.grad = layer.weight.detach() - goal
        salaad.add_gradient()
        optimizer.step()
        salaad.step()
    (figures,) = salaad.figures()
    # One direction of 64 is 0.016; the density has no such steps, and 10 % is what we promise.
    assert abs(figures.rank_ratio - 0.2) <= 1 / 64
    assert abs(figures.density - 0.1) <= 0.01


@pytest.mark.parametrize(
    ("targets", "low_rank", "sparse"), [((0.0, 0.3), False, True), ((0.3, 0.0), True, False)]
)
def test_rank_0_and_density_0(targets: tuple[float, float], low_rank: bool, sparse: bool) -> None:
    model = Tied()
    salaad = Salaad(model, target_rank=targets[0], target_density=targets[1], every=2, rho=0.1)
    train(model, salaad, 0, 8)
    for block in salaad.blocks:
        assert (block.A.shape[0] > 0) == low_rank
        assert bool(block.S.any()) == sparse


def test_density_1_and_rank_1_keep_all() -> None:
    """Targets of 1 never ask for a threshold, so L + S = X after every pass, to rounding."""
    model = Tied()
    salaad = Salaad(model, target_rank=1.0, target_density=1.0, every=2, rho=0.1)
    train(model, salaad, 0, 8)
    for block in salaad.blocks:
        assert block.rank.weight == block.density.weight == 0.0
        X = block.X().detach()
        # S = X − L + Y/ρ and Y is rounding itself: a few roundings of numbers of this size.
        assert (X - block.L() - block.S).abs().max() <= 16 * EPS * X.abs().max()


def test_a_zero_matrix_stays_zero() -> None:
    layer = nn.Linear(8, 6, bias=False)
    layer.weight.data.zero_()
    salaad = Salaad(layer, every=1)
    for _ in range(3):
        salaad.step()
    (figures,) = salaad.figures()
    assert (figures.rank, figures.nnz, figures.residual) == (0, 0, 0.0)
    assert torch.isfinite(salaad.penalty())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_or_weight_that_is_not_finite_is_refused(bad: float) -> None:
    model = Tied()
    salaad = Salaad(model, every=2, rho=0.1)
    train(model, salaad, 0, 5)
    before = copy.deepcopy(salaad.state_dict())
    with pytest.raises(ModelError, match=r"the loss is .* after 5 steps"):
        salaad.step(torch.tensor(bad))
    with torch.no_grad():
        model.up.weight[0, 0] = bad
    with pytest.raises(ModelError, match=r"'up\.weight' is not finite"):
        salaad.step()
    for name, block in salaad.state_dict()["blocks"].items():
        for field in ("S", "Y", "B", "A"):
            assert torch.equal(block[field], before["blocks"][name][field])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_rank": 1.5}, "target_rank is 1.5"),
        ({"target_density": -0.1}, "target_density is -0.1"),
        ({"target_density": math.nan}, "target_density is nan"),
        ({"target_rank": 0.0, "target_density": 0.0}, "both 0"),
        ({"every": 0}, "every is 0"),
        ({"energy": 0.0}, "energy is 0"),
        ({"rho": 0.0}, "rho of linear is 0"),
        ({"include": ["nothing.*"]}, r"'nothing\.\*' matches no"),
        ({"include": ["gate.weight"]}, "single row"),
        ({"exclude": ["*"]}, "found no Linear"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Salaad(Tied(), **settings)


def test_another_models_state_is_refused() -> None:
    state = Salaad(Tied()).state_dict()
    with pytest.raises(ModelError, match="only one of the two"):
        Salaad(Tied(tied=False)).load_state_dict(state)
    state["blocks"]["up.weight"]["S"] = torch.zeros(3, 3)
    with pytest.raises(ModelError, match=r"\[3, 3\] where the weight is \[16, 32\]"):
        Salaad(Tied()).load_state_dict(state)


def test_frozen_weights_are_left_alone() -> None:
    model = Tied()
    model.up.weight.requires_grad_(False)
    salaad = Salaad(model)
    assert "up.weight" not in [w.name for w in salaad.weights()]
    assert ("up.weight", "is frozen: training does not move it") in [
        (r.name, r.reason) for r in salaad.refusals
    ]
