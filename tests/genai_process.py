"""onnxruntime-genai in a process of its own, as an app would use an artifact."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SCRIPT = """
import sys, numpy, onnxruntime_genai as og
folder, length, *prompt = sys.argv[1:]
model = og.Model(folder)
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=int(length), do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(numpy.array([prompt], dtype=numpy.int32))
while not generator.is_done():
    generator.generate_next_token()
print(*generator.get_sequence(0))
"""


def greedy(artifact: Path, prompt: Sequence[int], length: int) -> list[int]:
    """Prompt and greedy continuation, `length` tokens in all (fewer if the model ends)."""
    arguments = [str(artifact), str(length), *map(str, prompt)]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(token) for token in done.stdout.split()]
