"""Text that every machine with Python has: the docstrings and sources of the standard library."""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"}


def standard_library_files() -> list[Path]:
    """Every .py file of the standard library but its tests, sorted."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = (path for path in root.rglob("*.py"))
    return sorted(p for p in files if not _SKIPPED & set(p.relative_to(root).parts))


def docstrings(minimum: int = 40, maximum: int = 400) -> list[tuple[str, str]]:
    """(qualified name, first paragraph of its docstring), sorted, every text once.

    Args:
      minimum: shortest text, in characters.
      maximum: texts are cut here.
    """
    found: dict[str, str] = {}
    for path in standard_library_files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old files
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
        for name, text in _documented(tree):
            first = " ".join(text.split("\n\n")[0].split())[:maximum]
            if len(first) >= minimum:
                found.setdefault(first, f"{path.stem}.{name}")
    return sorted((name, text) for text, name in found.items())


def split(
    calibration: int = 128, held_out: int = 512, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Two disjoint random samples of docstrings: for calibration and for evaluation."""
    texts = [text for _, text in docstrings()]
    random.Random(seed).shuffle(texts)
    return texts[:calibration], texts[calibration : calibration + held_out]


def _documented(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            text = ast.get_docstring(node)
            if text:
                yield node.name, text
