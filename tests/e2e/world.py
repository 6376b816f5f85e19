"""The cluster that the end-to-end tests run on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import yaml

from e2e.objects import PROFILE, a_profile
from localcluster.config import cpu_node, gpu_node
from stack.flotilla import Stack, quickstart_provider_key, running_stack
from stack.provider import start_provider

GPUS_PER_NODE = 8
RESTART_BACKOFF_SECONDS = 0.5
"""Short, so that crash loops and killed containers are quick to test."""

_NODES = [
    cpu_node("cpu-0", cpu="64", memory="256Gi"),
    *(gpu_node(f"l4-{index}", gpus=GPUS_PER_NODE) for index in range(4)),
]
_ENGINES = {"SIM_LOAD_SECONDS": "0.1", "SIM_SEQUENCE_TOKENS_PER_SECOND": "0", "SIM_SKILL": "1"}


@contextmanager
def running_world() -> Generator[Stack]:
    """Flotilla and its provider are ready, and there is one AcceleratorProfile."""
    with running_stack(
        name="e2e", engine_env=_ENGINES, nodes=_NODES, restart_backoff_seconds=RESTART_BACKOFF_SECONDS
    ) as stack:
        start_provider(stack.cluster, quickstart_provider_key())
        stack.install()
        stack.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(a_profile(PROFILE)))
        yield stack
