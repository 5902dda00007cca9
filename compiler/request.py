"""What is asked for: the options of `slc export` and `slc plan`, checked before any work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slc.compiler.errors import RequestError
from slc.compiler.structure.texts import BUILT_IN, NO_TEXT, built_in

PathLike = str | Path

METHODS = ("salr", "oats", "hessian")
LOGITS = ("auto", "last", "all")
_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_ADAPTER_NAME_BYTES_MAX = 200  # with its ending it must be a file's name


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for: the options of `slc export` and `slc plan`.

    Attributes:
      device: a name that `slc devices` lists, or the path of a TOML profile.
      mem: what the session may add to its process ("4GB", "512MiB"); None: what the device has.
      density, rank: of every Linear's S and residual adapter; None: chosen by `mem`.
      values: value type of S: "auto", "f16", "i8" or "i4"; "dense" compresses nothing.
      adapter_values: value type of the residual adapters, "f16" or "i8"; task adapters are f16.
      group: columns that share a scale of i8 or i4 values.
      accuracy_level: 1 computes with float32 activations, 4 with int8 ones; None: 4 for i8 and i4
        values, else 1.
      gamma: with `mem`, the part of what is removed that adapters give and S need not (SALAAD's
        allocation), 0 to 1; None: both shrink by one ratio.
      allocation: with `mem`, how it is divided: "best" by measured errors, "uniform" by one ratio,
        "hpa" as `gamma` says, "dense_int8" and "dense_int4" all alike; "auto" is the best.
      max_latency: milliseconds that a decoder may take for a token at half of the context, as
        predicted; None: any.
      context: tokens that the session must hold; None: what the model allows, at most 2048.
      batch: sequences at a time.
      logits: of a decoder, "last": those of each sequence's last token, as generating text wants
        them (onnxruntime-genai 0.12.2 and newer); "all": of every token, to score text or for an
        older genai; "auto": last, unless the device has an older genai.
      provider: execution provider; None: the device's.
      method: "salr", "oats" or "hessian"; None: hessian when `calibrate` is given, else salr.
      calibrate: calibration text or inputs; "default": the text that slc brings along; "none":
        none; None: by itself only where `measures_by_default`.
      iterations: of hessian or oats; None: what each takes by itself (600, 40). Fewer are faster.
      match_blocks: steps that each transformer block is then trained to give what the dense one
        gives (block_matching.py), after hessian; None: none.
      adapters: PEFT LoRA folders as "PATH" or "PATH=NAME".
      adapter_slots: slots per Linear for adapters that are loaded at run time.
      jobs: matrices worked on at a time; None: one per core.
    """

    device: str = "host"
    mem: str | int | None = None
    density: float | None = None
    rank: int | None = None
    values: str = "auto"
    adapter_values: str = "f16"
    group: int = 64
    accuracy_level: int | None = None
    gamma: float | None = None
    allocation: str = "auto"
    max_latency: float | None = None
    context: int | None = None
    batch: int = 1
    logits: str = "auto"
    provider: str | None = None
    method: str | None = None
    calibrate: PathLike | None = None
    iterations: int | None = None
    match_blocks: int | None = None
    adapters: Sequence[str] = ()
    adapter_slots: int = 0
    jobs: int | None = None

    def text(self) -> Path | None:
        """The calibration text or inputs, if any were asked for.

        Raises:
          RequestError: there is no such file.
        """
        if self.calibrate is None or str(self.calibrate) == NO_TEXT:
            return None
        if str(self.calibrate) == BUILT_IN:
            return built_in()
        if not Path(self.calibrate).exists():
            raise RequestError(
                f"--calibrate {self.calibrate}: there is no such file; wanted text, one per line, "
                f"or the word {BUILT_IN} for the text that slc brings along"
            )
        return Path(self.calibrate)

    @property
    def text_name(self) -> str:
        """What to call the calibration text."""
        return (
            "slc's own text" if str(self.calibrate) == BUILT_IN else Path(str(self.calibrate)).name
        )

    @property
    def divides_by_errors(self) -> bool:
        """Whether `mem` alone decides, so that every Linear takes what loses least."""
        left_open = self.values == "auto" and self.allocation in ("auto", "best")
        by_hand = (self.density, self.rank, self.gamma) != (None, None, None)
        return self.mem is not None and left_open and not by_hand

    @property
    def measures_by_default(self) -> bool:
        """Whether errors are wanted and nobody said by what text, or that there is to be none.

        A dense model is then decomposed and measured with the text that slc brings along.
        """
        return self.divides_by_errors and self.calibrate is None and self.method is None

    def chosen_method(self) -> str:
        """The method after defaults.

        Raises:
          RequestError: an unknown method, or one without the calibration it wants.
        """
        text = self.text()
        method = self.method or ("hessian" if text else "salr")
        if method not in METHODS:
            raise RequestError(f"--method {method}: got {method!r}, wanted one of {list(METHODS)}")
        if method != "salr" and text is None:
            raise RequestError(
                f"--method {method} needs activation statistics: got no --calibrate FILE, wanted a "
                "text file with a few hundred lines like those the model will see, or --calibrate "
                "default for the text that slc brings along"
            )
        if method == "salr" and self.iterations is not None:
            raise RequestError(
                f"--iterations {self.iterations}: got the method salr, which has none, wanted "
                "--calibrate FILE, or default for slc's own text: hessian is the method then"
            )
        if method != "hessian" and self.match_blocks is not None:
            raise RequestError(
                f"--match-blocks {self.match_blocks}: got the method {method}, wanted hessian, the "
                "default with --calibrate FILE"
            )
        if method == "salr" and text is not None:
            raise RequestError(
                f"--method {method} uses no calibration: got --calibrate {self.calibrate}, leave "
                "it out or choose --method hessian"
            )
        return method

    def named_adapters(self) -> list[tuple[Path, str]]:
        """(folder, name) of each adapter; PATH alone takes the folder's name.

        Raises:
          RequestError: a name that can't be a file's, or one that is taken.
        """
        return named_adapters(self.adapters, "--adapter")


def named_adapters(texts: Sequence[str], option: str) -> list[tuple[Path, str]]:
    """(folder, name) of each "PATH" or "PATH=NAME"; PATH alone takes the folder's name.

    Raises:
      RequestError: a name that can't be a file's, or one that is taken; it begins with `option`.
    """
    named: list[tuple[Path, str]] = []
    for text in texts:
        path, equals, name = text.rpartition("=")
        if not equals or Path(text).exists():  # a folder may have = in its name
            path, name = text, Path(text).resolve().name
        if not _ADAPTER_NAME.fullmatch(name) or len(name.encode()) > _ADAPTER_NAME_BYTES_MAX:
            raise RequestError(
                f"{option} {text}: got the name {name!r}, wanted letters, digits and . _ + -, at "
                f"most {_ADAPTER_NAME_BYTES_MAX} bytes (PATH=NAME gives one)"
            )
        if any(name == other for _, other in named):
            raise RequestError(
                f"{option} {text}: the name {name!r} is taken; add =NAME to tell them apart"
            )
        named.append((Path(path), name))
    return named


def make_request(options: dict[str, Any]) -> Request:
    """A `Request` of keyword options.

    Raises:
      RequestError: an option that there is not, or a count below what makes sense.
    """
    known = {field.name for field in dataclasses.fields(Request)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise RequestError(f"unknown option {unknown[0]!r}: wanted one of {sorted(known)}")
    request = Request(**options)
    if request.logits not in LOGITS:
        raise RequestError(f"--logits: got {request.logits!r}, wanted one of {list(LOGITS)}")
    for name, least in (("adapter_slots", 0), ("jobs", 1), ("iterations", 1), ("match_blocks", 1)):
        value = getattr(request, name)
        if value is not None and (not isinstance(value, int) or value < least):
            option = name.replace("_", "-")
            raise RequestError(f"--{option}: got {value}, wanted an integer of at least {least}")
    return request
