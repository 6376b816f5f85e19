"""`make demo`, `make up` and `make down`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from demo import report
from demo.disruption import CutStream, delete_pods, kill_while_streaming
from demo.questions import Answer, Question, ask, read_questions
from demo.watch import watch_until_ready
from localcluster import daemon
from localcluster.config import ImageSpec
from realengine import environment as vllm
from stack.flotilla import (
    QUICKSTART,
    Stack,
    quickstart_api_key,
    quickstart_objects,
    quickstart_policy,
    running_stack,
)
from stack.images import make_images

READY_SECONDS = 120
VLLM_READY_SECONDS = 420
ASK_AT_ONCE = 4
DELETED_EXPERT = "arithmetic"
KILLED_EXPERT = "general"
DELETE_AFTER, BACK_AFTER = 12, 18
KILL_AFTER, RESTARTED_AFTER = 28, 34
"""After how many questions pods are deleted or killed, and after how many the demo waits until they are back."""
UP_NAME = "flotilla"


def main() -> int:
    """Exit 0 when it ended well."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["run", "up", "down"], default="run")
    parser.add_argument("--engine", choices=["simulator", "vllm"], default="simulator")
    arguments = parser.parse_args()
    console = Console()
    if arguments.command == "run":
        return run(console, arguments.engine)
    return up(console) if arguments.command == "up" else down(console)


def run(console: Console, engine: str) -> int:
    """Cluster, chart, quickstart, questions with two disruptions, the table; everything is cleaned up at the end."""
    console.rule("A real Kubernetes control plane, as plain processes")
    with ExitStack() as stack:
        flotilla = stack.enter_context(running_stack(name="demo", more_images=_more_images(engine)))
        bring_up(console, flotilla, engine)
        gateway = flotilla.gateway_address(_namespace(), _policy())
        console.rule(f"40 questions through {gateway}")
        client = stack.enter_context(flotilla.client(_namespace(), _policy(), quickstart_api_key()))
        answers, cut = ask_all(console, flotilla, client)
        failed = show(console, flotilla, answers, cut)
        console.print("cleaning up")
    return int(failed)


def up(console: Console) -> int:
    """The quickstart runs and is left running; the ways in are printed."""
    already, _ = daemon.up(UP_NAME, daemon.Contents(images=make_images()))
    with daemon.connect(UP_NAME) as cluster:
        flotilla = Stack(cluster)
        if already:
            console.print("already running; make down ends it")
        else:
            bring_up(console, flotilla, "simulator")
        print_ways_in(console, flotilla)
    return 0


def print_ways_in(console: Console, flotilla: Stack) -> None:
    """Print what a shell needs to use the cluster and its gateway."""
    gateway = flotilla.gateway_address(_namespace(), _policy())
    lines = (
        f"export KUBECONFIG={flotilla.cluster.kubeconfig}",
        f"export OPENAI_BASE_URL={gateway} OPENAI_API_KEY={quickstart_api_key()}",
        f"export PATH={Path(sys.executable).parent}:$PATH   # kubectl, and Python with the OpenAI SDK",
        "kubectl get flotilla -A",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def down(console: Console) -> int:
    """The cluster of `up` is gone."""
    console.print("ended" if daemon.down(UP_NAME) else "was not running")
    return 0


def bring_up(console: Console, flotilla: Stack, engine: str) -> None:
    """The chart is installed, the quickstart applied, and everything in it Ready."""
    with console.status("installing the chart, and a provider behind TLS"):
        flotilla.install()
        flotilla.prepare_quickstart()
    console.rule("kubectl apply -f examples/quickstart/")
    console.print(flotilla.apply(QUICKSTART).rstrip(), highlight=False)
    if engine == "vllm":
        use_vllm(flotilla)
    watch_until_ready(flotilla, _namespace(), console, VLLM_READY_SECONDS if engine == "vllm" else READY_SECONDS)
    console.print(flotilla.cluster.kubectl("get", "flotilla", "-n", _namespace()).rstrip(), highlight=False)


def use_vllm(flotilla: Stack) -> None:
    """The expert `general` runs on a real vLLM for CPUs, one replica and a short context."""
    engine = '{"image": "vllm/vllm-openai-cpu:v0.32.0", "maxModelLen": 1024, "maxNumSeqs": 8, "startupTimeout": "10m"}'
    patch = f'{{"spec": {{"replicas": 1, "engine": {engine}, "capabilities": {{"maxContextTokens": 1024}}}}}}'
    flotilla.cluster.kubectl("patch", "expert", "general", "-n", _namespace(), "--type=merge", "-p", patch)


def ask_all(console: Console, flotilla: Stack, client: OpenAI) -> tuple[list[Answer], CutStream]:
    """Every answer, in the order asked; mid-run one expert's pods are deleted, later another's are killed."""
    questions = read_questions()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with (
        Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress,
        ThreadPoolExecutor(ASK_AT_ONCE) as pool,
    ):
        task = progress.add_task("asking", total=len(questions))
        say = partial(progress.console.print, highlight=False)

        def ask_some(some: Sequence[Question]) -> Iterator[Answer]:
            for answer in pool.map(partial(ask, client), some):
                progress.advance(task)
                yield answer

        answers = list(ask_some(questions[:DELETE_AFTER]))
        say(f"deleted, and draining: {', '.join(delete_pods(flotilla, _namespace(), DELETED_EXPERT))}")
        answers += ask_some(questions[DELETE_AFTER:BACK_AFTER])
        wait_ready(flotilla, DELETED_EXPERT)
        answers += ask_some(questions[BACK_AFTER:KILL_AFTER])
        cut = kill_while_streaming(flotilla, client, _namespace(), KILLED_EXPERT)
        say(f"killed with SIGKILL while it streamed: the engines of {KILLED_EXPERT}")
        answers += ask_some(questions[KILL_AFTER:RESTARTED_AFTER])
        wait_ready(flotilla, KILLED_EXPERT)
        answers += ask_some(questions[RESTARTED_AFTER:])
    return answers, cut


def wait_ready(flotilla: Stack, expert: str) -> None:
    """The expert answers again."""
    ready = ("wait", "--for=condition=Ready", f"expert/{expert}", "-n", _namespace(), f"--timeout={READY_SECONDS}s")
    flotilla.cluster.kubectl(*ready, timeout_seconds=READY_SECONDS + 10)


def show(console: Console, flotilla: Stack, answers: Sequence[Answer], cut: CutStream) -> bool:
    """Print the tables; False when no question failed and the cut stream ended in an error event."""
    fallback = next(o for o in quickstart_objects() if o["kind"] == "Fallback")
    names = frozenset([fallback["metadata"]["name"]])
    wanted = {answer.request_id for answer in answers if not answer.error}
    lines = _request_lines(flotilla, wanted)
    console.print(report.answers_table(answers, lines, names))
    totals = report.add_up(answers, lines, _price(fallback["spec"]["cost"]), names)
    console.print(report.totals_table(totals))
    ended = f"an error event: {cut.error}" if cut.error else "without an error"
    console.print(
        f"the stream that was committed when its engine was killed had {cut.chunks} events and ended in {ended}"
    )
    return totals.failed > 0 or not cut.error or len(lines) < len(wanted)


def _request_lines(flotilla: Stack, wanted: set[str]) -> dict[str, Any]:
    """The routers' log lines of these requests; they are written a moment after the answer."""
    deadline = time.monotonic() + 10
    while True:
        lines = report.read_request_lines(_router_logs(flotilla))
        if wanted <= lines.keys() or time.monotonic() > deadline:
            return dict(lines)
        time.sleep(0.2)


def _router_logs(flotilla: Stack) -> list[str]:
    selector = f"flotilla.dev/owner-kind=RoutingPolicy,flotilla.dev/owner={_policy()}"
    template = '{range .items[*]}{.metadata.name}{"\\n"}{end}'
    pods = flotilla.cluster.kubectl("get", "pods", "-n", _namespace(), "-l", selector, "-o", f"jsonpath={template}")
    return [flotilla.cluster.logs(_namespace(), pod, "router") for pod in pods.split()]


def _price(cost: Mapping[str, str]) -> report.Price:
    return report.Price(float(cost["inputPerMillionUSD"]), float(cost["outputPerMillionUSD"]))


def _namespace() -> str:
    return quickstart_policy()["metadata"]["namespace"]


def _policy() -> str:
    return quickstart_policy()["metadata"]["name"]


def _more_images(engine: str) -> dict[str, ImageSpec]:
    return {vllm.ENGINE_IMAGE: vllm.make_image()} if engine == "vllm" else {}


if __name__ == "__main__":
    sys.exit(main())
