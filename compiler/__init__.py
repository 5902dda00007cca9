"""slc.compiler: from a trained network to an artifact that stock onnxruntime runs.

`export`, `plan` and `verify` do what the commands of the same name do, `add_adapters` and
`list_adapters` what `slc adapters add` and `list` do. They are imported on first use: `import
slc.compiler` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slc.compiler.lazy import imported_on_use

if TYPE_CHECKING:
    from slc.compiler.api import export, plan
    from slc.compiler.artifact.adapters import add_adapters, list_adapters
    from slc.compiler.artifact.verify import verify

__version__ = "0.1.0"
__all__ = ["add_adapters", "export", "list_adapters", "plan", "verify"]

__getattr__ = imported_on_use(
    __name__,
    {
        "add_adapters": "slc.compiler.artifact.adapters",
        "list_adapters": "slc.compiler.artifact.adapters",
        "export": "slc.compiler.api",
        "plan": "slc.compiler.api",
        "verify": "slc.compiler.artifact.verify",
    },
)
