"""What a plan should warn of without refusing it, a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slc.compiler.budget.sizes import format_size

if TYPE_CHECKING:
    from slc.targets import Target


def above_device(target: Target, mem_bytes: int) -> str | None:
    """That a budget of `mem_bytes` is more than `target` has, or more than it can spare; else None.

    No error: the board may have more than its profile says, whose reserve is an allowance.
    """
    memory, usable = target.memory_bytes, target.usable_bytes
    if mem_bytes > memory:
        return (
            f"--mem {_apart(mem_bytes, memory)} is above the {_apart(memory, mem_bytes)} of memory "
            f"that {target.name} has: a session of that size does not fit there; "
            f"{format_size(usable)} are usable"
        )
    if mem_bytes > usable:
        return (
            f"--mem {_apart(mem_bytes, usable)} is above the {_apart(usable, mem_bytes)} that "
            f"{target.name} can spare: it has {format_size(memory)}, of which the system and other "
            f"programs are reckoned to need {format_size(target.reserve_bytes)}"
        )
    return None


def _apart(size: int, other: int) -> str:
    """`size` in three digits, or in full where `other` would read the same."""
    text = format_size(size)
    return text if text != format_size(other) else f"{size:,} B"
