"""Modules from Python: ragged shapes, shared weights, sources by the state_dict's content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from slc.compiler.errors import ModelError
from slc.compiler.frontends import load_torch, weight_array


def test_mlp(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    middle = torch.nn.Linear(200, 200)
    module = torch.nn.Sequential(
        torch.nn.Linear(73, 200), torch.nn.ReLU(), middle, torch.nn.ReLU(), middle,
        torch.nn.Linear(200, 1, bias=False),
    )  # fmt: skip
    module.train()
    source = load_torch(
        module,
        torch.zeros(2, 73),
        workdir=tmp_path,
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        input_names=["x"],
        output_names=["y"],
    )
    assert module.training
    assert source.kind == "torch"
    assert [(n.N, n.K, len(n.nodes)) for n in source.linears] == [(200, 73, 1), (200, 200, 2)]
    assert source.linears[0].name == "0"
    assert source.linears[1].name in ("2", "4")  # one module under two names
    assert [r.reason for r in source.refusals] == ["is under 1 KB: nothing to gain"]
    for linear in source.linears:
        wanted = module.state_dict()[linear.name + ".weight"].numpy()
        np.testing.assert_array_equal(weight_array(source, linear), wanted)
    x = np.random.default_rng(0).standard_normal((5, 73)).astype(np.float32)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(x)).numpy()
    # Four layers, sums of at most 200 terms, values below 2: 4·200·2⁻²⁴ = 5e-5.
    np.testing.assert_allclose(session.run(["y"], {"x": x})[0], wanted, atol=5e-5, rtol=0)


def test_a_module_that_torch_cant_export(tmp_path: Path) -> None:
    import torch

    class Stubborn(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(ModelError, match="can't export the module Stubborn") as caught:
        load_torch(Stubborn(), torch.ones(2, 3), workdir=tmp_path)
    assert "\n" not in str(caught.value)


def test_nan(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Linear(30, 30)
    module.weight.data[3, 4] = torch.nan
    with pytest.raises(ModelError, match="parameter 'weight' of Linear holds NaN"):
        load_torch(module, torch.zeros(2, 30), workdir=tmp_path)
