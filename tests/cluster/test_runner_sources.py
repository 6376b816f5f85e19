"""Pods on a real cluster: images, environment, volumes, tokens, private roots, and scheduling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runner_pods import Json, Workspace, a_config_map, a_container, a_pod, from_field

from localcluster.cluster import LocalCluster
from localcluster.runner.control import container_log

AUDIENCE = "flotilla-gateway"


@pytest.fixture
def space(cluster: LocalCluster, namespace: str) -> Workspace:
    return Workspace(cluster, namespace)


def _secret(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def _printed(space: Workspace, pod: str) -> str:
    """What a pod of one shot has written."""
    space.wait_terminated(pod)
    return container_log(space.state_dir, space.namespace, pod, "main")


def test_unknown_image_is_not_pulled(space: Workspace) -> None:
    """A pod whose image nobody knows waits with the kubelet's reasons and events."""
    space.create(a_pod("lost", a_container(image="registry.example/nope:1")))

    space.wait("the pull error", lambda: space.waiting_reason("lost") in {"ErrImagePull", "ImagePullBackOff"})
    space.wait_event("lost", "Failed", 'Failed to pull image "registry.example/nope:1"')
    space.wait("the back-off", lambda: space.waiting_reason("lost") == "ImagePullBackOff")

    assert space.get("pods", "lost")["status"]["phase"] == "Pending"


def test_program_that_does_not_exist(space: Workspace) -> None:
    """A command that is not there is a StartError, not a crash of the program."""
    space.create(a_pod("typo", a_container(command=["no-such-program"]), restartPolicy="Never"))

    ended = space.wait_terminated("typo")

    assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
    assert 'exec: "no-such-program": executable file not found in $PATH' in ended["message"]


def test_missing_secret_holds_the_container(space: Workspace) -> None:
    """A container that needs a Secret says which one is missing, and starts when it is there."""
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}
    space.create(a_pod("web", a_container(script="echo got $TOKEN; exec sleep 1000", env=[variable])))
    space.wait("the refusal", lambda: space.waiting_reason("web") == "CreateContainerConfigError")
    message = space.container("web")["state"]["waiting"]["message"]

    space.create(_secret("hf", token="s3cret"))
    space.wait_ready("web")

    assert message == 'secret "hf" not found'
    assert container_log(space.state_dir, space.namespace, "web", "main") == "got s3cret\n"
    assert space.container("web")["restartCount"] == 0


def test_missing_config_map_holds_the_volumes(space: Workspace) -> None:
    """A pod whose volume has no source stays in ContainerCreating with a FailedMount event, until it comes."""
    volumes = [{"name": "cfg", "configMap": {"name": "late"}}]
    space.create(a_pod("web", a_container(volumeMounts=[{"name": "cfg", "mountPath": "/cfg"}]), volumes=volumes))
    space.wait_event("web", "FailedMount", 'MountVolume.SetUp failed for volume "cfg" : configmap "late" not found')
    reason = space.waiting_reason("web")

    space.create(a_config_map("late", a="1"))
    space.wait_ready("web")

    assert reason == "ContainerCreating"


def test_mounted_objects_are_kept_current(space: Workspace) -> None:
    """ConfigMaps, Secrets and labels reach running containers when they change, each volume as a whole."""
    script = "while :; do echo $(cat /v/cfg/a /v/cfg/b /v/secret /v/labels 2>/dev/null); sleep 0.1; done"
    sources: list[Json] = [
        {"configMap": {"name": "cfg", "items": [{"key": k, "path": f"cfg/{k}"} for k in ("a", "b")]}},
        {"secret": {"name": "s", "items": [{"key": "k", "path": "secret"}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels['stage']"}}]}},
    ]
    volumes = [{"name": "all", "projected": {"sources": sources}}]
    space.create(a_config_map("cfg", a="a1\n", b="b1\n"), _secret("s", k="s1\n"))
    container = a_container(script=script, volumeMounts=[{"name": "all", "mountPath": "/v"}])
    space.create(a_pod("reader", container, metadata={"labels": {"stage": "l1"}}, volumes=volumes))

    def sees(line: str) -> None:
        lines = lambda: container_log(space.state_dir, space.namespace, "reader", "main").splitlines()  # noqa: E731
        space.wait(f"the container to see {line}", lambda: line in lines())

    sees("a1 b1 s1 l1")
    space.patch("configmaps", "cfg", {"data": {"a": "a2\n", "b": "b2\n"}})
    sees("a2 b2 s1 l1")
    space.patch("secrets", "s", {"stringData": {"k": "s2\n"}})
    sees("a2 b2 s2 l1")
    space.patch("pods", "reader", {"metadata": {"labels": {"stage": "l2"}}})
    sees("a2 b2 s2 l2")


def test_projected_token_is_accepted_for_its_audience(space: Workspace) -> None:
    """The API server knows a projected token as the pod's service account, for its own audience only."""
    token = {"serviceAccountToken": {"path": "token", "audience": AUDIENCE, "expirationSeconds": 600}}
    volumes = [{"name": "t", "projected": {"sources": [token]}}]
    container = a_container(script="cat /t/token", volumeMounts=[{"name": "t", "mountPath": "/t"}])
    space.create(a_pod("caller", container, volumes=volumes, restartPolicy="Never"))
    value = _printed(space, "caller")

    def review(audience: str) -> Json:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        spec = {"token": value, "audiences": [audience]}
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        return space.cluster.api.post(path, json={**body, "spec": spec}).raise_for_status().json()["status"]

    accepted = review(AUDIENCE)

    assert accepted["authenticated"] is True
    assert accepted["user"]["username"] == f"system:serviceaccount:{space.namespace}:default"
    assert accepted["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["caller"]
    assert not review("somebody-else").get("authenticated")


def test_pod_reaches_the_api_server_as_its_service_account(space: Workspace) -> None:
    """What the usual in-cluster configuration finds works, and RBAC applies to it."""
    script = (
        "import os, ssl, urllib.request as r\n"
        "d = '/var/run/secrets/kubernetes.io/serviceaccount/'\n"
        "host, port = os.environ['KUBERNETES_SERVICE_HOST'], os.environ['KUBERNETES_SERVICE_PORT']\n"
        "tls = ssl.create_default_context(cafile=d + 'ca.crt')\n"
        "for base in (f'https://{host}:{port}', 'https://kubernetes.default.svc'):\n"
        "    for path in ('/api/v1/nodes', '/version'):\n"
        "        q = r.Request(base + path, headers={'Authorization': 'Bearer ' + open(d + 'token').read()})\n"
        "        try: print(r.build_opener(r.HTTPSHandler(context=tls)).open(q, timeout=10).status)\n"
        "        except r.HTTPError as e: print(e.code)\n"
        "print(open(d + 'namespace').read())\n"
    )
    env = [{"name": "no_proxy", "value": "*"}]
    container = a_container(command=["python3", "-c", script], env=env)
    space.create(a_pod("client", container, restartPolicy="Never"))

    assert _printed(space, "client").split() == ["403", "200", "403", "200", space.namespace]


def test_environment_of_a_container(space: Workspace) -> None:
    """A container sees the downward API, its own limits, and nothing of the runner's environment."""
    env = [
        from_field("POD", "metadata.name"),
        from_field("IP", "status.podIP"),
        from_field("NODE", "spec.nodeName"),
        {"name": "MIB", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "URL", "value": "http://$(IP):80"},
    ]
    script = "import json, os, socket; print(json.dumps({**os.environ, 'host': socket.gethostname()}))"
    container = a_container(command=["python3", "-c", script], env=env, resources={"limits": {"memory": "256Mi"}})
    space.create(a_pod("echo", container, restartPolicy="Never", nodeSelector={"kubernetes.io/hostname": "cpu-0"}))

    seen: dict[str, str] = json.loads(_printed(space, "echo"))
    address = space.get("pods", "echo")["status"]["podIP"]

    assert {name: seen[name] for name in ("POD", "IP", "NODE", "MIB", "URL", "HOSTNAME", "host")} == {
        "POD": "echo",
        "IP": address,
        "NODE": "cpu-0",
        "MIB": "256",
        "URL": f"http://{address}:80",
        "HOSTNAME": "echo",
        "host": "echo",
    }
    assert "KUBECONFIG" not in seen
    assert "PYTHONPATH" not in seen


def test_containers_have_roots_of_their_own(space: Workspace, tmp_path: Path) -> None:
    """What a container writes is seen by no other and not on the host; a shared emptyDir is."""
    mark = tmp_path / "mark"
    share = [{"name": "share", "mountPath": "/share"}]
    writer = a_container("writer", f"echo x > {mark}; echo y > /share/note; exec sleep 1000", volumeMounts=share)
    script = f"until test -e /share/note; do sleep 0.05; done; test -e {mark} && echo leaked; cat /share/note"
    volumes: list[dict[str, Any]] = [{"name": "share", "emptyDir": {"medium": "Memory"}}]
    space.create(a_pod("pair", writer, a_container(script=script, volumeMounts=share), volumes=volumes))

    assert _printed(space, "pair") == "y\n"
    assert not mark.exists()


def test_read_only_root(space: Workspace) -> None:
    """`readOnlyRootFilesystem` leaves only volumes to write to."""
    script = "touch /tmp/x || echo refused; touch /scratch/x && echo written"
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {}}]
    container = a_container(
        script=script,
        securityContext={"readOnlyRootFilesystem": True},
        volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}],
    )
    space.create(a_pod("strict", container, volumes=volumes, restartPolicy="Never"))

    assert _printed(space, "strict").splitlines()[-2:] == ["refused", "written"]


def test_claim_outlives_its_pods(space: Workspace) -> None:
    """What one pod writes to a claim the next one reads; with the claim its volume goes."""
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    space.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "cache"}, "spec": claim})
    volumes = [{"name": "c", "persistentVolumeClaim": {"claimName": "cache"}}]
    mounts = [{"name": "c", "mountPath": "/cache", "subPath": "models"}]
    for name, script in (("one", "echo weights > /cache/model"), ("two", "cat /cache/model")):
        pod = a_pod(name, a_container(script=script, volumeMounts=mounts), volumes=volumes, restartPolicy="Never")
        space.create(pod)
        space.wait_terminated(name)
    read = _printed(space, "two")
    volume = space.get("persistentvolumeclaims", "cache")["spec"]["volumeName"]

    for name in ("one", "two"):
        space.delete("pods", name)
    space.delete("persistentvolumeclaims", "cache")

    assert read == "weights\n"
    path = f"/api/v1/persistentvolumes/{volume}"
    space.wait("the volume to go", lambda: space.cluster.api.get(path).status_code == 404)
    assert not (space.state_dir / "volumes" / volume).exists()


def test_pod_that_asks_for_too_many_gpus_stays_pending(space: Workspace) -> None:
    """The scheduler's own message says why; the runner does not touch the pod."""
    resources = {"limits": {"nvidia.com/gpu": "64"}}
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    space.create(a_pod("huge", a_container(resources=resources), tolerations=tolerations))

    def message() -> str:
        conditions: list[Json] = space.get("pods", "huge")["status"].get("conditions", [])
        return next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), "")

    space.wait("the scheduler's verdict", lambda: "Insufficient nvidia.com/gpu" in message())

    assert message().startswith("0/3 nodes are available")
    assert space.get("pods", "huge")["status"]["phase"] == "Pending"
    assert "podIP" not in space.get("pods", "huge")["status"]
