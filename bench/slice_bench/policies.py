"""The two policies that the router is measured with, and the files that it reads beside them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flotilla_api.names import CA_FILE, CREDENTIAL_FILE, GATEWAY_TOKEN_FILE
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.snapshot import (
    SCHEMA_VERSION,
    Endpoint,
    EscalationConfig,
    Route,
    RoutingSnapshot,
    Target,
    TimeoutConfig,
    TokenPrice,
    WeightedTarget,
)
from flotilla_operator.resources.manifest import ObjectRef
from flotilla_operator.resources.snapshot import make_snapshot
from slice_bench.load import API_KEY
from stack.certificates import make_serving_certificate
from stack.flotilla import quickstart_objects, quickstart_policy

API_KEYS, CREDENTIALS, GATEWAY_TOKEN, SNAPSHOT = "api-keys", "credentials", "gateway-token", "snapshot"
"""Folders that `write_files` makes."""


def quickstart_snapshot(upstream_port: int) -> RoutingSnapshot:
    """What the operator makes of examples/quickstart, one replica of each expert being ready at this port.

    API keys, a rule on a header, two experts, and a fallback for every cause: every answer is judged by its logprobs.
    """
    objects, policy = quickstart_objects(), quickstart_policy()
    policy["metadata"] |= {"uid": "bench", "generation": 1}
    references = {ObjectRef(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in objects}
    spec = RoutingPolicySpec.model_validate(policy["spec"])
    snapshot = make_snapshot(policy, spec, references, {})
    return snapshot.model_copy(update={"targets": tuple(_answering(snapshot.targets, upstream_port))})


def _answering(targets: Iterable[Target], port: int) -> Iterable[Target]:
    for target in targets:
        endpoint = Endpoint(address=f"127.0.0.1:{port}", pod=f"{target.name}-0")
        yield target if target.external else target.model_copy(update={"endpoints": (endpoint,), "service": None})


def pass_through_snapshot(upstream_port: int) -> RoutingSnapshot:
    """One expert behind the alias `auto`, priced, with every timeout set; no keys, and no fallback to judge for."""
    expert = Target(
        kind="Expert",
        name="small",
        location="Local",
        model="small",
        endpoints=(Endpoint(address=f"127.0.0.1:{upstream_port}", pod="small-0"),),
        apis=("chat", "completions"),
        tools=True,
        jsonSchema=True,
        maxContextTokens=8192,
        price=TokenPrice(inputPerMillionUSD=0.02, outputPerMillionUSD=0.08),
    )
    escalation = EscalationConfig(
        on=(),
        commitTokens=12,
        commitMaxWaitSeconds=0.2,
        noSignal="Accept",
        structuredMaxWaitSeconds=5,
        structuredMaxBytes=65536,
        minConfidence=0.5,
        deadlineSeconds=20,
        onFallbackFailure="UseExpert",
    )
    return RoutingSnapshot(
        schemaVersion=SCHEMA_VERSION,
        namespace="bench",
        policy="bench",
        uid="bench",
        generation=1,
        models=("auto",),
        pinnable=(),
        targets=(expert,),
        route=Route(
            experts=(WeightedTarget(name="small", weight=1),), fallbacks=(), boundary="Any", escalation=escalation
        ),
        rules=(),
        timeouts=TimeoutConfig(
            connectSeconds=1, firstTokenSeconds=60, idleSeconds=60, totalSeconds=300, keepAliveAfterSeconds=60
        ),
        maxBodyBytes=8 * 1024 * 1024,
        anonymous=True,
    )


def write_files(folder: Path, snapshot: RoutingSnapshot) -> None:
    """`folder` holds what a gateway's pod has mounted (the snapshot, the API key, the fallbacks' credentials), and the
    token that a sidecar shows to its gateway."""
    files = {f"{SNAPSHOT}/snapshot.json": snapshot.to_json(), f"{GATEWAY_TOKEN}/{GATEWAY_TOKEN_FILE}": b"token"}
    if not snapshot.anonymous:
        files[f"{API_KEYS}/bench"] = API_KEY.encode()
    for target in snapshot.targets:
        if target.external:
            authority = make_serving_certificate("fallback.bench").authority
            credentials = f"{CREDENTIALS}/{target.external.credentials}"
            files[f"{credentials}/{CREDENTIAL_FILE}"] = b"sk-provider"
            files[f"{credentials}/{CA_FILE}"] = authority.encode()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
