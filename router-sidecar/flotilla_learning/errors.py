"""What goes wrong in learning."""

from __future__ import annotations


class TrainingError(Exception):
    """These rows do not train what was asked for; the message says what they lack."""
