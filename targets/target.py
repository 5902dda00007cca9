"""One device profile: a frozen record that checks itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from slc.targets.kernel_figures import problem

Arch = Literal["x86_64", "aarch64"]
Provider = Literal["cpu", "cuda"]

# The names that `isa` may hold. They are ours: Linux calls neon asimd, fp16 asimdhp, dotprod
# asimddp and lse atomics.
ISA_NAMES: Mapping[str, tuple[str, ...]] = {
    "x86_64": (
        "sse4_2", "avx", "avx2", "fma", "f16c", "bmi2", "avx_vnni", "avx512f", "avx512bw",
        "avx512vl", "avx512vbmi2", "avx512_vnni", "amx_int8",
    ),
    "aarch64": ("neon", "lse", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2"),
}  # fmt: skip

# Fields that state a figure about the device: each needs a source.
FIGURES = (
    "memory_bytes",
    "reserve_bytes",
    "bandwidth_bytes_per_s",
    "cores",
    "isa",
    "sm",
    "ort_min",
    "ort_max",
    "genai_min",
    "glibc_min",
    "kernels",
)

ORT_OLDEST = "1.17"  # the oldest onnxruntime that slc supports
_VERSION = re.compile(r"\d+(\.\d+){1,2}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class TargetError(ValueError):
    """A device name or profile is wrong. The message is one sentence for the user."""


def version_tuple(version: str) -> tuple[int, ...]:
    """("1.23.2") -> (1, 23, 2)."""
    return tuple(int(part) for part in version.split("."))


@dataclasses.dataclass(frozen=True)
class Target:
    """What the compiler knows about the machine that will run the artifact.

    Attributes:
      name: the profile's name, as `--device` takes it.
      arch: instruction set architecture.
      memory_bytes: memory that the operating system sees (less than what is soldered on).
      reserve_bytes: of that, what the system and everything beside the model need.
      bandwidth_bytes_per_s: reading from memory with all cores; the source says whether that is
        measured or the data sheet's peak.
      cores: cores that inference may use.
      isa: instruction set extensions that may be relied on, names of `ISA_NAMES`.
      provider: the onnxruntime provider that artifacts are made for unless the user says otherwise.
      sm: CUDA compute capability as an integer (87), None without a usable GPU.
      ort_min: the oldest onnxruntime that an artifact must load on. It decides opset and operators.
      ort_max: the newest onnxruntime that the device can have, None if there is no limit.
      genai_min: the oldest onnxruntime-genai to reckon with, None if the device can't have one.
      glibc_min: the oldest glibc that the op library must load on.
      verified: slc has been measured on such a device; otherwise its figures are from documents.
      description: one line for people.
      aliases: other names that `load` takes.
      notes: what a user should know, a sentence each.
      kernels: what each operator costs there, kernel -> figure -> number, names of kernel_figures;
        kernels that are not named cost what they do on others of its class of ISA.
      sources: field -> where its figure comes from: a URL or a document's name.

    Raises:
      TargetError: a field has a value that it can't have; the message names it.
    """

    name: str
    arch: Arch
    memory_bytes: int
    reserve_bytes: int
    bandwidth_bytes_per_s: int
    cores: int
    isa: tuple[str, ...] = ()
    provider: Provider = "cpu"
    sm: int | None = None
    ort_min: str = ORT_OLDEST
    ort_max: str | None = None
    genai_min: str | None = None
    glibc_min: str = "2.28"
    verified: bool = False
    description: str = ""
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kernels: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses values that a field can't have."""
        self._check_strings()
        self._check_numbers()
        self._check_versions()
        self._check_isa()
        if wrong := problem(self.kernels):
            raise self._error("kernels", wrong)
        for field in self.sources:
            if field not in {f.name for f in dataclasses.fields(self)}:
                raise self._error("sources", f"names a field {field!r} that profiles do not have")

    def _error(self, field: str, problem: str) -> TargetError:
        return TargetError(f"device {self.name!r}: {field} {problem}")

    def _check_strings(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise TargetError(f"device {self.name!r}: name must be letters, digits and . _ + -")
        for field in ("description", "glibc_min", "ort_min"):
            if not isinstance(getattr(self, field), str):
                raise self._error(field, f"must be text, got {getattr(self, field)!r}")
        for field in ("isa", "aliases", "notes"):
            value = getattr(self, field)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise self._error(field, f"must be a list of texts, got {value!r}")
        if self.provider not in ("cpu", "cuda"):
            raise self._error("provider", f'must be "cpu" or "cuda", got {self.provider!r}')
        if not isinstance(self.verified, bool):
            raise self._error("verified", f"must be true or false, got {self.verified!r}")

    def _check_numbers(self) -> None:
        for field, least in (
            ("memory_bytes", 1),
            ("reserve_bytes", 0),
            ("bandwidth_bytes_per_s", 1),
            ("cores", 1),
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise self._error(field, f"must be an integer of at least {least}, got {value!r}")
        if self.reserve_bytes >= self.memory_bytes:
            raise self._error("reserve_bytes", f"must be below memory_bytes, {self.memory_bytes}")
        if self.sm is not None and (not isinstance(self.sm, int) or not 50 <= self.sm <= 130):
            raise self._error("sm", f"must be an integer such as 87, got {self.sm!r}")
        if self.provider == "cuda" and self.sm is None:
            raise self._error("sm", 'is missing; provider = "cuda" needs it')

    def _check_versions(self) -> None:
        for field in ("ort_min", "ort_max", "genai_min", "glibc_min"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, str) and _VERSION.fullmatch(value)):
                raise self._error(field, f'must be a version such as "1.23.2", got {value!r}')
        if version_tuple(self.ort_min) < version_tuple(ORT_OLDEST):
            raise self._error(
                "ort_min", f"{self.ort_min} is too old; slc wants {ORT_OLDEST} or newer"
            )
        if self.ort_max is not None and version_tuple(self.ort_max) < version_tuple(self.ort_min):
            raise self._error("ort_max", f"{self.ort_max} is older than ort_min {self.ort_min}")

    def _check_isa(self) -> None:
        if self.arch not in ISA_NAMES:
            raise self._error("arch", f"must be one of {', '.join(ISA_NAMES)}, got {self.arch!r}")
        for item in self.isa:
            if item not in ISA_NAMES[self.arch]:
                known = ", ".join(ISA_NAMES[self.arch])
                raise self._error("isa", f"has {item!r}; {self.arch} has {known}")

    @property
    def usable_bytes(self) -> int:
        """What a session may take when the user names no budget: memory less reserve."""
        return self.memory_bytes - self.reserve_bytes

    @property
    def platform_tag(self) -> str:
        """Which op library the device loads, e.g. "linux-aarch64"."""
        return f"linux-{self.arch}"

    def ort_at_least(self, version: str) -> bool:
        """Whether every onnxruntime that an artifact for this device may meet is that new."""
        return version_tuple(self.ort_min) >= version_tuple(version)
