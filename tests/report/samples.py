"""A made-up artifact of any depth: its manifest, what was measured of it, a frontier around it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from slc.compiler.budget.alternatives import Alternative
from slc.compiler.budget.frontier import Point

PLACES = {
    "attn.q_proj": (2048, 2048), "attn.k_proj": (512, 2048), "attn.v_proj": (512, 2048),
    "attn.o_proj": (2048, 2048), "mlp.gate_proj": (5632, 2048), "mlp.up_proj": (5632, 2048),
    "mlp.down_proj": (2048, 5632),
}  # fmt: skip
WAYS = (
    ("bitmap", "f16", 0.5, 32, 11.0), ("bitmap", "i8", 0.4, 16, 6.2), ("int8", "i8", 1.0, 0, 8.25),
    ("int4", "i4", 1.0, 0, 4.5), ("int4", "i4", 1.0, 16, 5.0), ("delta", "i8", 0.06, 32, 2.4),
)  # fmt: skip
REASON = "no option of S + L is smaller than f32 at <this> size"


def linear(name: str, n: int, k: int, way: int, error: float) -> dict[str, Any]:
    encoding, values, density, rank, bits = WAYS[way % len(WAYS)]
    choice = {
        "encoding": encoding, "value_type": values, "density": density, "rank": rank,
        "nnz": int(density * n * k), "group": 64, "accuracy_level": 1 if values == "f16" else 4,
        "weight_bytes": int(bits * n * k / 8), "reason": None, "layout": "rows",
        "adapter_type": "f16", "shared_with": None, "error": error, "us": bits * n * k / 6e5,
    }  # fmt: skip
    return {"name": name, "N": n, "K": k, "kind": "linear", "choice": choice}


def manifest(layers: int = 12, budget: int | None = None) -> dict[str, Any]:
    """As `slc export` writes it, for a decoder of `layers` layers."""
    rng = np.random.default_rng(layers)
    linears = [
        linear(f"model.layers.{i}.{place}", n, k, int(rng.integers(6)), float(rng.lognormal(-9)))
        for i in range(layers)
        for place, (n, k) in PLACES.items()
    ]
    dense = linear("model.layers.0.mlp.router", 64, 2048, 0, 0.0)
    dense["choice"] |= {
        "encoding": "dense", "value_type": "f32", "density": 1.0, "rank": 0, "reason": REASON,
        "weight_bytes": 64 * 2048 * 4,
    }  # fmt: skip
    linears.append(dense)
    weights = sum(one["choice"]["weight_bytes"] for one in linears)
    sizes = {
        "weights of Linears": weights, "other weights": 3_100_000, "pre-packing": 61_000_000,
        "KV cache": 192_000_000, "activations": 48_000_000, "memory pattern": 48_000_000,
        "loading": 0, "operator scratch": 9_000_000, "runtime": 23_000_000, "margin": 7_600_000,
    }  # fmt: skip
    digest = hashlib.sha256(b"").hexdigest()
    return {
        "schema_version": 1,
        "versions": {"slc": "0.1.0", "onnx": "1.23.2", "onnx_ir": "1.1.0", "onnxruntime": "1.32.0"},
        "source": {"kind": "decoder", "name": "tiny<llama>", "sha256": digest},
        "device": {
            "name": "raspberry-pi-5", "platform": "linux-aarch64", "ort_min": "1.23",
            "description": "Raspberry Pi 5, 8 GB", "isa": ["neon", "dotprod", "fp16"],
        },
        "provider": "cpu",
        "options": {"context": 2048, "batch": 1, "mem": "1.2GB", "method": "hessian",
                    "calibrate": "texts.txt", "accuracy_level": 1, "density": None, "rank": None},
        "memory": {
            "budget_bytes": budget,
            "predicted_bytes": sum(sizes.values()),
            "lines": [{"what": what, "bytes": size} for what, size in sizes.items()],
        },
        "predicted": {"us_per_token": 118_000.0, "context": 1024},
        "linears": linears,
        "refusals": [{"name": f"norm.{i}", "reason": "a vector is no Linear"} for i in range(5)],
        "op_library": {"file": "libslc_ops.so", "sha256": digest, "note": None},
        "adapters": {"static": ["task"], "slots": 1, "sources": {}},
        "files": {"model.onnx": {"bytes": 4096, "sha256": digest},
                  "model.onnx.data": {"bytes": weights, "sha256": digest}},
    }  # fmt: skip


def measured(about: dict[str, Any]) -> dict[str, Any]:
    """What `slc verify --reference` and `slc bench` leave of such an artifact."""
    rng = np.random.default_rng(0)
    size = int(0.985 * about["memory"]["predicted_bytes"])
    names = [one["name"] for one in about["linears"]]
    drift = np.sort(rng.lognormal(-3, 0.5, len(names)))
    verify = {
        "artifact": "out", "passed": True, "checksum_problems": [],
        "machine": {"description": "Cortex-A76, 4 cores", "onnxruntime": "1.32.0"},
        "outputs": [
            {"output": name, "probe": "batch 1, length 5", "max_error": 2e-7, "mean_error": 2e-8,
             "max_tolerance": 1e-5, "mean_tolerance": 2e-6, "passed": True}
            for name in ("logits", "present.0.key")
        ],
        "linears": [
            {"node": f"/{name}/MatMul", "op": "BitmapSparseGemm", "max_error": 1e-6, "cell": [0, 1],
             "got": 1.0, "wanted": 1.0, "bound": 1e-5, "used": float(rng.random() / 5),
             "passed": True, "accuracy_level": 1}
            for name in names
        ],
        "tokens": {"prompt": [1], "tokens": [2] * 64, "dense_tokens": [2] * 64, "equal": 64,
                   "tie_margin": None, "passed": True},
        "original_tokens": {"tokens": [2] * 64, "agreed": 61, "equal": 17},
        "distances": [
            {"against": "original", "output": "logits", "probe": "batch 1, length 5",
             "max_error": 0.41, "mean_error": 0.05, "cosine": 0.9921,
             "relative_squared_error": 0.015}
        ],
        "linear_distances": [
            {"linear": name, "relative_error": float(d), "cosine": float(1 - d * d / 2)}
            for name, d in zip(names, drift, strict=True)
        ],
        "memory": {"measured_bytes": size, "passed": True,
                   "predicted_bytes": about["memory"]["predicted_bytes"],
                   "budget_bytes": about["memory"]["budget_bytes"]},
    }  # fmt: skip
    times = np.concatenate([rng.normal(115, 2, 300), rng.normal(124, 3, 80), [180.0, 260.0]])
    latency = {"decode": {"samples_ms": times.tolist()}, "run": {"p50_ms": 900.0, "p99_ms": 950.0}}
    return {"verify": verify, "latency": latency}


def frontier(about: dict[str, Any]) -> list[Point]:
    """Twelve budgets around the artifact."""
    total = about["memory"]["predicted_bytes"]
    points = []
    for i, part in enumerate(np.linspace(0.6, 1.6, 12)):
        size = int(total * part)
        error = 0.02 * float(np.exp(-5 * (part - 1)))

        def other(name: str, factor: float, least: float, at: float = part) -> Alternative:
            own, fits = 0.02 * factor * float(np.exp(-5 * (at - 1))), bool(at > least)
            return Alternative(name, "all alike", int(total * at * 0.99), 1, own, fits, ())

        others = (
            other("uniform", 3.0, 0.7), other("hpa", 2.2, 0.75), other("dense_int8", 0.9, 1.3),
            other("dense_int4", 1.6, 0.8),
        )  # fmt: skip
        points.append(
            Point(size + 5_000_000, size, size // 2, error, 5.0 + i, {"int4": 40, "delta": 2},
                  others)
        )  # fmt: skip
    return points
