from __future__ import annotations

import pytest
import typer

from slc.compiler.cli.milliseconds import milliseconds


@pytest.mark.parametrize("text", ["20", "20ms", " 20 ms ", "20.0", "0.02s", "20000us", "20000µs"])
def test_the_same_duration(text: str) -> None:
    assert milliseconds(text) == pytest.approx(20)


@pytest.mark.parametrize("text", ["", "ms", "-1", "1e3", "20min", "nan", "20 ms a token"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="wanted milliseconds such as 20, 20ms"):
        milliseconds(text)
