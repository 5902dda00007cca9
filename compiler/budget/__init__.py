"""Decides how each Linear is stored, so that the session fits its memory."""

from slc.compiler.budget.choice import Choice
from slc.compiler.budget.options import BudgetOptions
from slc.compiler.budget.planning import Plan, plan, to_json

__all__ = ["BudgetOptions", "Choice", "Plan", "plan", "to_json"]
