"""The control API's terms, which the operator and its routers share: headers, bounds, and what a router misses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

DIGEST_HEADER = "x-flotilla-digest"
"""On a snapshot: its digest."""
PUBLISHED_HEADER = "snapshot-published-at"
"""On a snapshot: when it was published, as `format_time` writes it."""
REVIEW_PATH = "/v1/tokens/{namespace}/{policy}"
"""POST by a gateway of the policy, with `{"token": ...}` that a caller showed to it. 200: the token is of audience
GATEWAY_AUDIENCE and of a pod that is labelled for the policy, which allows sidecars; `{"pod": NAME}` says which. 403: it
is not, and `{"error": {"reason", "message"}}` says why, with the reason TOKEN_REFUSED; with another it is the gateway that
may not ask."""
WAKE_PATH = "/v1/wake/{namespace}/{expert}"
"""POST by a router with `?policy=NAME`, whose snapshot it may have and which names the Expert. 202: the Expert is looked
at now, and gets a replica if it should have one. `&waits=1` says that a request waits for it, or is refused for want of it,
because nobody else may answer: then it should have one whatever that costs. There is no body."""
ARTIFACT_PATH = "/v1/artifacts/{namespace}/{policy}/{digest}"
"""GET by a router, which may have the policy's snapshot. 200: the tar of the files of the artifact with this digest, from
a ConfigMap that the policy's strategy, shadow or canary names. 404: the policy names none with this digest, or the ConfigMap
does not exist. 409: the ConfigMap's manifest.json has another digest, or there is none."""
TOKEN_REFUSED = "TokenRefused"  # noqa: S105 - a reason, not a token
PROBLEMS_MAX = 16
"""Problems that one poll may name."""
TEXT_MAX_CHARACTERS = 1024
"""Of a problem, and of the reason for which a snapshot was refused."""


ARTIFACT_ROLES = ("strategy", "shadow", "canary")
"""Fields of a policy that name an artifact, and targets of problems with one."""


class ProblemKind(StrEnum):
    """What a router may miss."""

    API_KEYS = "ApiKeys"
    """No API key of a client is mounted: it refuses every request."""
    CREDENTIAL = "Credential"
    """What a call to a fallback needs is not mounted or cannot be used: that fallback gets no request."""
    GATEWAY = "Gateway"
    """A sidecar misses what a call to its gateway needs: no external fallback gets a request, or none gets through."""
    ARTIFACT_NOT_FOUND = "ArtifactNotFound"
    """A trained artifact could not be fetched."""
    ARTIFACT_DIGEST_MISMATCH = "ArtifactDigestMismatch"
    """A trained artifact is not the one that the policy pins."""
    ARTIFACT_REFUSED = "ArtifactRefused"
    """A trained artifact is damaged, of another schema, or does not go with the policy."""
    ARTIFACT_LOADING = "ArtifactLoading"
    """A trained artifact is being fetched or checked for the first time."""
    DRIFTED = "Drifted"
    """Live scores are not distributed as those that the artifact was calibrated on."""
    REQUEST_LOG = "RequestLog"
    """The request log cannot be written: rows are lost."""
    OTHER = "Other"
    """Of a router of another release."""


STRATEGY_PROBLEMS = frozenset(
    {
        ProblemKind.ARTIFACT_NOT_FOUND,
        ProblemKind.ARTIFACT_DIGEST_MISMATCH,
        ProblemKind.ARTIFACT_REFUSED,
        ProblemKind.ARTIFACT_LOADING,
        ProblemKind.DRIFTED,
    }
)
"""Those with learned routing, whose `target` is one of ARTIFACT_ROLES: requests are answered all the same."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What keeps a router from doing all that its snapshot asks."""

    kind: ProblemKind
    target: str
    """The Fallback's name, or ARTIFACT_ROLES' name of the artifact; '' where none is meant."""
    text: str
    """One sentence for a person."""

    def to_query(self) -> str:
        """As a poll's parameter `problem`: kind:target:text."""
        return f"{self.kind}:{self.target}:{self.text}"[:TEXT_MAX_CHARACTERS]

    @classmethod
    def from_query(cls, value: str) -> Problem:
        """The problem that a poll names; what cannot be understood is one of kind OTHER."""
        kind, _, rest = value.partition(":")
        target, separator, text = rest.partition(":")
        if not separator or kind not in set(ProblemKind):
            return cls(ProblemKind.OTHER, "", value)
        return cls(ProblemKind(kind), target, text)


def format_time(moment: datetime) -> str:
    """A UTC time to the microsecond, in a form whose order as text is its order in time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
