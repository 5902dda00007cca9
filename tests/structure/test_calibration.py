"""Activation statistics against numpy, and the files that calibration reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from structure.models import chain, weight

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.structure.calibration import (
    activation_moments,
    activation_statistics,
    token_feeds,
)
from slc.compiler.structure.instrument import instrument
from slc.compiler.structure.texts import SAMPLES_PER_RUN, read_feeds, read_texts


def expected(source, x: np.ndarray) -> dict[str, np.ndarray]:
    """Mean squares of every layer's input, in f64."""
    h, means = x.astype(np.float64), {}
    for linear in source.linears:
        means[linear.name] = np.mean(h**2, axis=0)
        h = np.maximum(h @ weight(source, linear).T, 0)
    return means


@pytest.mark.parametrize("opset", [17, 18])
def test_mean_squares_of_a_plain_model(tmp_path: Path, opset: int) -> None:
    source = chain(tmp_path)
    source.graph.graph.opset_imports[""] = opset
    x = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)  # 16 + 16 + 8
    np.savez(tmp_path / "x.npz", x=x.astype(np.float64), unused=np.zeros(3))
    seen: list[tuple[int, int, str]] = []
    got = activation_statistics(source, tmp_path / "x.npz", progress=lambda *a: seen.append(a))
    wanted = expected(source, x)
    assert list(got) == list(wanted)
    for name, means in wanted.items():
        assert got[name].dtype == np.float64
        # f32 sums of 16 squares of f32 products of inner dimension <= 130.
        np.testing.assert_allclose(got[name], means, rtol=1e-4, atol=1e-7)
    assert seen == [(n, 3, "calibration") for n in (1, 2, 3)]
    assert source.graph.graph.outputs[0].name == "y"  # the source is as it was
    assert {p.name for p in tmp_path.iterdir()} == {"x.npz"}


def test_moments_of_a_plain_model(tmp_path: Path) -> None:
    source = chain(tmp_path)
    x = np.random.default_rng(0).standard_normal((1100, 24)).astype(np.float32)  # over one batch
    np.savez(tmp_path / "x.npz", x=x)
    chosen = source.linears[:2]
    got = activation_moments(source, tmp_path / "x.npz", chosen)
    assert list(got) == [linear.name for linear in chosen]
    h = x.astype(np.float64)
    held_out = np.arange(len(x)) // SAMPLES_PER_RUN % 5 == 4
    for linear in chosen:
        moments = got[linear.name]
        assert moments.judge is moments.held_out
        for H, rows in ((moments.H, h[~held_out]), (moments.held_out, h[held_out])):
            wanted = rows.T @ rows / len(rows)
            assert H is not None
            assert H.dtype == np.float32
            # f32 sums of 1100 products, of f32 activations of inner dimension <= 130.
            np.testing.assert_allclose(H, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
        h = np.maximum(h @ weight(source, linear).T, 0)


def test_a_few_texts_are_all_fitted_to(tmp_path: Path) -> None:
    source = chain(tmp_path)
    x = np.random.default_rng(0).standard_normal((4 * SAMPLES_PER_RUN, 24)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    moments = activation_moments(source, tmp_path / "x.npz", source.linears[:1])
    (one,) = moments.values()
    assert one.held_out is None
    assert one.judge is one.H
    means = activation_statistics(source, tmp_path / "x.npz")
    np.testing.assert_allclose(np.diag(one.H), means[source.linears[0].name], rtol=1e-4)


def test_a_weight_used_twice_averages_over_both(tmp_path: Path) -> None:
    source = chain(tmp_path, widths=(8, 8))
    graph = source.graph.graph
    again = ir.node("MatMul", [graph.outputs[0], graph.initializers["w0"]], name="again")
    again.outputs[0].name, again.outputs[0].type = "z", ir.TensorType(ir.DataType.FLOAT)
    again.outputs[0].shape = ir.Shape(["batch", 8])
    graph.append(again)
    graph.outputs[0] = again.outputs[0]
    linear = source.linears[0]
    object.__setattr__(linear, "nodes", ("n0", "again"))
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    got = activation_statistics(source, tmp_path / "x.npz")["layer.0"]
    y = np.maximum(x @ weight(source, linear).T, 0)
    np.testing.assert_allclose(got, (np.mean(x**2, 0) + np.mean(y**2, 0)) / 2, rtol=1e-5)


def test_siblings_share_a_probe_and_other_reductions_fit(tmp_path: Path) -> None:
    """The Gram matrix of x, as a method with full Hessians would want it."""
    source = chain(tmp_path)

    def gram(graph: ir.Graph, x: ir.Value, name: str) -> ir.Value:
        turned = ir.node("Transpose", [x], {"perm": [1, 0]}, name=f"{name}.t")
        turned.outputs[0].name = f"{name}.turned"
        node = ir.node("MatMul", [turned.outputs[0], x], name=name)
        node.outputs[0].name = name
        node.outputs[0].shape = ir.Shape([x.shape[1], x.shape[1]])
        graph.extend([turned, node])
        return node.outputs[0]

    model, probes = instrument(source.graph, [*source.linears, source.linears[0]], gram)
    assert len(model.graph.outputs) == 2 * len(source.linears)
    assert list(probes) == [linear.name for linear in source.linears]

    import onnxruntime as ort

    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    x = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    probe = probes["layer.0"][0]
    got, rows = session.run([probe.statistic, probe.rows], {"x": x})
    np.testing.assert_allclose(got, x.T @ x, atol=1e-4)
    assert rows.tolist() == [5]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": np.zeros((2, 24))}, "lacks an array 'x'"),
        ({"x": np.zeros((0, 24))}, "0 samples"),
        ({"x": np.zeros(())}, "number of samples"),
        ({"x": np.zeros((4, 23), np.float32)}, "can't run the model"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict, said: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises((RequestError, ModelError), match=said):
        activation_statistics(chain(tmp_path), tmp_path / "x.npz")


def test_reads_texts(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("one line\n\n  two  \r\n", encoding="utf-8")
    assert read_texts(plain) == ["one line", "two"]
    rows = tmp_path / "a.jsonl"
    rows.write_text(json.dumps({"text": "é\nü"}) + "\n\n" + json.dumps({"text": "", "n": 1}))
    assert read_texts(rows) == ["é\nü"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "can't be read"),
        ("a.jsonl", b'{"text": 3}', "line 1"),
        ("a.jsonl", b"{", "can't be read"),
        ("none.txt", None, "can't be read"),
        ("a.npz", b"not a zip", "can't be read as .npz"),
        ("words.txt", b"words for a model that knows none", "has none"),
    ],
)
def test_calibration_files_that_can_not_be_used(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=said):
        activation_statistics(chain(tmp_path), tmp_path / name)


def test_a_language_model_gets_all_its_inputs(tmp_path: Path) -> None:
    source = chain(tmp_path)
    source.genai_config = {"model": {"decoder": {"num_key_value_heads": 3, "head_size": 7}}}

    class Input:
        def __init__(self, name: str, kind: str = "int64", shape: tuple = ()) -> None:
            self.name, self.type, self.shape = name, f"tensor({kind})", list(shape)

    class Session:
        inputs = (
            Input("input_ids"),
            Input("attention_mask", "int32"),
            Input("position_ids"),
            Input("past_key_values.0.key", "float16", ("batch", "heads", "past", None)),
        )

        def get_inputs(self) -> list[Input]:
            return list(self.inputs)

    feeds = token_feeds(source, Session(), [5, 6, 7])
    assert feeds["input_ids"].tolist() == [[5, 6, 7]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1]]
    assert feeds["attention_mask"].dtype == np.int32
    assert feeds["position_ids"].tolist() == [[0, 1, 2]]
    assert feeds["past_key_values.0.key"].shape == (1, 3, 0, 7)
    assert feeds["past_key_values.0.key"].dtype == np.float16
    Session.inputs = (Input("pixel_values"),)
    with pytest.raises(ModelError, match="pixel_values"):
        token_feeds(source, Session(), [5])


@pytest.mark.slow
def test_a_decoder_calibrates_and_decomposes(tiny_llama: Path, tmp_path: Path) -> None:
    from slc.compiler.frontends import load
    from slc.compiler.structure.decompose import decompose

    (tmp_path / "work").mkdir()
    source = load(tiny_llama, workdir=tmp_path / "work")
    text = tmp_path / "text.txt"
    text.write_text("def main():\nreturn 0\nimport sys\n")
    means = activation_statistics(source, text)
    structured = [x.name for x in source.linears if x.kind == "linear"]
    assert set(structured) <= set(means)
    assert all(np.all(m >= 0) and m.any() for m in means.values())
    # gate and up read the same x, so their statistics are the same
    gate, up = (next(n for n in structured if part in n) for part in ("gate_proj", "up_proj"))
    np.testing.assert_array_equal(means[gate], means[up])
    few = activation_statistics(source, text, limit_tokens=1)
    assert not np.array_equal(few[gate], means[gate])
    made = decompose(
        source, tmp_path / "m.slr", method="oats", density=0.5, rank=4, statistics=means,
        iterations=5,
    )  # fmt: skip
    restored = load(made.path, workdir=tmp_path / "work")
    assert restored.kind == "decoder"
    assert restored.linears == source.linears
    assert "genai_config.json" in restored.assets
    again = activation_statistics(restored, text)
    assert set(again) == set(means)


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.array([1, None], dtype=object)])
def test_arrays_of_no_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", x=array)
    with pytest.raises(ModelError, match="'x' of the calibration file holds") as error:
        list(read_feeds(tmp_path / "x.npz", {"x": (None, np.dtype(np.float32))}))
    assert "pickle" not in str(error.value)
