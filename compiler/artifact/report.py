"""What `verify` found, as values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # checksums alone need no graph library
    from slc.compiler.artifact.checksums import Checked
    from slc.compiler.artifact.greedy import TokenCheck, TokenDistance
    from slc.compiler.artifact.linear_check import LinearCheck
    from slc.compiler.artifact.tolerance import OutputCheck


@dataclasses.dataclass(frozen=True)
class Distance:
    """One output of the artifact against another graph's, under one probe. Not a check."""

    against: str  # "original", or "as shipped": level-4 activations against level 1
    output: str
    probe: str
    max_error: float
    mean_error: float
    cosine: float  # over the whole output
    relative_squared_error: float  # ‖ours − theirs‖² / ‖theirs‖²


@dataclasses.dataclass(frozen=True)
class LinearDistance:
    """The output of one Linear against the original model's, under one probe. Not a check."""

    linear: str
    relative_error: float  # ‖ours − original‖ / ‖original‖
    cosine: float


@dataclasses.dataclass(frozen=True)
class MemoryCheck:
    """What a session over the artifact added to a fresh process."""

    measured_bytes: int
    predicted_bytes: int
    budget_bytes: int | None
    added_bytes: dict[str, int]  # measured at the end: weights, code, anonymous
    passed: bool  # measured ≤ budget; without a budget there is nothing to fail


@dataclasses.dataclass
class VerifyReport:
    """What `verify` found. A part that was not asked for or does not apply is empty or None."""

    artifact: str
    checksum_problems: list[str] = dataclasses.field(default_factory=list)
    files_checked: int = 0
    bytes_checked: int = 0
    outputs: list[OutputCheck] = dataclasses.field(default_factory=list)
    linears: list[LinearCheck] = dataclasses.field(default_factory=list)
    tokens: TokenCheck | None = None
    distances: list[Distance] = dataclasses.field(default_factory=list)
    linear_distances: list[LinearDistance] = dataclasses.field(default_factory=list)
    original_tokens: TokenDistance | None = None
    memory: MemoryCheck | None = None
    machine: dict[str, str] = dataclasses.field(default_factory=dict)  # where it was run

    def take_checksums(self, checked: Checked) -> None:
        """Enters what was found of the files."""
        self.checksum_problems = checked.problems
        self.files_checked, self.bytes_checked = checked.files, checked.bytes

    @property
    def passed(self) -> bool:
        """Whether every check that was made passed."""
        checks: Sequence[OutputCheck | LinearCheck | TokenCheck | MemoryCheck | None]
        checks = [*self.outputs, *self.linears, self.tokens, self.memory]
        return not self.checksum_problems and all(c.passed for c in checks if c is not None)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; infinities and NaN as text."""
        document = {"passed": self.passed, **dataclasses.asdict(self)}
        result: dict[str, Any] = _finite(document)
        return result


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
