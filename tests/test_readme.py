"""Every block of README.md runs, but those in C# and Java: no compiler of theirs is asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slc.compiler import export

pytestmark = pytest.mark.slow

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_tour(tmp_path: Path) -> None:
    (tour,) = [block for block in blocks("") if block.startswith("$ ")]
    commands = [line[2:] for line in tour.splitlines() if line.startswith("$ ")]
    assert len(commands) == 4
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)], cwd=tmp_path, env={**os.environ, "PATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    predicted = re.search(r"the session adds (\d+\.\d) MB", said)
    assert predicted is not None
    assert 44.5 <= float(predicted[1]) <= 45.0
    for line in ("of 45.0 MB ok", "passed"):
        assert line in said


def test_the_python_blocks(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=3, target_modules=["v_proj"], init_lora_weights=False)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    get_peft_model(base, config).save_pretrained(tmp_path / "lora")
    monkeypatch.chdir(tmp_path)
    export(tiny_llama, "out", density=0.5, rank=4, adapters=["lora=NAME"], adapter_slots=1)
    ids = np.array([[3, 14, 15]])
    feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for layer in range(2):
        for kind in ("key", "value"):
            feeds[f"past_key_values.{layer}.{kind}"] = np.zeros((1, 2, 0, 16), np.float32)
    namespace: dict[str, Any] = {"feeds": feeds}
    python = blocks("python")
    assert len(python) == 4
    genai = python.pop(2)
    for block in python:
        exec(block, namespace)
    without = namespace["session"].run(None, feeds)[0]
    adapted = namespace["session"].run(None, feeds, namespace["run_options"])[0]
    assert np.abs(adapted - without).max() > 1e-3
    binding = namespace["binding"]
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("logits")
    namespace["session"].run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], adapted)
    genai += (
        "import numpy\n"
        "generator.append_tokens(numpy.array([[3, 14, 15]], dtype=numpy.int32))\n"
        "numpy.save('logits.npy', generator.get_output('logits'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", genai], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Its session is made with options of its own, so not to the bit: whose answer is it?
    got = np.load("logits.npy").reshape(-1, adapted.shape[-1])[-1]
    moved = np.abs(adapted - without)[0, -1].max()
    assert np.abs(got - adapted[0, -1]).max() < moved / 100
