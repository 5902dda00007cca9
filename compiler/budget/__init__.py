"""Decides how each Linear is stored, so that the session fits its memory.

Its names are imported on first use: who only wants a size or a Choice needs no graph library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slc.compiler.budget.choice import Choice
    from slc.compiler.budget.options import BudgetOptions
    from slc.compiler.budget.planning import Plan, plan, to_json

__all__ = ["BudgetOptions", "Choice", "Plan", "plan", "to_json"]

_HOMES = {
    "BudgetOptions": "slc.compiler.budget.options",
    "Choice": "slc.compiler.budget.choice",
    "Plan": "slc.compiler.budget.planning",
    "plan": "slc.compiler.budget.planning",
    "to_json": "slc.compiler.budget.planning",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
