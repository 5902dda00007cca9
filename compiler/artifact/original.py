"""An artifact against the model that it was made from: its outputs, and every Linear's own output.

Reported, not checked: compression moves them. A Linear's distance holds what the Linears before it
moved as well, so the first that is far off is where to look. It is that of the artifact as shipped,
its activations in int8 where it has them so.

Which values belong together follows from the passes' promise that a new node takes the old one's
name (lower_linear.py, rule 5): behind it stand NAME/ConcatAdapterUp and NAME/bias where there are
an adapter and a bias that could not be fused.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from slc.compiler.artifact import sessions
from slc.compiler.artifact.distances import cosine, distances, relative_error, run_probe
from slc.compiler.artifact.probes import Probe
from slc.compiler.artifact.report import Distance, LinearDistance
from slc.compiler.errors import ModelError, PostconditionError
from slc.compiler.passes.last_logits import LastLogits, gives_last_logits
from slc.compiler.passes.lowering import nodes_by_name

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source

_BEHIND = ("/bias", "/ConcatAdapterUp", "", "/typed", "/reshaped")  # the last node of a Linear


@dataclasses.dataclass(frozen=True)
class Original:
    """What the original model gave.

    Attributes:
      outputs: distances of the outputs, under every probe.
      linears: distances of the Linears, under one.
      tokens: its greedy ones; none of what is no decoder.
    """

    outputs: list[Distance]
    linears: list[LinearDistance]
    tokens: list[int]


def compare_to_original(
    path: Path,
    shipped: ir.Model,
    probes: Sequence[Probe],
    outputs: Sequence[sessions.Outputs],
    open_session: Callable[[ir.Model], Any],
    generate: Callable[[Any], list[int]],
) -> Original:
    """Loads the original by the frontends and runs it on the same probes.

    Args:
      path: the original model, anything `slc export` takes.
      shipped: the artifact's graph.
      probes: inputs.
      outputs: the artifact's on each probe.
      open_session: over a changed copy of `shipped`.
      generate: greedy tokens of a session over a decoder; none of another one.

    Raises:
      ModelError: `path` can't be read, or is another model.
    """
    from slc.compiler import frontends

    with tempfile.TemporaryDirectory(prefix="slc-verify-") as workdir:
        source = frontends.load(path, workdir=Path(workdir))
        if gives_last_logits(shipped):
            LastLogits()(source.graph)
        try:
            with sessions.written_session(source.graph) as session:
                _must_take_the_same(session, shipped, path)
                found = distances("original", probes, outputs, session)
                tokens = generate(session) if found else []
            moved = _linears(source, shipped, probes[min(1, len(probes) - 1)], open_session)
        except (ModelError, PostconditionError):
            raise
        except Exception as error:  # onnxruntime's own classes derive from Exception directly
            raise ModelError(
                f"The reference {path} can't be run on the artifact's inputs ({error}); "
                "give the model that the artifact was made from."
            ) from error
    if not found and any(array.size for ours in outputs for array in ours.values()):
        raise ModelError(
            f"The reference {path} is another model: no output has the name and the shape "
            "of one of the artifact's; give the model that the artifact was made from."
        )
    return Original(found, moved, tokens)


def _must_take_the_same(session: Any, shipped: ir.Model, path: Path) -> None:
    ours = {str(v.name) for v in shipped.graph.inputs if not v.is_initializer()}
    theirs = {value.name for value in session.get_inputs()}
    if ours != theirs:
        raise ModelError(
            f"The reference {path} is another model: it takes the inputs {sorted(theirs)} "
            f"and the artifact {sorted(ours)}; give the model that the artifact was made from."
        )


def _linears(
    source: Source, shipped: ir.Model, probe: Probe, open_session: Callable[[ir.Model], Any]
) -> list[LinearDistance]:
    """One distance for each Linear whose output is a value of both graphs."""
    ours, theirs = shipped.clone(), source.graph.clone()
    pairs = list(_pairs(source, ours, theirs))
    sessions.expose(ours, [value for _, value, _ in pairs])
    sessions.expose(theirs, [value for _, _, value in pairs])
    got = run_probe(open_session(ours), probe)
    with sessions.written_session(theirs) as session:
        wanted = run_probe(session, probe)
    found = []
    for name, our_value, their_value in pairs:
        a, b = got[str(our_value.name)], wanted[str(their_value.name)]
        if a.shape == b.shape:
            found.append(LinearDistance(name, relative_error(a, b), cosine(a, b)))
    return found


def _pairs(
    source: Source, ours: ir.Model, theirs: ir.Model
) -> Iterator[tuple[str, ir.Value, ir.Value]]:
    """(Linear, its output in the artifact, in the original), of the first node that reads it."""
    our_nodes, their_nodes = nodes_by_name(ours), nodes_by_name(theirs)
    for linear in source.linears:
        name = linear.nodes[0]
        last = next((our_nodes[name + b] for b in _BEHIND if name + b in our_nodes), None)
        if last is None or name not in their_nodes:
            continue
        theirs_value: ir.Value | None = their_nodes[name].outputs[0]
        base = our_nodes.get(name)
        fused = base is not None and base.op_type == "BitmapSparseGemm" and len(base.inputs) > 2
        if fused and their_nodes[name].op_type == "MatMul":
            theirs_value = _behind_bias(their_nodes[name])
        if theirs_value is None:
            continue
        weight = theirs.graph.initializers.get(linear.weight)
        for value in (last.outputs[0], theirs_value):
            if value.type is None and weight is not None:  # an ONNX file without value_info
                value.type = weight.type
        yield linear.name, last.outputs[0], theirs_value


def _behind_bias(node: ir.Node) -> ir.Value | None:
    """The output of the one Add that reads a MatMul."""
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0].outputs[0] if len(readers) == 1 and readers[0].op_type == "Add" else None
