"""The engine's pod: command line, environment, probes, ending, placement and the memory that it needs."""

from __future__ import annotations

from typing import Any

import pytest

from builders import a_profile, an_expert, deployment_of, observe, template_of
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.resources.memory import estimate_memory
from flotilla_operator.resources.quantity import parse_quantity
from flotilla_operator.resources.specs import Served, parse_model, parse_profile


def template(expert: Manifest | None = None, profile: Manifest | None = None) -> Manifest:
    return template_of(dispatch.desired(observe(expert or an_expert(), profile or a_profile())))


def deployment(expert: Manifest) -> Manifest:
    return deployment_of(dispatch.desired(observe(expert, a_profile())))


def engine_of(found: Manifest) -> Manifest:
    (container,) = found["spec"]["containers"]
    return container


def env_of(container: Manifest) -> dict[str, Any]:
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names))
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_the_command_line_is_vllms() -> None:
    """Whatever the image's entrypoint, `vllm serve` runs; what the spec says comes first, the user's own flags last."""
    expert = an_expert(
        accelerator={"profile": "l4", "count": 2},
        engine={"maxModelLen": 4096, "maxNumSeqs": 8, "args": ["--quantization", "awq"]},
    )

    assert engine_of(template(expert))["command"][-2:] == ["vllm", "serve"]
    assert engine_of(template(expert))["args"] == [
        *("/models/Qwen/Qwen2.5-1.5B-Instruct", "--served-model-name", "invoice"),
        *("--host", "$(POD_IP)", "--port", "8000", "--tensor-parallel-size", "2"),
        *("--max-num-seqs", "8", "--max-model-len", "4096", "--quantization", "awq"),
    ]


def test_a_downloaded_model_is_read_offline() -> None:
    """Only the download reaches the internet and sees the token; proxies and mirrors hold for both."""
    expert = an_expert(
        model={"uri": "hf://acme/m", "revision": "abc", "tokenSecretRef": {"name": "hf", "key": "token"}},
        engine={"env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}, {"name": "HF_HOME", "value": "/tmp/hf"}]},
    )
    found = template(expert)
    (fetch,) = found["spec"]["initContainers"]
    engine = engine_of(found)

    assert fetch["command"] == [
        *("hf", "download", "acme/m", "--revision", "abc"),
        *("--exclude", "original/*", "--local-dir", "/models/acme/m"),
    ]
    assert engine["args"][0] == "/models/acme/m"
    assert env_of(fetch)["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert "HF_TOKEN" not in env_of(engine)
    assert "HF_HUB_OFFLINE" not in env_of(fetch)
    assert env_of(engine)["HF_HUB_OFFLINE"] == "1"
    assert env_of(engine)["HTTPS_PROXY"] == env_of(fetch)["HTTPS_PROXY"] == "http://proxy"
    assert env_of(engine)["HF_HOME"] == "/tmp/hf"


def test_a_download_has_resources() -> None:
    """The default limit of a namespace would be too small for it."""
    expert = an_expert(engine={"env": [{"name": "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT", "value": "1gb"}]})
    (fetch,) = template()["spec"]["initContainers"]
    (own,) = template(expert)["spec"]["initContainers"]

    assert fetch["resources"] == {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}}
    assert env_of(fetch)["HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT"] == "4gb"
    assert env_of(own)["HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT"] == "1gb"


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        pytest.param(
            {"requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"cpu": "8", "memory": "32Gi"}},
            {"requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"cpu": "8", "memory": "32Gi"}},
            id="a Guaranteed pod stays one",
        ),
        pytest.param(
            {"limits": {"cpu": "4"}},
            {"requests": {"memory": "1Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}},
            id="a quota on limits.cpu is met",
        ),
        pytest.param(
            {"requests": {"memory": "16Gi"}},
            {"requests": {"cpu": "500m", "memory": "16Gi"}, "limits": {}},
            id="no request is above a limit",
        ),
        pytest.param(
            {"limits": {"nvidia.com/gpu": "8", "rdma/ib": "1"}},
            {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}},
            id="no devices",
        ),
    ],
)
def test_a_download_has_what_is_said_of_the_engine(resources: Manifest, expected: Manifest) -> None:
    """A pod is charged for the larger of the two, so it costs nothing; what the namespace demands is met by both."""
    (fetch,) = template(an_expert(podOverrides={"resources": resources}))["spec"]["initContainers"]

    assert fetch["resources"] == expected


def test_a_model_on_a_claim_is_mounted_read_only() -> None:
    """Nothing is downloaded and nothing is written."""
    found = template(an_expert(model={"uri": "pvc://weights/qwen/1.5b/"}))

    assert "initContainers" not in found["spec"]
    assert engine_of(found)["args"][0] == "/models/qwen/1.5b"
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}} in found["spec"][
        "volumes"
    ]


def test_every_writable_path_is_a_volume() -> None:
    """The root file system is read-only, so all caches and homes lie in mounted folders."""
    engine = engine_of(template())
    mounted = [each["mountPath"] for each in engine["volumeMounts"] if not each.get("readOnly")]
    paths = [value for value in env_of(engine).values() if isinstance(value, str) and value.startswith("/")]

    assert engine["securityContext"]["readOnlyRootFilesystem"] is True
    assert mounted == ["/cache", "/tmp", "/dev/shm"]
    assert len(paths) >= 6
    assert all(path.startswith(tuple(mounted)) for path in paths)


@pytest.mark.parametrize(
    ("timeout", "period", "failures"),
    [
        pytest.param("15m", 5, 180, id="a long start"),
        pytest.param("45s", 1, 45, id="a short one is looked at more often"),
        pytest.param("500ms", 1, 1, id="the shortest"),
        pytest.param("2h", 5, 1440, id="a very long one"),
    ],
)
def test_the_start_up_probe_allows_the_whole_timeout(timeout: str, period: int, failures: int) -> None:
    """Period times failures is startupTimeout, and the Deployment waits longer than that."""
    expert = an_expert(engine={"startupTimeout": timeout})
    probe = engine_of(template(expert))["startupProbe"]

    assert (probe["periodSeconds"], probe["failureThreshold"]) == (period, failures)
    assert deployment(expert)["spec"]["progressDeadlineSeconds"] > period * failures


def test_the_start_up_probe_uses_the_first_api() -> None:
    """A model without a chat template is asked for a plain completion."""
    expert = an_expert(capabilities={"apis": ["completions", "chat"]})

    assert engine_of(template(expert))["startupProbe"]["exec"]["command"][3:] == ["8000", "completions", "invoice", "9"]


@pytest.mark.parametrize("timeout", ["0s", "1500ms", "60s", "1h"])
def test_a_pod_may_end_later_than_its_drain(timeout: str) -> None:
    """The hook settles, drains and still leaves time to stop."""
    found = template(an_expert(drain={"timeout": timeout}))
    settle, drain = engine_of(found)["lifecycle"]["preStop"]["exec"]["command"][-2:]

    assert found["spec"]["terminationGracePeriodSeconds"] >= float(settle) + float(drain) + 10


def test_a_pool_with_no_spare_gpu_still_rolls() -> None:
    """By default a replica ends before its successor starts."""
    rolling = deployment(an_expert())["spec"]["strategy"]["rollingUpdate"]
    said = deployment(an_expert(rollout={"maxSurge": 2, "maxUnavailable": 0}))["spec"]["strategy"]["rollingUpdate"]

    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}
    assert said == {"maxSurge": 2, "maxUnavailable": 0}


def test_placement_is_the_profiles_with_the_teams_on_top() -> None:
    """Selectors are merged and the team's win; tolerations add up, each once; GPUs are never overridden."""
    profile = a_profile(
        nodeSelector={"pool": "a", "gpu": "l4"}, tolerations=[{"key": "gpu"}], runtimeClassName="nvidia"
    )
    expert = an_expert(
        accelerator={"profile": "l4", "count": 4},
        podOverrides={
            "nodeSelector": {"pool": "b"},
            "tolerations": [{"key": "gpu"}, {"key": "spot"}],
            "resources": {"limits": {"nvidia.com/gpu": "9", "memory": "8Gi"}, "requests": {"nvidia.com/gpu": "9"}},
            "labels": {"flotilla.dev/policy": "billing", "flotilla.dev/owner": "other", "team": "x"},
        },
    )
    found = template(expert, profile)

    assert found["spec"]["nodeSelector"] == {"pool": "b", "gpu": "l4"}
    assert found["spec"]["tolerations"] == [{"key": "gpu"}, {"key": "spot"}]
    assert found["spec"]["runtimeClassName"] == "nvidia"
    assert engine_of(found)["resources"] == {"limits": {"nvidia.com/gpu": "4", "memory": "8Gi"}}
    assert found["metadata"]["labels"]["team"] == "x"
    assert found["metadata"]["labels"]["flotilla.dev/owner"] == "invoice"
    assert "flotilla.dev/policy" not in found["metadata"]["labels"]


@pytest.mark.parametrize(
    ("spec", "fits", "needed_gib"),
    [
        pytest.param({"parameters": "1.5B"}, None, 3.8, id="a small model on a 24 GiB GPU"),
        pytest.param({"parameters": "14B"}, False, 27.1, id="a large one does not fit"),
        pytest.param({"parameters": "14B", "count": 2}, None, 28.1, id="unless it is spread over two"),
        pytest.param({"parameters": "14B", "args": ["--quantization=awq"]}, None, 8.3, id="or has four bits a weight"),
        pytest.param({"parameters": "14B", "args": ["-q", "fp8"]}, None, 14.0, id="or eight"),
        pytest.param({"parameters": "14B", "uri": "hf://Q/Qwen2.5-14B-GPTQ-Int4"}, None, 8.3, id="or its name says so"),
        pytest.param({"parameters": "7B", "args": ["--dtype", "float32"]}, False, 27.1, id="four bytes a weight"),
        pytest.param({"parameters": "1.5B", "tokens": 8192}, True, 4.2, id="a small model and a short request"),
        pytest.param({"parameters": "8B", "tokens": 131072}, False, 31.8, id="a long context needs a large cache"),
        pytest.param(
            {"parameters": "8B", "tokens": 131072, "args": ["--kv-cache-dtype=fp8"], "count": 2},
            True,
            24.8,
            id="half as much with an eight-bit cache",
        ),
        pytest.param(
            {"parameters": "9B", "args": ["--gpu-memory-utilization", "0.5"]}, False, 17.8, id="of half the memory"
        ),
    ],
)
def test_the_fit_check_estimates_weights_and_cache(
    spec: dict[str, Any], *, fits: bool | None, needed_gib: float
) -> None:
    """From the count of weights alone, right to a tenth of a GiB by its own formula; it never guesses the length."""
    served = parse_model(
        an_expert(
            model={"uri": spec.get("uri", "hf://acme/model"), "parameters": spec["parameters"]},
            accelerator={"profile": "l4", "count": spec.get("count", 1)},
            engine={"args": spec.get("args", [])} | ({"maxModelLen": spec["tokens"]} if "tokens" in spec else {}),
        )
    )
    assert isinstance(served, Served)

    estimate = estimate_memory(served, parse_profile(a_profile()))

    assert estimate is not None
    assert estimate.needed_gib == pytest.approx(needed_gib, abs=0.06)
    assert estimate.fits is fits


@pytest.mark.parametrize(
    ("one", "other"),
    [("1024Mi", "1Gi"), ("0.5", "500m"), ("1e3", "1k"), ("1E", "1000P"), ("2", "2.0"), ("1E3", "1000")],
)
def test_quantities_are_compared_by_value(one: str, other: str) -> None:
    """The server writes them in another form than we do."""
    assert parse_quantity(one) == parse_quantity(other) is not None
    assert parse_quantity("1GiB") is None
