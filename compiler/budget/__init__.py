"""Decides how each Linear is stored, so that the session fits its memory.

Its names are imported on first use: who only wants a size or a Choice needs no graph library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slc.compiler.lazy import imported_on_use

if TYPE_CHECKING:
    from slc.compiler.budget.choice import Choice
    from slc.compiler.budget.options import BudgetOptions
    from slc.compiler.budget.planning import Plan, plan, to_json

__all__ = ["BudgetOptions", "Choice", "Plan", "plan", "to_json"]

__getattr__ = imported_on_use(
    __name__,
    {
        "BudgetOptions": "slc.compiler.budget.options",
        "Choice": "slc.compiler.budget.choice",
        "Plan": "slc.compiler.budget.planning",
        "plan": "slc.compiler.budget.planning",
        "to_json": "slc.compiler.budget.planning",
    },
)
