"""`flotilla logs export`: the request logs of a policy's gateways, as rows that can be labelled."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flotilla_api import names, request_log
from flotilla_cli.cluster import Answer, Cluster, Session, call, connect, read_own, reason_of
from flotilla_cli.errors import InputError
from flotilla_cli.explanation import table
from flotilla_cli.inject import say

from .exporting import Export
from .progress import bar
from .requestrows import convert

_TARGET = re.compile(r"(policy|routingpolicy|routingpolicies|rp)/([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)")
_PAGE_SECONDS = 30.0
_REFUSALS = (401, 403)
_ENDED = ("Succeeded", "Failed")
"""Phases of pods whose log is gone with their volumes, evicted ones for instance."""

app = typer.Typer(no_args_is_help=True)


@app.callback()
def logs() -> None:
    """Request logs of gateways."""


@dataclass(slots=True)
class Read:
    """What came of one pod's log."""

    pod: str
    rows: int = 0
    broken: int = 0
    """Lines that are no rows."""
    gap: bool = False
    """Whether rows made room for others before they were read."""
    error: str | None = None
    """Why it was not read, or not to its end."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One of the policy's gateways."""

    name: str
    address: str
    """Its IP; empty: it has none yet."""


@app.command("export")
def export(
    *,
    target: Annotated[str, typer.Argument(metavar="policy/NAME", help="Whose request log is read.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="Where rows go; those that it holds are not read again.")
    ],
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", metavar="NAME", help="Default: the context's.")
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The environment variable that holds a reader's API key. Default: the policy's Secret."
        ),
    ] = None,
    key_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Entry of that Secret. Default: the only one of requestLog.readers."),
    ] = None,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="Call pods at their own addresses, as from within the cluster."),
    ] = False,
    summary: Annotated[
        Literal["table", "json"], typer.Option(help="How the counts are written: table or json.")
    ] = "table",
    kubeconfig: Annotated[
        str | None, typer.Option(metavar="FILE", help="Default: $KUBECONFIG, else ~/.kube/config.")
    ] = None,
    context: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the kubeconfig's current one.")] = None,
) -> None:
    """Read the request logs of a policy's gateways into one file.

    Run it again and it goes on where the file ends, by FILE.cursor beside it:

      kubectl flotilla logs export policy/support -n agents -o log.jsonl
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise typer.BadParameter(f"{target!r} is not policy/NAME", param_hint="target")
    if key_env is not None and key_name is not None:
        raise typer.BadParameter("give one of --key-env and --key-name", param_hint="--key-name")
    with connect(Cluster(kubeconfig, context), namespace) as session:
        policy = read_own(session, "routingpolicies", match[2])
        if "requestLog" not in policy["spec"]:
            raise InputError(f"policy {match[2]} keeps no request log: spec.requestLog is not set")
        ask = _asker(session, _key(session, policy, key_env, key_name), direct=direct)
        source = f"{session.namespace}/{match[2]}"
        with closing(Export(out, source)) as file:
            done = _export(_gateways(session, match[2]), ask, file)
    _tell(done, out, summary)
    if any(each.error for each in done):
        raise typer.Exit(1)


# Who is asked, and with which key

Ask = Callable[[Pod, str | None], Answer]
"""A page of a pod's log, after a cursor."""


def _asker(session: Session, key: str, *, direct: bool) -> Ask:
    headers = {request_log.KEY_HEADER: key}
    path = request_log.REQUEST_LOG_PATH

    def through_the_api_server(pod: Pod, after: str | None) -> Answer:
        proxy = f"/api/v1/namespaces/{session.namespace}/pods/{pod.name}:{names.ROUTER_ADMIN_PORT}/proxy{path}"
        return session.get(proxy, _query(after), headers, seconds=_PAGE_SECONDS)

    def at_its_address(pod: Pod, after: str | None) -> Answer:
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        url = f"http://{host}:{names.ROUTER_ADMIN_PORT}{path}"
        return call(url, _query(after), headers, seconds=_PAGE_SECONDS)

    return at_its_address if direct else through_the_api_server


def _query(after: str | None) -> list[tuple[str, str]]:
    return [("limit", str(request_log.MAX_LINES)), *([] if after is None else [("after", after)])]


def _key(session: Session, policy: Mapping[str, Any], key_env: str | None, key_name: str | None) -> str:
    if key_env is not None:
        key = os.environ.get(key_env, "")
        if not key:
            raise InputError(f"the environment variable {key_env} is not set, or empty")
    else:
        key = _key_of_secret(session, policy, key_name)
    if not (key.isascii() and key.isprintable()):
        raise InputError("the API key is not one line of ASCII")
    return key


def _key_of_secret(session: Session, policy: Mapping[str, Any], key_name: str | None) -> str:
    spec = policy["spec"]
    readers: Sequence[str] = spec["requestLog"].get("readers") or []
    reference = spec["auth"].get("apiKeysSecretRef")
    if reference is None or not readers:
        raise InputError("nobody may read this policy's request log: spec.requestLog.readers names no API key")
    if key_name is None and len(readers) > 1:
        raise InputError(f"several API keys may read this log, {', '.join(readers)}: choose one by --key-name")
    entry = key_name or readers[0]
    what = f"secrets/{reference['name']} in namespace {session.namespace}"
    secret = session.read(f"/api/v1/namespaces/{session.namespace}/secrets/{reference['name']}", what)
    data: Mapping[str, str] = secret.get("data") or {}
    encoded = data.get(entry)
    if encoded is None:
        raise InputError(f"{what} has no entry {entry}")
    return base64.b64decode(encoded).decode("utf-8", "replace").strip()


def _gateways(session: Session, policy: str) -> list[Pod]:
    """Pods of the policy's gateway, those that are ending too.

    Raises:
        InputError: there are none, or they cannot be listed.
    """
    labels = names.selector_labels("RoutingPolicy", policy)
    selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    path = f"/api/v1/namespaces/{session.namespace}/pods"
    found = session.read(path, f"pods in namespace {session.namespace}", [("labelSelector", selector)])
    statuses = [(each["metadata"]["name"], each.get("status", {})) for each in found["items"]]
    pods = [Pod(name, status.get("podIP", "")) for name, status in statuses if status.get("phase") not in _ENDED]
    if not pods:
        raise InputError(f"policy {policy} has no gateway pods in namespace {session.namespace}")
    return sorted(pods, key=lambda pod: pod.name)


# What is read


def _export(pods: Sequence[Pod], ask: Ask, file: Export) -> list[Read]:
    done: list[Read] = []
    with bar("gateways", len(pods)) as advance:
        for number, pod in enumerate(pods, 1):
            read = Read(pod.name)
            try:
                _drain(pod, ask, file, read)
            except _PodError as error:
                read.error = str(error)
            done.append(read)
            advance(number)
    return done


class _PodError(Exception):
    """A pod's log cannot be read; others may."""


def _drain(pod: Pod, ask: Ask, file: Export, read: Read) -> None:
    """Everything that the pod's log holds beyond the file is in the file."""
    if not pod.address:
        raise _PodError("it has no address yet")
    while True:
        page = _page(pod, ask, file.cursor(pod.name))
        lines = page.body.splitlines()
        rows = [row for row in (convert(line, pod.name) for line in lines) if row is not None]
        read.rows += len(rows)
        read.broken += len(lines) - len(rows)
        read.gap |= page.headers.get(request_log.GAP_HEADER) == "true"
        file.add(pod.name, rows, page.headers[request_log.CURSOR_HEADER])
        if page.headers.get(request_log.MORE_HEADER) != "true":
            return


def _page(pod: Pod, ask: Ask, after: str | None) -> Answer:
    """A page of the log.

    Raises:
        InputError: the key may not read it: no other pod's log either.
        _PodError: the pod does not answer, or not well.
    """
    try:
        page = ask(pod, after)
    except InputError as error:
        raise _PodError(str(error)) from error
    if page.status in _REFUSALS:
        raise InputError(f"pod {pod.name}: {reason_of(page)}")
    if page.status != 200:
        raise _PodError(reason_of(page))
    if request_log.CURSOR_HEADER not in page.headers:
        raise _PodError(f"its answer has no {request_log.CURSOR_HEADER}: it is no gateway of this release")
    return page


# What is told


def _tell(done: Sequence[Read], out: Path, summary: str) -> None:
    for each in done:
        if each.error:
            say("warning", f"pod {each.pod}: {each.error}; the same command goes on")
        if each.gap:
            say("warning", f"pod {each.pod}: rows made room for others before they were read: export more often")
        if each.broken:
            say("warning", f"pod {each.pod}: {each.broken} broken row{'s' * (each.broken > 1)} skipped")
    if summary == "json":
        counts = {name: sum(getattr(each, name) for each in done) for name in ("rows", "broken")}
        typer.echo(json.dumps({"out": str(out), **counts, "pods": [asdict(each) for each in done]}, indent=2))
        return
    rows = [[each.pod, str(each.rows), str(each.broken), "yes" if each.gap else "no"] for each in done]
    typer.echo(table([["POD", "ROWS", "BROKEN", "GAP"], *rows]), nl=False)
