"""What `POST /v1/route:explain` answers: a decision and its grounds, without a call."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .decisions import Decision
from .learned import Judgement
from .openai import ParsedRequest
from .registry import Live


def explanation(
    live: Live, request: ParsedRequest, decision: Decision, judgement: Judgement | None, ready: Sequence[bool]
) -> bytes:
    """A decision as JSON. ready: for each target of the snapshot, whether it can be called now."""
    return msgspec.json.encode(
        {
            "policy": live.snapshot.policy,
            "snapshot": live.digest,
            "model": decision.first.name,
            "kind": decision.first.kind,
            "reason": decision.reason,
            "rule": decision.rule,
            "pinned": decision.pinned,
            "boundary": decision.boundary,
            "cause": decision.cause,
            "waits": decision.first.asleep,
            "fallbacks": [target.name for target in decision.fallbacks],
            "propensity": decision.propensity,
            "strategy": None if judgement is None else _strategy(judgement),
            "targets": [
                {"kind": target.kind, "name": target.name, "ready": able}
                for target, able in zip(live.snapshot.targets, ready, strict=True)
            ],
            "features": {
                "api": request.api,
                "alias": request.model,
                "stream": request.stream,
                "tools": request.tool_count,
                "jsonSchema": request.json_schema,
                "promptTokens": request.prompt_tokens,
                "maxTokens": request.max_tokens,
            },
        }
    )


def _strategy(judgement: Judgement) -> dict[str, object]:
    """What the artifact says; without a score, and without an artifact, models are drawn by weight."""
    opinion = judgement.opinion
    if opinion is None:
        return {"role": judgement.role, "artifact": judgement.artifact, "score": None}
    return {
        "role": judgement.role,
        "artifact": judgement.artifact,
        "score": opinion.score,
        "threshold": opinion.threshold,
        "scores": opinion.scores,
        "order": opinion.order,
    }
