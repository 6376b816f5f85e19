"""One Helm action in a process of its own: `python -m localcluster.helm`, a JSON request in, the result out."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import helm_python

WARNING = 2  # lint severity; 3 is an error


def main() -> int:
    """Carry out the request on standard input; 1 with Helm's message on standard error when it failed."""
    request: dict[str, Any] = json.load(sys.stdin)
    result_descriptor = os.dup(1)
    os.dup2(2, 1)  # whatever Helm itself prints is not the result
    try:
        result = _perform(request)
    except helm_python.HelmError as error:
        print(error, file=sys.stderr)
        return 1
    with os.fdopen(result_descriptor, "w") as out:
        out.write(result)
    return 0


def _perform(request: dict[str, Any]) -> str:
    match request["action"]:
        case "template":
            return _template(request)
        case "lint":
            return json.dumps(_lint(request))
        case action:
            with helm_python.Config(kubeconfig_path=request["kubeconfig"], namespace=request["namespace"]) as config:
                return _change_release(config, action, request)


def _change_release(config: helm_python.Config, action: str, request: dict[str, Any]) -> str:
    seconds: int | None = request["wait_seconds"]
    wait = "hookOnly" if seconds is None else "watcher"
    release: str = request["release"]
    if action == "uninstall":
        config.uninstall(release, timeout=seconds, wait=wait)
        return ""
    options: dict[str, Any] = {"namespace": request["namespace"], "timeout": seconds, "wait": wait}
    if action == "install":
        summary = config.install(request["chart"], release, request["values"], create_namespace=True, **options)
    else:
        summary = config.upgrade(request["chart"], release, request["values"], **options)
    return str(summary["manifest"])


def _template(request: dict[str, Any]) -> str:
    with helm_python.Chart.load(request["chart"]) as chart:
        chart.validate_schema(request["values"])
        rendered = chart.render(request["values"], name=request["release"], namespace=request["namespace"])
        documents = [text for path, text in rendered.items() if not path.endswith("NOTES.txt") and text.strip()]
    return "\n---\n".join(documents) + "\n"


def _lint(request: dict[str, Any]) -> list[str]:
    report = helm_python.lint(request["chart"], request["values"], strict=True)
    return [
        f"{message['path']}: {message['error']}" for message in report["messages"] if message["severity"] >= WARNING
    ]


if __name__ == "__main__":
    sys.exit(main())
