"""The life of the process: load, listen, serve, drain, exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvloop

from fakes.engine import cli, http
from fakes.engine.dialect import Dialect, VllmDialect
from fakes.engine.engine import Timer
from fakes.engine.server import EngineServer
from fakes.engine.settings import EngineSettings

_OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 22.03 GiB "
    "of which 1.18 GiB is free. Including non-PyTorch memory, this process has 20.84 GiB memory in use.\n"
)
_CORE_FAILED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"


class LoadError(Exception):
    """The engine cannot start; the text is what vLLM prints."""


@dataclass(frozen=True, slots=True)
class LoopClock:
    """Real time on an event loop."""

    loop: AbstractEventLoop

    def now(self) -> float:
        """Return seconds on the system's monotonic clock."""
        return monotonic()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the loop after `delay` seconds."""
        return self.loop.call_later(delay, callback)


def main(argv: Sequence[str] | None = None) -> int:
    """Run vLLM's simulator with the command line and environment; return the exit code."""
    return run(cli.parse(sys.argv[1:] if argv is None else argv, os.environ), VllmDialect())


def run(settings: EngineSettings, dialect: Dialect) -> int:
    """Load and serve until SIGTERM or SIGINT; return the exit code."""
    try:
        return uvloop.run(_serve(settings, dialect))
    except LoadError as error:
        sys.stderr.write(str(error))
        return 1


def check_model_files(settings: EngineSettings, env: Mapping[str, str]) -> None:
    """Look for the model's files where vLLM would not download them: a local path, or the hub's cache when offline.

    Raises:
        LoadError: they are absent.
    """
    if not settings.behaviour.check_model_files:
        return
    model = settings.model
    if model.startswith(("/", "./", "../")):
        if not (Path(model) / "config.json").is_file():
            raise LoadError(
                f"OSError: Can't load the configuration of '{model}'. Make sure '{model}' is the correct path to a "
                "directory containing a config.json file\n" + _CORE_FAILED
            )
    elif env.get("HF_HUB_OFFLINE", "") in {"1", "true", "TRUE", "yes", "on"} and not _is_cached(model, env):
        raise LoadError(
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
            "specified revision on the local disk and outgoing traffic has been disabled. To enable repo look-ups and "
            f"downloads online, set 'HF_HUB_OFFLINE=0' as environment variable. ({model})\n"
        )


def _is_cached(model: str, env: Mapping[str, str]) -> bool:
    home = Path(env.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(env.get("HF_HUB_CACHE", home / "hub"))
    return any((hub / f"models--{model.replace('/', '--')}" / "snapshots").glob("*/config.json"))


async def _serve(settings: EngineSettings, dialect: Dialect) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not await _load(settings, stop):
        return 0
    engine = EngineServer(settings, dialect, LoopClock(loop))
    server = http.Server(engine.handle, dialect.server_lines)
    listener = await loop.create_server(
        server.connect, settings.host, settings.port, ssl=_tls(settings), backlog=2048, reuse_address=True
    )
    port = listener.sockets[0].getsockname()[1]
    _log(f"Started simulated server process [{os.getpid()}]", "Application startup complete.")
    _log(f"Uvicorn running on {'https' if settings.ssl_certfile else 'http'}://{settings.host}:{port}")
    await stop.wait()
    _log("Shutting down")
    listener.close()
    server.close_idle()
    await _drain(server, settings.shutdown_timeout_seconds)
    engine.engine.abort_all()
    server.abort_all()
    await listener.wait_closed()
    _log("Application shutdown complete.")
    return 0


async def _load(settings: EngineSettings, stop: asyncio.Event) -> bool:
    """Take the time that weights take; return False when told to stop meanwhile.

    Raises:
        LoadError: the settings or the environment say that loading fails.
    """
    sim = settings.behaviour
    _log(f"Starting to load model {settings.model} ... (simulated, vLLM 0.32 surface)")
    check_model_files(settings, os.environ)
    try:
        await asyncio.wait_for(stop.wait(), sim.load_seconds)
    except TimeoutError:
        pass
    else:
        return False
    if sim.fail_at_load == "oom":
        raise LoadError(_OUT_OF_MEMORY + _CORE_FAILED)
    if sim.fail_at_load == "crash":
        raise LoadError("RuntimeError: CUDA error: an illegal memory access was encountered\n" + _CORE_FAILED)
    if sim.kv_tokens < settings.max_model_len:
        raise LoadError(
            f"ValueError: To serve at least one request with the model's max seq len ({settings.max_model_len}), more "
            f"KV cache is needed than the {sim.kv_tokens} tokens that are available. Try increasing "
            "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.\n" + _CORE_FAILED
        )
    return True


async def _drain(server: http.Server, timeout_seconds: float) -> None:
    """Wait until every client has its answer, up to the time limit."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.empty.wait(), timeout_seconds)


def _tls(settings: EngineSettings) -> ssl.SSLContext | None:
    if not settings.ssl_certfile:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    return context


def _log(*lines: str) -> None:
    for line in lines:
        print(f"INFO:     {line}", flush=True)
