"""For each CEL rule, by its message: values of its node that it accepts and refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crdcases.objects import DIGEST, EXTERNAL_BARE, POLICY, POLICY_ANONYMOUS, SERVED_FROM_CLAIM


@dataclass(frozen=True, slots=True)
class Examples:
    """Values of the node that carries the rule. At the root they are the object's name."""

    accepts: tuple[Any, ...]
    refuses: tuple[Any, ...]
    longest: str | None = None
    """A string as long as the node's maxLength allows, for scalars; `{}` is filled up with 'a'."""


_SECRET_KEY = {"name": "proxy", "key": "url"}
_EXPERT = {"name": "invoice"}
_BARE_POLICY = {"auth": {"anonymous": True}, "experts": [_EXPERT]}
_LABEL_VALUE = (
    "must be a label's value: letters, digits, '-', '_' and '.', quoted where YAML would read a number or true"
)


def _rule(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "when": {"tools": {"min": 1}}, **fields}


def _schedule(**fields: Any) -> dict[str, Any]:
    return {"cron": "0 7 * * 1-5", "duration": "12h", "min": 1, **fields}


def _overridden(replicas: int, **fields: Any) -> dict[str, Any]:
    return {**fields, "override": {"replicas": replicas, "until": "2026-11-23T18:00:00Z"}}


_PAIR = {"small": "invoice", "strong": "big"}
_THREE = {"small": "invoice", "middle": "sql", "strong": "big"}
_FOUR = {**_THREE, "embedder": "fb0"}
_TWO_MODELS = {**_BARE_POLICY, "fallbacks": [{"name": "big"}]}
_LEARNED_PARTS: dict[str, Any] = {
    "artifact": {"configMapRef": {"name": "router"}, "digest": DIGEST},
    "models": _PAIR,
    "threshold": "0.5",
    "targetStrongRatio": "0.3",
    "alpha": "0.5",
    "header": {"min": "0.2", "max": "0.8"},
    "explore": {"ratio": "0.02"},
}


def _part(name: str) -> dict[str, Any]:
    return {name: _LEARNED_PARTS[name]}


def _pair(kind: str = "WinRate", **fields: Any) -> dict[str, Any]:
    return {"type": kind, **_part("artifact"), **_part("models"), **fields}


def _trial(**fields: Any) -> dict[str, Any]:
    return {**_part("artifact"), "percent": 5, **fields}


_LEARNED_POLICY = {**_TWO_MODELS, "strategy": _pair(threshold="0.5")}


def _owned_models(owner: str) -> Examples:
    """Policies whose strategy, shadow or canary names models that are theirs, and others."""

    def policy(models: dict[str, str], **fields: Any) -> dict[str, Any]:
        named = _pair(threshold="0.5", models=models) if owner == "strategy" else _trial(models=models)
        return {**_LEARNED_POLICY, **fields, owner: named}

    rules = [_rule(experts=[{"name": "sql"}]), _rule(name="b", fallbacks=[{"name": "large"}])]
    of_rules = {"small": "sql", "strong": "large"}
    return Examples(
        (policy(_PAIR), policy(of_rules, rules=rules)),
        (policy({"small": "invoice", "strong": "large"}), policy(of_rules), policy(of_rules, rules=rules[:1])),
    )


RULES: dict[str, Examples] = {
    # Names
    "metadata.name must be a DNS label: it begins with a letter, then lower-case letters, digits and '-'": Examples(
        ("a", "l4", "qwen-2"), ("4l", "a.b", "a-1.b")
    ),
    "metadata.name must be at most 50 characters, so that the names of its Deployment and Service fit": Examples(
        ("a" * 50,), ("a" * 51,)
    ),
    "metadata.name must be at most 63 characters": Examples(("a" * 63,), ("a" * 64,)),
    "must be a DNS label: lower-case letters, digits and '-'": Examples(
        ("a", "4l", "qwen-2"), ("", "A", "a_b", "a.b", "-a", "a-"), longest="{}"
    ),
    "must be an object's name: lower-case letters, digits, '-' and '.'": Examples(
        ("a", "4.l", "qwen-2.b"), ("", "A", "a_b", "-a", "a.", "a/b"), longest="{}"
    ),
    "must be a key: letters, digits, '-', '_' and '.'": Examples(
        ("token", "ca.crt", "API_KEY", "-"), ("", "a b", "a/b"), longest="{}"
    ),
    "must be an environment variable's name": Examples(
        ("A", "_a", "VLLM_LOGGING_LEVEL2"), ("", "2A", "A-B", "A=B", "A B"), longest="{}"
    ),
    "must be an extended resource's name, such as nvidia.com/gpu": Examples(
        ("nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb"), ("", "nvidia.com/", "/gpu", "a b"), longest="a/{}"
    ),
    "must be a model's name as clients write it: letters, digits and . _ : / @ -": Examples(
        ("auto", "x1", "acme/big:free@2.1_b-c"), ("", "-a", "a b", "a?"), longest="{}"
    ),
    "must be a header's name: letters, digits and '-'": Examples(
        ("x-task", "X-Task-2"), ("", "x_task", "x:task", "x task"), longest="{}"
    ),
    _LABEL_VALUE: Examples(("", "4", "true", "NVIDIA-L4", "a_b.c"), ("-a", "a.", "a b", "a/b"), longest="{}"),
    "must be sha256: and 64 hexadecimal digits in lower case": Examples(
        (DIGEST,), ("", DIGEST[:-1], DIGEST[7:], DIGEST.replace("a", "A"), "sha512:" + DIGEST[7:]), longest=DIGEST
    ),
    "must be the absolute path of a file: letters, digits and . _ - / without '..'": Examples(
        ("/models/router-2.tar", "/a"),
        ("", "/", "models/router.tar", "/models/", "/models/../etc/passwd", "/a b"),
        longest="/{}",
    ),
    "must be HOST/REPOSITORY@sha256: and 64 hexadecimal digits, such as registry.example.com/routers@sha256:"
    "...": Examples(
        (f"registry.example.com/routers@{DIGEST}", f"10.0.0.1:5000/acme/routers_v2.small@{DIGEST}", f"a/b@{DIGEST}"),
        (
            "",
            f"routers@{DIGEST}",
            "registry.example.com/routers:latest",
            f"registry.example.com/routers:1@{DIGEST}",
            f"registry.example.com/Routers@{DIGEST}",
            f"https://registry.example.com/routers@{DIGEST}",
            f"registry.example.com:0/routers@{DIGEST}",
            f"registry.example.com/../routers@{DIGEST}",
        ),
        longest=f"a/{{}}@{DIGEST}",
    ),
    # Scalars with units
    "must be a whole number with a unit, at most 24h, such as 500ms, 15s, 5m or 2h": Examples(
        ("0s", "500ms", "1440m", "24h"), ("", "15", "1.5s", "-1s", "1d", "25h", "86401s", "15 s"), longest="86400000ms"
    ),
    "must be a whole number with a unit, above zero and at most 24h, such as 500ms, 15s, 5m or 2h": Examples(
        ("1ms", "15s", "5m", "2h", "24h"), ("", "0s", "0h", "15", "1.5s", "1d", "25h", "1441m"), longest="86400000ms"
    ),
    'must be dollars as a quoted decimal, such as "0.80"': Examples(
        ("0", "0.80", "10"), ("", "-1", "1e3", ".5", "1.", "$1", "1,5"), longest="999999999.999999999"
    ),
    'must be a quoted decimal from 0 to 1, such as "0.55"': Examples(
        ("0", "0.5", "1", "1.0"), ("", "1.01", "2", "-0.1", ".5", "50%"), longest="0.999999999"
    ),
    'must be a whole number of bytes above zero and at most 1Gi, quoted, such as "65536", 64Ki or 8Mi': Examples(
        ("1", "65536", "64Ki", "8Mi", "1Gi", "1024Mi"),
        ("", "0", "1.5Mi", "8MB", "8M", "2Gi", "1025Mi"),
        longest="1073741824",
    ),
    "must be a whole number of bytes from 1Mi to 1Gi, quoted, such as 64Mi": Examples(
        ("1Mi", "1024Ki", "1048576", "1Gi"),
        ("", "0", "1023Ki", "1048575", "2Gi", "1025Mi", "1.5Mi", "64M"),
        longest="1073741824",
    ),
    "must be a count of weights above zero, such as 500M, 1.5B or 1T": Examples(
        ("500M", "1.5B", "0.5B", "1T"), ("", "1.5", "0B", "0.0B", "1b", "1K"), longest="999999.999B"
    ),
    'must be a quantity, quoted where it is a bare number, such as "4", 500m or 16Gi': Examples(
        ("4", "0.5", "500m", "16Gi"), ("", "4 cores", "16GB", "a"), longest="0" * 30 + "1G"
    ),
    # Maps
    "keys must have 1 to 317 characters": Examples(({"a" * 317: "1"},), ({"": "1"}, {"a" * 318: "1"})),
    "keys must have 1 to 64 characters": Examples(({"a" * 64: "b"},), ({"": "b"}, {"a" * 65: "b"})),
    "keys must have 1 to 128 characters": Examples(
        ({"a" * 128: "sql", "b": "invoice"},), ({"": "sql", "b": "invoice"}, {"a" * 129: "sql", "b": "invoice"})
    ),
    "must name at least two models, else there is nothing to choose": Examples(
        ({"small": "sql", "strong": "invoice"},), ({"small": "sql"}, {})
    ),
    "must not give two models of the artifact the same name": Examples(
        ({"small": "sql", "strong": "invoice"},), ({"small": "sql", "strong": "sql"},)
    ),
    # Served models
    "must be hf://ORGANISATION/MODEL or pvc://CLAIM/PATH": Examples(
        ("hf://Qwen/Qwen2.5-1.5B-Instruct", "pvc://models/qwen/1.5b"),
        ("", "Qwen/Qwen2.5", "hf://Qwen", "hf://a/b/c", "s3://bucket/model", "pvc://models", "pvc://Models/a"),
        longest="pvc://a/{}",
    ),
    "must not contain '..'": Examples(("pvc://models/a.b",), ("pvc://models/../b", "hf://a/..")),
    "revision and tokenSecretRef belong to hf:// models only": Examples(
        ({"uri": "hf://a/b", "revision": "main", "tokenSecretRef": {"name": "hf", "key": "token"}},),
        (
            {"uri": "pvc://claim/a", "revision": "main"},
            {"uri": "pvc://claim/a", "tokenSecretRef": {"name": "hf", "key": "token"}},
        ),
    ),
    "Flotilla sets --model --port --host --served-model-name --revision --tensor-parallel-size -tp --max-model-len "
    "--max-num-seqs --api-key itself: use the fields of model, accelerator and engine": Examples(
        ([], ["--quantization=awq", "--model-impl=vllm", "--kv-cache-dtype", "fp8"], ["-q", "awq", "", "-1"]),
        (
            ["--model", "x"],
            ["--port=1"],
            ["--quantization=awq", "-tp", "2"],
            ["--max_model_len=10"],
            ["--max-mod", "10"],
            ["--tensor_par=2"],
            ["--quantization=awq", "-t", "2"],
        ),
    ),
    "Flotilla does not work with --disable-log-stats --ssl-certfile --ssl-keyfile --uds --grpc --headless "
    "--pipeline-parallel-size -pp --data-parallel-size -dp: it needs metrics, plain HTTP and one engine in a "
    "pod": Examples(
        ([], ["--enable-log-requests", "--ssl-ca-certs=/tmp/ca", "--data-parallel-backend", "mp"]),
        (
            ["--disable-log-stats"],
            ["--ssl_certfile=/tmp/a"],
            ["--ssl-key", "/tmp/a"],
            ["--uds", "/tmp/a"],
            ["--grpc"],
            ["--headl"],
            ["--quantization=awq", "-pp", "2"],
            ["-dp=2"],
            ["--data-parallel-s", "2"],
        ),
    ),
    "must not set HF_HUB_OFFLINE, POD_IP, VLLM_API_KEY: engines run offline, listen at the pod's address, and routers "
    "send no key": Examples(
        ([], [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}]),
        (
            [{"name": "VLLM_API_KEY", "value": "x"}],
            [{"name": "POD_IP", "value": "10.0.0.1"}],
            [{"name": "A", "value": ""}, {"name": "HF_HUB_OFFLINE", "value": "0"}],
        ),
    ),
    "set exactly one of value and valueFrom": Examples(
        ({"name": "A", "value": ""}, {"name": "A", "valueFrom": {"secretKeyRef": _SECRET_KEY}}),
        ({"name": "A"}, {"name": "A", "value": "b", "valueFrom": {"secretKeyRef": _SECRET_KEY}}),
    ),
    "set exactly one of secretKeyRef and configMapKeyRef": Examples(
        ({"secretKeyRef": _SECRET_KEY}, {"configMapKeyRef": _SECRET_KEY}),
        ({}, {"secretKeyRef": _SECRET_KEY, "configMapKeyRef": _SECRET_KEY}),
    ),
    "maxSurge and maxUnavailable must not both be 0: no replica could be replaced": Examples(
        ({}, {"maxSurge": 0}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"maxUnavailable": 0}, {"maxSurge": 0, "maxUnavailable": 0}),
    ),
    "without a key, operator must be Exists": Examples(
        ({"operator": "Exists"}, {"key": "a"}), ({}, {"operator": "Equal", "value": "a"}, {"effect": "NoSchedule"})
    ),
    "value belongs to operator Equal only": Examples(
        ({"key": "a", "value": "b"}, {"key": "a", "operator": "Equal", "value": "b"}),
        ({"key": "a", "operator": "Exists", "value": "b"},),
    ),
    "tolerationSeconds belongs to effect NoExecute only": Examples(
        ({"key": "a", "effect": "NoExecute", "tolerationSeconds": 0},),
        ({"key": "a", "tolerationSeconds": 1}, {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}),
    ),
    "a model that embeds answers nothing: leave chat and completions out beside embeddings": Examples(
        (["embeddings"], ["chat", "completions"], ["completions"]),
        (["embeddings", "chat"], ["completions", "embeddings"]),
    ),
    # Scaling
    "set replicas or scaling, not both": Examples(
        ({**SERVED_FROM_CLAIM, "replicas": 0}, {**SERVED_FROM_CLAIM, "scaling": {"max": 1}}),
        ({**SERVED_FROM_CLAIM, "replicas": 1, "scaling": {"max": 1}},),
    ),
    "scaling.min must be at most scaling.max": Examples(
        ({"max": 1}, {"min": 1, "max": 1}, {"min": 0, "max": 1}), ({"min": 2, "max": 1},)
    ),
    "a schedule's min must be at most scaling.max": Examples(
        ({"max": 2, "schedules": []}, {"max": 2, "schedules": [_schedule(min=2)]}),
        ({"max": 2, "schedules": [_schedule(min=3)]}, {"max": 2, "schedules": [_schedule(), _schedule(min=3)]}),
    ),
    "override.replicas must be from scaling.min to scaling.max": Examples(
        (_overridden(1, max=1), _overridden(0, min=0, max=1), _overridden(2, min=2, max=3)),
        (_overridden(0, max=1), _overridden(2, max=1), _overridden(1, min=2, max=3)),
    ),
    "idleAfter and sleep need min: 0, else the expert never stops answering": Examples(
        ({"min": 0, "max": 1, "idleAfter": "5m", "sleep": {"after": "1m"}}, {"min": 0, "max": 1}, {"max": 1}),
        (
            {"max": 1, "idleAfter": "5m"},
            {"min": 1, "max": 1, "idleAfter": "5m"},
            {"max": 1, "sleep": {"after": "1m"}},
        ),
    ),
    "sleep needs mode: Apply, else nothing puts replicas to sleep": Examples(
        (
            {"min": 0, "max": 1, "sleep": {"after": "1m"}},
            {"min": 0, "max": 1, "mode": "Apply", "sleep": {"after": "1m"}},
            {"min": 0, "max": 1, "mode": "Recommend"},
        ),
        (
            {"min": 0, "max": 1, "mode": "Recommend", "sleep": {"after": "1m"}},
            {"min": 0, "max": 1, "mode": "Off", "sleep": {"after": "1m"}},
        ),
    ),
    "sleep.after must be at most idleAfter (default 15m), after which the replicas go": Examples(
        (
            {"min": 0, "max": 1, "sleep": {"after": "15m"}},
            {"min": 0, "max": 1, "idleAfter": "1h", "sleep": {"after": "59m"}},
        ),
        (
            {"min": 0, "max": 1, "sleep": {"after": "16m"}},
            {"min": 0, "max": 1, "idleAfter": "60s", "sleep": {"after": "61s"}},
        ),
    ),
    'must be five fields: minute, hour, day of the month, month and day of the week, such as "0 7 * * 1-5"': Examples(
        ("0 7 * * 1-5", "*/15 8-18 1,15 JAN-MAR MON#1", "0 0 L * 0"),
        ("", "0 0 1 * ?", "0 7 * *", "0 0 7 * * 1-5", "@daily", "0  7 * * 1", "0 7 * * 1-5 "),
        longest="{} * * * *",
    ),
    "must be a time zone's name, such as Europe/Berlin": Examples(
        ("UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+1"),
        ("", "+01:00", "Europe/", "/etc/passwd", "../UTC", "a/b/c/d"),
        longest="{}",
    ),
    "must be an RFC 3339 time with a zone, in whole seconds, such as 2026-11-23T18:00:00Z": Examples(
        ("2026-11-23T18:00:00Z", "2027-01-31T23:59:59+05:30", "2026-11-23T18:00:00-23:00"),
        ("", "2026-11-23", "2026-11-23T18:00:00", "2026-13-01T00:00:00Z", "2026-11-23T24:00:00Z", "tomorrow"),
        longest="2026-11-23T18:00:00+00:00",
    ),
    # Profiles
    "must be Nodes, Unbounded or a whole number of accelerators from 0 to 1000000": Examples(
        ("Nodes", "Unbounded", 0, 8, 1000000), ("", "Some", "8", -1, 1000001), longest="Unbounded"
    ),
    # Fallbacks
    "set exactly one of external and served": Examples(
        ({"external": EXTERNAL_BARE}, {"served": SERVED_FROM_CLAIM}),
        ({}, {"external": EXTERNAL_BARE, "served": SERVED_FROM_CLAIM}),
    ),
    "must be an http(s) URL with a host, an optional port from 1 to 65535 and an optional path, "
    "such as https://api.example.com/v1": Examples(
        (
            "https://api.example.com/v1",
            "https://a",
            "https://10.0.0.1:8443/v1/",
            "http://a.svc:8000",
            "https://a:65535",
            "https://a:9",
        ),
        (
            "",
            "api.example.com",
            "ftp://a",
            "https://",
            "https://a b",
            "https://user@a",
            "https://a:0/v1",
            "https://a:65536/v1",
            "https://a:70000",
            "https://a:",
            "https://a..b/v1",
            "https://a./v1",
            "https://-a/v1",
            "https://" + 64 * "a",
            "https://[fd00::7]/v1",
            "https://a/v 1",
            "https://a?b",
        ),
        longest="https://a/{}",
    ),
    "url must be https:// unless boundary is Local": Examples(
        ({**EXTERNAL_BARE, "url": "http://a", "boundary": "Local"}, EXTERNAL_BARE),
        ({**EXTERNAL_BARE, "url": "http://a"}, {**EXTERNAL_BARE, "url": "http://a", "boundary": "External"}),
    ),
    "tls belongs to https:// only": Examples(
        ({**EXTERNAL_BARE, "tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}}},),
        (
            {
                "url": "http://a",
                "model": "big",
                "boundary": "Local",
                "tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}},
            },
        ),
    ),
    "must not drop model, messages, prompt or stream": Examples(
        ([], ["min_p", "top_k"]), (["model"], ["min_p", "messages"], ["prompt"], ["stream"])
    ),
    "must rename neither model, messages, prompt nor stream, and nothing to them": Examples(
        ({}, {"max_tokens": "max_completion_tokens"}),
        ({"model": "a"}, {"messages": "a"}, {"prompt": "a"}, {"stream": "a"}, {"a": "model"}),
    ),
    "must not give two fields the same name": Examples(({"a": "b", "c": "d"},), ({"a": "x", "b": "x"},)),
    "must not set model, messages, prompt or stream: use external.model for the model": Examples(
        ({"store": False, "stop": ["\n"], "metadata": {"a": {"b": 1}}, "temperature": 0.2, "user": "u"},),
        ({"model": "a"}, {"messages": []}, {"messages": [{"role": "user"}]}, {"prompt": "a"}, {"stream": True}),
    ),
    # Policies
    "maxHold has no meaning with mode: Reject, by which no request waits": Examples(
        ({"mode": "Hold", "maxHold": "10s"}, {"maxHold": "10s"}, {"mode": "Reject"}, {}),
        ({"mode": "Reject", "maxHold": "10s"},),
    ),
    "name at least one expert or fallback": Examples(
        (POLICY_ANONYMOUS, {**_BARE_POLICY, "experts": [], "fallbacks": [{"name": "big"}]}),
        ({**_BARE_POLICY, "experts": []}, {**_BARE_POLICY, "experts": [], "fallbacks": []}),
    ),
    "pinnable may only name fallbacks of this policy": Examples(
        (POLICY, {**_BARE_POLICY, "pinnable": []}),
        ({**_BARE_POLICY, "pinnable": ["big"]}, {**POLICY, "pinnable": ["bigger"]}),
    ),
    "models must not hold the name of an expert or a pinnable fallback: that name pins it anyway (the default is "
    "[auto])": Examples(
        (
            {**_BARE_POLICY, "models": ["any"], "experts": [{"name": "auto"}]},
            {**_BARE_POLICY, "models": ["big"], "fallbacks": [{"name": "big"}]},
            {**_BARE_POLICY, "models": ["any"], "rules": [_rule(experts=[{"name": "auto"}])]},
        ),
        (
            {**_BARE_POLICY, "experts": [{"name": "auto"}]},
            {**_BARE_POLICY, "models": ["auto", "invoice"]},
            {**_BARE_POLICY, "rules": [_rule(), _rule(name="b", experts=[{"name": "auto"}])]},
            {**_BARE_POLICY, "models": ["big"], "fallbacks": [{"name": "big"}], "pinnable": ["big"]},
            {**_BARE_POLICY, "fallbacks": [{"name": "auto"}], "pinnable": ["auto"]},
        ),
    ),
    "when.models of a rule may only name aliases from models": Examples(
        (POLICY, {**_BARE_POLICY, "rules": [_rule(when={"models": ["auto"]})]}),
        (
            {**_BARE_POLICY, "rules": [_rule(when={"models": ["any"]})]},
            {**_BARE_POLICY, "models": ["any"], "rules": [_rule(), _rule(name="b", when={"models": ["any", "auto"]})]},
        ),
    ),
    "every rule must leave at least one expert or fallback": Examples(
        (
            {**_BARE_POLICY, "fallbacks": [{"name": "big"}], "rules": [_rule(experts=[])]},
            {**_BARE_POLICY, "rules": [_rule(experts=[], fallbacks=[{"name": "big"}])]},
        ),
        (
            {**_BARE_POLICY, "rules": [_rule(), _rule(name="b", experts=[])]},
            {**_BARE_POLICY, "fallbacks": [{"name": "big"}], "rules": [_rule(experts=[], fallbacks=[])]},
        ),
    ),
    "set exactly one of configMapRef, file, url and oci": Examples(
        (
            {"configMapRef": {"name": "router"}, "digest": DIGEST},
            {"file": "/models/router.tar", "digest": DIGEST},
            {"url": "http://models/router.tar", "digest": DIGEST},
            {"oci": f"registry.example.com/routers@{DIGEST}", "digest": DIGEST},
        ),
        (
            {"digest": DIGEST},
            {"configMapRef": {"name": "router"}, "file": "/models/router.tar", "digest": DIGEST},
            {"url": "http://models/a", "oci": f"registry.example.com/routers@{DIGEST}", "digest": DIGEST},
        ),
    ),
    "header.min must not be above header.max": Examples(
        ({"min": "0.2", "max": "0.8"}, {"min": "0.50", "max": "0.5"}, {"min": "0.9", "max": "1"}),
        ({"min": "0.8", "max": "0.2"}, {"min": "1", "max": "0.99"}),
    ),
    "Static draws by weight: leave out artifact, models, threshold, targetStrongRatio, alpha, header and "
    "explore": Examples(
        ({"type": "Static"},),
        tuple({"type": "Static", **_part(name)} for name in _LEARNED_PARTS),
    ),
    "WinRate, QualityGap and Cluster need artifact and models": Examples(
        (_pair(threshold="0.5"), {"type": "Static"}),
        (
            {"type": "WinRate", "threshold": "0.5"},
            {"type": "QualityGap", "threshold": "0.5", **_part("artifact")},
            {"type": "Cluster", "alpha": "0.5", **_part("models")},
        ),
    ),
    "WinRate and QualityGap need one of threshold and targetStrongRatio": Examples(
        (_pair(threshold="0.5"), _pair(targetStrongRatio="0.3"), _pair("QualityGap", threshold="0")),
        (_pair(), _pair("QualityGap"), _pair(threshold="0.5", targetStrongRatio="0.3")),
    ),
    "alpha belongs to Cluster only": Examples(
        (_pair("Cluster", alpha="0.5"), _pair(threshold="0.5")), (_pair(threshold="0.5", alpha="0.5"),)
    ),
    "WinRate and QualityGap choose between two models, the artifact's pair; a third can only be its "
    "embedder's": Examples(
        (_pair(threshold="0.5"), _pair(threshold="0.5", models=_THREE), _pair("Cluster", alpha="1", models=_FOUR)),
        (_pair(threshold="0.5", models=_FOUR), _pair("QualityGap", threshold="0.5", models=_FOUR)),
    ),
    "Cluster needs alpha": Examples((_pair("Cluster", alpha="0"),), (_pair("Cluster"),)),
    "Cluster has no threshold: leave out threshold, targetStrongRatio and header": Examples(
        (_pair("Cluster", alpha="0.5", **_part("explore")),),
        tuple(_pair("Cluster", alpha="0.5", **_part(name)) for name in ("threshold", "targetStrongRatio", "header")),
    ),
    "strategy.models may only name experts and fallbacks of this policy or its rules": _owned_models("strategy"),
    "shadow.models may only name experts and fallbacks of this policy or its rules": _owned_models("shadow"),
    "canary.models may only name experts and fallbacks of this policy or its rules": _owned_models("canary"),
    "canary needs a strategy of another type than Static": Examples(
        ({**_LEARNED_POLICY, "canary": _trial()},),
        (
            {**_TWO_MODELS, "canary": _trial()},
            {**_TWO_MODELS, "strategy": {"type": "Static"}, "canary": _trial(**_part("models"))},
        ),
    ),
    "shadow needs models of its own beside the strategy Static": Examples(
        ({**_TWO_MODELS, "shadow": _trial(**_part("models"))}, {**_LEARNED_POLICY, "shadow": _trial()}),
        ({**_TWO_MODELS, "shadow": _trial()}, {**_TWO_MODELS, "strategy": {"type": "Static"}, "shadow": _trial()}),
    ),
    "requestLog.readers are names of API keys: set auth.apiKeysSecretRef": Examples(
        (
            {**_BARE_POLICY, "requestLog": {}},
            {**_BARE_POLICY, "auth": {"apiKeysSecretRef": {"name": "keys"}}, "requestLog": {"readers": ["ml"]}},
        ),
        ({**_BARE_POLICY, "requestLog": {"readers": ["ml"]}},),
    ),
    "port and adminPort must differ": Examples(
        ({"port": 18080, "adminPort": 19090}, {"port": 2000}, {"adminPort": 2000}), ({"port": 2000, "adminPort": 2000},)
    ),
    "requests.cpu must not be more than limits.cpu": Examples(
        (
            {"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}},
            {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
            {"requests": {"cpu": "1"}},
            {"limits": {"cpu": "500m"}},
            {"requests": {"cpu": "1"}, "limits": {"memory": "1"}},
        ),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}},),
    ),
    "requests.memory must not be more than limits.memory": Examples(
        (
            {"requests": {"memory": "900Mi"}, "limits": {"memory": "1Gi"}},
            {"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            {"requests": {"memory": "1Gi"}},
            {"limits": {"memory": "900Mi"}},
            {"requests": {"memory": "1Gi"}, "limits": {"cpu": "1"}},
        ),
        ({"requests": {"memory": "1Gi"}, "limits": {"memory": "900Mi"}},),
    ),
    "set at least one condition": Examples(({"tools": {"min": 1}}, {"models": ["x0"]}), ({},)),
    "set min, max or both": Examples(({"min": 0}, {"max": 0}, {"min": 1, "max": 1}), ({},)),
    "min must not be above max": Examples(({"min": 1, "max": 1},), ({"min": 2, "max": 1},)),
    "set gte, lt or both": Examples(({"gte": 0}, {"lt": 1}, {"gte": 1, "lt": 2}), ({},)),
    "gte must be below lt": Examples(({"gte": 1, "lt": 2},), ({"gte": 1, "lt": 1}, {"gte": 2, "lt": 1})),
    "set apiKeysSecretRef, or anonymous: true to let anyone call": Examples(
        (
            {"anonymous": True},
            {"apiKeysSecretRef": {"name": "keys"}},
            {"apiKeysSecretRef": {"name": "k"}, "anonymous": False},
        ),
        ({}, {"anonymous": False}, {"apiKeysSecretRef": {"name": "keys"}, "anonymous": True}),
    ),
}
