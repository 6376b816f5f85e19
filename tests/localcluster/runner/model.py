"""The parts of the Kubernetes API that the runner acts on, decoded from JSON; unknown fields are skipped."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec

IntOrString: TypeAlias = int | str


class NamespacedName(NamedTuple):
    """What names an object of a namespaced kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Model(msgspec.Struct, frozen=True, rename="camel"):
    """An API object or a part of one."""


class ObjectMeta(Model, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    generation: int = 0
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class KeyRef(Model, frozen=True):
    """A key of a ConfigMap or a Secret."""

    key: str
    name: str = ""
    optional: bool = False


class FieldRef(Model, frozen=True):
    field_path: str


class ResourceFieldRef(Model, frozen=True):
    resource: str
    container_name: str = ""
    divisor: str = "1"


class EnvVarSource(Model, frozen=True):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class EnvVar(Model, frozen=True):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class SourceRef(Model, frozen=True):
    """A whole ConfigMap or Secret."""

    name: str = ""
    optional: bool = False


class EnvFrom(Model, frozen=True):
    prefix: str = ""
    config_map_ref: SourceRef | None = None
    secret_ref: SourceRef | None = None


class ContainerPort(Model, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class ResourceRequirements(Model, frozen=True):
    limits: dict[str, str | int] = {}
    requests: dict[str, str | int] = {}


class VolumeMount(Model, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""


class HttpHeader(Model, frozen=True):
    name: str
    value: str = ""


class HttpGetAction(Model, frozen=True):
    port: IntOrString
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocketAction(Model, frozen=True):
    port: IntOrString
    host: str = ""


class ExecAction(Model, frozen=True):
    command: tuple[str, ...] = ()


class SleepAction(Model, frozen=True):
    seconds: float


class GrpcAction(Model, frozen=True):
    port: int


class Handler(Model, frozen=True):
    """One lifecycle hook: exactly one of its fields is set."""

    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Model, frozen=True):
    post_start: Handler | None = None
    pre_stop: Handler | None = None


class Probe(Model, frozen=True):
    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    grpc: GrpcAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class ContainerSecurity(Model, frozen=True):
    read_only_root_filesystem: bool = False


class Container(Model, frozen=True):
    name: str
    image: str = ""
    image_pull_policy: str = "IfNotPresent"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: tuple[VolumeMount, ...] = ()
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    restart_policy: str = ""
    security_context: ContainerSecurity = ContainerSecurity()
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"


class KeyToPath(Model, frozen=True):
    key: str
    path: str
    mode: int | None = None


class DownwardItem(Model, frozen=True):
    path: str
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class ConfigMapVolume(Model, frozen=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool = False
    default_mode: int = 0o644


class SecretVolume(Model, frozen=True):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool = False
    default_mode: int = 0o644


class DownwardVolume(Model, frozen=True):
    items: tuple[DownwardItem, ...] = ()
    default_mode: int = 0o644


class SecretProjection(Model, frozen=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool = False


class TokenProjection(Model, frozen=True):
    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class Projection(Model, frozen=True):
    config_map: SecretProjection | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: TokenProjection | None = None


class ProjectedVolume(Model, frozen=True):
    sources: tuple[Projection, ...] = ()
    default_mode: int = 0o644


class EmptyDirVolume(Model, frozen=True):
    medium: str = ""


class ClaimVolume(Model, frozen=True):
    claim_name: str
    read_only: bool = False


class HostPathVolume(Model, frozen=True):
    path: str
    type: str = ""


class EphemeralVolume(Model, frozen=True):
    """A claim that the control plane makes for this pod; it is called POD-VOLUME."""


class Volume(Model, frozen=True):
    name: str
    empty_dir: EmptyDirVolume | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    projected: ProjectedVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")
    persistent_volume_claim: ClaimVolume | None = None
    ephemeral: EphemeralVolume | None = None
    host_path: HostPathVolume | None = None


class HostAlias(Model, frozen=True):
    ip: str
    hostnames: tuple[str, ...] = ()


class ReadinessGate(Model, frozen=True):
    condition_type: str


class PodSpec(Model, frozen=True):
    containers: tuple[Container, ...]
    node_name: str = ""
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: str = "Always"
    service_account_name: str = "default"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    hostname: str = ""
    subdomain: str = ""
    host_network: bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    enable_service_links: bool = True
    readiness_gates: tuple[ReadinessGate, ...] = ()


class Pod(Model, frozen=True):
    metadata: ObjectMeta
    spec: PodSpec
    status: dict[str, Any] = {}

    @property
    def key(self) -> NamespacedName:
        """The pod's namespace and name."""
        return NamespacedName(self.metadata.namespace, self.metadata.name)

    @property
    def hostname(self) -> str:
        """The pod's own host name: `spec.hostname`, or its name cut to what a host name may hold."""
        return self.spec.hostname or self.metadata.name[:63].rstrip("-.")

    @property
    def grace_seconds(self) -> int:
        """Seconds from the request to stop to the kill."""
        given = self.metadata.deletion_grace_period_seconds
        return self.spec.termination_grace_period_seconds if given is None else given


class ServicePort(Model, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: IntOrString = 0


class ServiceSpec(Model, frozen=True):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    type: str = "ClusterIP"
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    publish_not_ready_addresses: bool = False


class Service(Model, frozen=True):
    metadata: ObjectMeta
    spec: ServiceSpec

    @property
    def key(self) -> NamespacedName:
        """The service's namespace and name."""
        return NamespacedName(self.metadata.namespace, self.metadata.name)


class ConfigMap(Model, frozen=True):
    metadata: ObjectMeta
    data: dict[str, str] = {}
    binary_data: dict[str, bytes] = {}


class Secret(Model, frozen=True):
    metadata: ObjectMeta
    data: dict[str, bytes] = {}


def is_sidecar(container: Container) -> bool:
    """Whether an init container is a native sidecar: it is restarted, and later containers only wait for its start."""
    return container.restart_policy == "Always"


def parse_time(text: str) -> float:
    """An API timestamp as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def format_time(seconds: float) -> str:
    """Seconds since the epoch as an API timestamp, cut to whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container_named(pod: Pod, name: str) -> Container | None:
    """The pod's container or init container of that name."""
    return next((c for c in (*pod.spec.init_containers, *pod.spec.containers) if c.name == name), None)
