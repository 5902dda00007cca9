"""Predicts what a session adds to the process that loads it, line by line (design: --mem)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slc.compiler.artifact.writer import INLINE_BYTES, PAGE_BYTES
from slc.compiler.budget.activations import activation_peak
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import INT8_LEVEL, aligned
from slc.compiler.budget.folding import final_readers, folded_nodes
from slc.compiler.budget.shapes import Shape, concrete_shapes
from slc.compiler.budget.steps import graph_steps
from slc.compiler.linear import Linear
from slc.targets.target import version_tuple

if TYPE_CHECKING:
    import onnx_ir as ir

# Measured with onnxruntime 1.32, two threads: code pages that run for the first time, session and
# thread pool. Sessions of MiniLM take 11.3 MB (10.4 for a graph of one Add), within 0.1 MB from run
# to run; another machine took 0.5 more, sessions beside the test suite up to 2.8 less. Through
# onnxruntime-genai the library itself is first paged in when the model is made: 29 to 31.2 MB on
# three Llamas.
RUNTIME_BYTES = 12_700_000
GENAI_RUNTIME_BYTES = 32_300_000
# Graph, kernels and execution plan, per node: MiniLM's 288 nodes and a Llama's 500 agree on it.
NODE_BYTES = 8_000
# The arena hands out a chunk of up to twice the size rather than split it. Measured on MiniLM at
# 1x16 to 1x512 and 8x128 tokens: 3-9 %, with onnxruntime's MatMul and with our operators.
ARENA_SLACK = 1.06
# Of everything but weights: what one measurement differs from the next.
MARGIN = 0.02
DELTA_ROWS = 16  # the GEMM of delta blobs copies X into tiles of so many rows
# That of bitmaps copies X into blocks of so many columns, zero-padded to a mask word.
PACK_COLUMNS = 256
MASK_COLUMNS = 64
# What MatMulNBits keeps beside its codes, measured with AVX2 and AVX-512 at groups of 32, 64 and
# 128, on 1 to 36 matrices of 384 x 1536 to 4096 x 4096: two f32 for each group, and some pages of
# each operator. The arena holds a third f32 for each group of the matrix that is being packed.
NBITS = ("int4", "int8")
GROUP_BYTES = 8
PACKING_GROUP_BYTES = 4
PACKED_NODE_BYTES = 16_000
# The driver's and onnxruntime's own, beside the model's; not measured.
CUDA_CONTEXT_BYTES = 450_000_000
# GroupQueryAttention of 1.29 and 1.32 never holds all scores at once; 1.23.2 and 1.26.0 do.
GQA_BY_BLOCKS_ORT = "1.29"


@dataclasses.dataclass(frozen=True)
class MemoryLine:
    """One summand of the prediction.

    Attributes:
      name: what it is.
      bytes: how much of it.
      reckoned: how that was found, one clause for people.
    """

    name: str
    bytes: int
    reckoned: str


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """The arithmetic: the lines add up to the prediction."""

    lines: tuple[MemoryLine, ...]

    @property
    def total_bytes(self) -> int:
        """Predicted peak of what the session adds."""
        return sum(line.bytes for line in self.lines)

    def bytes_of(self, name: str) -> int:
        """The line called `name`; 0 if there is none."""
        return sum(line.bytes for line in self.lines if line.name == name)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the session is asked to hold.

    Attributes:
      batch: sequences at a time.
      context: tokens of each, prompt and answer.
      genai_config: of a decoder that runs in onnxruntime-genai, else None.
      ort_min: the oldest onnxruntime that may run it.
      cuda: it runs on the CUDA provider; the graph is in f16.
    """

    batch: int
    context: int
    genai_config: Mapping[str, Any] | None = None
    ort_min: str = "1.17"
    cuda: bool = False


def predict(
    model: ir.Model,
    linears: Sequence[Linear],
    choices: Sequence[Choice],
    workload: Workload,
    extra_ranks: Mapping[str, int] | None = None,
    shapes: Mapping[str, Shape] | None = None,
) -> MemoryPlan:
    """The memory of a session on `model` once each Linear is stored by its Choice.

    Args:
      model: the graph before lowering; no weight is read.
      linears: as the frontend found them.
      choices: one for each of `linears`, in that order.
      workload: batch and context.
      extra_ranks: of task adapters, by Linear name.
      shapes: of `workload_shapes`, for whoever predicts many choices of one model.
    """
    chosen = sum(choice.weight_bytes for choice in choices)
    stored = list(zip(linears, choices, strict=True))
    prepacked = sum(_resident_extra(li, ch) for li, ch in stored)
    transient = max((_load_transient(li, ch) for li, ch in stored), default=0)
    scales = max((_groups(li, ch) for li, ch in stored), default=0) * PACKING_GROUP_BYTES
    runs = run_lines(model, linears, choices, workload, extra_ranks, shapes)
    # While the session is made nothing runs and no mapped page but those it packs is touched.
    others = other_weight_bytes(model, linears, choices)
    packed = sum(
        choice.weight_bytes for linear, choice in stored if _load_transient(linear, choice)
    )
    untouched = chosen - packed + others
    spare = max(0, transient - untouched - sum(line.bytes for line in runs))
    # What the arena took to pack scales, activations lie in later.
    activations = sum(line.bytes for line in runs if line.name == "activations")
    spare = max(spare, scales - activations)
    runtime = runtime_line(model, choices, workload)
    scratch = scratch_bytes(linears, choices, workload)
    context = [CUDA_LINE] if workload.cuda else []
    beside = sum(line.bytes for line in (*runs, *context)) + runtime.bytes + scratch
    return MemoryPlan(
        (
            MemoryLine("weights of Linears", chosen, "exact bytes of the data file, all touched"),
            MemoryLine(
                "other weights",
                others,
                "exact bytes of biases, norms and tables",
            ),
            MemoryLine(
                "page ends",
                page_end_bytes(model, linears, choices, extra_ranks),
                "each tensor is mapped by itself and shares its last page with nobody",
            ),
            MemoryLine(
                "pre-packing", prepacked, "onnxruntime's own copies of 8-bit and dense weights"
            ),
            *runs,
            MemoryLine(
                "loading",
                spare,
                "the largest packed weight twice, or its scales, beside the others",
            ),
            MemoryLine("operator scratch", scratch, "the largest X that our GEMM packs"),
            runtime,
            *context,
            MemoryLine("margin", int(MARGIN * beside), "of all but weights: one run or another"),
        )
    )


CUDA_LINE = MemoryLine(
    "CUDA context", CUDA_CONTEXT_BYTES, "an allowance, not measured: 0.3 to 0.6 GB are reported"
)


def scratch_bytes(linears: Sequence[Linear], choices: Sequence[Choice], workload: Workload) -> int:
    """What BitmapSparseGemm packs X into; it keeps the blocks for its next call."""
    rows = workload.batch * workload.context
    return max(
        (
            _packed_x_bytes(rows, linear.K, choice)
            for linear, choice in zip(linears, choices, strict=True)
            if choice.packed and choice.layout != "tiles"
        ),
        default=0,
    )


def _packed_x_bytes(rows: int, K: int, choice: Choice) -> int:
    """X: [rows, K] in the order that the GEMM of this Choice wants."""
    words = -(-K // MASK_COLUMNS)
    if choice.encoding == "delta":
        return 4 * -(-rows // DELTA_ROWS) * DELTA_ROWS * words * MASK_COLUMNS
    block = PACK_COLUMNS if K > PACK_COLUMNS else MASK_COLUMNS
    columns = -(-K // block) * block
    if choice.accuracy_level == INT8_LEVEL:
        return rows * (2 * columns + 8 * words)  # q and |q|; a step and a sum for each word
    return 4 * rows * columns


def workload_shapes(model: ir.Model, workload: Workload) -> dict[str, Shape]:
    """The shape of every value of `model` in the prefill of `workload`."""
    known = _kv_cache(model, workload)[2]
    return concrete_shapes(model, workload.batch, workload.context, known)


def run_lines(
    model: ir.Model,
    linears: Sequence[Linear],
    choices: Sequence[Choice],
    workload: Workload,
    extra_ranks: Mapping[str, int] | None = None,
    shapes: Mapping[str, Shape] | None = None,
) -> list[MemoryLine]:
    """KV cache and activations."""
    cache, cache_bytes, _ = _kv_cache(model, workload)
    weights = {linear.weight for linear in linears}
    if shapes is None:
        shapes = workload_shapes(model, workload)
    by_blocks = version_tuple(workload.ort_min) >= version_tuple(GQA_BY_BLOCKS_ORT)
    run = graph_steps(
        model, shapes, linears, choices, extra_ranks, cache | weights, by_blocks=by_blocks
    )
    genai = workload.genai_config is not None
    peak = activation_peak(run, outputs_bound=genai)
    bytes_ = peak.bound_bytes + int((peak.bytes - peak.bound_bytes) * ARENA_SLACK)
    reckoned = f"buffers as onnxruntime plans them, most at {peak.label}"
    if run.unknown:
        reckoned += f"; {run.unknown} values of unknown shape are left out"
    activations = MemoryLine("activations", bytes_, reckoned)
    if genai:
        kind = "f16" if workload.cuda else "f32"
        return [
            MemoryLine(
                "KV cache", cache_bytes, f"{kind} keys and values, {workload.context} tokens"
            ),
            activations,
        ]
    # The first run of a shape is traced; the second gets one block as large as that trace.
    return [activations, MemoryLine("memory pattern", bytes_, "onnxruntime's block for reruns")]


def runtime_line(model: ir.Model, choices: Sequence[Choice], workload: Workload) -> MemoryLine:
    """What any session costs, and its graph."""
    base = RUNTIME_BYTES if workload.genai_config is None else GENAI_RUNTIME_BYTES
    nodes = len(model.graph) + 2 * sum(choice.rank > 0 for choice in choices)
    return MemoryLine("runtime", base + NODE_BYTES * nodes, "measured: session, threads, graph")


def other_weight_bytes(
    model: ir.Model, linears: Sequence[Linear], choices: Sequence[Choice]
) -> int:
    """Data-file bytes of the initializers that no Choice accounts for."""
    return sum(aligned(size) for size in _other_sizes(model, linears, choices))


def page_end_bytes(
    model: ir.Model, linears: Sequence[Linear], choices: Sequence[Choice],
    extra_ranks: Mapping[str, int] | None = None,
) -> int:  # fmt: skip
    """What mapping takes beyond the bytes that are mapped, on average a page for each tensor.

    onnxruntime maps tensors of the data file one by one: a page that two of them share is resident
    twice. Measured on MiniLM: 442 kB for 116 tensors, of which 60 are biases and norms.
    """
    extra = extra_ranks or {}
    tensors = sum(size >= INLINE_BYTES for size in _other_sizes(model, linears, choices))
    for choice in choices:
        tensors += _tensors(choice)
        apart = choice.adapter_type == "i8" or not choice.rank
        tensors += 2 if apart and extra.get(choice.linear) else 0
    return PAGE_BYTES * tensors


def _tensors(choice: Choice) -> int:
    """How many tensors of the data file a Choice becomes, without task adapters.

    Scales of an A of few rows lie in model.onnx; those of B, one for each of N rows, do not.
    """
    if choice.shared_with:
        return 0
    tensors = 2 if choice.encoding in NBITS else 1
    if choice.rank:
        tensors += 2
        if choice.adapter_type == "i8":
            tensors += 2 if 4 * choice.rank >= INLINE_BYTES else 1
    return tensors


def _other_sizes(
    model: ir.Model, linears: Sequence[Linear], choices: Sequence[Choice]
) -> Iterator[int]:
    """Bytes of each initializer that no Choice accounts for."""
    accounted: dict[str, set[str]] = {}
    for linear in linears:
        accounted.setdefault(linear.weight, set()).update(linear.nodes)
    folded = folded_nodes(model)
    for name, value in model.graph.initializers.items():
        if name in accounted and final_readers(value, folded) <= accounted[name]:
            continue
        if value.const_value is not None:
            yield value.const_value.nbytes


def resident_bytes(linear: Linear, choice: Choice) -> int:
    """What a Choice adds to a session: its pages of the data file and onnxruntime's own copies."""
    pages = PAGE_BYTES * _tensors(choice)
    return choice.weight_bytes + pages + _resident_extra(linear, choice)


def _resident_extra(linear: Linear, choice: Choice) -> int:
    """Anonymous memory that onnxruntime keeps beside the mapped file, measured.

    MatMulNBits at level 4 packs Q again, with f32 scales and sums of every group beside it; untied,
    the mapping of Q is given back. A dense MatMul's packed f32 replaces its mapping. Our operators
    read the mapping. A dense table that the graph transposes is kept both ways.
    """
    if choice.encoding == "dense" and linear.kind == "embedding" and linear.transposed:
        return linear.itemsize * linear.numel
    groups = _groups(linear, choice)
    if not groups:
        return 0
    extra = GROUP_BYTES * groups + PACKED_NODE_BYTES
    return extra + _code_bytes(choice, groups) if choice.shared_with else extra


def _load_transient(linear: Linear, choice: Choice) -> int:
    if groups := _groups(linear, choice):
        return _code_bytes(choice, groups)
    packed = linear.itemsize == 4  # on a CPU
    dense = choice.encoding == "dense" and linear.kind != "embedding"
    return 4 * linear.numel if dense and packed else 0


def _groups(linear: Linear, choice: Choice) -> int:
    """Of codes that onnxruntime packs again when it makes the session; else 0."""
    nbits = choice.encoding in NBITS and linear.kind != "embedding"
    packed = nbits and choice.accuracy_level == INT8_LEVEL
    return linear.N * -(-linear.K // choice.group) if packed else 0


def _code_bytes(choice: Choice, groups: int) -> int:
    return groups * choice.group // (1 if choice.encoding == "int8" else 2)


def _kv_cache(model: ir.Model, workload: Workload) -> tuple[frozenset[str], int, dict[str, int]]:
    """(names of its graph values, its bytes, the numbers of its symbols).

    onnxruntime-genai makes one buffer per layer of `context` tokens that the graph reads and
    appends to; without `past_present_share_buffer` past and present lie side by side.
    """
    if workload.genai_config is None:
        return frozenset(), 0, {}
    decoder = workload.genai_config["model"]["decoder"]
    layers = range(decoder["num_hidden_layers"])
    names = {
        template.replace("%d", str(layer))
        for template in (
            decoder["inputs"].get("past_key_names", ""),
            decoder["inputs"].get("past_value_names", ""),
            decoder["outputs"].get("present_key_names", ""),
            decoder["outputs"].get("present_value_names", ""),
        )
        for layer in layers
    }
    itemsize, known = 4, {}
    for value in model.graph.inputs:
        if value.name in names and value.dtype is not None and value.shape is not None:
            itemsize = value.dtype.bitwidth // 8
            numbers = (
                workload.batch, decoder["num_key_value_heads"], workload.context,
                decoder["head_size"],
            )  # fmt: skip
            for dim, number in zip(value.shape, numbers, strict=False):
                if not isinstance(dim, int) and dim.value is not None:
                    known[dim.value] = number
    shared = workload.genai_config.get("search", {}).get("past_present_share_buffer", False)
    per_token = decoder["num_key_value_heads"] * decoder["head_size"] * itemsize * 2 * len(layers)
    copies = 1 if shared else 2
    return frozenset(names), copies * workload.batch * workload.context * per_token, known
