"""SALR on small PEFT models: mask, residual, the theorem's factor, step sizes, refusals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn

from slc.compiler.errors import ModelError, RequestError, SlcError
from slc.compiler.structure import salr
from slc.compiler.structure.salr_peft import Salr
from slc.compiler.structure.salr_step import largest_square, relative, step_sizes

torch.set_num_threads(1)  # the matrices are too small to share, and other tests run beside these

EPS = float(np.finfo(np.float32).eps)


class Net(nn.Module):
    """Two wide Linears, a table tied to the head, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(30, 24)
        self.up = nn.Linear(24, 40)
        self.down = nn.Linear(40, 24, bias=False)
        self.conv = nn.Conv1d(24, 24, 1)
        self.head = nn.Linear(24, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        h = torch.tanh(self.down(torch.tanh(self.up(self.embed(ids)))))
        return self.head(h + self.conv(h.mT).mT)


IDS = torch.arange(20).reshape(2, 10)
WIDE = ["up", "down"]


def peft(net: nn.Module | None = None, modules: Any = WIDE, **options: Any) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=modules, **options)
    return get_peft_model(net or Net(), config)


def base_weight(model: Any, name: str) -> np.ndarray:
    module = model.get_base_model().get_submodule(name)
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    return base.weight.detach().float().numpy().copy()


def residual(model: Any, name: str) -> np.ndarray:
    module = model.get_base_model().get_submodule(name)
    B, A = module.lora_B["residual"].weight, module.lora_A["residual"].weight
    return (B @ A).detach().numpy()


def test_masks_the_smallest_and_keeps_them_as_a_residual() -> None:
    model = peft()
    before = {name: base_weight(model, name) for name in WIDE}
    made = Salr(model, density=0.5, rank=5)
    assert made.ranks == {"up": 5, "down": 5}
    for name, W in before.items():
        masked = base_weight(model, name)
        kept = masked != 0
        assert np.count_nonzero(kept) == round(0.5 * W.size)
        assert np.array_equal(masked[kept], W[kept])
        assert np.abs(W[kept]).min() >= np.abs(W[~kept]).max()
        # The best rank 5 of E, by numpy's SVD. The module may miss 0.2 % of its energy (svd.py).
        E = W - masked
        sigma = np.linalg.svd(E, compute_uv=False)
        best, energy = np.sum(sigma[5:] ** 2), np.sum(sigma[:5] ** 2)
        error = np.sum((E - residual(model, name)) ** 2)
        assert best * (1 - 1e-5) <= error <= best + 2e-3 * energy
    untouched = Net()
    assert np.array_equal(base_weight(model, "head"), untouched.head.weight.detach().numpy())


def test_forward_is_mask_and_residual_and_task() -> None:
    model = peft(init_lora_weights=False)
    made = Salr(model, density=0.4, rank=6)
    assert made.adapters == ["default", "residual"]
    x = torch.randn(7, 24)
    up = model.get_base_model().up
    B, A = up.lora_B["default"].weight, up.lora_A["default"].weight
    to_A, to_B = up.lora_A["residual"].weight, up.lora_B["residual"].weight
    base = up.get_base_layer()
    with torch.no_grad():
        W = base.weight + to_B @ to_A + 2.0 * (B @ A)
        wanted = x @ W.T + base.bias
        # The same f32 sums in two orders: (K + ranks + 4)·eps of the sums of magnitudes each.
        sizes = base.weight.abs() + to_B.abs() @ to_A.abs() + 2 * (B.abs() @ A.abs())
        limit = 2 * (24 + 9 + 4) * EPS * (x.abs() @ sizes.T + base.bias.abs())
        assert torch.all((up(x) - wanted).abs() <= limit)


def test_rank_of_the_whole_residual_is_the_dense_model() -> None:
    dense = Net()
    model = peft(Net())
    Salr(model, density=0.3, rank=24)  # min(N, K)
    # W comes back up to the SVD's rounding: a few eps of the spectral norm, through f32 layers with
    # slopes of at most 1. 1e-4 of the logits' size is 800 eps; without the residual it is 0.3.
    wanted = dense(IDS)
    assert (model(IDS) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_theorem_on_flat_spectra() -> None:
    """‖E − B·A‖² = (1 − r/min(N, K))·‖E‖², an equality where all singular values are alike.

    E is made flat under the mask: blocks on the diagonal with orthogonal rows, which are the half
    of W that is small; the half off the diagonal is large and stays.
    """
    rng = np.random.default_rng(0)
    for N, K in ((32, 32), (128, 192), (192, 128)):
        W = np.full((N, K), 5.0)
        for rows, columns in ((slice(0, N // 2), slice(0, K // 2)),
                              (slice(N // 2, N), slice(K // 2, K))):  # fmt: skip
            Q, _ = np.linalg.qr(rng.standard_normal((max(N, K) // 2, min(N, K) // 2)))
            W[rows, columns] = Q if N >= K else Q.T
        flat = W.astype(np.float32)
        for rank in (1, min(N, K) // 4, min(N, K)):
            made = salr.decompose_matrix(flat.copy(), density=0.5, rank=rank)
            assert np.all(made.value == 5)
            E = flat.copy()
            E.reshape(-1)[made.index] = 0
            left = np.sum((E - made.B @ made.A) ** 2, dtype=np.float64) / np.sum(np.square(E))
            # Each singular value is right to a few eps; the factor is one minus a sum of squares.
            assert left == pytest.approx(1 - rank / min(N, K), abs=16 * EPS)


def test_theorem_is_a_bound_on_other_spectra() -> None:
    rng = np.random.default_rng(0)
    for shape in ((48, 64), (160, 96)):
        W = rng.standard_normal(shape, dtype=np.float32)
        made = salr.decompose_matrix(W.copy(), density=0.5, rank=16)
        E = W.copy()
        E.reshape(-1)[made.index] = 0
        left = np.sum((E - made.B @ made.A) ** 2) / np.sum(E**2)
        # A Gaussian's spectrum falls, so the first 16 hold clearly more than the mean.
        assert left < 0.9 * (1 - 16 / min(shape))


def test_static_mask_survives_training_and_residual_learns() -> None:
    model = peft()
    made = Salr(model, density=0.5, rank=4)
    before = base_weight(model, "up"), residual(model, "up")
    optimizer = torch.optim.AdamW(made.parameter_groups(1e-2, weight_decay=0.1))
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert np.array_equal(base_weight(model, "up"), before[0])
    assert np.abs(residual(model, "up") - before[1]).max() > 1e-3


def test_parameter_groups() -> None:
    model = peft()
    made = Salr(model, density=0.5, rank=4)
    task, rest = made.parameter_groups(1e-3, residual_lr=1e-4, weight_decay=0.1)
    assert (task["lr"], task["weight_decay"]) == (1e-3, 0.1)
    assert (rest["lr"], rest["weight_decay"]) == (1e-4, 0.0)
    every = [p for p in model.parameters() if p.requires_grad]
    assert len(task["params"]) == len(rest["params"]) == len(every) / 2
    assert {id(p) for p in task["params"] + rest["params"]} == {id(p) for p in every}
    groups = made.parameter_groups(1e-3, residual_lr=1.0, factors={"up": 0.25, "down": 2.0})
    assert [g["lr"] for g in groups] == [1e-3, 0.25, 2.0]
    with pytest.raises(RequestError, match="'down'"):
        made.parameter_groups(1e-3, factors={"up": 1.0})


def test_frozen_residual() -> None:
    model = peft()
    made = Salr(model, density=0.5, rank=4, train_residual=False)
    assert made.residual_parameters() == {}
    assert len(made.parameter_groups(1e-3)) == 1
    made.activate()
    assert sorted(made.residual_parameters()) == ["down", "up"]


@pytest.mark.parametrize(("density", "rank"), [(1.0, 8), (0.5, 0), (0.0, 0)])
def test_no_residual(density: float, rank: int) -> None:
    model = peft()
    W = base_weight(model, "up")
    made = Salr(model, density=density, rank=rank)
    assert made.adapters == ["default"]
    assert made.ranks == {}
    assert np.count_nonzero(base_weight(model, "up")) == round(density * W.size)
    assert torch.isfinite(model(IDS)).all()


def test_density_0_is_a_low_rank_base() -> None:
    model = peft()
    Salr(model, density=0.0, rank=24)
    assert not base_weight(model, "up").any()
    dense = Net().up.weight.detach().numpy()
    # See test_rank_of_the_whole_residual_is_the_dense_model.
    assert np.abs(residual(model, "up") - dense).max() <= 1e-4 * np.linalg.norm(dense, 2)


def test_rank_is_that_of_the_residual() -> None:
    """Components that are zero are left out: with both factors zero they would never train."""
    net = Net()
    with torch.no_grad():
        net.up.weight.zero_()
        net.up.weight[:20] = 1.0
        net.up.weight[20:30, 3] = 0.5  # the residual at density 1/2: one column
    model = peft(net)
    made = Salr(model, density=0.5, rank=6)
    assert made.ranks == {"up": 1, "down": 6}
    assert np.allclose(residual(model, "up")[20:30, 3], 0.5, atol=1e-5)
    net = Net()
    net.up.weight.data.zero_()
    made = Salr(peft(net), density=0.5, rank=6)
    assert made.ranks == {"down": 6}


def test_bf16_base() -> None:
    model = peft(Net().to(torch.bfloat16))
    W = base_weight(model, "up")
    made = Salr(model, density=0.5, rank=24)
    masked = base_weight(model, "up")
    assert np.array_equal(masked[masked != 0], W[masked != 0])
    # PEFT keeps adapters in f32, so that the residual loses nothing to bf16.
    assert made.residual_parameters()["up"][0].dtype == torch.float32
    assert np.abs(masked + residual(model, "up") - W).max() <= 1e-4 * np.linalg.norm(W, 2)
    assert torch.isfinite(model(IDS).float()).all()


def test_include_masks_what_lora_does_not_adapt() -> None:
    model = peft(modules=["up"])
    made = Salr(model, density=0.5, rank=4, include=["down"])
    assert made.ranks == {"down": 4}
    assert np.count_nonzero(base_weight(model, "up")) == 40 * 24


def test_made_again_it_is_the_same() -> None:
    first, second = peft(), peft()
    Salr(first, density=0.5, rank=4)
    Salr(second, density=0.5, rank=4)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def nan_weight() -> Net:
    net = Net()
    net.up.weight.data[0, 0] = math.nan
    return net


def trainable() -> Any:
    model = peft()
    model.get_base_model().up.get_base_layer().weight.requires_grad_(True)
    return model


def merged() -> Any:
    model = peft()
    model.merge_adapter()
    return model


def prepared() -> Any:
    model = peft()
    Salr(model, density=0.5, rank=4)
    return model


@pytest.mark.parametrize(
    ("make", "options", "error", "says"),
    [
        (Net, {}, RequestError, "takes a PEFT model: got a Net"),
        (peft, {"density": 1.5}, RequestError, "density 1.5"),
        (peft, {"density": math.nan}, RequestError, "density nan"),
        (peft, {"rank": -1}, RequestError, "rank -1"),
        (peft, {"include": ["nothing*"]}, RequestError, "no Linear"),
        (prepared, {}, RequestError, "already"),
        (lambda: peft(use_dora=True), {}, RequestError, "DoRA"),
        (lambda: peft(bias="lora_only"), {}, RequestError, "bias"),
        (lambda: peft(init_lora_weights="pissa"), {}, RequestError, "pissa"),
        (lambda: peft(modules=["up"], modules_to_save=["conv"]), {}, RequestError, "modules_to"),
        (lambda: peft(modules=["embed"]), {}, ModelError, "'embed', a Embedding"),
        (lambda: peft(modules=["conv"]), {}, ModelError, "'conv', a Conv1d"),
        (lambda: peft(modules=["head"]), {}, ModelError, "one weight"),
        (lambda: peft(), {"include": ["head"]}, ModelError, "one weight"),
        (lambda: peft(nan_weight()), {}, ModelError, "NaN"),
        (trainable, {}, ModelError, "trainable"),
        (merged, {}, ModelError, "merged"),
        (
            lambda: get_peft_model(Net(), IA3Config(target_modules=WIDE, feedforward_modules=[])),
            {},
            RequestError,
            "IA3",
        ),
    ],
)
def test_refused_with_a_sentence(
    make: Any, options: dict[str, Any], error: type[SlcError], says: str
) -> None:
    model = make()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(error, match=says):
        Salr(model, **{"density": 0.5, "rank": 4, **options})
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b) or bool(torch.isnan(a).any())


def test_largest_square_against_svd() -> None:
    torch.manual_seed(0)
    for X in (
        torch.randn(50, 12),
        torch.randn(3, 9, 20) + 4,  # activations: one direction stands out
        torch.linalg.qr(torch.randn(40, 16))[0] * 3,  # flat
        torch.zeros(4, 5),
    ):
        rows = X.reshape(-1, X.shape[-1]).double()
        wanted = float(torch.linalg.matrix_norm(rows, 2)) ** 2
        found = largest_square(X)
        # The norms of one iteration after another rise (log-convexity), so that the last of 20 is
        # at least their geometric mean σ²·c^(1/20), c the start's share of the first direction:
        # no less than 0.001 here by far, and 0.001^(1/20) = 0.70. Never above σ² but by rounding.
        assert 0.70 * wanted <= found <= wanted * (1 + 100 * EPS)
    assert largest_square(torch.randn(3, 9, 20) + 4) > 0


def test_step_size_is_the_longest_that_falls() -> None:
    """Gradient descent on ½‖X·(R − B·A)ᵀ‖² with A of orthonormal rows: B contracts at η* alone."""
    torch.manual_seed(0)
    model = peft()
    made = Salr(model, density=0.5, rank=4)
    seen: list[torch.Tensor] = []
    up = model.get_base_model().up
    hook = up.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    sizes = step_sizes(model, made.ranks, [IDS, IDS.flip(0)], lambda ids: model(ids))
    hook.remove()
    square = max(float(torch.linalg.matrix_norm(x.reshape(-1, 24), 2)) ** 2 for x in seen)
    assert sizes["up"] == pytest.approx(1 / square, rel=0.1)  # X here has a clear first direction
    X = seen[0].reshape(-1, 24)
    A = torch.linalg.qr(torch.randn(24, 4))[0].T
    wanted = X @ torch.randn(40, 24).T

    def losses(step: float) -> list[float]:
        B = torch.zeros(40, 4)
        found = []
        for _ in range(60):
            error = X @ (B @ A).T - wanted
            found.append(float(error.square().sum()))
            B = B - step * error.T @ X @ A.T
        return found

    falling = losses(sizes["up"])
    assert all(b <= a * (1 + 100 * EPS) for a, b in itertools.pairwise(falling))
    lipschitz = float(torch.linalg.matrix_norm(X @ A.T, 2)) ** 2
    diverging = losses(2.2 / lipschitz)
    assert diverging[-1] > diverging[0]
    assert lipschitz <= square * (1 + 100 * EPS)  # so that 1/σ_max(X)² is short enough for any A


def test_relative_steps() -> None:
    factors = relative({"a": 4.0, "b": 0.25})
    assert factors == pytest.approx({"a": 2.0, "b": 0.5})
    assert relative({}) == {}


def test_step_sizes_want_batches_that_reach() -> None:
    model = peft()
    made = Salr(model, density=0.5, rank=4)
    with pytest.raises(RequestError, match="0 of 2"):
        step_sizes(model, made.ranks, [], lambda ids: model(ids))
