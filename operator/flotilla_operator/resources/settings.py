"""What the chart decides for every child."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flotilla_api.names import SIDECAR_ADMIN_PORT, SIDECAR_PORT


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What the chart decides for every child."""

    engine_image: str
    router_image: str
    control_url: str
    """Base URL of the control API, such as https://flotilla-control.flotilla-system.svc:9443."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    router_cpu_request: str = "250m"
    router_memory_request: str = "128Mi"
    router_memory_limit: str = "512Mi"
    router_image_pull_secrets: tuple[str, ...] = ()
    webhook: bool = True
    """Whether pods that ask for a sidecar get it when they are created; otherwise only from `flotilla inject`."""
    webhook_leaves_out: tuple[str, ...] = ()
    """Namespaces of which it is not asked."""
    sidecar_port: int = SIDECAR_PORT
    sidecar_admin_port: int = SIDECAR_ADMIN_PORT
    sidecar_cpu_request: str = "50m"
    sidecar_memory_request: str = "64Mi"
    sidecar_memory_limit: str = "256Mi"
