"""The process in which a session's memory is measured, started by `measure.measure_session`.

It imports what an application imports before it makes a session and counts what the session adds.
Prints one JSON document.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# numpy imports its random numbers at their first use: 7 MB that are not the session's.
RANDOM = np.random.default_rng(0)
# After the prefill, so that what a decode step allocates beside it is seen as well.
DECODE_STEPS = 4

Array = npt.NDArray[Any]


class PeakRss:
    """The most memory that was resident at once since the object was made.

    Linux's own high-water mark where it can be reset, else a thread that samples every 5 ms.
    """

    def __init__(self) -> None:
        """Starts counting."""
        self.before_bytes = status_bytes("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.method = "VmHWM"
        except OSError:
            self.method = "sampled every 5 ms"
            self._sampled = self.before_bytes
            threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self._sampled = max(self._sampled, status_bytes("VmRSS"))
            time.sleep(0.005)

    def bytes(self) -> int:
        """Peak since the start, in bytes."""
        now = status_bytes("VmRSS")
        return max(now, status_bytes("VmHWM") if self.method == "VmHWM" else self._sampled)


def status_bytes(field: str) -> int:
    """A size of /proc/self/status, which states kibibytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:", 1)[1].split()[0]) * 1024


def resident_by_kind(data: Path) -> dict[str, int]:
    """Bytes that are resident now: of the weights' file, of other files (code), of no file."""
    found = {"weights": 0, "code": 0, "anonymous": 0}
    kind, weights = "anonymous", str(data.resolve())
    # Line by line: what is read whole and freed again the session would take, uncounted.
    with open("/proc/self/smaps", encoding="utf-8") as mappings:
        for line in mappings:
            fields = line.split(maxsplit=5)
            if "-" in fields[0]:  # an address range opens a mapping, names of fields have none
                path = fields[5].rstrip("\n") if len(fields) > 5 else ""
                kind = "code" if path.startswith("/") else "anonymous"
                kind = "weights" if path == weights else kind
            elif fields[0] == "Rss:":
                found[kind] += int(fields[1]) * 1024
    return found


def added_since(before: dict[str, int], data: Path) -> dict[str, int]:
    """What is resident now and was not in an earlier `resident_by_kind`; never below 0.

    Pages of files that the kernel took back meanwhile are no gain of the session's.
    """
    now = resident_by_kind(data)
    return {kind: max(0, size - before[kind]) for kind, size in now.items()}


def touch_mappings(path: Path) -> int:
    """Reads one byte of every page of `path` that this process has mapped; returns the bytes.

    What is mapped and never read costs nothing yet, but it will as soon as a request needs it.
    """
    touched = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[5] != str(path.resolve()) or "r" not in fields[1]:
            continue
        start, end = (int(address, 16) for address in fields[0].split("-"))
        pages = np.ctypeslib.as_array((ctypes.c_uint8 * (end - start)).from_address(start))
        int(pages[::4096].sum(dtype=np.int64))
        touched += end - start
    return touched


def _feed(kind: str, shape: list[int], name: str) -> Array:
    """An input of the declared type: ones for masks, small ids, else seeded random numbers."""
    if kind == "tensor(bool)":
        return np.ones(shape, dtype=np.bool_)
    integer = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(kind)
    if integer is not None:
        return np.full(shape, 0 if "type" in name else 1, dtype=integer)
    real = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(kind, np.float32)
    return RANDOM.standard_normal(shape, dtype=np.float32).astype(real)


def _dimensions(declared: list[Any], batch: int, length: int) -> list[int]:
    """Fixed dimensions as they are; of the open ones the first is the batch, others the length."""
    shape, first = [], True
    for dim in declared:
        if isinstance(dim, int):
            shape.append(dim)
        else:
            shape.append(batch if first else length)
            first = False
    return shape


def run_onnx(model: Path, library: str | None, batch: int, context: int) -> dict[str, Any]:
    """One run of any graph on inputs of its declared shapes."""
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    if library:
        options.register_custom_ops_library(library)
    gc.collect()
    data = model.with_name(model.name + ".data")
    before = resident_by_kind(data)
    peak = PeakRss()
    start = time.perf_counter()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    load_seconds = time.perf_counter() - start
    touched = touch_mappings(data)
    feeds = {
        value.name: _feed(value.type, _dimensions(value.shape, batch, context), value.name)
        for value in session.get_inputs()
    }
    # Twice: onnxruntime plans its memory by what it saw in the first run of a shape.
    for _ in range(2):
        session.run(None, feeds)
    return _result(peak, load_seconds, touched, added_since(before, data), "onnxruntime")


def run_genai(folder: Path, batch: int, context: int) -> dict[str, Any]:
    """A prefill and a few decode steps of a genai model folder, `context` tokens in all."""
    import onnxruntime_genai as og

    config = json.loads((folder / "genai_config.json").read_text())["model"]
    total = min(context, config["context_length"])
    length = max(1, total - DECODE_STEPS)
    gc.collect()
    onnx = folder / config["decoder"]["filename"]
    data = onnx.with_name(onnx.name + ".data")
    before = resident_by_kind(data)
    peak = PeakRss()
    start = time.perf_counter()
    model = og.Model(str(folder))
    load_seconds = time.perf_counter() - start
    touched = touch_mappings(data)
    parameters = og.GeneratorParams(model)
    # min_length: a random prompt may end early, and then nothing would be decoded.
    parameters.set_search_options(max_length=total, min_length=total, batch_size=batch)
    generator = og.Generator(model, parameters)
    # Rows of a batch are equal: what they hold does not change what they cost.
    row = RANDOM.integers(2, config["vocab_size"], length)
    generator.append_tokens(np.tile(row.astype(np.int32), (batch, 1)))
    for _ in range(total - length):
        generator.generate_next_token()
    return _result(peak, load_seconds, touched, added_since(before, data), "onnxruntime-genai")


def _result(
    peak: PeakRss, load_seconds: float, touched: int, added: dict[str, int], engine: str
) -> dict[str, Any]:
    return {
        "peak_bytes": peak.bytes() - peak.before_bytes,
        "before_bytes": peak.before_bytes,
        "load_seconds": load_seconds,
        "touched_bytes": touched,
        "added_bytes": added,
        "engine": engine,
        "method": peak.method,
    }


def main() -> None:
    """Reads the command line, measures, prints JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--library", default=None)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--genai", action="store_true")
    given = parser.parse_args()
    if given.genai:
        result = run_genai(given.model.parent, given.batch, given.context)
    else:
        result = run_onnx(given.model, given.library, given.batch, given.context)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
