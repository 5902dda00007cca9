"""Latency and memory of an artifact as a test: measured, counted, and compared with another one's.

Three gates, each with its own kind of evidence:
  A, deterministic (`counts.py`, `gate_counts.py`): bytes and operators; any machine, no tolerance.
  B, paired (`gate_paired.py`): both artifacts in fresh processes that take turns on one machine;
     `sequential.py` decides.
  C, absolute (`gate_limits.py`): a limit in milliseconds, for a device that has a name.
"""
