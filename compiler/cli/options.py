"""Options that `export` and `plan` share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli.milliseconds import METAVAR, milliseconds

Model = Annotated[
    Path,
    typer.Argument(
        help="A Hugging Face folder, an .onnx file or a structured checkpoint (.slr).",
        show_default=False,
    ),
]
DenseModel = Annotated[
    Path,
    typer.Argument(
        help="A Hugging Face folder, an .onnx file or an .slr to measure.", show_default=False
    ),
]
Device = Annotated[
    str, typer.Option(help="A name that `slc devices` lists, or a TOML file of your own.")
]
Mem = Annotated[
    str | None,
    typer.Option(help="What the session may add to its process, e.g. 4GB or 512MiB."),
]
Density = Annotated[
    float | None, typer.Option(help="Share of S that is stored in each Linear, 0 to 1.")
]
Rank = Annotated[int | None, typer.Option(help="Rank of the residual adapter of each Linear.")]
Values = Annotated[
    str, typer.Option(help="Value type of S: auto, f16, i8 or i4; dense compresses nothing.")
]
AdapterValues = Annotated[
    str, typer.Option(help="Value type of the residual adapters: f16, or i8 with a scale per row.")
]
Group = Annotated[int, typer.Option(help="Columns that share a scale of i8 or i4 values.")]
Gamma = Annotated[
    float | None,
    typer.Option(
        help="With --mem: part of what is removed that the adapters give, 0 to 1; where left out, "
        "density and rank shrink by one ratio.",
        show_default=False,
    ),
]
Allocation = Annotated[
    str,
    typer.Option(
        help="With --mem: best (least predicted error; --calibrate measures it), uniform (one "
        "ratio), hpa (SALAAD's), dense_int8 or dense_int4 (every Linear alike); auto is best."
    ),
]
MaxLatency = Annotated[
    float | None,
    typer.Option(
        parser=milliseconds,
        metavar=METAVAR,
        help="Milliseconds that a decoder may take for a token at half of the context, as "
        "predicted for the device.",
        show_default=False,
    ),
]
AccuracyLevel = Annotated[
    int | None,
    typer.Option(
        help="Activations in float32 (1) or int8 (4); 4 where left out for i8 and i4, else 1.",
        show_default=False,
    ),
]
Context = Annotated[
    int | None, typer.Option(help="Tokens the session must hold: prompt and answer.")
]
Batch = Annotated[int, typer.Option(help="Sequences at a time.")]
Logits = Annotated[
    str,
    typer.Option(
        help="Of a decoder: last (each sequence's last token, what generating text reads) or all; "
        "auto is last, or all where the device's onnxruntime-genai wants that."
    ),
]
Provider = Annotated[
    str | None, typer.Option(help="Execution provider: cpu or cuda; by default the device's.")
]
Method = Annotated[
    str | None,
    typer.Option(help="salr; hessian (the default when --calibrate is given) or oats."),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        help="Calibration text (.txt, .jsonl) or inputs (.npz), default (slc's own text) or none. "
        "Left out, export --mem takes slc's own for a dense model with a tokenizer."
    ),
]
Iterations = Annotated[
    int | None,
    typer.Option(
        help="Of hessian (600 where left out) or oats (40): fewer are faster and less exact.",
        show_default=False,
    ),
]
MatchBlocks = Annotated[
    int | None,
    typer.Option(
        help="After hessian, train every transformer block this many steps to give what the dense "
        "one gives on the calibration text.",
        show_default=False,
    ),
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(help="A PEFT LoRA folder, PATH or PATH=NAME; may be given several times."),
]
AdapterSlots = Annotated[
    int, typer.Option(help="Slots per Linear for adapters that are loaded at run time.")
]
Jobs = Annotated[int | None, typer.Option(help="Matrices worked on at a time.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
