"""What ends a command with exit code 1.

InputError
`-- EditError
"""

from __future__ import annotations


class InputError(Exception):
    """What was given cannot be used; the message names the file or the object, and says what to do."""


class EditError(InputError):
    """Something cannot be added to a document without rewriting it."""
