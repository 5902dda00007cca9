"""A session in a process of its own, as the side that asks sees it."""

from __future__ import annotations

import contextlib
import json
import math
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from slc.compiler.bench.subject import Subject
from slc.compiler.bench.worker import Seconds
from slc.compiler.errors import ArtifactError

_RUN_FILE = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


class OutOfTimeError(Exception):
    """An answer did not come before the deadline: a comparison ends by it, and says so."""


class Process:
    """A fresh process that has been told to load `subject`; use it in a `with` statement.

    It loads while the caller does something else: the first question waits for it.

    Args:
      subject: what it loads.
      deadline: of `time.perf_counter`, after which no answer is waited for.

    Raises:
      ArtifactError: by any method: the process ended, for a reason that is its last line.
      OutOfTimeError: by any method: the deadline has passed.
    """

    def __init__(self, subject: Subject, deadline: float = math.inf) -> None:
        self._deadline = deadline
        self._name = subject.artifact.path
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        worker = str(Path(__file__).with_name("worker.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN_FILE, worker],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self._loaded: dict[str, Any] | None = None
        self._tell(subject.start)

    def __enter__(self) -> Process:
        """Returns itself; the process has begun to load."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process; what it holds is gone when this returns.

        All has been said by then, and an orderly end takes Python and onnxruntime a tenth of a
        second, which a comparison of ten pairs would wait for twenty times.
        """
        self._process.kill()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def loaded(self) -> dict[str, Any]:
        """{"load_s", "engine"}, once the session is made."""
        if self._loaded is None:
            self._loaded = self._answer()
        return self._loaded

    def turn(self, work: str, warm: int, runs: int) -> Seconds:
        """Seconds of each run, by quantity."""
        return self._ask({"do": "turn", "work": work, "warm": warm, "runs": runs})

    def touch(self) -> int:
        """Reads every mapped page of the weights; returns their bytes."""
        return int(self._ask({"do": "touch"})["touched_bytes"])

    def peak_bytes(self) -> int:
        """The most that the session has added to its process so far."""
        return int(self._ask({"do": "memory"})["peak_bytes"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self.loaded()
        self._tell(question)
        return self._answer()

    def _tell(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer will say why
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # One line is answered at a time, so nothing waits in the buffer that select can't see.
        left_s = self._deadline - time.perf_counter()
        if (
            math.isfinite(left_s)
            and not select.select([self._process.stdout], [], [], max(0.0, left_s))[0]
        ):
            raise OutOfTimeError
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or [f"exit status {status}"]
            raise ArtifactError(
                f"{self._name} can't be timed: its process ended ({said[-1]}); slc doctor may "
                "explain it."
            )
        answer: dict[str, Any] = json.loads(line)
        return answer
