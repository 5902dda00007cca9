"""Measures what operators cost on this machine and fits the figures of its profile."""

from __future__ import annotations

from slc.compiler.budget.calibrate.calibrate import calibrate

__all__ = ["calibrate"]
