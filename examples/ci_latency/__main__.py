"""Latency as a test: builds artifacts as two commits would, and runs pytest on them.

    python -m examples.ci_latency [-o DIR]

`base/` is what the main branch gives. In `head/`, `equal` is the same again; `slower` has the same
weights, but somebody left activations in float32 (`accuracy_level=1`); `hurried` is equal too, and
its test allows too little time to find out. So the three tests of `test_latency.py` end in the
three ways there are: passed, failed, inconclusive.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slc.compiler import export

LAYERS, WIDTH = 8, 512
FOLDER = Path(__file__).parent


def make_model(path: Path, width: int = WIDTH, layers: int = LAYERS) -> Path:
    """An ONNX file: x [batch, width] through MatMuls and Relus named layer0, layer1, …."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        weight = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"layer{i}.weight"))
        before, after = f"x{i}" if i else "x", f"x{i + 1}" if i + 1 < layers else "y"
        nodes.append(helper.make_node("MatMul", [before, f"layer{i}.weight"], [f"h{i}"]))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [after]))
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy"
    )
    graph = helper.make_graph(nodes, "layers", [x], [y], weights)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def build(folder: Path) -> None:
    """folder/base/{equal,slower,hurried} and folder/head/ with the same names."""
    base, head = folder / "base", folder / "head"
    base.mkdir(parents=True, exist_ok=True)
    head.mkdir(exist_ok=True)
    model = make_model(folder / "layers.onnx")
    shared = {"density": 0.5, "rank": 8, "values": "i4", "force": True}
    export(model, base / "equal", **shared)
    export(model, head / "slower", **shared, accuracy_level=1)
    for copy in (base / "slower", base / "hurried", head / "equal", head / "hurried"):
        shutil.copytree(base / "equal", copy, dirs_exist_ok=True)


def main() -> None:
    """Builds, then shows what pytest says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("ci_latency_out"))
    out = parser.parse_args().out
    build(out)
    command = [sys.executable, "-m", "pytest", "-v", str(FOLDER / "test_latency.py")]
    command += ["--slc-base", str(out / "base"), "--slc-artifacts", str(out / "head")]
    print("$", " ".join(command), flush=True)
    status = subprocess.run(command, check=False).returncode
    print(f"pytest ended with {status}: 1, because the slower artifact fails its test")


if __name__ == "__main__":
    main()
