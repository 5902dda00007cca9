"""The engines of bench_decode.py: one random Llama, and what each runtime makes of it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import gguf_llama

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Engine:
    """One way to run the model.

    Attributes:
      name: as the table shows it.
      kind: what decode_worker.py calls the runtime.
      path: of the folder or file that it loads.
      weight_bytes: of the weights alone.
      artifact_bytes: of all that it loads.
      session_rss_bytes: highest memory of the process over that before it loaded the model.
      prefill_tokens_per_s, decode_tokens_per_s: of every round.
      token_us: of every token that was decoded.
    """

    name: str
    kind: str
    path: Path
    weight_bytes: int = 0
    artifact_bytes: int = 0
    session_rss_bytes: int = 0
    prefill_tokens_per_s: list[float] = field(default_factory=list)
    decode_tokens_per_s: list[float] = field(default_factory=list)
    token_us: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        files = [p for p in (self.path, *self.path.rglob("*")) if p.is_file()]
        self.artifact_bytes = sum(p.stat().st_size for p in files)
        self.weight_bytes = sum(p.stat().st_size for p in files if p.suffix in (".data", ".gguf"))


def make(
    folder: Path, shape: dict[str, int], values: list[str], density: float, rank: int
) -> tuple[list[Engine], dict[str, dict[str, float]]]:
    """The Hugging Face folder and every engine's form of it; also what the slc exports took.

    Args:
      folder: where all of it goes; what is there already stays, but for the slc artifacts.
      shape: the flags of make_llama.
      values: value types of the slc artifacts.
      density: of their S.
      rank: of their residual adapters.
    """
    model = folder / "llama"
    if not model.exists():
        flags = [text for key, value in shape.items() for text in (f"--{key}", str(value))]
        run("-m", "examples.llm_generate.make_llama", str(model), *flags)
    engines = []
    for precision in ("fp32", "int4"):
        if not (folder / precision).exists():
            run(
                "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-p", precision,
                "-e", "cpu", "-o", str(folder / precision),
            )  # fmt: skip
        engines.append(Engine(precision, "genai", folder / precision))
    exports = {}
    for kind in values:
        out = folder / f"slc-{kind}"
        try:
            exports[kind] = export(model, out, density, rank, kind)
        except RuntimeError as error:
            print(f"slc {kind} not offered: {str(error).strip().splitlines()[-1]}")
            continue
        engines.append(Engine(f"slc {kind}", "genai", out))
    if absent := gguf_llama.missing():
        print(f"llama.cpp not offered: {' and '.join(absent)} not installed")
    else:
        for name, file in gguf_llama.make(model, folder).items():
            engines.append(Engine(f"llama.cpp {name}", "llama.cpp", file))
    return engines, exports


def export(model: Path, out: Path, density: float, rank: int, values: str) -> dict[str, float]:
    """Exports in a process of its own; seconds and the peak memory of it and of its child."""
    script = (
        "import sys, resource; from slc.compiler import export;"
        "model, out, density, rank, values = sys.argv[1:];"
        "export(model, out, density=float(density), rank=int(rank), values=values, force=True);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,"
        " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.perf_counter()
    printed = run("-c", script, str(model), str(out), str(density), str(rank), values)
    own, builder = (int(text) << 10 for text in printed.split()[-2:])
    return {
        "seconds": time.perf_counter() - start,
        "peak_rss_bytes": own,
        "builder_peak_rss_bytes": builder,
    }


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
