from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from slc.compiler.request_plan import SM_MIN
from slc.targets import Target, TargetError, load, names
from slc.targets.load import DEVICES
from slc.targets.target import FIGURES, version_tuple

PLAIN = Target(
    name="plain",
    arch="x86_64",
    memory_bytes=1000,
    reserve_bytes=100,
    bandwidth_bytes_per_s=10,
    cores=2,
)


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", names())
def test_shipped_profiles_are_valid_and_every_figure_has_a_source(name: str) -> None:
    target = load(name)
    assert target.name == name
    assert target.description
    for figure in FIGURES:
        if getattr(target, figure):
            assert target.sources.get(figure), figure
            # A figure set in the file is sourced in the file, not by the loader's stand-in.
            assert not target.sources[figure].startswith("given in"), figure


def test_issue_names_and_aliases_load() -> None:
    wanted = {
        "host",
        "h200",
        "intel-n100",
        "jetson-agx-orin-32gb",
        "jetson-agx-orin-64gb",
        "jetson-agx-thor",
        "jetson-nano",
        "jetson-orin-nano-4gb",
        "jetson-orin-nano-8gb",
        "jetson-orin-nx-16gb",
        "jetson-xavier-nx",
        "raspberry-pi-4-1gb",
        "raspberry-pi-4-2gb",
        "raspberry-pi-4-4gb",
        "raspberry-pi-4-8gb",
        "raspberry-pi-5",
        "raspberry-pi-5-16gb",
        "raspberry-pi-5-2gb",
        "raspberry-pi-5-4gb",
        "snapdragon-8-gen-3",
        "x86-64-avx2",
        "x86-64-avx512",
        "x86-64-laptop",
        "x86-64-laptop-ddr5",
        "x86-64-laptop-lpddr5x",
    }
    assert wanted <= set(names())
    assert load("jetson") == load("jetson-orin-nano-8gb")
    assert load("raspberry-pi-4") == load("raspberry-pi-4-4gb")
    assert load("raspberry-pi-5-8gb") == load("raspberry-pi-5")


@pytest.mark.parametrize("name", [name for name in names() if name[-2:] == "gb"])
def test_a_name_with_a_size_has_that_memory_less_what_linux_does_not_show(name: str) -> None:
    size = int(name.rsplit("-", 1)[1][:-2]) << 30
    assert 0.84 * size < load(name).memory_bytes < size


@pytest.mark.parametrize("name", [name for name in names() if name != "host"])
def test_only_measured_profiles_are_verified(name: str) -> None:
    target = load(name)
    assert target.verified == target.sources["bandwidth_bytes_per_s"].startswith("measured")


@pytest.mark.parametrize("name", ["raspberry-pi-4-1gb", "raspberry-pi-4-8gb", "jetson-nano"])
def test_armv8_0_promises_neon_only(name: str) -> None:
    assert load(name).isa == ("neon",)


def test_a_gpu_that_no_kernel_has_run_on_is_said_so() -> None:
    with_gpu = [load(name) for name in names() if load(name).sm is not None]
    assert len(with_gpu) >= 8
    for target in with_gpu:
        if target.sm >= SM_MIN:
            assert target.provider == "cuda", target.name
            assert any("not yet run on a GPU" in note for note in target.notes), target.name
        else:
            assert target.provider == "cpu", target.name
            assert any("GPU is not used" in note for note in target.notes), target.name


def test_aliases_are_unique_and_hide_no_name() -> None:
    aliases = [a for n in names() if n != "host" for a in load(n).aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(names())


def test_inheritance_takes_the_parent_figures_and_keeps_its_own() -> None:
    child, parent = load("jetson-orin-nano-4gb"), load("jetson-orin-nano-8gb")
    assert child.sm == parent.sm == 87
    assert child.sources["sm"] == parent.sources["sm"]
    assert child.memory_bytes < parent.memory_bytes
    assert child.aliases == ()


def test_runtimes_that_decide_what_may_be_exported() -> None:
    assert load("x86-64-avx2").ort_at_least("1.23")
    assert load("jetson").ort_max == "1.23.2"
    assert not load("jetson-xavier-nx").ort_at_least("1.23")
    nano = load("jetson-nano")  # onnxruntime is built there, so that no version is the newest
    assert (nano.ort_min, nano.ort_max, nano.glibc_min) == ("1.17", None, "2.27")
    assert version_tuple("1.9") < version_tuple("1.17") < version_tuple("1.17.3")


def test_derived_properties() -> None:
    assert PLAIN.usable_bytes == 900
    assert PLAIN.platform_tag == "linux-x86_64"
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.cores = 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_bytes", -1),
        ("memory_bytes", 1.5),
        ("memory_bytes", True),
        ("reserve_bytes", 1000),
        ("bandwidth_bytes_per_s", 0),
        ("cores", 0),
        ("arch", "mips"),
        ("isa", ("avx3",)),
        ("isa", "avx2"),
        ("provider", "rocm"),
        ("sm", 8.7),
        ("ort_min", "new"),
        ("ort_min", "1.16.3"),
        ("ort_max", "1.16"),
        ("glibc_min", 2.28),
        ("name", "a b"),
        ("verified", "yes"),
        ("sources", {"colour": "blue"}),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(TargetError, match=field):
        dataclasses.replace(PLAIN, **{field: value})


def test_cuda_needs_a_compute_capability() -> None:
    with pytest.raises(TargetError, match="sm"):
        dataclasses.replace(PLAIN, provider="cuda")


@pytest.mark.parametrize(
    ("typo", "near"),
    [("jetsn", "jetson"), ("raspbery-pi-5", "raspberry-pi-5"), ("orin", "jetson-orin-nano-8gb")],
)
def test_unknown_name_gives_near_matches(typo: str, near: str) -> None:
    with pytest.raises(TargetError, match=near):
        load(typo)


def test_unknown_name_without_a_near_match_lists_all() -> None:
    with pytest.raises(TargetError, match="raspberry-pi-5") as error:
        load("zzzzzz")
    assert "x86-64-avx2" in str(error.value)


def test_a_profile_of_the_user_inherits(tmp_path: Path) -> None:
    path = write(tmp_path, 'inherits = "raspberry-pi-5"\nmemory_bytes = 2_000_000_000\n')
    mine = load(str(path))
    assert (mine.name, mine.memory_bytes, mine.cores) == ("mine", 2_000_000_000, 4)
    assert mine.sources["memory_bytes"] == "given in mine.toml"
    write(tmp_path, 'inherits = "mine.toml"\ncores = 2\n', "grandchild.toml")
    assert load(tmp_path / "grandchild.toml").memory_bytes == 2_000_000_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('inherits = "jetson"\nmemory = 1\n', "unknown key 'memory'.*memory_bytes"),
        ('inherits = "jetson"\nmemory_bytes = -1\n', "memory_bytes must be"),
        ('inherits = "jetson"\nmemory_bytes = "8GB"\n', "memory_bytes must be"),
        ('arch = "x86_64"\nreserve_bytes = 1\n', "memory_bytes, bandwidth.*, cores are missing"),
        ("memory_bytes = 9\nreserve_bytes = 1\nbandwidth_bytes_per_s = 1\ncores = 1\n", "arch is"),
        ('inherits = "jetson"\narch = ["x86_64"]\n', "arch must be text"),
        ('inherits = "jetson"\n[sources]\nmemory = "x"\n', "'memory' in sources.*memory_bytes"),
        ('inherits = "jetson"\n[sources]\ncores = 4\n', "got 4; .* above .sources"),
        ('inherits = "jetsn"\n', "jetson"),
        ('inherits = "./mine.toml"\n', "inherits from itself"),
        ("inherits = 3\n", "inherits must be"),
        ('inherits = "jetson"\nsources = 3\n', "sources must be"),
        ("= =\n", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(TargetError, match=problem) as error:
        load(str(write(tmp_path, text)))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"absent\.toml: can't be read"):
        load(str(tmp_path / "absent.toml"))


def test_every_file_is_listed() -> None:
    assert sorted(p.stem for p in DEVICES.glob("*.toml")) == sorted(set(names()) - {"host"})


def test_importing_targets_is_cheap() -> None:
    code = (
        "import sys, slc.targets; slc.targets.load('jetson'); slc.targets.load('host');"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
