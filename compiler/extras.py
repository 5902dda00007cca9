"""What only some commands need: the packages of the extra `export`."""

from __future__ import annotations

import importlib.util

from slc.compiler.errors import RequestError


def require(what: str, *modules: str) -> None:
    """Refuses `what` when a module that it imports is not installed.

    Raises:
      RequestError: names the modules that are missing and the extra that brings them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise RequestError(
            f"{what} needs {', '.join(missing)}: got an installation without, wanted the extra "
            "'export'; run pip install 'slc-compiler[export]'"
        )
