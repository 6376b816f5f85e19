"""From a bare cluster to the quickstart, every object of it Ready; and a cluster that stays."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from demo.watch import watch_until_ready
from localcluster import daemon
from realengine import environment as vllm
from stack.flotilla import QUICKSTART, Stack, quickstart_api_key, quickstart_policy
from stack.images import make_images

READY_SECONDS = 120
VLLM_READY_SECONDS = 420
UP_NAME = "flotilla"
BROUGHT_UP = "brought-up"
"""A file beside the cluster's, there once the quickstart was Ready; without it a cluster holds nobody's work."""


def ready_seconds(engine: str) -> float:
    """How long an expert may take to be Ready."""
    return VLLM_READY_SECONDS if engine == "vllm" else READY_SECONDS


def bring_up(console: Console, stack: Stack, engine: str) -> None:
    """The chart is installed, the quickstart applied, and everything in it Ready, in the state that it stays in.

    Raises:
        TimeoutError: an object is not Ready; the message names it and its reason.
        CommandError: kubectl or Helm failed, or the gateway was not rolled out in time.
    """
    policy = quickstart_policy()["metadata"]
    namespace = policy["namespace"]
    with console.status("installing the chart, and a provider behind TLS"):
        stack.install()
        stack.prepare_quickstart()
    console.rule("kubectl apply -f examples/quickstart/")
    console.print(stack.apply(QUICKSTART).rstrip(), highlight=False)
    if engine == "vllm":
        _use_vllm(stack, namespace)
    watch_until_ready(stack, namespace, console, ready_seconds(engine))
    stack.wait_for_gateway(namespace, policy["name"], READY_SECONDS)
    console.print(stack.cluster.kubectl("get", "flotilla", "-n", namespace).rstrip(), highlight=False)


def _use_vllm(stack: Stack, namespace: str) -> None:
    """The expert `general` runs on a real vLLM for CPUs, one replica and a short context."""
    engine = (
        f'{{"image": "{vllm.ENGINE_IMAGE}:v0.32.0", "maxModelLen": 1024, "maxNumSeqs": 8, "startupTimeout": "10m"}}'
    )
    patch = f'{{"spec": {{"replicas": 1, "engine": {engine}, "capabilities": {{"maxContextTokens": 1024}}}}}}'
    stack.cluster.kubectl("patch", "expert", "general", "-n", namespace, "--type=merge", "-p", patch)


def up(console: Console) -> int:
    """The quickstart runs and is left running; the ways in are printed. What an interrupted `up` left is begun anew."""
    already, state = _start()
    if already and not (state.directory / BROUGHT_UP).exists():
        console.print("an earlier make up was interrupted: starting over")
        daemon.down(UP_NAME)
        already, state = _start()
    with daemon.connect(UP_NAME) as cluster:
        stack = Stack(cluster)
        if already:
            console.print("already running; make down ends it")
        else:
            bring_up(console, stack, "simulator")
            (state.directory / BROUGHT_UP).touch()
        _print_ways_in(console, stack)
    return 0


def _start() -> tuple[bool, daemon.State]:
    return daemon.up(UP_NAME, daemon.Contents(images=make_images()))


def down(console: Console) -> int:
    """The cluster of `up` is gone, however far that came."""
    console.print("ended" if daemon.down(UP_NAME) else "was not running")
    return 0


def _print_ways_in(console: Console, stack: Stack) -> None:
    """Print what a shell needs to use the cluster and its gateway."""
    metadata = quickstart_policy()["metadata"]
    gateway = stack.gateway_address(metadata["namespace"], metadata["name"])
    lines = (
        f"export KUBECONFIG={stack.cluster.kubeconfig}",
        f"export OPENAI_BASE_URL={gateway} OPENAI_API_KEY={quickstart_api_key()}",
        f"export PATH={Path(sys.executable).parent}:$PATH   # kubectl, and Python with the OpenAI SDK",
        "kubectl get flotilla -A",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
