"""Programs that run inside the engine's container, as `python3 -c SOURCE ARGUMENTS`; the image brings only Python.

The probe and the drain talk to the engine at $POD_IP and a port, their first argument, because that is where it
listens. A kubelet's own HTTP probe cannot send a body, and the image may lack curl.
"""

from __future__ import annotations

from flotilla_api.metrics import VLLM_RUNNING, VLLM_WAITING

LAUNCHER = r"""
import collections, os, re, signal, subprocess, sys, threading, time
TELLING = re.compile(
    r"\b\w*(?:Error|Exception|Interrupt|Exit)\b.*:|^\S*\w(?:Error|Exception)$|error:|out of memory|\bKilled\b"
    r"|root cause|Value error,|Segmentation fault|core dumped"
)
PREFIX = re.compile(r"^(?:\([^)]*pid=\d+[^)]*\)|[A-Z]+ \d\d-\d\d [\d:.]+|\[[^\]]*:\d+\]|\s+)+")
MAX_LINE, MAX_MESSAGE, MAX_AGE = 480, 4000, 120
tail = collections.OrderedDict()

def keep(line):
    prefix = PREFIX.match(line)
    text = line[prefix.end() if prefix else 0 :].strip()[:MAX_LINE]
    if not TELLING.search(text) or prefix and re.search("DEBUG|INFO|WARNING", prefix[0]):
        return
    now = time.monotonic()
    for old in [old for old, at in tail.items() if now - at > MAX_AGE][: -1 if text in tail else None]:
        del tail[old]
    tail[text] = now
    if len(tail) > 64:
        del tail[list(tail)[32]]

def copy(stream):
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            keep(line.decode(errors="replace"))
        rest = rest[-65536:]
    keep(rest.decode(errors="replace"))

def summary():
    lines, last = list(tail), []
    room = MAX_MESSAGE - (len(lines[0].encode()) + 1 if lines else 0)
    for line in reversed(lines[1:]):
        room -= len(line.encode()) + 1
        if room < 0:
            break
        last.insert(0, line)
    return "\n".join(lines[:1] + last)

child, early = None, []
def forward(number, frame):
    if child is None:
        early.append(number)
    else:
        os.kill(child.pid, number)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, forward)
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
for number in early:
    os.kill(child.pid, number)
copying = threading.Thread(target=copy, args=[child.stdout], daemon=True)
copying.start()
while True:
    pid, status = os.wait()
    if pid == child.pid:
        break
copying.join(2)
code = os.waitstatus_to_exitcode(status)
if code:
    try:
        with open(os.environ.get("TERMINATION_LOG", "/dev/termination-log"), "w") as log:
            log.write(summary())
    except OSError:
        pass
os._exit(code if code >= 0 else 128 - code)
"""
"""Run the program that the arguments name, and when it fails tell the kubelet why.

Its output passes through, both streams as one. The kubelet's own fallback is the last 2 KiB of the log, where vLLM's
API server prints the traceback of its own start and the root cause, an engine process's, is long gone. So lines that
name errors are kept, each once, at most 64 of the last two minutes; when the program fails, the first and as many of
the last as a termination message holds are written to /dev/termination-log. SIGTERM and SIGINT are passed on, orphans
reaped, and the exit code is the program's, or 128 + the signal that ended it.
"""

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
body, wanted = {"model": model, "max_tokens": 1}, "choices"
if api == "chat":
    path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": "Hi"}]
elif api == "embeddings":
    path, body, wanted = "/v1/embeddings", {"model": model, "input": "Hi"}, "data"
else:
    path, body["prompt"] = "/v1/completions", "Hi"
request = urllib.request.Request(base + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
try:
    with open_url(request, timeout=timeout) as answer:
        sys.exit(0 if json.load(answer).get(wanted) else f"the answer has no {wanted}")
except Exception as error:
    detail = error.read(500).decode(errors="replace") if hasattr(error, "read") else ""
    sys.exit(f"{error} {detail}".strip())
"""
)
"""Exit 0 after one real answer. Arguments: port, api (chat, completions or embeddings), model, timeout in seconds."""

DRAIN = (
    _BASE
    + f"""\
settle, timeout = float(sys.argv[2]), float(sys.argv[3])
time.sleep(settle)
deadline, idle, unreadable = time.monotonic() + timeout, 0, 0
names = ("{VLLM_RUNNING}", "{VLLM_WAITING}")
while idle < 2 and unreadable < 20 and time.monotonic() < deadline:
    try:
        with open_url(base + "/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [[float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{{", name + " "))]
                 for name in names]
        busy, known = any(map(sum, found)), all(found)
    except Exception as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            break
        busy, known = isinstance(reason, TimeoutError), False
    idle = idle + 1 if known and not busy else 0
    unreadable = 0 if known or busy else unreadable + 1
    time.sleep(0.5)
"""
)
"""Keep answering for `settle` seconds while routes to this pod disappear, then until nothing runs or waits.

Idle means that both metrics are there and 0, twice in a row, since an answer's last bytes leave after the engine is
done with it. A slow engine is waited for, one that refuses connections has ended; of one whose answers do not hold the
metrics, 20 in a row (10 s) are enough. Arguments: port, settle and timeout in seconds. Exit 0 in every case.
"""
