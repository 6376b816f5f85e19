"""What the demo does to the fleet while it is asked: pods are deleted, then one is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from openai import APIError, OpenAI

from localcluster.runner.control import container_pid
from stack.flotilla import Stack

LONG_ANSWER_TOKENS = 800  # long enough to be cut, short enough for a context of 1,024
LONG_PROMPT = "Tell me at length how a small model and a large one share the work."


@dataclass(frozen=True, slots=True)
class CutStream:
    """How a stream ended whose engine was killed after its first bytes were sent."""

    model: str
    chunks: int
    error: str
    """The message of the in-band error event; '' when the stream ended as if nothing had happened."""


def delete_pods(stack: Stack, namespace: str, expert: str) -> list[str]:
    """The expert's pods are being deleted; their names. They drain: running answers are finished."""
    pods = pod_names(stack, namespace, expert)
    stack.cluster.kubectl("delete", "pod", "-n", namespace, "--wait=false", *pods)
    return pods


def pod_names(stack: Stack, namespace: str, expert: str) -> list[str]:
    """Running pods of an expert."""
    selector = f"flotilla.dev/owner-kind=Expert,flotilla.dev/owner={expert}"
    template = '{range .items[?(@.status.phase=="Running")]}{.metadata.name}{"\\n"}{end}'
    return stack.cluster.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", f"jsonpath={template}").split()


def kill_engine(stack: Stack, namespace: str, pod: str) -> None:
    """The engine's process is gone without a word, as after a node's power failure or the kernel's OOM killer."""
    state = stack.cluster.directory / "runner"
    os.kill(container_pid(state, namespace, pod, "engine"), signal.SIGKILL)


def kill_while_streaming(stack: Stack, client: OpenAI, namespace: str, expert: str) -> CutStream:
    """One long answer of `expert` is begun, and every engine of it is killed after the first words."""
    chunks, error = 0, ""
    with client.chat.completions.with_streaming_response.create(
        model=expert,
        messages=[{"role": "user", "content": LONG_PROMPT}],
        max_tokens=LONG_ANSWER_TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as response:
        try:
            for _ in response.parse():
                chunks += 1
                if chunks == 1:
                    for pod in pod_names(stack, namespace, expert):
                        kill_engine(stack, namespace, pod)
        except APIError as failure:
            error = failure.message
    return CutStream(response.headers.get("x-flotilla-model", "-"), chunks, error)
