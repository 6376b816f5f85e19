"""Pods' /metrics without pods: pages of text under paths, which a test changes as it goes."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from flotilla_api import metrics as m


@dataclass
class Router:
    """What a router counted."""

    policy: str
    demand: Mapping[str, float] = field(default_factory=dict[str, float])
    """By Expert."""
    escalations: Mapping[tuple[str, str, str], float] = field(default_factory=dict[tuple[str, str, str], float])
    """By Expert, cause and group."""
    first_bytes: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """By model: answers within half a second, and later ones."""
    usd: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """By target: dollars, and attempts that were answered."""

    def text(self) -> str:
        """As a router exposes it."""
        lines = [f'{m.ROUTER_IN_FLIGHT}{{policy="{self.policy}"}} 0']
        for expert, count in self.demand.items():
            lines.append(f'{m.ROUTER_DEMAND}{{policy="{self.policy}",expert="{expert}"}} {count}')
        for (expert, cause, group), count in self.escalations.items():
            labels = f'policy="{self.policy}",expert="{expert}",cause="{cause}",group="{group}"'
            lines.append(f"{m.ROUTER_ESCALATIONS}{{{labels}}} {count}")
        for model, (soon, late) in self.first_bytes.items():
            labels = f'policy="{self.policy}",model="{model}"'
            lines.append(f'{m.ROUTER_TTFT_SECONDS}_bucket{{{labels},le="0.5"}} {soon}')
            lines.append(f'{m.ROUTER_TTFT_SECONDS}_bucket{{{labels},le="+Inf"}} {soon + late}')
        for target, (usd, attempts) in self.usd.items():
            lines.append(f'{m.ROUTER_COST_USD}{{policy="{self.policy}",target="{target}"}} {usd}')
            lines.append(f'{m.ROUTER_ATTEMPTS}{{policy="{self.policy}",target="{target}",result="ok"}} {attempts}')
        return "\n".join(lines) + "\n"


@dataclass
class Engine:
    """What an engine counted."""

    model: str
    running: float = 0
    waiting: float = 0
    kv_usage: float = 0
    finished: float = 0
    slot_seconds: float = 0
    preemptions: float = 0
    prompt_tokens: float = 0
    generation_tokens: float = 0
    kv_usage_name: str = m.VLLM_KV_USAGE[0]

    def text(self) -> str:
        """As vLLM exposes it."""
        labels = f'engine="0",model_name="{self.model}"'
        values = {
            m.VLLM_RUNNING: self.running,
            m.VLLM_WAITING: self.waiting,
            self.kv_usage_name: self.kv_usage,
            m.VLLM_PREEMPTIONS: self.preemptions,
            f"{m.VLLM_INFERENCE_SECONDS}_sum": self.slot_seconds,
            f"{m.VLLM_INFERENCE_SECONDS}_count": self.finished,
            f"{m.VLLM_PROMPT_TOKENS}_sum": self.prompt_tokens,
            f"{m.VLLM_GENERATION_TOKENS}_sum": self.generation_tokens,
        }
        lines = [f"{name}{{{labels}}} {value}" for name, value in values.items()]
        lines.append(f'{m.VLLM_QUEUE_SECONDS}_bucket{{{labels},le="0.5"}} {self.finished}')
        lines.append(f'{m.VLLM_QUEUE_SECONDS}_bucket{{{labels},le="+Inf"}} {self.finished}')
        lines.append(f'{m.VLLM_SLEEP_STATE}{{{labels},sleep_state="awake"}} 1')
        lines.append(f'{m.VLLM_SLEEP_STATE}{{{labels},sleep_state="weights_offloaded"}} 0')
        lines.append(f'{m.VLLM_CACHE_CONFIG}{{engine="0",num_gpu_blocks="100",block_size="16"}} 1')
        return "\n".join(lines) + "\n"


class Exporter:
    """Serves `pages`; a path without a page is answered with 503."""

    def __init__(self) -> None:
        self.pages: dict[str, Router | Engine | str] = {}
        """By path."""
        self.address = ""
        """host:port."""

    def body(self, path: str) -> bytes | None:
        """What is served at `path` now."""
        page = self.pages.get(path)
        if page is None:
            return None
        return (page if isinstance(page, str) else page.text()).encode()


@contextmanager
def running_exporter() -> Generator[Exporter]:
    """Serves on loopback until the block ends."""
    exporter = Exporter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exporter.body(self.path)
            self.send_response(503 if body is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    exporter.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield exporter
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
