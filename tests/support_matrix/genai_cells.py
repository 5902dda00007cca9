"""Cells of onnxruntime-genai × onnxruntime: greedy tokens against a plain session's here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from moved_inputs import rounding, scaled_session
from support_matrix.cells import ADAPTER_FILE, FAILS, REFUSED, RUNS, TOO_STRICT, WRONG, Cell
from support_matrix.kinds import PROMPT, write_adapter
from support_matrix.releases import Runtime

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.greedy import Generated, KvLoop, compare_tokens
from slc.compiler.artifact.sessions import quiet_options
from slc.compiler.artifact.this_machine import genai_problems
from slc.compiler.artifact.tolerance import FACTOR, FLOOR, SEEDS
from slc.compiler.passes.last_logits import gives_last_logits
from slc.targets.target import version_tuple

RUN_GENAI = Path(__file__).with_name("run_genai.py")
STEPS = 12


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What a plain session generates here, and how far rounding may move a logit."""

    generated: Generated
    rounding: float
    last_logits: bool


class _WithMatrices:
    """A session whose slots are given an adapter's matrices, which are inputs like others."""

    def __init__(self, session: Any, matrices: Mapping[str, np.ndarray]) -> None:
        self._session, self._matrices = session, matrices
        self.get_outputs = session.get_outputs

    def run(self, names: list[str], inputs: Mapping[str, np.ndarray]) -> Any:
        return self._session.run(names, {**inputs, **self._matrices})


def tokens_here(folder: Path) -> Tokens:
    """Of an artifact, with its adapter active if it has one."""
    artifact = Artifact.open(folder)
    model, config = artifact.model(), json.loads((folder / "genai_config.json").read_text())
    own = artifact.session(sess_options=quiet_options())
    has_adapter = (folder / ADAPTER_FILE).exists()
    matrices = write_adapter(own, folder / ADAPTER_FILE) if has_adapter else {}
    wanted, logits = _generate(_WithMatrices(own, matrices), model, config)
    far = 0.0
    for seed in SEEDS:
        session = _WithMatrices(scaled_session(folder, rounding(seed)), matrices)
        moved = _generate(session, model, config, forced=wanted)[1]
        far = max(far, float(np.abs(np.array(moved) - np.array(logits)).max()))
    allowed = FACTOR * far + FLOOR * float(np.abs(logits).max())
    return Tokens((wanted, logits), allowed, gives_last_logits(model))


def _generate(
    session: Any, model: Any, config: Mapping[str, Any], forced: list[int] | None = None
) -> Generated:
    return KvLoop(session, model, config).generate(PROMPT, STEPS, forced or ())


def run_genai(
    runtime: Runtime, folders: Mapping[str, Path], here: Mapping[str, Tokens], scratch: Path
) -> dict[str, Cell]:
    """Generates from every folder in one process there; what a crash left undone fails."""
    jobs = [
        {
            "folder": str(folder),
            "adapter": str(folder / ADAPTER_FILE) if (folder / ADAPTER_FILE).exists() else "",
            "prompt": PROMPT,
            "length": len(PROMPT) + STEPS,
        }
        for folder in folders.values()
    ]
    asked = scratch / "jobs.json"
    asked.write_text(json.dumps(jobs))
    done = runtime.run(RUN_GENAI, asked)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = done.stderr.strip().splitlines()[-1:] or [""]
    crashed = {"error": f"ended with return code {done.returncode}: {said[0]}"}
    lines += [crashed] * (len(folders) - len(lines))
    cells = zip(folders, lines, strict=True)
    return {name: _judge_tokens(line, here[name]) for name, line in cells}


def _judge_tokens(line: Mapping[str, Any], here: Tokens) -> Cell:
    if "error" in line:
        return Cell(FAILS, line["error"])
    got, wanted = line["tokens"][len(PROMPT) :], here.generated[0]
    if len(got) < len(wanted):  # the end of text: both must be there
        wanted = wanted[: len(got)]
    generated = (wanted, here.generated[1][: len(wanted)])
    check = compare_tokens(PROMPT, (got, []), generated, here.rounding)
    if got and check.passed:
        return Cell(RUNS)
    return Cell(WRONG, f"generated {got}, wanted {wanted}")


def judge_genai(
    genai: str, asks_for: str | None, onnxruntime: str, here: Tokens, ran: Cell
) -> Cell:
    """What the doctor and genai's own wheel say against what happened.

    Args:
      genai: its version.
      asks_for: the oldest onnxruntime that its wheel asks for.
      onnxruntime: what it ran on.
      here: of the artifact.
      ran: there.
    """
    for finding in genai_problems(genai, last_logits=here.last_logits):
        if ran.status == RUNS:
            return Cell(TOO_STRICT, finding.what)
        return Cell(REFUSED, finding.what)
    is_paired = asks_for is None or version_tuple(onnxruntime) >= version_tuple(asks_for)
    if not is_paired and ran.status != WRONG:  # genai's own promise, not ours
        return Cell(REFUSED if ran.status == FAILS else RUNS, f"it asks for {asks_for} or newer")
    return ran
