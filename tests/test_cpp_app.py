"""examples/cpp_app on this machine's own onnxruntime, against artifacts made here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cpp_app import build_app, run_app

from slc.compiler import export
from slc.compiler.artifact.artifact import Artifact

pytestmark = pytest.mark.slow

IDS = (101, 259, 208, 102)
CACHE = "past_key_values.0.key"
HEAD_SIZE = 16  # of tiny_llama
TEXT_IDS = ",".join(map(str, IDS))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_app(tmp_path_factory.mktemp("cpp-app"))


@pytest.fixture(scope="module")
def library() -> Path:
    (found,) = (Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return found


def feeds(session: Any) -> dict[str, np.ndarray]:
    """What the program is documented to feed."""
    ids = np.array([IDS], np.int64)
    made = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
        "position_ids": np.arange(ids.size)[None],
    }
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    types |= {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    return {
        entry.name: (
            np.zeros((1, entry.shape[1], 0, HEAD_SIZE), types[entry.type])
            if entry.name.startswith("past_key_values.")
            else made[entry.name].astype(types[entry.type])
        )
        for entry in session.get_inputs()
    }


def check_against_python(program: Path, library: Path, folder: Path, session: Any) -> None:
    """The first output bit for bit, every output's name, type, shape and first value."""
    result = folder.parent / "result"
    done = run_app(
        program, folder, "--ids", TEXT_IDS, "--ort", library, "--threads", "1", "--repeats", "3",
        "--output", result,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = session.run(None, feeds(session))
    # One library, one thread, one machine: the same operations in the same order.
    got = np.fromfile(result, wanted[0].dtype).reshape(wanted[0].shape)
    np.testing.assert_array_equal(got, wanted[0])
    lines = done.stdout.splitlines()
    assert lines[0] == f"onnxruntime {ort.__version__}"
    for line, entry, value in zip(lines[1:], session.get_outputs(), wanted, strict=False):
        assert line.startswith(f"{entry.name} {value.dtype} {list(value.shape)}:"), line
        first = float(line.split(":", 1)[1].split()[0])
        digits = 5 if value.dtype == np.float16 else 6
        assert first == float(f"{float(value.flat[0]):.{digits}g}")
    assert re.fullmatch(r"load: [\d.]+ ms, first run: [\d.]+ ms", lines[-2])
    assert re.fullmatch(r"latency: median [\d.]+ ms, fastest tenth [\d.]+ ms, of 3 runs", lines[-1])
    assert len(lines) == len(wanted) + 3


def one_thread() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def test_an_encoder(program: Path, library: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 2}
    config = transformers.BertConfig(**sizes, num_attention_heads=2, vocab_size=300)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    out = export(tmp_path / "bert", tmp_path / "out", density=0.5, rank=8, values="i8")
    session = Artifact.open(out).session(sess_options=one_thread())
    check_against_python(program, library, out, session)


def test_a_decoder(program: Path, library: Path, tiny_llama: Path, tmp_path: Path) -> None:
    out = export(tiny_llama, tmp_path / "out", density=0.5, rank=8, context=64)
    session = Artifact.open(out).session(sess_options=one_thread())
    check_against_python(program, library, out, session)


def graph(folder: Path, text: str) -> Path:
    """A folder with a graph and no library; its cache gets the name that text can't have."""
    folder.mkdir()
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for node in model.graph.node:
        node.input[:] = [CACHE if name == "past_key_values" else name for name in node.input]
    for entry in model.graph.input:
        entry.name = CACHE if entry.name == "past_key_values" else entry.name
    onnx.save(model, folder / "model.onnx")
    return folder


def test_other_types_and_no_library(program: Path, library: Path, tmp_path: Path) -> None:
    """f16 caches and states, int32 ids, positions; the folder has no libslc_ops.so."""
    folder = graph(
        tmp_path / "plain",
        "g (int32[b, n] input_ids, int64[b, n] position_ids, "
        "float16[b, 2, past, 4] past_key_values)"
        " => (float16[b, n] y, float16[b, n] far, float16[b, 2, past, 4] present, "
        "int64[b, n] p, int32[b, n] i)"
        "{ x = Cast <to = 1> (input_ids)\n small = Constant <value = float {0.000001}> ()\n"
        " z = Mul (x, small)\n y = Cast <to = 10> (z)\n"
        " opposite = Neg (x)\n far = Cast <to = 10> (opposite)\n"
        " present = Concat <axis = 2> (past_key_values, past_key_values)\n"
        " p = Add (position_ids, position_ids)\n i = Neg (input_ids) }",
    )
    session = ort.InferenceSession(str(folder / "model.onnx"), one_thread())
    result = tmp_path / "result"
    done = run_app(
        program, folder, "--ids", "3,0,70000", "--ort", library, "--repeats", "0", "--output",
        result,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    given = {
        "input_ids": np.array([[3, 0, 70000]], np.int32),
        "position_ids": np.array([[0, 1, 2]]),
        CACHE: np.zeros((1, 2, 0, 4), np.float16),
    }
    wanted = session.run(None, given)
    np.testing.assert_array_equal(np.fromfile(result, np.float16)[None], wanted[0])
    assert done.stdout.splitlines()[1:-1] == [
        # 3e-6 is a subnormal number of f16, 70000 more than it has.
        "y float16 [1, 3]: " + " ".join(f"{value:.5g}" for value in wanted[0][0].tolist()),
        "far float16 [1, 3]: -3 -0 -inf",
        "present float16 [1, 2, 0, 4]:",
        "p int64 [1, 3]: 0 2 4",
        "i int32 [1, 3]: -3 0 -70000",
    ]


def test_a_cache_of_unknown_size(program: Path, library: Path, tmp_path: Path) -> None:
    folder = graph(
        tmp_path / "plain",
        "g (float[b, 2, past, size] past_key_values) => (float[b, 2, past, size] present)"
        "{ present = Identity (past_key_values) }",
    )
    found = error(program, folder, "--ort", library)
    assert f"dimension of {CACHE} open, and {folder}/genai_config.json has no head_size" in found
    (folder / "genai_config.json").write_text('{"model": {"decoder": {"head_size": 6}}}')
    done = run_app(program, folder, "--ids", "1", "--ort", library)
    assert "\npresent float32 [1, 2, 0, 6]:\n" in done.stdout


ID_ERROR = "cpp_app: --ids wants a number from 0 to 2147483647: got "
ERRORS: dict[str, tuple[list[str], str]] = {
    "no artifact": (["--ids", "1"], "cpp_app: an ARTIFACT folder is missing; see --help"),
    "two artifacts": (["a", "b", "--ids", "1"], "cpp_app: got a second ARTIFACT, b"),
    "no ids": (["a"], "cpp_app: --ids is missing; see --help"),
    "a word": (["a", "--ids", "1,x"], f"{ID_ERROR}'x'"),
    "an empty id": (["a", "--ids", "1,,2"], f"{ID_ERROR}''"),
    "a negative id": (["a", "--ids", "1,-2"], f"{ID_ERROR}'-2'"),
    "a long id": (["a", "--ids", "99999999999999999999"], f"{ID_ERROR}'99999999999999999999'"),
    "no value": (["a", "--ids"], "cpp_app: --ids wants a value, or is no option; see --help"),
    "unknown": (["a", "--idz", "1"], "cpp_app: there is no option --idz; see --help"),
    "threads": (
        ["a", "--threads", "0"], "cpp_app: --threads wants a number from 1 to 1024: got '0'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_arguments(program: Path, name: str) -> None:
    arguments, wanted = ERRORS[name]
    done = run_app(program, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{wanted}\n")


def error(program: Path, *arguments: str | Path) -> str:
    """The one sentence of a run that fails."""
    done = run_app(program, *arguments, "--ids", "1")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("cpp_app: ")]
    return line


def test_wrong_files(program: Path, library: Path, tmp_path: Path) -> None:
    assert "/nowhere.so" in error(program, tmp_path, "--ort", "/nowhere.so")
    # A library, and not onnxruntime.
    other = library.with_name("libonnxruntime_providers_shared.so")
    assert "OrtGetApiBase" in error(program, tmp_path, "--ort", other)
    assert "model.onnx" in error(program, tmp_path, "--ort", library)
    broken = tmp_path / "broken"
    graph(broken, "g (float[1, 3] x) => (float[1, 3] y) { y = Relu (x) }")
    assert "an input x of" in error(program, broken, "--ort", library)
    (broken / "libslc_ops.so").write_bytes(b"not a library")
    assert "libslc_ops.so" in error(program, broken, "--ort", library)


def test_an_output_that_cannot_be_written(program: Path, library: Path, tmp_path: Path) -> None:
    folder = graph(
        tmp_path / "plain", "g (int64[1, n] input_ids) => (int64[1, n] y) { y = Neg (input_ids) }"
    )
    place = tmp_path / "missing" / "result"
    found = error(program, folder, "--ort", library, "--output", place)
    assert found == f"cpp_app: {place} can't be written"


def test_help(program: Path) -> None:
    done = run_app(program, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: cpp_app ARTIFACT --ids")
    assert done.stderr == ""


def test_the_environment_names_the_library(
    program: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORT_LIBRARY", str(library))
    assert "model.onnx" in error(program, tmp_path)
