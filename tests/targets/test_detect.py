from __future__ import annotations

import os

import pytest

from slc.targets import TargetError, detect, load
from slc.targets.target import FIGURES

X86 = "processor : 0\nflags\t\t: fpu sse4_2 avx avx2 fma avx512_vbmi2\n"
AVX512 = (
    "flags\t\t: sse4_2 avx f16c fma avx2 bmi2 avx512f avx512bw avx512vl avx512vbmi avx512_vbmi2 "
    "avx512_vnni\n"  # as Linux writes them on a Zen 4
)
ARM = "processor : 0\nFeatures\t: fp asimd atomics fphp asimdhp asimddp\n"


def test_host_is_this_machine() -> None:
    host = load("host")
    assert host.name == "host"
    assert 1 <= host.cores <= (os.cpu_count() or 1)
    assert host.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 1.001
    assert 0 < host.usable_bytes < host.memory_bytes


def test_host_promises_the_installed_onnxruntime() -> None:
    host = load("host")
    installed = detect.installed_version("onnxruntime")
    assert host.ort_min == host.ort_max == installed


def test_host_has_a_source_for_what_it_states_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detect, "installed_version", lambda _: None)
    host = detect.detect_host()
    assert (host.ort_min, host.ort_max, host.genai_min) == ("1.17", None, None)
    assert set(host.sources) == {f for f in FIGURES if getattr(host, f)}
    assert host.sources["ort_min"] == "the oldest that slc supports"


def test_other_systems_and_machines_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect.platform, "machine", lambda: "riscv64")
    with pytest.raises(TargetError, match="riscv64"):
        detect.detect_host()
    monkeypatch.setattr(detect.platform, "system", lambda: "Darwin")
    with pytest.raises(TargetError, match="Darwin"):
        detect.detect_host()


def test_features_are_renamed_and_common_to_all_cores() -> None:
    assert detect.detect_isa("x86_64", X86) == ("sse4_2", "avx", "avx2", "fma", "avx512vbmi2")
    assert set(detect.detect_isa("x86_64", AVX512)) == set(load("x86-64-avx512").isa)
    assert detect.detect_isa("aarch64", ARM) == ("neon", "lse", "fp16", "dotprod")
    little = "processor : 1\nFeatures\t: fp asimd atomics\n"
    assert detect.detect_isa("aarch64", ARM + little) == ("neon", "lse")
    assert detect.detect_isa("x86_64", "") == ()


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("1.23.2", "1.23.2"),
        ("1.24.0.dev20261101", "1.24.0"),
        ("0.18.0rc1", "0.18.0"),
        ("1.23", "1.23"),
        ("7", None),
    ],
)
def test_installed_version_is_numbers_only(
    monkeypatch: pytest.MonkeyPatch, version: str, wanted: str | None
) -> None:
    monkeypatch.setattr(detect.metadata, "version", lambda _: version)
    assert detect.installed_version("x") == wanted


def test_absent_package_has_no_version() -> None:
    assert detect.installed_version("a-package-that-nobody-installed") is None


def test_bandwidth_is_of_a_memory_and_not_of_a_cache_or_a_disk() -> None:
    # 0.5 GB/s is below any DRAM in use, 2 TB/s above any CPU's.
    assert 5e8 < detect.measure_bandwidth(0.1) < 2e12
