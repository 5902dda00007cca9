"""Device profiles: what a machine offers a compiled network.

`load("raspberry-pi-5")`, `load("jetson")` (an alias), `load("./mine.toml")` and `load("host")`
return a `Target`; `names()` lists what is shipped. Nothing heavy is imported here, and nothing
else of ours.
"""

from __future__ import annotations

from slc.targets.load import load, names
from slc.targets.target import Target, TargetError

__all__ = ["Target", "TargetError", "load", "names"]
