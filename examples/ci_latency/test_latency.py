"""The three ways a latency test can end; `python -m examples.ci_latency` builds what it needs."""

from __future__ import annotations

import pytest


@pytest.mark.slc_artifact("equal")
def test_equal_is_no_slower(slc_latency):
    slc_latency()


@pytest.mark.slc_artifact("slower")
def test_slower_is_found(slc_latency):
    slc_latency()


@pytest.mark.slc_artifact("hurried", time_limit_s=2)
def test_too_little_time_decides_nothing(slc_latency):
    slc_latency()
