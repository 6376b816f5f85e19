"""What is read of an AdmissionReview, in memory of a bounded multiple of its size. PURE."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flotilla_operator.reconcile.types import Manifest

OBJECTS_MAX = 20_000
"""Objects and lists of a review; a pod of fifty containers with a hundred variables each has fewer. Empty ones take
three bytes of JSON and some hundred of memory, while text and numbers grow by little."""


class InvalidReviewError(Exception):
    """It is no review of a pod that the API server would take."""


class _Part(BaseModel):
    """What is read of a review; everything else of it is let through."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Named(_Part):
    name: str = ""


class _Port(_Part):
    containerPort: int = 0  # noqa: N815 - Kubernetes' name
    protocol: str = "TCP"


class _Container(_Part):
    name: str
    ports: list[_Port] | None = None
    env: list[_Named] | None = None


class _Metadata(_Part):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _PodSpec(_Part):
    containers: Annotated[list[_Container], Field(min_length=1)]
    initContainers: list[_Container] | None = None  # noqa: N815 - Kubernetes' name
    volumes: list[_Named] | None = None
    imagePullSecrets: list[_Named] | None = None  # noqa: N815 - as above
    os: _Named | None = None


class _Pod(_Part):
    metadata: _Metadata
    spec: _PodSpec


class _GroupVersionKind(_Part):
    group: str = ""
    kind: str


class Request(_Part):
    """What the API server asks about."""

    uid: Annotated[str, Field(min_length=1)]
    kind: _GroupVersionKind
    operation: str
    sub_resource: Annotated[str, Field(alias="subResource")] = ""
    namespace: str = ""
    manifest: Annotated[dict[str, Any] | None, Field(alias="object")] = None

    @property
    def pod(self) -> Manifest | None:
        """The pod that is to be created; None: it is something else."""
        return self.manifest if self.creates_a_pod else None

    @property
    def creates_a_pod(self) -> bool:
        """Nothing else can be given a sidecar: containers of a pod cannot be added later."""
        kind = (self.kind.group, self.kind.kind)
        return (*kind, self.operation, self.sub_resource) == ("", "Pod", "CREATE", "")


class _Review(_Part):
    apiVersion: Literal["admission.k8s.io/v1"]  # noqa: N815 - Kubernetes' name
    kind: Literal["AdmissionReview"]
    request: Request


def parse_review(body: bytes | bytearray) -> Request:
    """The request of a review, whose `manifest` is a pod where `creates_a_pod`.

    Raises:
        InvalidReviewError: it is something else.
    """
    if body.count(b"{") + body.count(b"[") > OBJECTS_MAX:
        raise InvalidReviewError(f"more than {OBJECTS_MAX} objects and lists")
    try:
        request = _Review.model_validate_json(body).request
        if request.creates_a_pod:
            _Pod.model_validate(request.manifest)
    except ValidationError as error:
        raise InvalidReviewError(_sentence(error)) from error
    return request


def _sentence(error: ValidationError) -> str:
    found: list[Any] = list(error.errors(include_url=False, include_context=False, include_input=False))
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:5])
