"""The operator's settings: environment variables FLOTILLA_*, one for each field below."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flotilla_api.names import CONTROL_PORT, OPERATOR_ADMIN_PORT, SIDECAR_ADMIN_PORT, SIDECAR_PORT, WEBHOOK_PORT

from .resources.settings import OperatorSettings

PREFIX = "FLOTILLA_"
_LABEL_NAME = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")


class SettingsError(Exception):
    """A setting is missing or wrong; the message names the variable."""


class Settings(BaseModel):
    """What an environment says. A field `engine_image` is the variable FLOTILLA_ENGINE_IMAGE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_image: str = Field(min_length=1)
    """Image of vLLM for Experts and served Fallbacks that name none. No default: the chart pins it with its release."""

    router_image: str = Field(min_length=1)
    """Image of the router. No default, as above: routers and operator must be of one release."""

    namespace: str = Field(min_length=1)
    """Namespace of the operator itself: its Lease and its certificate Secret live there."""

    pod_name: str = Field(default_factory=socket.gethostname, min_length=1)
    """Name of this replica, shown in the Lease and in events. Default: the host's name, which is the pod's."""

    pod_ip: str = Field("127.0.0.1", min_length=1)
    """Address that the listeners bind to and that other replicas dial. Default: loopback, for a run outside a pod."""

    control_service: str = Field("flotilla-control", min_length=1)
    """Name of the Service in front of the control API: routers dial it, so the certificate is valid for it."""

    control_port: int = Field(CONTROL_PORT, ge=1, le=65535)
    """Port of the control API, on pods and on the Service."""

    webhook_port: int = Field(WEBHOOK_PORT, ge=1, le=65535)
    """Port of the admission webhook, on pods and on the Service."""

    webhook_configuration: str = ""
    """Name of the MutatingWebhookConfiguration that makes the API server call the webhook; its caBundle is kept right.
    Default: none, and then nothing listens at the webhook's port."""

    admin_port: int = Field(OPERATOR_ADMIN_PORT, ge=1, le=65535)
    """Port of /healthz, /readyz and /metrics."""

    watch_namespaces: tuple[str, ...] = ()
    """Namespaces whose objects are served, with commas between. Default: none named, which means all; naming some is
    for teams that may not grant cluster-wide permissions."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Of every child's containers. Default IfNotPresent: engine images are large."""

    router_cpu_request: str = "250m"
    """CPU that a gateway pod asks for. Default: a quarter core, about 3,000 requests a second."""

    router_memory_request: str = "128Mi"
    """Memory that a gateway pod asks for."""

    router_memory_limit: str = "512Mi"
    """Memory at which a gateway pod is killed. Default: some 10,000 open streams with buffers."""

    router_image_pull_secrets: tuple[str, ...] = ()
    """Secrets for pulling the router's image, with commas between; they must exist in each policy's namespace."""

    sidecar_port: int = Field(SIDECAR_PORT, ge=1024, le=65535)
    """Port of a sidecar on its pod's loopback, where the policy names none."""

    sidecar_admin_port: int = Field(SIDECAR_ADMIN_PORT, ge=1024, le=65535)
    """Port of a sidecar's health and metrics on its pod's address, where the policy names none."""

    sidecar_cpu_request: str = "50m"
    """CPU that a sidecar asks for, where the policy does not say. Default: some 600 requests a second."""

    sidecar_memory_request: str = "64Mi"
    """Memory that a sidecar asks for, where the policy does not say."""

    sidecar_memory_limit: str = "256Mi"
    """Memory at which a sidecar is killed, where the policy does not say."""

    lease_name: str = Field("flotilla-operator", min_length=1)
    """Name of the Lease that makes one replica the writer."""

    workers: int = Field(8, ge=1, le=128)
    """Objects that are reconciled at a time. Default 8: each spends most of its time waiting for the API server."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    prometheus_url: str = ""
    """Base address of a Prometheus server, or of what speaks its HTTP API: what comes before /api/v1. Default: none,
    and then the operator scrapes routers and engines itself, and remembers an hour of them."""

    prometheus_token_file: str = ""
    """File with a bearer token for it. Read again at each tick, as are the others: mounted Secrets are rotated."""

    prometheus_username_file: str = ""
    """File with the user of basic authentication."""

    prometheus_password_file: str = ""
    """File with that user's password."""

    prometheus_ca_file: str = ""
    """File with the authorities that sign its certificate. Default: the system's."""

    prometheus_labels: tuple[tuple[str, str], ...] = ()
    """Labels that this cluster's series have in a Prometheus of several clusters, such as cluster=prod, with commas
    between. Default: none, because all series are this cluster's."""

    scaling_interval_seconds: float = Field(15.0, ge=5, le=60)
    """Between two decisions about an Expert's replicas; wakes do not wait for it. Default 15, with which the rules were
    tuned."""

    prometheus_timeout_seconds: float = Field(10.0, gt=0, le=13)
    """For all queries, or scrapes, before one decision; at most the scaling interval less 2."""

    scrape_interval_seconds: float = Field(15.0, ge=1, le=60)
    """Between two samples that Prometheus takes of a pod: what it is set to. Rates are over three of them. Default 15.
    Where the operator scrapes by itself it does so at each decision, whatever this says."""

    @field_validator("prometheus_url")
    @classmethod
    def _is_base_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("must be an http:// or https:// address")
        if parts.username or parts.password:
            raise ValueError("must hold no credentials: they belong into files")
        if parts.query or parts.fragment:
            raise ValueError("must end before /api/v1")
        return url

    @field_validator("prometheus_labels")
    @classmethod
    def _are_labels(cls, labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for name, _ in labels:
            if not _LABEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no label's name: write cluster=prod, with commas between several")
        return labels

    @model_validator(mode="after")
    def _has_one_kind_of_credentials(self) -> Self:
        if bool(self.prometheus_username_file) != bool(self.prometheus_password_file):
            raise ValueError("PROMETHEUS_USERNAME_FILE and PROMETHEUS_PASSWORD_FILE belong together")
        if self.prometheus_token_file and self.prometheus_username_file:
            raise ValueError("PROMETHEUS_TOKEN_FILE and PROMETHEUS_USERNAME_FILE exclude each other")
        return self

    @property
    def metrics_timeout_seconds(self) -> float:
        """For what one scaling tick asks: it must be answered before the next."""
        return min(self.prometheus_timeout_seconds, self.scaling_interval_seconds - 2)

    @property
    def control_names(self) -> tuple[str, ...]:
        """DNS names of the control API's Service, the one that routers use first."""
        qualified = f"{self.control_service}.{self.namespace}"
        return (f"{qualified}.svc", f"{qualified}.svc.cluster.local", qualified, self.control_service)

    @property
    def control_address(self) -> str:
        """host:port under which other replicas reach this one's control API."""
        return join_address(self.pod_ip, self.control_port)

    def for_children(self) -> OperatorSettings:
        """The part that the pure core reads."""
        return OperatorSettings(
            engine_image=self.engine_image,
            router_image=self.router_image,
            control_url=f"https://{self.control_names[0]}:{self.control_port}",
            image_pull_policy=self.image_pull_policy,
            router_cpu_request=self.router_cpu_request,
            router_memory_request=self.router_memory_request,
            router_memory_limit=self.router_memory_limit,
            router_image_pull_secrets=self.router_image_pull_secrets,
            webhook=bool(self.webhook_configuration),
            webhook_leaves_out=("kube-system", self.namespace),
            sidecar_port=self.sidecar_port,
            sidecar_admin_port=self.sidecar_admin_port,
            sidecar_cpu_request=self.sidecar_cpu_request,
            sidecar_memory_request=self.sidecar_memory_request,
            sidecar_memory_limit=self.sidecar_memory_limit,
        )


def join_address(host: str, port: int) -> str:
    """host:port; an IPv6 host is put in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that `environment` holds; an empty variable counts as not set, other variables are ignored.

    Raises:
        SettingsError: a variable is missing or its value is wrong.
    """
    given = {name: environment.get(PREFIX + name.upper(), "").strip() for name in Settings.model_fields}
    values = {name: _parse(name, text) for name, text in given.items() if text}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(
            "; ".join(_sentence(problem["loc"], problem["msg"]) for problem in error.errors())
        ) from error


def _parse(name: str, text: str) -> str | tuple[str, ...] | tuple[tuple[str, str], ...]:
    if name == "prometheus_labels":
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        return tuple((label.strip(), value.strip()) for label, _, value in pairs)
    if name in {"watch_namespaces", "router_image_pull_secrets"}:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    variable = PREFIX + str(location[0]).upper() if location else PREFIX.rstrip("_")
    return f"{variable}: {message}"
