"""The one way in which slc says that the input or the request is wrong."""

from __future__ import annotations


class SlcError(Exception):
    """The input or the request is wrong: the command line prints the sentence and exits with 2.

    The message is one sentence that says what was got, what was wanted and what to do.
    """


class ModelError(SlcError):
    """A model, checkpoint or adapter can't be read, or holds something slc can't compile."""


class RequestError(SlcError):
    """An option's value, a device name or a combination of options is wrong."""


class BudgetError(SlcError):
    """Nothing fits the budget.

    Attributes:
      smallest_bytes: the smallest budget that would do, in bytes.
    """

    def __init__(self, message: str, smallest_bytes: int) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes


class ArtifactError(SlcError):
    """An artifact folder is missing a file, was altered, or can't be written."""


class PostconditionError(Exception):
    """A pass broke what it promises: a bug in slc, never the user's fault."""
