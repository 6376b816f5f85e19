"""Requests as vLLM validates them: what a body must be, and the errors in vLLM's words.

Unknown fields pass, as they do there. The first layer (pydantic) answers with type `Bad Request`, the second one
(limits of the model) with `BadRequestError` or `NotFoundError`.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError

from fakes.engine import tokens


class RequestError(Exception):
    """A request that is refused: the status and the fields of the error object."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="allow")


class StreamOptions(_Lenient):
    """`stream_options`."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class Message(_Lenient):
    """One chat message; any role goes."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class Function(_Lenient):
    """What a tool is called and takes."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Lenient):
    """One entry of `tools`."""

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(_Lenient):
    """The name in a named tool choice."""

    name: str


class NamedTool(_Lenient):
    """A tool choice that names the tool."""

    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(_Lenient):
    """`response_format.json_schema`."""

    name: str
    schema_: dict[str, Any] | None = None

    model_config = ConfigDict(extra="allow", alias_generator=lambda name: name.rstrip("_"))


class ResponseFormat(_Lenient):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None


class Sampling(_Lenient):
    """What chat and text completions share."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    frequency_penalty: float | None = 0.0
    presence_penalty: float | None = 0.0

    @property
    def stop_words(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Sampling):
    """The body of /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens that the answer may have, if the client says."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def limit_name(self) -> str:
        """The field that `limit` came from."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


class CompletionRequest(Sampling):
    """The body of /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None

    @property
    def prompts(self) -> list[str]:
        """The texts to continue; token ids are decoded."""
        match self.prompt:
            case str():
                return [self.prompt]
            case [int(), *_]:
                return [tokens.decode(_ids(self.prompt))]
            case list():
                return [one if isinstance(one, str) else tokens.decode(_ids(one)) for one in self.prompt]


Body = TypeVar("Body", bound=BaseModel)


def parse(model: type[Body], body: bytes, content_type: str) -> Body:
    """Return the validated body.

    Raises:
        RequestError: it is not JSON of that shape.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise _invalid(["  Unsupported Media Type: Only 'application/json' is allowed"], None)
    value = _decoded(body)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        locations = [_location(item["loc"]) for item in found]
        lines = [_line(item["type"], at, item["msg"], item["input"]) for item, at in zip(found, locations, strict=True)]
        raise _invalid(lines, locations[0]) from None


def check_sampling(request: Sampling) -> None:
    """Refuse values out of range.

    Raises:
        RequestError: one is.
    """
    if request.stream_options is not None and not request.stream:
        raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    if request.temperature is not None and request.temperature < 0:
        raise _bad(f"temperature must be non-negative, got {request.temperature}.", "temperature", request.temperature)
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise _bad(f"top_p must be in (0, 1], got {request.top_p}.", "top_p", request.top_p)
    if request.n < 1:
        raise _bad(f"n must be at least 1, got {request.n}.", "n", request.n)


def check_logprobs(top: int, asked: bool, most: int) -> None:
    """Refuse a count of alternatives that is not allowed.

    Raises:
        RequestError: it is out of range or `logprobs` is off.
    """
    if top < 0:
        raise _bad("`top_logprobs` must be a positive value.", "top_logprobs", top)
    if top and not asked:
        raise _bad("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if top > most:
        text = f"Requested sample logprobs of {top}, which is greater than max allowed: {most}"
        raise _bad(text, "logprobs", top)


def check_length(
    *, prompt_text: str, prompt_tokens: int, limit: int | None, limit_name: str, max_model_len: int
) -> int:
    """Return how many tokens may be generated.

    Raises:
        RequestError: prompt and answer do not fit the context.
    """
    if limit is not None and limit < 1:
        raise _bad(f"{limit_name} must be at least 1, got {limit}.", limit_name, limit)
    if limit is not None and limit > max_model_len:
        text = f"{limit_name}={limit} cannot be greater than max_model_len={max_model_len}."
        raise _bad(f"{text} Please request fewer output tokens.", limit_name, limit)
    characters, most = len(prompt_text), max_model_len * MAX_CHARACTERS_PER_TOKEN
    if characters > most:
        text = (
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
            f"{characters} characters (more than {most} characters, which is the upper bound for {max_model_len} input "
            "tokens). Please reduce the length of the input prompt."
        )
        raise _bad(text, "input_text", characters)
    room = max_model_len - (limit or 1)
    if prompt_tokens > room:
        raise overflow(max_model_len, limit or 0, room + 1)
    return limit if limit is not None else max_model_len - prompt_tokens


def overflow(max_model_len: int, limit: int, prompt_tokens: int) -> RequestError:
    """Return the error for a prompt whose tokens do not fit beside the answer's."""
    text = (
        f"This model's maximum context length is {max_model_len} tokens. However, you requested {limit} output tokens "
        f"and your prompt contains at least {prompt_tokens} input tokens, for a total of at least "
        f"{prompt_tokens + limit} tokens. Please reduce the length of the input prompt or the number of requested "
        "output tokens."
    )
    return _bad(text, "input_tokens", prompt_tokens)


def unknown_model(name: str, served: list[str]) -> RequestError:
    """Return the error for a model that is not served here."""
    text = f"The model `{name}` does not exist. Valid aliases: {', '.join(served)}."
    return RequestError(text, status=404, kind="NotFoundError", param="model")


MAX_CHARACTERS_PER_TOKEN = 12
"""The longest entry of the vocabulary (`<|im_start|>`), for the check before tokenizing."""


def _decoded(body: bytes) -> object:
    if not body:
        raise _invalid([_line("missing", "body", "Field required", None)], "body")
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        pass
    try:
        return json.loads(body)  # takes what msgspec refuses, such as NaN
    except UnicodeDecodeError:
        raise RequestError("There was an error parsing the body", kind="Bad Request") from None
    except (json.JSONDecodeError, RecursionError) as error:
        at = f"body.{error.pos if isinstance(error, json.JSONDecodeError) else 0}"
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        line = _line("json_invalid", at, "JSON decode error", {})[:-1] + f", 'ctx': {{'error': {reason!r}}}}}"
        raise _invalid([line], at) from None


def _bad(text: str, param: str, value: object = None) -> RequestError:
    suffix = f" (parameter={param})" if value is None else f" (parameter={param}, value={value})"
    return RequestError(text + suffix, param=param)


def _invalid(lines: list[str], param: str | None) -> RequestError:
    noun = "error" if len(lines) == 1 else "errors"
    return RequestError(f"{len(lines)} validation {noun}:\n" + "\n".join(lines), kind="Bad Request", param=param)


def _line(kind: str, location: str, message: str, value: object) -> str:
    return f"  {{'type': {kind!r}, 'loc': {location!r}, 'msg': {message!r}, 'input': {_shown(value)!r}}}"


def _shown(value: object) -> object:
    match value:
        case dict() | list():
            return f"<{type(value).__name__} of {len(value)} items>"  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return value


def _location(loc: tuple[int | str, ...]) -> str:
    """Name the field; pydantic's marks for the branches of a union are left out."""
    marks = {"str", "int", "list[str]", "list[int]", "list[list[int]]", "list[dict[str,any]]", "NamedTool"}
    parts = [str(part) for part in loc if str(part) not in marks and not str(part).startswith("literal[")]
    return ".".join(["body", *parts])


def _ids(value: object) -> list[int]:
    return [item for item in value if isinstance(item, int)] if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
