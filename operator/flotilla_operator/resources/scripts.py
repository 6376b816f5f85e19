"""Programs that run inside the engine's container, as `python3 -c SOURCE ARGUMENTS`; the image brings only Python.

Both talk to the engine at $POD_IP and a port, their first argument, because that is where it listens. A kubelet's own
HTTP probe cannot send a body, and the image may lack curl.
"""

from __future__ import annotations

from flotilla_api.metrics import VLLM_RUNNING, VLLM_WAITING

_BASE = """\
import json, os, sys, time, urllib.request
ip = os.environ["POD_IP"]
base = "http://" + ("[" + ip + "]" if ":" in ip else ip) + ":" + sys.argv[1]
open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""

STARTUP_PROBE = (
    _BASE
    + """\
api, model, timeout = sys.argv[2], sys.argv[3], float(sys.argv[4])
body = {"model": model, "max_tokens": 1}
if api == "chat":
    path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": "Hi"}]
else:
    path, body["prompt"] = "/v1/completions", "Hi"
request = urllib.request.Request(base + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
try:
    with open_url(request, timeout=timeout) as answer:
        sys.exit(0 if json.load(answer).get("choices") else "the answer has no choices")
except Exception as error:
    detail = error.read(500).decode(errors="replace") if hasattr(error, "read") else ""
    sys.exit(f"{error} {detail}".strip())
"""
)
"""Exit 0 after one real completion. Arguments: port, api (chat or completions), model, timeout in seconds."""

DRAIN = (
    _BASE
    + f"""\
settle, timeout = float(sys.argv[2]), float(sys.argv[3])
time.sleep(settle)
deadline, idle = time.monotonic() + timeout, 0
busy = ("{VLLM_RUNNING}{{", "{VLLM_RUNNING} ", "{VLLM_WAITING}{{", "{VLLM_WAITING} ")
while idle < 2 and time.monotonic() < deadline:
    try:
        with open_url(base + "/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        requests = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(busy))
        idle = 0 if requests else idle + 1
    except Exception as error:
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
            break
    time.sleep(0.5)
"""
)
"""Keep answering for `settle` seconds while routes to this pod disappear, then until nothing runs or waits.

Idle means twice in a row, since an answer's last bytes leave after the engine is done with it. A slow engine is waited
for, one that refuses connections has ended. Arguments: port, settle and timeout in seconds. Exit 0 in every case.
"""
