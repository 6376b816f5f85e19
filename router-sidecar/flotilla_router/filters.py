"""What removes a model from the candidates of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from flotilla_api.causes import Boundary, ColdStartMode
from flotilla_api.snapshot import Target

from .decisions import Features

Filter = Literal["api", "tools", "jsonSchema", "boundary", "context", "readiness", "asleep"]
"""Why a model was left out, in the order in which it is asked; the last two are one question's answers."""
LOWEST_ESTIMATE_RATIO = 0.7
"""The true length of a prompt is hardly ever less than this part of the estimate."""


class Filters(msgspec.Struct, frozen=True):
    """What removes a model from the candidates of a request."""

    features: Features
    ready: Callable[[Target], bool]
    boundary: Boundary
    cold_start: ColdStartMode
    waited: bool
    """No longer for a sleeping expert."""

    def lacks(self, target: Target) -> Filter | None:
        """What the target cannot do or must not see; None: it may answer."""
        features = self.features
        if features.api not in target.apis:
            return "api"
        if features.tool_count and not target.tools:
            return "tools"
        if features.json_schema and not target.jsonSchema:
            return "jsonSchema"
        if self.boundary == "LocalOnly" and target.location == "External":
            return "boundary"
        return None

    def removes(self, target: Target) -> Filter | None:
        """The first filter that removes the target; None: it is eligible."""
        lack = self.lacks(target)
        if lack is not None:
            return lack
        return "context" if self.overflows(target) else self.unready(target)

    def unready(self, target: Target) -> Filter | None:
        """Why the target cannot be called now; None: it can."""
        if self.ready(target):
            return None
        return "asleep" if target.asleep else "readiness"

    def overflows(self, target: Target) -> bool:
        """Whether the request is clearly too long."""
        if target.maxContextTokens is None:
            return False
        least = self.features.prompt_tokens * LOWEST_ESTIMATE_RATIO + (self.features.max_tokens or 0)
        return least > target.maxContextTokens
