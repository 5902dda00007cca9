"""The sha256 of a source's files, which is found beside other work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slc.compiler.errors import ModelError
from slc.compiler.frontends.weights import hashing


def test_names_and_contents_in_name_order(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.onnx"))  # no UTF-8
    for path, content in ((odd, b"1"), (tmp_path / "b", b"2")):
        path.write_bytes(content)
    first = hashing([odd, tmp_path / "b"])()
    assert hashing([tmp_path / "b", odd])() == first
    odd.write_bytes(b"3")
    assert hashing([odd, tmp_path / "b"])() != first


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone' can't be read"):
        hashing([tmp_path / "gone"])()
