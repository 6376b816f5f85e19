"""What a decision of a learned strategy costs the router: one core, 1 KB of prompt.

`python -m decision_bench` prints the table; `decision_us()` gives its medians.
"""

from __future__ import annotations

from .decisions import decision_us

__all__ = ["decision_us"]
