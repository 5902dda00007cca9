"""The frame of every page: one HTML document with its style and script inside.

The Content-Security-Policy forbids every request, so that a page which needed one would show it.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Sequence
from html import escape

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(
    title: str, body: Iterable[str], *, styles: Sequence[str] = (), script: str = ""
) -> str:
    """The whole file.

    Args:
      title: plain text, of the window.
      body: HTML, a part each.
      styles: names of style sheets of this package that follow `page.css`.
      script: name of a script of this package; "" for none.
    """
    style = "\n".join(resource(name) for name in ("page.css", *styles))
    parts = [
        "<!doctype html>",
        "<html lang='en'>",
        "<head>",
        "<meta charset='utf-8'>",
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        "<link rel='icon' href='data:,'>",
        f"<title>{escape(title)}</title>",
        f"<style>\n{style}</style>",
        "</head>",
        "<body>",
        *body,
        *([f"<script>\n{resource(script)}</script>"] if script else []),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def resource(name: str) -> str:
    """The text of a file of this package."""
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: Sequence[int] = (),
    stacked: bool = False,
) -> str:
    """A plain table in a box that scrolls sideways.

    Args:
      heads: plain text; all of them empty: no row of heads.
      rows: cells in HTML.
      text: columns that hold words: set left and allowed to wrap; the others hold numbers.
      stacked: on a phone each row becomes a block with a line for each cell.
    """
    kinds = [" class='text'" if i in text else "" for i in range(len(heads))]
    names = [f" data-head='{escape(head, quote=True)}'" if stacked else "" for head in heads]
    head = "".join(
        f"<th scope='col'{kind}>{escape(name)}</th>"
        for kind, name in zip(kinds, heads, strict=True)
    )
    lines = [
        "<tr>"
        + "".join(
            f"<td{kind}{name}>{cell}</td>"
            for kind, name, cell in zip(kinds, names, row, strict=True)
        )
        + "</tr>"
        for row in rows
    ]
    body = "\n".join(lines)
    top = f"<thead><tr>{head}</tr></thead>\n" if any(heads) else ""
    kind = " class='stacked'" if stacked else ""
    return (
        f"<div class='scroll' role='region' aria-label='table' tabindex='0'><table{kind}>\n{top}"
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def legend(items: Iterable[tuple[str, str]]) -> str:
    """(CSS colour, plain text) of each thing in a picture, in a row that wraps."""
    entries = "".join(f"<li>{swatch(colour)}{escape(text)}</li>" for colour, text in items)
    return f"<ul class='legend'>{entries}</ul>"


def swatch(colour: str) -> str:
    """A small square of a CSS colour."""
    return f"<span class='swatch' style='background:{colour}'></span>"
