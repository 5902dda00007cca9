"""Sizes as people write them: "4GB" is 4·10⁹ bytes and "4GiB" is 2³²."""

from __future__ import annotations

import re
from fractions import Fraction

from slc.compiler.errors import RequestError

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{infix}B": base**power
    for infix, base in (("", 1000), ("I", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)")


def parse_size(text: str | int, option: str = "--mem") -> int:
    """The bytes that `text` names: a number with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB.

    A plain number is bytes; fractions are exact and rounded down; case does not matter, since no
    one means bits or milli here.

    Raises:
      RequestError: `text` is no size, or not above zero; the message names `option`.
    """
    match = _SIZE.fullmatch(str(text).strip())
    scale = _UNITS.get(match[2].upper()) if match else None
    if match is None or scale is None:
        raise RequestError(
            f"{option}: got {str(text)!r}, wanted a size such as 4GB, 1.5GiB, 512MB or 800000000"
        )
    size = int(Fraction(match[1]) * scale)
    if size <= 0:
        raise RequestError(f"{option}: got {str(text)!r}, wanted at least one byte")
    return size


def format_size(size: int, *, up: bool = False) -> str:
    """`size` in SI units with three digits, e.g. "61.3 MB"; `parse_size` reads it back.

    Args:
      size: bytes, ≥ 0.
      up: round up in the last digit, for a size that has to be enough.
    """
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            decimals = 2 if size < 10 * scale else 1 if size < 100 * scale else 0
            ticks = 10**decimals
            exact = Fraction(size * ticks, scale)
            whole = -(-exact.numerator // exact.denominator) if up else round(exact)
            return f"{whole / ticks:.{decimals}f} {unit}"
    return f"{size} B"
