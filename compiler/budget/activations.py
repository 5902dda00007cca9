"""How much memory the values between the operators need at once, by onnxruntime's own planning.

onnxruntime gives a value of a size that it has met before the buffer of a dead one, and frees a
buffer only after the *last* value that was planned into it. The scores of attention and the wide
rows of the MLP thus keep their buffers from the first layer to the last, and the peak is nearly the
sum over sizes of what one size needs at once. Plain liveness would say half of what is measured.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from slc.compiler.budget.steps import Made, Step, Steps


@dataclasses.dataclass(frozen=True)
class Peak:
    """The moment with the most memory in use.

    Attributes:
      bytes: values and workspace alive then.
      label: the operator that runs then, for people.
      bound_bytes: of `bytes`, outputs that the caller allocated before the run.
    """

    bytes: int
    label: str
    bound_bytes: int = 0


@dataclasses.dataclass(eq=False)  # two buffers of one size are two buffers
class _Buffer:
    """One allocation, from the first value planned into it to the last use of the last one."""

    made: Made
    first: int
    last: int
    reusable: bool  # the model's inputs and outputs are not onnxruntime's to reuse
    uses_left: int = 0


class _Planner:
    """Assigns a buffer to each value, as onnxruntime's sequential planner does."""

    def __init__(self, run: Steps, outputs_bound: bool) -> None:
        self._outputs, self._bound = run.outputs, outputs_bound
        self._uses = Counter(name for step in run.steps for name in step.reads)
        self._end = len(run.steps)
        self._of: dict[str, _Buffer] = {}
        self._free: list[_Buffer] = []  # the most recently freed comes last
        self.buffers: list[_Buffer] = []
        for made in run.inputs:
            self._make(made, 0, reusable=False)
        for position, step in enumerate(run.steps):
            self._plan(step, position)

    def _make(self, made: Made, position: int, *, reusable: bool) -> None:
        kept = not reusable
        first = 0 if kept and self._bound else position
        buffer = _Buffer(made, first, self._end if kept else position, reusable)
        self.buffers.append(buffer)
        self._give(made, buffer)

    def _give(self, made: Made, buffer: _Buffer) -> None:
        self._of[made.name] = buffer
        buffer.uses_left += self._uses[made.name]
        if made.name in self._outputs:
            buffer.last = self._end

    def _plan(self, step: Step, position: int) -> None:
        for made in step.makes:
            buffer = self._inherited(step, made) or self._recycled(made)
            if buffer is None:
                self._make(made, position, reusable=made.name not in self._outputs)
            else:
                self._give(made, buffer)
        for name in step.reads:
            if name in self._of:
                self._of[name].uses_left -= 1
        for name in (*step.reads, *(made.name for made in step.makes)):
            buffer = self._of.get(name)
            if buffer is None:
                continue
            buffer.last = max(buffer.last, position)
            if buffer.uses_left <= 0 and buffer.reusable and buffer not in self._free:
                self._free.append(buffer)

    def _inherited(self, step: Step, made: Made) -> _Buffer | None:
        """The buffer of the first value read, where the first one made may lie in it."""
        buffer = self._of.get(step.reads[0]) if step.reads else None
        if buffer is None or made is not step.makes[0]:
            return None
        if step.alias:
            return buffer
        dying = buffer.uses_left == 1 and buffer.reusable and made.name not in self._outputs
        return buffer if step.in_place and dying else None

    def _recycled(self, made: Made) -> _Buffer | None:
        """A dead buffer of just that shape and element size."""
        if made.name in self._outputs:
            return None
        for position in reversed(range(len(self._free))):
            other = self._free[position].made
            if (other.shape, other.itemsize) == (made.shape, made.itemsize):
                return self._free.pop(position)
        return None


def activation_peak(run: Steps, *, outputs_bound: bool = False) -> Peak:
    """The most bytes that values and workspace take at once in one run.

    Args:
      run: of `steps.graph_steps`.
      outputs_bound: the caller allocates the graph's outputs before the run, as
        onnxruntime-genai does with the logits.
    """
    planner = _Planner(run, outputs_bound)
    change = [0] * (len(run.steps) + 2)
    for buffer in planner.buffers:
        change[buffer.first] += buffer.made.bytes
        change[buffer.last + 1] -= buffer.made.bytes
    bound = sum(b.made.bytes for b in planner.buffers if outputs_bound and not b.reusable)
    live, peak = 0, Peak(0, "no operator", bound)
    for position, step in enumerate(run.steps):
        live += change[position]
        if live + step.workspace > peak.bytes:
            peak = Peak(live + step.workspace, step.label, bound)
    return peak
