"""The router as a native sidecar (KEP-753): what an agent's pod gets, and nothing else of it is changed.

The same function serves the admission webhook and `flotilla inject`. It only ever adds, and what is there already
stays, so that doing it twice does what doing it once does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flotilla_api import names
from flotilla_api.policy import Amounts, RoutingPolicySpec, Sidecar

from .manifest import Manifest
from .quantity import parse_quantity
from .settings import OperatorSettings
from .workload import ROUTER_USER, container_security

LOOPBACK = "127.0.0.1"
BASE_URL_VARIABLE = "OPENAI_BASE_URL"
API_KEY_VARIABLE = "OPENAI_API_KEY"
API_KEY = "flotilla"
"""The SDK insists on a key; the sidecar, which only its own pod reaches, asks for none."""
POLICY_VARIABLE = "FLOTILLA_POLICY"
ROLE_VARIABLE = "FLOTILLA_ROLE"
ROLE = "Sidecar"
ADMIN_PORT_NAME = "flotilla-admin"
DRAIN_SECONDS = 5
"""A sidecar is told to end only after the agent has ended: nobody is left to wait for."""
START_SECONDS = 300
"""How long a sidecar may wait for its first snapshot before it is started again; the agent starts only after it."""
SNAPSHOT_VOLUME = "flotilla-snapshot"
TOKENS_VOLUME = "flotilla-tokens"
GATEWAY_CA_VOLUME = "flotilla-gateway-ca"
API_TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
"""Where the agent finds its ServiceAccount's token for the Kubernetes API, which is no business of the sidecar's."""
CONTROL_TOKEN_PATH = "control/token"  # noqa: S105 - a path
GATEWAY_TOKEN_PATH = "gateway/token"  # noqa: S105 - a path
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
_TOKEN_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class SidecarInputs:
    """What the sidecars of one policy are made from."""

    namespace: str
    policy: str
    spec: RoutingPolicySpec
    settings: OperatorSettings

    @property
    def enabled(self) -> bool:
        """Whether pods may ask for a sidecar of the policy."""
        return allows_sidecars(self.spec)

    @property
    def by_webhook(self) -> bool:
        """Whether pods get it when they are created; otherwise only from `flotilla inject`."""
        return self.settings.webhook and self.namespace not in self.settings.webhook_leaves_out

    @property
    def wishes(self) -> Sidecar:
        """What the policy says of its sidecars."""
        return (self.spec.placement and self.spec.placement.sidecar) or Sidecar.model_validate({})

    @property
    def port(self) -> int:
        """Where the agent finds the sidecar, on its own loopback."""
        return self.wishes.port or self.settings.sidecar_port

    @property
    def admin_port(self) -> int:
        """Where the kubelet and Prometheus find it, on the pod's address."""
        return self.wishes.adminPort or self.settings.sidecar_admin_port


@dataclass(frozen=True, slots=True)
class Injection:
    """A pod, or a workload's pod template, with the sidecar; or why it cannot have one."""

    pod: Manifest
    warnings: tuple[str, ...] = ()
    refused: str = ""
    """Why `pod` is as it was; '' when it has the sidecar."""


def allows_sidecars(spec: RoutingPolicySpec) -> bool:
    """Whether pods may have sidecars of the policy."""
    sidecar = spec.placement and spec.placement.sidecar
    return not (sidecar and sidecar.enabled is False)


def wanted_policy(pod: Manifest) -> str | None:
    """The policy whose sidecar a pod asks for; None: it asks for none, or it is one of our own children."""
    labels: dict[str, str] = pod.get("metadata", {}).get("labels") or {}
    return None if names.KIND_LABEL in labels else labels.get(names.POLICY_LABEL) or None


def is_injected(pod: Manifest) -> bool:
    """Whether a pod has a sidecar, whosever."""
    return sidecar_policy(pod) is not None


def sidecar_policy(pod: Manifest) -> str | None:
    """The policy of a pod's sidecar; None: it has none, that is no container that stays and is our router."""
    found = _find(pod.get("spec", {}).get("initContainers"), names.SIDECAR_CONTAINER) or {}
    values = {each.get("name"): each.get("value") for each in found.get("env") or ()}
    ours = found.get("restartPolicy") == "Always" and values.get(ROLE_VARIABLE) == ROLE
    return str(values.get(POLICY_VARIABLE, "")) if ours else None


def inject_sidecar(pod: Manifest, inputs: SidecarInputs) -> Injection:
    """`pod`, which has `metadata` and `spec`, with a sidecar that starts before every container and ends after them."""
    if refused := _obstacle(pod, inputs):
        return Injection(pod, refused=refused)
    spec: Manifest = pod["spec"]
    before: list[Manifest] = spec.get("initContainers") or []
    first = before if is_injected(pod) else [make_sidecar(inputs), *before]
    variables = {BASE_URL_VARIABLE: f"http://{LOOPBACK}:{inputs.port}/v1", API_KEY_VARIABLE: API_KEY}
    changed = {
        **spec,
        "initContainers": [_with_variables(each, variables) for each in first],
        "containers": [_with_variables(each, variables) for each in spec["containers"]],
        "volumes": _with_missing(spec.get("volumes"), make_volumes(inputs)),
    }
    if secrets := [{"name": name} for name in inputs.settings.router_image_pull_secrets]:
        changed["imagePullSecrets"] = _with_missing(spec.get("imagePullSecrets"), secrets)
    warnings = [warning for each in (*before, *spec["containers"]) for warning in _warnings(each, variables)]
    return Injection({**pod, "metadata": _with_annotation(pod, inputs.policy), "spec": changed}, tuple(warnings))


def make_sidecar(inputs: SidecarInputs) -> Manifest:
    """The sidecar's container: an init container that stays."""
    admin = {"port": ADMIN_PORT_NAME}
    return {
        "name": names.SIDECAR_CONTAINER,
        "image": inputs.wishes.image or inputs.settings.router_image,
        "imagePullPolicy": inputs.settings.image_pull_policy,
        "restartPolicy": "Always",
        "env": _environment(inputs),
        "ports": [{"name": ADMIN_PORT_NAME, "containerPort": inputs.admin_port, "protocol": "TCP"}],
        "resources": _resources(inputs),
        "startupProbe": {
            "httpGet": {"path": "/readyz", **admin},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": START_SECONDS,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", **admin},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": ROUTER_USER,
            "runAsGroup": ROUTER_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            **container_security(),
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": name, "mountPath": path, "readOnly": True} for name, path in _mounts(inputs)],
    }


def make_volumes(inputs: SidecarInputs) -> list[Manifest]:
    """The snapshot, tokens for the control API and the gateway, and the gateway's authority where it has a certificate.

    No credential of a provider is among them: those stay in the gateway.
    """
    audiences = {CONTROL_TOKEN_PATH: names.CONTROL_AUDIENCE, GATEWAY_TOKEN_PATH: names.GATEWAY_AUDIENCE}
    tokens = [
        {"serviceAccountToken": {"path": path, "audience": audience, "expirationSeconds": _TOKEN_SECONDS}}
        for path, audience in audiences.items()
    ]
    volumes: list[Manifest] = [
        {"name": SNAPSHOT_VOLUME, "configMap": {"name": names.snapshot_name(inputs.policy), "optional": True}},
        {"name": TOKENS_VOLUME, "projected": {"sources": tokens}},
    ]
    if inputs.spec.tls:
        authority = {"key": names.CA_FILE, "path": names.CA_FILE}
        secret = {"name": inputs.spec.tls.secretRef.name, "items": [authority], "optional": True}
        volumes.append({"name": GATEWAY_CA_VOLUME, "projected": {"sources": [{"secret": secret}]}})
    return volumes


def _mounts(inputs: SidecarInputs) -> list[tuple[str, str]]:
    """Volumes and paths. Kubernetes mounts the account's own token where a container leaves API_TOKEN_DIR free."""
    mounts = [(SNAPSHOT_VOLUME, names.SNAPSHOT_DIR), (TOKENS_VOLUME, names.TOKENS_DIR), (TOKENS_VOLUME, API_TOKEN_DIR)]
    return [*mounts, (GATEWAY_CA_VOLUME, names.GATEWAY_CA_DIR)] if inputs.spec.tls else mounts


def _environment(inputs: SidecarInputs) -> list[Manifest]:
    pod_ip = {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}
    values = {
        ROLE_VARIABLE: ROLE,
        POLICY_VARIABLE: inputs.policy,
        "FLOTILLA_NAMESPACE": inputs.namespace,
        "FLOTILLA_CONTROL_URL": inputs.settings.control_url,
        "FLOTILLA_DATA_HOST": LOOPBACK,
        "FLOTILLA_DATA_PORT": str(inputs.port),
        "FLOTILLA_ADMIN_HOST": "$(POD_IP)",
        "FLOTILLA_ADMIN_PORT": str(inputs.admin_port),
        "FLOTILLA_SETTLE_SECONDS": "0",
        "FLOTILLA_DRAIN_SECONDS": str(DRAIN_SECONDS),
    }
    return [pod_ip, *({"name": name, "value": value} for name, value in values.items())]


def _resources(inputs: SidecarInputs) -> Manifest:
    """The chart's amounts, each unless the policy says another; where it says one of two, the other follows."""
    settings, wishes = inputs.settings, inputs.wishes.resources
    wished_requests, wished_limits = _amounts(wishes and wishes.requests), _amounts(wishes and wishes.limits)
    requests = {"cpu": settings.sidecar_cpu_request, "memory": settings.sidecar_memory_request} | wished_requests
    limits = {"memory": settings.sidecar_memory_limit} | wished_limits
    for amount in requests.keys() & limits.keys():
        if not _exceeds(requests[amount], limits[amount]):
            continue
        if amount not in wished_limits:
            limits[amount] = requests[amount]
        elif amount not in wished_requests:
            requests[amount] = limits[amount]
    return {"requests": requests, "limits": limits}


def _amounts(wished: Amounts | None) -> dict[str, str]:
    return wished.model_dump(exclude_none=True) if wished else {}


def _exceeds(request: str, limit: str) -> bool:
    parsed = parse_quantity(request), parse_quantity(limit)
    return parsed[0] is not None and parsed[1] is not None and parsed[0] > parsed[1]


def _obstacle(pod: Manifest, inputs: SidecarInputs) -> str:
    """Why the pod cannot have a sidecar; '' when it can."""
    present = sidecar_policy(pod)
    if present not in (None, inputs.policy):
        return f"it has the sidecar of policy {present}: inject the original again"
    if name := _taken_name(pod, inputs):
        return f"it has {name} of its own: rename that"
    if unfit := _unfit_amount(_resources(inputs)):
        return f"placement.sidecar.resources of the policy asks for more {unfit} than it allows"
    if inputs.port == inputs.admin_port:
        return f"the sidecar would listen at port {inputs.port} twice: set placement.sidecar.adminPort of the policy"
    return _unfit_kind(pod) or _taken_port(pod, inputs)


def _unfit_kind(pod: Manifest) -> str:
    """Why no pod of this kind can have a sidecar; '' when it can."""
    spec: Manifest = pod["spec"]
    if spec.get("hostNetwork"):
        return "it uses the host's network, where the sidecar would be open to the whole node"
    system: Manifest = spec.get("os") or {}
    if system.get("name") == "windows":
        return "it runs on Windows, and the router's image is for Linux"
    if MIRROR_ANNOTATION in (pod.get("metadata", {}).get("annotations") or {}):
        return "it is a static pod, which the kubelet runs from a file, and such a pod may have no token"
    if spec.get("resources"):
        return "its spec.resources bound the pod as a whole, and the sidecar with it: set those of its containers"
    return ""


def _taken_port(pod: Manifest, inputs: SidecarInputs) -> str:
    """Why the sidecar could not listen: containers of a pod share its addresses; '' when nothing is said against it."""
    fields = {inputs.port: "port", inputs.admin_port: "adminPort"}
    spec: Manifest = pod["spec"]
    for container in () if is_injected(pod) else (*(spec.get("initContainers") or ()), *spec["containers"]):
        for declared in container.get("ports") or ():
            number = declared.get("containerPort")
            if number in fields and declared.get("protocol", "TCP") == "TCP":
                where = f"container {container['name']} declares port {number}, where the sidecar would listen"
                return f"{where}: set placement.sidecar.{fields[number]} of the policy"
    return ""


def _unfit_amount(resources: Manifest) -> str:
    """The API server takes no pod that asks for more than it may use; '' when every amount fits."""
    requests, limits = resources["requests"], resources["limits"]
    return next((each for each in sorted(requests.keys() & limits) if _exceeds(requests[each], limits[each])), "")


def _taken_name(pod: Manifest, inputs: SidecarInputs) -> str:
    """A container or volume that is not ours and has the name of one; '' when there is none."""
    spec: Manifest = pod["spec"]
    injected = is_injected(pod)
    containers = spec["containers"] if injected else [*spec["containers"], *(spec.get("initContainers") or ())]
    if _find(containers, names.SIDECAR_CONTAINER):
        return f"a container called {names.SIDECAR_CONTAINER}"
    for ours in () if injected else make_volumes(inputs):
        if _find(spec.get("volumes"), ours["name"]) not in (None, ours):
            return f"a volume called {ours['name']}"
    return ""


def _with_variables(container: Manifest, variables: Mapping[str, str]) -> Manifest:
    """An agent's container with those of `variables` that it does not set; our own stays as it is."""
    if container["name"] == names.SIDECAR_CONTAINER:
        return container
    missing = [{"name": name, "value": value} for name, value in variables.items()]
    return {**container, "env": _with_missing(container.get("env"), missing)}


def _warnings(container: Manifest, variables: Mapping[str, str]) -> Iterator[str]:
    """One for every variable that the container sets to something else, and one for those that it may take from
    elsewhere: Kubernetes puts `env`, where the sidecar's are, before `envFrom`."""
    for name, value in variables.items():
        own = _find(container.get("env"), name)
        if own is not None and own.get("value") != value:
            yield f"container {container['name']} sets {name} itself, which stays: {_CONSEQUENCES[name]}"
    added = [name for name in variables if _find(container.get("env"), name) is None]
    if container.get("envFrom") and added:
        what = f"the sidecar's {' and '.join(added)} go before what its envFrom holds"
        yield f"container {container['name']}: {what}; to keep yours, set them in env"


_CONSEQUENCES = {
    BASE_URL_VARIABLE: "calls that go there do not pass the sidecar",
    API_KEY_VARIABLE: "the sidecar needs no key and sends none on",
}


def _with_annotation(pod: Manifest, policy: str) -> Manifest:
    metadata: Manifest = pod.get("metadata") or {}
    return {**metadata, "annotations": {**(metadata.get("annotations") or {}), names.INJECTED_ANNOTATION: policy}}


def _with_missing(present: Sequence[Manifest] | None, wanted: Sequence[Manifest]) -> list[Manifest]:
    """Those of `wanted` whose names are not present, and then what is present."""
    return [*(each for each in wanted if _find(present, each["name"]) is None), *(present or ())]


def _find(present: Sequence[Manifest] | None, name: str) -> Manifest | None:
    return next((each for each in present or () if each.get("name") == name), None)
