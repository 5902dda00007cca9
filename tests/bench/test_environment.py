"""The fingerprint, throttling flags of a made-up /sys, and what gate C refuses to judge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from slc.compiler.bench.environment import (
    chosen_isa,
    environment,
    throttle_counts,
    throttled_between,
    throttling_now,
)
from slc.compiler.bench.gate_limits import LimitCheck, reasons_against
from slc.targets.detect import usable_cores


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    return path


def test_this_machine() -> None:
    here = environment(threads=1)
    assert here.cores == usable_cores()
    assert here.isa in ("generic", "avx2", "avx512", "neon", "dotprod")
    assert here.onnxruntime is not None
    assert here.fingerprint == environment(threads=1).fingerprint
    assert here.fingerprint != environment(threads=2).fingerprint
    hot = dataclasses.replace(here, throttling=("hot",), slc="9")
    assert hot.fingerprint == here.fingerprint
    assert dataclasses.replace(here, onnxruntime="0.1").fingerprint != here.fingerprint


def test_isa_is_what_the_library_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_isa("x86_64", "avx512", None) == "avx512"
    assert chosen_isa("x86_64", "avx512", "avx2") == "avx2"
    assert chosen_isa("x86_64", "avx2", "avx512") == "avx2"  # never more than there is
    assert chosen_isa("x86_64", "avx2", "neon") == "avx2"  # a word it does not know
    assert chosen_isa("aarch64", "dotprod", "generic") == "generic"
    monkeypatch.setenv("SLC_ISA", "generic")
    assert environment(1).isa == "generic"


def test_flags_of_a_raspberry_pi(tmp_path: Path) -> None:
    flags = write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005")
    assert throttling_now(tmp_path) == ("Raspberry Pi: under-voltage", "Raspberry Pi: throttled")
    flags.write_text("50000\n")  # it was, since boot
    assert throttling_now(tmp_path) == ()


def test_cooling_devices(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/thermal/cooling_device0/type", "cpufreq-cpu0")
    state = write(tmp_path, "sys/class/thermal/cooling_device0/cur_state", "2")
    write(tmp_path, "sys/class/thermal/cooling_device1/type", "pwm-fan")
    write(tmp_path, "sys/class/thermal/cooling_device1/cur_state", "3")
    assert throttling_now(tmp_path) == ("cooling_device0: cpufreq-cpu0 limited to step 2",)
    state.write_text("0\n")
    assert throttling_now(tmp_path) == ()


def test_counters_of_jetson_and_intel(tmp_path: Path) -> None:
    assert throttle_counts(tmp_path) == {}
    over = write(tmp_path, "sys/class/hwmon/hwmon3/oc1_event_cnt", "4")
    write(tmp_path, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "7")
    before = throttle_counts(tmp_path)
    assert sorted(before.values()) == [4, 7]
    over.write_text("6\n")
    (grown,) = throttled_between(before, throttle_counts(tmp_path))
    assert grown == "sys/class/hwmon/hwmon3/oc1_event_cnt grew by 2"


def test_governor(tmp_path: Path) -> None:
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave")
    assert environment(1, tmp_path).governor == "powersave"
    assert environment(1, tmp_path / "none").governor is None


def test_who_may_judge() -> None:
    here = environment(1)
    device = {"name": "host", "arch": here.arch, "cores": here.cores, "isa": list(here.isa_flags)}
    assert reasons_against(here, device, None, ()) == ()
    assert reasons_against(here, {}, here.fingerprint, ()) == ()
    other = {"aarch64": "x86_64", "x86_64": "aarch64"}[here.arch]
    for change, word in (
        ({"arch": other}, f"for {other}"),
        ({"cores": here.cores + 1}, "cores"),
        ({"isa": [*here.isa_flags, "amx_int9"]}, "amx_int9"),
    ):
        (reason,) = reasons_against(here, {**device, **change}, None, ())
        assert word in reason
        # A runner that is named is believed before the profile.
        assert reasons_against(here, {**device, **change}, here.fingerprint, ()) == ()
    (reason,) = reasons_against(here, device, "0" * 12, ())
    assert here.fingerprint in reason
    (reason,) = reasons_against(here, device, None, ("Raspberry Pi: throttled",))
    assert "held back" in reason


def test_limit() -> None:
    assert LimitCheck("decode", 10.0, 12.0, ()).passed is True
    assert LimitCheck("decode", 13.0, 12.0, ()).passed is False
    assert LimitCheck("decode", 13.0, 12.0, ("throttled",)).passed is None
