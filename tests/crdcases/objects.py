"""Objects of every kind that together use every field. The API server accepts each of them."""

from __future__ import annotations

import json
from typing import Any

from flotilla_api.crds import Kind
from flotilla_api.meta import API_VERSION

Manifest = dict[str, Any]

TOLERATIONS = [
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
    {"key": "pool", "operator": "Equal", "value": "l4", "effect": "NoSchedule"},
    {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
]
SPREAD = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}

SERVED: Manifest = {
    "model": {
        "uri": "hf://Qwen/Qwen2.5-1.5B-Instruct",
        "revision": "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
        "tokenSecretRef": {"name": "hf", "key": "token"},
        "parameters": "1.5B",
    },
    "accelerator": {"profile": "l4", "count": 1},
    "engine": {
        "image": "vllm/vllm-openai:v0.32.0",
        "args": ["--enable-auto-tool-choice", "--tool-call-parser=hermes"],
        "env": [
            {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"},
            {"name": "PROXY", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "url"}}},
            {"name": "PROXY_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "proxy", "key": "password"}}},
        ],
        "maxModelLen": 8192,
        "maxNumSeqs": 64,
        "startupTimeout": "15m",
    },
    "capabilities": {"apis": ["chat", "completions"], "tools": True, "jsonSchema": True, "maxContextTokens": 8192},
    "replicas": 2,
    "rollout": {"maxSurge": 2, "maxUnavailable": 2},
    "drain": {"timeout": "60s"},
    "podOverrides": {
        "labels": {"team": "billing"},
        "annotations": {"example.com/owner": "billing"},
        "nodeSelector": {"pool": "l4"},
        "tolerations": TOLERATIONS,
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [SPREAD],
        "priorityClassName": "serving",
        "imagePullSecrets": [{"name": "registry"}],
        "resources": {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "32Gi"}},
    },
}
SERVED_FROM_CLAIM: Manifest = {"model": {"uri": "pvc://models/qwen/1.5b"}, "accelerator": {"profile": "l4"}}
SERVED_EMBEDDER: Manifest = {**SERVED_FROM_CLAIM, "capabilities": {"apis": ["embeddings"]}}
SCALING: Manifest = {
    "min": 0,
    "max": 4,
    "mode": "Apply",
    "objectives": {"ttftP95": "500ms", "queueP95": "200ms", "tpotP95": "40ms", "escalationRatio": "0.05"},
    "sloFloor": False,
    "schedules": [{"cron": "0 7 * * 1-5", "timeZone": "Europe/Berlin", "duration": "12h", "min": 1}],
    "override": {"replicas": 1, "until": "2026-11-23T18:00:00Z"},
    "idleAfter": "15m",
    "sleep": {"after": "5m"},
}
SCALED: Manifest = {**SERVED_FROM_CLAIM, "scaling": SCALING}
SCALED_BARE: Manifest = {**SERVED_FROM_CLAIM, "scaling": {"min": 1, "max": 1000}}
SCALED_TO_ZERO: Manifest = {
    **SERVED_FROM_CLAIM,
    "scaling": {"min": 0, "max": 1, "mode": "Recommend", "idleAfter": "1h"},
}
SCALED_WIDE: Manifest = {
    **SERVED_FROM_CLAIM,
    "scaling": {
        "min": 0,
        "max": 1000,
        "schedules": SCALING["schedules"],
        "override": SCALING["override"],
        "idleAfter": "24h",
        "sleep": {"after": "1ms"},
    },
}
COST = {"inputPerMillionUSD": "0.02", "outputPerMillionUSD": "0.08"}

EXTERNAL: Manifest = {
    "url": "https://api.example.com/v1",
    "model": "big-1",
    "boundary": "External",
    "credentialsSecretRef": {"name": "big", "key": "apiKey"},
    "tls": {"caSecretRef": {"name": "big-ca", "key": "ca.crt"}},
    "apis": ["chat", "completions"],
    "request": {
        "drop": ["min_p"],
        "rename": {"max_tokens": "max_completion_tokens"},
        "set": {"store": False, "metadata": {"source": ["flotilla"]}, "temperature": 0.2, "top_k": 3},
    },
}
EXTERNAL_BARE: Manifest = {"url": "https://api.example.com", "model": "big-1"}

ESCALATION: Manifest = {
    "on": ["LowConfidence", "Overloaded"],
    "commit": {
        "tokens": 12,
        "maxWait": "200ms",
        "noSignal": "Accept",
        "structured": {"maxWait": "5s", "maxBytes": "64Ki"},
    },
    "confidence": {"min": "0.55"},
    "deadline": "20s",
    "onFallbackFailure": "UseExpert",
}
DIGEST = "sha256:" + 32 * "0a"
ARTIFACT: Manifest = {"configMapRef": {"name": "router-2026-11"}, "digest": DIGEST}
MODELS = {"small": "invoice", "strong": "big"}
POLICY: Manifest = {
    "models": ["auto", "gpt-4o-mini"],
    "pinnable": ["big"],
    "boundary": "Any",
    "experts": [{"name": "invoice", "weight": 1}, {"name": "sql"}, {"name": "fb0"}],
    "fallbacks": [{"name": "big"}],
    "rules": [
        {
            "name": "extract",
            "when": {
                "models": ["gpt-4o-mini"],
                "tools": {"min": 1},
                "promptTokens": {"lt": 6000},
                "headers": [{"name": "x-task", "in": ["extract"]}],
            },
            "experts": [{"name": "invoice", "weight": 2}],
            "fallbacks": [{"name": "big"}],
            "boundary": "LocalOnly",
            "escalation": ESCALATION,
        },
        {"name": "plain", "when": {"tools": {"max": 0}, "promptTokens": {"gte": 10}}},
    ],
    "strategy": {
        "type": "WinRate",
        "artifact": ARTIFACT,
        "models": MODELS,
        "threshold": "0.42",
        "header": {"min": "0.2", "max": "0.8"},
        "explore": {"ratio": "0.02"},
    },
    "shadow": {"artifact": ARTIFACT, "models": MODELS, "percent": 5},
    "canary": {
        "artifact": ARTIFACT,
        "models": MODELS,
        "percent": 10,
        "sessionHeaders": ["x-session-id"],
    },
    "requestLog": {"prompts": "Text", "maxBytes": "64Mi", "readers": ["ml"]},
    "escalation": ESCALATION,
    "timeouts": {"connect": "1s", "firstToken": "10s", "idle": "15s", "total": "5m", "keepAliveAfter": "15s"},
    "coldStart": {"mode": "Hold", "maxHold": "5s"},
    "maxBodyBytes": "8Mi",
    "auth": {"apiKeysSecretRef": {"name": "router-keys"}},
    "tls": {"secretRef": {"name": "router-tls"}},
    "placement": {
        "gateway": {"replicas": 2},
        "sidecar": {
            "enabled": True,
            "port": 18080,
            "adminPort": 19090,
            "image": "registry.example/flotilla-router:1",
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        },
    },
}
POLICY_ANONYMOUS: Manifest = {
    "models": ["any"],
    "experts": [{"name": "invoice"}],
    "fallbacks": [{"name": "big"}],
    "strategy": {"type": "Static"},
    "auth": {"anonymous": True},
    "placement": {"sidecar": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}},
}
POLICY_TARGET: Manifest = {
    "experts": [],
    "rules": [{"name": "all", "when": {"tools": {"min": 1}}, "experts": [{"name": "sql"}, {"name": "invoice"}]}],
    "fallbacks": [{"name": f"fb{index}"} for index in range(2)],
    "strategy": {
        "type": "QualityGap",
        "artifact": {"file": "/models/router.tar", "digest": DIGEST},
        "models": {"small": "sql", "strong": "invoice"},
        "targetStrongRatio": "0.30",
        "header": {"min": "0", "max": "1"},
    },
    "shadow": {"artifact": {"file": "/models/router.tar", "digest": DIGEST}, "percent": 100},
    "canary": {"artifact": {"file": "/models/router.tar", "digest": DIGEST}, "percent": 1},
    "requestLog": {},
    "auth": {"anonymous": True},
}
POLICY_CLUSTER: Manifest = {
    "experts": [{"name": f"x{index}"} for index in range(64)],
    "strategy": {"type": "Cluster", "artifact": ARTIFACT, "models": {"a": "x0", "b": "x1"}, "alpha": "0.6"},
    "shadow": {"artifact": ARTIFACT, "models": {"a": "x0", "b": "x1"}, "percent": 1},
    "canary": {"artifact": ARTIFACT, "models": {"a": "x0", "b": "x1"}, "percent": 1},
    "auth": {"anonymous": True},
}
_SOURCES: tuple[Manifest, ...] = (
    {"url": "https://models.example.com/router.tar", "digest": DIGEST},
    {"oci": f"registry.example.com:5000/acme/routers@{DIGEST}", "digest": DIGEST},
)
POLICIES_BY_SOURCE = tuple(
    {
        **POLICY_CLUSTER,
        "strategy": {**POLICY_CLUSTER["strategy"], "artifact": source},
        "shadow": {**POLICY_CLUSTER["shadow"], "artifact": source},
        "canary": {**POLICY_CLUSTER["canary"], "artifact": source},
    }
    for source in _SOURCES
)
POLICY_WIDE: Manifest = {
    "models": [f"x{index}" for index in range(32)],
    "experts": [],
    "fallbacks": [{"name": f"fb{index}"} for index in range(8)],
    "pinnable": ["fb0"],
    "rules": [{"name": "all", "when": {"models": ["x0"]}}],
    "coldStart": {"mode": "Bridge"},
    "auth": {"anonymous": True},
    "placement": {"sidecar": {"resources": {"limits": {"cpu": "1", "memory": "256Mi"}}}},
}
_LONG_MODELS = {"a": "a" * 63, "b": "sql"}
POLICY_LONG: Manifest = {
    "models": ["a" * 128],
    "experts": [],
    "fallbacks": [{"name": "a" * 63}],
    "pinnable": ["a" * 63],
    "rules": [{"name": "all", "when": {"models": ["a" * 128]}, "experts": [{"name": "sql"}]}],
    "strategy": {"type": "WinRate", "artifact": ARTIFACT, "models": _LONG_MODELS, "threshold": "0.5"},
    "shadow": {"artifact": ARTIFACT, "models": _LONG_MODELS, "percent": 5},
    "canary": {"artifact": ARTIFACT, "models": _LONG_MODELS, "percent": 5},
    "auth": {"anonymous": True},
}
PROFILE: Manifest = {
    "resource": "nvidia.com/gpu",
    "memoryGiB": 24,
    "hourlyUSD": "0.80",
    "capacity": "Nodes",
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
    "tolerations": TOLERATIONS,
    "runtimeClassName": "nvidia",
}

SPECS: dict[str, tuple[Manifest, ...]] = {
    "Expert": (
        {**SERVED, "cost": COST},
        SERVED_FROM_CLAIM,
        SCALED,
        SCALED_BARE,
        SCALED_TO_ZERO,
        SCALED_WIDE,
        SERVED_EMBEDDER,
    ),
    "Fallback": (
        {"external": EXTERNAL, "cost": COST},
        {"served": SERVED, "cost": COST},
        {"external": EXTERNAL_BARE},
        {"external": {**EXTERNAL_BARE, "boundary": "Local"}},
        {"served": SERVED_FROM_CLAIM},
        {"served": SERVED_EMBEDDER},
    ),
    "RoutingPolicy": (
        POLICY,
        POLICY_ANONYMOUS,
        POLICY_TARGET,
        POLICY_CLUSTER,
        *POLICIES_BY_SOURCE,
        POLICY_WIDE,
        POLICY_LONG,
    ),
    "AcceleratorProfile": (PROFILE, {"resource": "amd.com/gpu", "memoryGiB": 192}),
}

_CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Ready",
    "message": "1 of 1 replicas answers",
    "lastTransitionTime": "2026-11-23T08:00:00Z",
    "observedGeneration": 1,
}
_STATUS: Manifest = {"observedGeneration": 1, "conditions": [_CONDITION]}
_SERVED_STATUS: Manifest = {
    **_STATUS,
    "replicas": 2,
    "readyReplicas": 1,
    "endpoint": "invoice-expert.agents.svc:8000",
    "podHash": "4f2a",
    "costPerHourUSD": "0.80",
}
_SCALING_STATUS: Manifest = {
    "at": "2026-11-23T08:00:00Z",
    "recommended": 2,
    "rule": "Economics",
    "message": "4.10 requests/s, a replica takes 2.80/s: 2 cost least",
    "shadowUSDPerHour": "1.20",
    "asleep": 0,
    "decisions": [
        {
            "at": "2026-11-23T08:00:00Z",
            "from": 1,
            "to": 2,
            "rule": "Economics",
            "message": "4.10 requests/s, a replica takes 2.80/s: 2 cost least",
            "counterfactual": "a $0.80/h replica pays for itself above 178 lost requests/h at $0.0045",
            "inputs": [{"name": "arrivals", "value": "4.1", "ageSeconds": 7}, {"name": "late"}],
        }
    ],
}
STATUSES: dict[str, Manifest] = {
    "Expert": {**_SERVED_STATUS, "selector": "flotilla.dev/owner=invoice", "scaling": _SCALING_STATUS},
    "Fallback": {**_SERVED_STATUS, "model": "big-1"},
    "RoutingPolicy": {
        **_STATUS,
        "experts": "1/2",
        "fallbacks": "1/1",
        "routers": "2/2",
        "sidecars": "5/7",
        "endpoint": "http://support-gateway.agents.svc/v1",
        "snapshotDigest": "sha256:" + 64 * "0",
    },
}


def make_object(kind: Kind, spec: Manifest, name: str = "example") -> Manifest:
    """An object of `kind` with its full status, in the namespace `default` where it has one."""
    manifest: Manifest = {"apiVersion": API_VERSION, "kind": kind.name, "metadata": {"name": name}, "spec": spec}
    if kind.namespaced:
        manifest["metadata"]["namespace"] = "default"
    if kind.status:
        manifest["status"] = STATUSES[kind.name]
    return manifest


def objects(kind: Kind) -> list[Manifest]:
    """Accepted objects of `kind`, the fullest first."""
    return [json.loads(json.dumps(make_object(kind, spec))) for spec in SPECS[kind.name]]  # nothing is shared
