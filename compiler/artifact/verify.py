"""Holds an artifact against its hashes, its decoded weights, its original and its memory budget.

In order, each on its own and each named when it fails:
  1. every file has the sha256 of the manifest and of the bill of materials (`checksums.py`);
  2. the outputs equal those of the same decoded weights run densely, within `tolerance.py`;
  3. each operator of ours equals f64 on its own inputs, within `linear_check.py`'s bound;
  4. a decoder's greedy tokens equal the dense graph's;
  5. how far outputs, every Linear and greedy tokens are from the original model's (reported:
     compression moves them);
  6. the session's measured memory is within the budget of the manifest.
Outputs and tokens are held at accuracy_level 1. A graph of level 4 rounds activations to int8, and
how far that moves its outputs is reported beside them; its operators are held in step 3 at level 4
as well, on activations rounded alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import threadpoolctl

from slc.compiler.artifact import sessions
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.checksums import verify_checksums
from slc.compiler.artifact.dense import UNIT_ROUNDOFF, dense_reference
from slc.compiler.artifact.distances import distances, run_probe
from slc.compiler.artifact.greedy import Generated, KvLoop, compare_tokens, token_distance
from slc.compiler.artifact.linear_check import (
    LinearCheck,
    check_node,
    level_of,
    our_nodes,
    values_to_expose,
)
from slc.compiler.artifact.manifest import LIBRARY_FILE
from slc.compiler.artifact.measured import this_machine
from slc.compiler.artifact.memory_check import measure_memory
from slc.compiler.artifact.original import compare_to_original
from slc.compiler.artifact.probes import Probe, make_probes, prompt
from slc.compiler.artifact.report import VerifyReport
from slc.compiler.artifact.tolerance import SEEDS, OutputCheck, check_output
from slc.compiler.budget.encodings import INT8_LEVEL
from slc.compiler.errors import ArtifactError
from slc.compiler.progress import Progress

GREEDY_STEPS = 64
GENAI_FILE = "genai_config.json"


def verify(
    artifact_path: Path | str,
    *,
    reference: Path | str | None = None,
    checksums_only: bool = False,
    inputs: Mapping[str, Any] | None = None,
    memory: bool = True,
    progress: Progress | None = None,
) -> VerifyReport:
    """Verifies the artifact at `artifact_path`.

    Args:
      artifact_path: what `slc export` wrote.
      reference: the original model, anything `slc export` takes; adds the distances to it.
      checksums_only: stop after the hashes; needs no onnxruntime.
      inputs: arrays by input name to run instead of the built-in probes.
      memory: also measure the session in a process of its own.
      progress: called as progress(done, total, what), of the checksums in bytes.

    Raises:
      ArtifactError: the artifact can't be opened or run here.
      ModelError: `reference` can't be read, or is another model.
    """
    report = verify_checksums(artifact_path, progress)
    if checksums_only:
        return report
    artifact = Artifact.open(artifact_path)
    decoder = (artifact.path / GENAI_FILE).is_file()
    step = _Steps(3 + len(SEEDS) + decoder + (reference is not None) + memory, progress)
    run_files = ("model.onnx", GENAI_FILE, artifact.manifest["op_library"]["file"] or LIBRARY_FILE)
    if any(problem.startswith(run_files) for problem in report.checksum_problems):
        return report  # numbers of what is not what was exported say nothing
    report.machine = this_machine()
    run = _Run(artifact, inputs)
    run.check_numerics(report, step)
    step("each operator against f64")
    report.linears = run.check_linears()
    if reference is not None:
        step("original model")
        run.compare_to(Path(reference), report)
    if memory:
        step("memory")
        report.memory = measure_memory(artifact)
    return report


class _Steps:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, what)
        self._done += 1


class _Run:
    """The artifact's graph and what it is run with."""

    def __init__(self, artifact: Artifact, inputs: Mapping[str, Any] | None) -> None:
        self._artifact = artifact
        self._model = artifact.model()
        self._level_changed = sessions.at_fp32_activations(self._model)
        self._genai = _read_genai(artifact.path)
        if inputs is None:
            self._probes = make_probes(self._model, self._genai)
        else:
            feeds = {name: np.asarray(value) for name, value in inputs.items()}
            self._probes = [Probe("given inputs", feeds)]
        self._outputs: list[sessions.Outputs] = []

    def _session(self, model: ir.Model) -> Any:
        artifact = self._artifact
        options = artifact.session_options(sessions.quiet_options())
        return sessions.session_in_place(model, artifact.path, options, artifact.providers())

    def _shipped_session(self) -> Any:
        return self._artifact.session(sess_options=sessions.quiet_options())

    def check_numerics(self, report: VerifyReport, step: _Steps) -> None:
        """Steps 2 and 4 of the module's list."""
        step("artifact's outputs")
        changed = self._level_changed
        session = self._session(self._model) if changed else self._shipped_session()
        self._outputs = [run_probe(session, probe) for probe in self._probes]
        if changed:
            shipped = self._shipped_session()
            report.distances += distances("as shipped", self._probes, self._outputs, shipped)
        step("the same weights densely")
        wanted, dense = self._run_densely()  # one dense copy in memory at a time
        perturbed = [self._perturbed(seed, step) for seed in SEEDS]
        report.outputs = self._compare(wanted, perturbed)
        if self._genai is not None:
            logits = self._genai["model"]["decoder"]["outputs"]["logits"]
            rounding = max(c.max_tolerance for c in report.outputs if c.output == logits)
            start = prompt(self._model, self._genai)
            step("greedy tokens")
            report.tokens = compare_tokens(start, self._generate(session), dense, rounding)

    def _run_densely(self) -> tuple[list[sessions.Outputs], Generated]:
        with sessions.written_session(dense_reference(self._model)) as session:
            return [run_probe(session, probe) for probe in self._probes], self._generate(session)

    def _generate(self, session: Any, forced: Sequence[int] = ()) -> Generated:
        if self._genai is None:
            return [], []
        loop = KvLoop(session, self._model, self._genai)
        start, steps = prompt(self._model, self._genai), _greedy_steps(self._genai)
        return loop.generate(start, steps, forced)

    def _perturbed(self, seed: int, step: _Steps) -> list[sessions.Outputs]:
        step(f"what rounding may do ({seed} of {len(SEEDS)})")
        moved = dense_reference(self._model, perturb=UNIT_ROUNDOFF, seed=seed)
        with sessions.written_session(moved) as session:
            return [run_probe(session, probe) for probe in self._probes]

    def _compare(
        self, wanted: list[sessions.Outputs], perturbed: list[list[sessions.Outputs]]
    ) -> list[OutputCheck]:
        return [
            check_output(
                name,
                probe.name,
                self._outputs[i][name],
                wanted[i][name],
                [outputs[i][name] for outputs in perturbed],
            )
            for i, probe in enumerate(self._probes)
            for name in wanted[i]
        ]

    def check_linears(self) -> list[LinearCheck]:
        """Step 3, at level 1 and, where the artifact has such operators, at level 4."""
        checks = self._check_nodes(self._model, our_nodes(self._model))
        if self._level_changed:
            shipped = self._artifact.model()
            rounding = [node for node in our_nodes(shipped) if level_of(node) == INT8_LEVEL]
            checks += self._check_nodes(shipped, rounding)
        return checks

    def _check_nodes(self, model: ir.Model, chosen: Sequence[ir.Node]) -> list[LinearCheck]:
        """The values between our nodes are made outputs of the graph, for one probe."""
        exposed, names = model.clone(), {node.name for node in chosen}
        nodes = [node for node in our_nodes(exposed) if node.name in names]
        if not nodes:
            return []
        values = [value for node in nodes for value in values_to_expose(node)]
        sessions.expose(exposed, values)
        probe = self._probes[min(1, len(self._probes) - 1)]
        got = {**probe.feeds, **run_probe(self._session(exposed), probe)}
        with threadpoolctl.threadpool_limits(1):  # the products are thin: threads only wait
            return [check_node(node, got) for node in nodes]

    def compare_to(self, path: Path, report: VerifyReport) -> None:
        """Step 5."""
        original = compare_to_original(
            path, self._artifact.model(), self._probes, self._outputs, self._session,
            lambda session: self._generate(session)[0],
        )  # fmt: skip
        report.distances += original.outputs
        report.linear_distances = original.linears
        if original.tokens:
            chosen, _ = self._generate(self._shipped_session(), original.tokens)
            report.original_tokens = token_distance(original.tokens, chosen)


def _read_genai(folder: Path) -> dict[str, Any] | None:
    path = folder / GENAI_FILE
    if not path.is_file():
        return None
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} can't be read ({error}); export the model again.") from error
    return config


def _greedy_steps(genai_config: Mapping[str, Any]) -> int:
    """As many as the context leaves beside the prompt, at most GREEDY_STEPS."""
    context: int = genai_config["model"].get("context_length", 1 << 30)
    return max(1, min(GREEDY_STEPS, context - 16))
