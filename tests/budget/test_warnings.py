"""The warning about a budget that the device does not have."""

from __future__ import annotations

import pytest

from slc.compiler.budget.warnings import above_device
from slc.targets import Target

BOARD = Target(
    name="board",
    arch="aarch64",
    memory_bytes=8_000_000_000,
    reserve_bytes=1_000_000_000,
    bandwidth_bytes_per_s=10_000_000_000,
    cores=4,
)


@pytest.mark.parametrize("mem", [1, 6_999_999_999, 7_000_000_000])
def test_what_is_usable_is_not_warned_of(mem: int) -> None:
    assert above_device(BOARD, mem) is None


@pytest.mark.parametrize(
    ("mem", "numbers"),
    [
        (7_500_000_000, ("7.50 GB", "7.00 GB", "8.00 GB", "1.00 GB")),
        (8_000_000_000, ("8.00 GB", "7.00 GB", "1.00 GB")),
        # Would both read 7.00 GB.
        (7_000_000_001, ("7,000,000,001 B", "7,000,000,000 B", "8.00 GB")),
    ],
)
def test_above_the_usable_bytes(mem: int, numbers: tuple[str, ...]) -> None:
    warning = above_device(BOARD, mem)
    assert warning is not None
    assert warning.startswith("--mem")
    assert "board can spare" in warning
    assert [n for n in numbers if n not in warning] == []


@pytest.mark.parametrize(
    ("mem", "numbers"),
    [
        (12_000_000_000, ("12.0 GB", "8.00 GB", "7.00 GB")),
        (8_000_000_001, ("8,000,000,001 B", "8,000,000,000 B", "7.00 GB")),
    ],
)
def test_above_the_memory(mem: int, numbers: tuple[str, ...]) -> None:
    warning = above_device(BOARD, mem)
    assert warning is not None
    assert "of memory that board has" in warning
    assert [n for n in numbers if n not in warning] == []
