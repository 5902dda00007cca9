"""The task: put the punctuation back into prose of the standard library's docstrings and comments.

A passage is a run of words without commas, full stops and colons, in lower case (the tokenizer's
doing), as speech recognition gives them. The label of a word is the mark that followed it.
Passages are cut without regard to sentences, so that their ends say nothing; every file's text goes
to training or to test as a whole.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import random
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence

from examples.docstrings import standard_library_files

MARKS = ("none", "comma", "period", "colon")
_MARK_OF = {",": 1, ".": 2, "?": 2, "!": 2, ":": 3, ";": 3}
_WORDS_MIN = 8  # a paragraph shorter than this is rather a heading
_PROSE_MIN = 0.85  # part of a paragraph's words that must look like words of prose
_WORD = re.compile(r"[\"'(`*]*[A-Za-z]?[a-z][\w'/-]*[\"')`*]*[,.:;?!]?[\"')`]*|[AI]")


@dataclasses.dataclass(frozen=True)
class Passage:
    """Words without their punctuation, and the mark that followed each: an index into MARKS."""

    words: tuple[str, ...]
    marks: tuple[int, ...]


def passages(words: int = 36, test_part: float = 0.25, seed: int = 0) -> tuple[list[Passage], ...]:
    """(training passages, test passages), each `words` long, shuffled.

    Args:
      words: per passage; what is left of a file's text at its end is dropped.
      test_part: of the files.
      seed: of the choice of files and of the order.
    """
    rng = random.Random(seed)
    parts: tuple[list[Passage], ...] = ([], [])
    seen: set[str] = set()
    for path in standard_library_files():
        part = parts[rng.random() < test_part]
        text: list[tuple[str, int]] = []
        for paragraph in _paragraphs(path.read_text(encoding="utf-8", errors="ignore")):
            if paragraph not in seen:
                seen.add(paragraph)
                text += [_split(word) for word in paragraph.split()]
        for start in range(0, len(text) - words + 1, words):
            window = text[start : start + words]
            part.append(Passage(tuple(w for w, _ in window), tuple(m for _, m in window)))
    for part in parts:
        rng.shuffle(part)
    return parts


def _split(word: str) -> tuple[str, int]:
    """A word and the mark behind it; brackets and quotes stay."""
    bare = word.rstrip("\"')`*")
    mark = _MARK_OF.get(bare[-1:], 0)
    return (bare[:-1] + word[len(bare) :] if mark else word), mark


def _paragraphs(source: str) -> Iterator[str]:
    """Paragraphs of prose in a file's docstrings and comments, each on one line."""
    for text in [*_docstrings(source), *_comments(source)]:
        for paragraph in re.split(r"\n\s*\n", text):
            flat = " ".join(paragraph.split())
            if ">>>" not in flat and _is_prose(flat.split()):
                yield flat


def _is_prose(words: Sequence[str]) -> bool:
    prose = sum(_WORD.fullmatch(word) is not None for word in words)
    return len(words) >= _WORDS_MIN and prose >= _PROSE_MIN * len(words)


def _docstrings(source: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in old files
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield ast.get_docstring(node) or ""


def _comments(source: str) -> Iterator[str]:
    """Comments of consecutive lines as one text."""
    lines: list[str] = []
    last = -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                if token.type != tokenize.COMMENT:
                    continue
                if token.start[0] != last + 1:
                    yield "\n".join(lines)
                    lines = []
                lines.append(token.string.lstrip("#").strip())
                last = token.start[0]
        except (tokenize.TokenError, SyntaxError):
            return
    yield "\n".join(lines)
