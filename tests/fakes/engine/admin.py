"""vLLM's paths beside generation: tokens, sleep, pause, adapters."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fakes.engine import requests, tokens
from fakes.engine.engine import Engine
from fakes.engine.http import Exchange, Request
from fakes.engine.plans import Planner, count_chat, render
from fakes.engine.replies import Replies, Routes
from fakes.engine.requests import ChatRequest, Message, RequestError
from fakes.engine.settings import Adapter, EngineSettings


class TokenizeRequest(BaseModel):
    """The body of /tokenize: a prompt, or messages."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    prompt: str = ""
    messages: list[Message] | None = None
    return_token_strs: bool | None = False


class DetokenizeRequest(BaseModel):
    """The body of /detokenize."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    tokens: list[int]


class AdapterRequest(BaseModel):
    """The body of the two adapter paths."""

    model_config = ConfigDict(extra="allow")

    lora_name: str
    lora_path: str = ""
    load_inplace: bool = False


class AdminPaths:
    """Handlers of what an operator, not a client, calls."""

    def __init__(self, settings: EngineSettings, engine: Engine, planner: Planner, replies: Replies) -> None:
        self.adapters = list(settings.adapters)
        self._settings, self._engine, self._planner, self._replies = settings, engine, planner, replies

    def routes(self) -> Routes:
        """Return the paths that these settings switch on."""
        routes: Routes = {"/tokenize": {"POST": self._tokenize}, "/detokenize": {"POST": self._detokenize}}
        if self._settings.dev_mode:
            routes |= {
                "/sleep": {"POST": self._sleep},
                "/wake_up": {"POST": self._wake_up},
                "/is_sleeping": {"GET": self._is_sleeping},
                "/pause": {"POST": self._pause},
                "/resume": {"POST": self._resume},
                "/is_paused": {"GET": self._is_paused},
            }
        if self._settings.runtime_lora and self._settings.enable_lora:
            routes |= {
                "/v1/load_lora_adapter": {"POST": self._load_adapter},
                "/v1/unload_lora_adapter": {"POST": self._unload_adapter},
            }
        return routes

    def _tokenize(self, request: Request, exchange: Exchange) -> None:
        body = requests.parse(TokenizeRequest, request.body, request.headers.get("content-type", ""))
        self._planner.target(body.model, self.adapters)
        if body.messages is None:
            ids, texts = tokens.encode(body.prompt), tokens.split(body.prompt)
        else:
            chat = ChatRequest(messages=body.messages)
            text = render(chat)
            # The template's marks are single tokens in a real vocabulary; so the count is that of usage.
            ids, texts = tokens.encode(text)[: count_chat(chat)], tokens.split(text)[: count_chat(chat)]
        shown = texts if body.return_token_strs else None
        answer = {"count": len(ids), "max_model_len": self._settings.max_model_len, "tokens": ids, "token_strs": shown}
        self._replies.json(exchange, 200, answer)

    def _detokenize(self, request: Request, exchange: Exchange) -> None:
        body = requests.parse(DetokenizeRequest, request.body, request.headers.get("content-type", ""))
        self._planner.target(body.model, self.adapters)
        self._replies.json(exchange, 200, {"prompt": tokens.decode(body.tokens)})

    def _sleep(self, request: Request, exchange: Exchange) -> None:
        self._engine.sleep(2 if request.query.get("level") == "2" else 1)
        self._replies.text(exchange, b"")

    def _wake_up(self, _request: Request, exchange: Exchange) -> None:
        self._engine.wake_up()
        self._replies.text(exchange, b"")

    def _is_sleeping(self, _request: Request, exchange: Exchange) -> None:
        self._replies.json(exchange, 200, {"is_sleeping": self._engine.sleep_level > 0})

    def _pause(self, request: Request, exchange: Exchange) -> None:
        self._engine.pause(request.query.get("mode", "abort"))
        self._replies.json(exchange, 200, {"status": "paused"})

    def _resume(self, _request: Request, exchange: Exchange) -> None:
        self._engine.resume()
        self._replies.json(exchange, 200, {"status": "resumed"})

    def _is_paused(self, _request: Request, exchange: Exchange) -> None:
        self._replies.json(exchange, 200, {"is_paused": self._engine.paused})

    def _load_adapter(self, request: Request, exchange: Exchange) -> None:
        body = requests.parse(AdapterRequest, request.body, request.headers.get("content-type", ""))
        if not body.lora_name or not body.lora_path:
            raise RequestError("Both 'lora_name' and 'lora_path' must be provided.", kind="InvalidUserInput")
        if self._is_loaded(body.lora_name) and not body.load_inplace:
            text = (
                f"The lora adapter '{body.lora_name}' has already been loaded. If you want to load the adapter in "
                "place, set 'load_inplace' to True."
            )
            raise RequestError(text, kind="InvalidUserInput")
        if self._settings.behaviour.check_model_files and not _is_there(body.lora_path):
            text = f"Loading lora {body.lora_name} failed: No adapter found for {body.lora_path}"
            raise RequestError(text, status=404, kind="NotFoundError")
        self._drop(body.lora_name)
        self.adapters.append(Adapter(body.lora_name, body.lora_path))
        self._replies.text(exchange, f"Success: LoRA adapter '{body.lora_name}' added successfully.".encode())

    def _unload_adapter(self, request: Request, exchange: Exchange) -> None:
        body = requests.parse(AdapterRequest, request.body, request.headers.get("content-type", ""))
        if not self._is_loaded(body.lora_name):
            text = f"The lora adapter '{body.lora_name}' cannot be found."
            raise RequestError(text, status=404, kind="NotFoundError")
        self._drop(body.lora_name)
        self._replies.text(exchange, f"Success: LoRA adapter '{body.lora_name}' removed successfully.".encode())

    def _is_loaded(self, name: str) -> bool:
        return any(adapter.name == name for adapter in self.adapters)

    def _drop(self, name: str) -> None:
        self.adapters[:] = [adapter for adapter in self.adapters if adapter.name != name]


def _is_there(path: str) -> bool:
    """A path must exist; anything else is taken for a hub repository."""
    return Path(path).exists() if path.startswith(("/", ".")) else True
