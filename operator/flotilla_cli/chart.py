"""What the chart decides about sidecars, read from its values."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flotilla_api.names import SIDECAR_ADMIN_PORT, SIDECAR_PORT
from flotilla_operator.resources.settings import OperatorSettings

from .errors import InputError

CONTROL_URL = "https://flotilla-control.flotilla-system.svc:9443"
"""Of the control API where the chart is installed as the README says."""


class _Values(BaseModel):
    """Values of the chart; those that sidecars do not depend on are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class _Image(_Values):
    repository: str = "flotilla-router"
    tag: str = ""
    digest: str = ""

    @property
    def reference(self) -> str:
        """The image as a pod names it; the tag's default is this release's."""
        if self.digest:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag or version('flotilla-operator')}"


class _Images(_Values):
    router: _Image = _Image()
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"


class _Router(_Values):
    pullSecrets: tuple[str, ...] = ()


class _Requests(_Values):
    cpu: str = "50m"
    memory: str = "64Mi"


class _Limits(_Values):
    memory: str = "256Mi"


class _Resources(_Values):
    requests: _Requests = _Requests()
    limits: _Limits = _Limits()


class _Sidecar(_Values):
    port: int = Field(default=SIDECAR_PORT, ge=1024, le=65535)
    adminPort: int = Field(default=SIDECAR_ADMIN_PORT, ge=1024, le=65535)
    resources: _Resources = _Resources()


class ChartValues(_Values):
    """The chart's values, each with the chart's default."""

    images: _Images = _Images()
    router: _Router = _Router()
    sidecar: _Sidecar = _Sidecar()


def make_settings(values: Any, *, image: str | None = None, control_url: str = CONTROL_URL) -> OperatorSettings:
    """What the operator is given by a chart with `values`, as far as sidecars depend on it; `image` wins over them.

    Raises:
        InputError: a value is not one that the chart takes.
    """
    try:
        chart = ChartValues.model_validate(values or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    requests, limits = chart.sidecar.resources.requests, chart.sidecar.resources.limits
    return OperatorSettings(
        engine_image="",
        router_image=image or chart.images.router.reference,
        control_url=control_url,
        image_pull_policy=chart.images.pullPolicy,
        router_image_pull_secrets=chart.router.pullSecrets,
        sidecar_port=chart.sidecar.port,
        sidecar_admin_port=chart.sidecar.adminPort,
        sidecar_cpu_request=requests.cpu,
        sidecar_memory_request=requests.memory,
        sidecar_memory_limit=limits.memory,
    )
