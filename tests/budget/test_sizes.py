from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slc.compiler.budget.sizes import format_size, parse_size
from slc.compiler.errors import RequestError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4GiB", 2**32),
        ("1.5GB", 1_500_000_000),
        ("512MiB", 512 * 2**20),
        ("10kB", 10_000),
        ("10KB", 10_000),
        ("10KiB", 10_240),
        ("1TB", 10**12),
        ("7B", 7),
        ("12345", 12345),
        (12345, 12345),
        (" 4 GB ", 4 * 10**9),
        ("4gb", 4 * 10**9),
        (".5kB", 500),
        ("0.1GB", 100_000_000),
    ],
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["4XB", "", "-1GB", "0", "0GB", "0.4B", "GB", "4 4GB", "1e9", "4G", "nan", "4GBs", -3]
)
def test_what_is_no_size_is_refused_with_what_was_got(text: str | int) -> None:
    with pytest.raises(RequestError, match=r"--mem: got '.*', wanted") as error:
        parse_size(text)
    assert repr(str(text)) in str(error.value)


@given(st.integers(1, 10**13))
def test_a_size_rounded_up_is_enough_and_close(size: int) -> None:
    again = parse_size(format_size(size, up=True))
    assert size <= again <= size * 1.01 + 1


@given(st.integers(1, 10**13))
def test_a_size_is_shown_within_half_its_last_digit(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size * 0.005 + 1
