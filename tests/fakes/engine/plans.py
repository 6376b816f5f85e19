"""From a validated request to what will be answered: the tokens of each choice, and how they are to be sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from fakes.engine import answers, requests, schema, tokens
from fakes.engine.answers import Answer, Oracle, ToolCall
from fakes.engine.requests import (
    ChatRequest,
    CompletionRequest,
    JsonSchema,
    Message,
    NamedTool,
    RequestError,
    Sampling,
    Tool,
)
from fakes.engine.settings import Adapter, EngineSettings

Quality = Literal["as_skilled", "low_confidence", "empty"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer to one prompt."""

    answer: Answer
    prompt_tokens: int
    blocks: tuple[int, ...]
    echo: str = ""
    """The prompt, when a text completion repeats it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one request will be answered."""

    api: Literal["chat", "completions"]
    model: str
    """As the answer names it."""
    lora: str | None
    choices: tuple[Choice, ...]
    prompt_tokens: int
    """Of all prompts together; several choices of one prompt count it once."""
    limit: int
    """The most tokens a choice could have had."""
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    top_logprobs: int | None
    """None: log-probabilities were not asked for."""
    shows_cached_tokens: bool
    """Usage tells how many prompt tokens came from the cache."""
    parses_tools: bool
    named_tool: bool


@dataclass(frozen=True, slots=True)
class Target:
    """Which model a request names: what to answer as, and the adapter if it is one."""

    shown: str
    weights: str
    """The name whose skill counts: the first served name, or the adapter."""
    lora: str | None


@dataclass(frozen=True, slots=True)
class Ask:
    """What one choice of an answer depends on."""

    target: Target
    quality: Quality
    prompt: str
    """What the user said: it decides what is answered, and how surely."""
    limit: int
    variant: int


@dataclass(frozen=True, slots=True)
class Planner:
    """The simulated model behind its settings."""

    settings: EngineSettings
    oracle: Oracle

    def chat(self, request: ChatRequest, adapters: Sequence[Adapter], quality: Quality) -> Plan:
        """Return the plan for a chat completion.

        Raises:
            RequestError: vLLM would refuse it.
        """
        target = self._target(request.model, adapters)
        requests.check_sampling(request)
        requests.check_logprobs(request.top_logprobs or 0, bool(request.logprobs), self.settings.max_logprobs)
        tool = self._tool(request)
        rendered = render(request)
        count = count_chat(request)
        limit = self._limit(rendered, count, request.limit, request.limit_name)
        blocks = self._blocks(rendered, target)
        prompt = last_user_text(request.messages)
        asks = [Ask(target, quality, prompt, limit, i) for i in range(request.n)]
        return Plan(
            api="chat",
            model=target.shown,
            lora=target.lora,
            choices=tuple(Choice(self._chat_answer(request, ask, tool), count, blocks) for ask in asks),
            prompt_tokens=count,
            limit=limit,
            n=request.n,
            stream=bool(request.stream),
            include_usage=self._include_usage(request),
            continuous_usage=_continuous_usage(request),
            top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            shows_cached_tokens=self.settings.enable_prompt_tokens_details,
            parses_tools=bool(request.tools)
            and request.tool_choice != "none"
            and self.settings.tool_call_parser is not None,
            named_tool=isinstance(request.tool_choice, NamedTool),
        )

    def completion(self, request: CompletionRequest, adapters: Sequence[Adapter], quality: Quality) -> Plan:
        """Return the plan for a text completion.

        Raises:
            RequestError: vLLM would refuse it.
        """
        target = self._target(request.model, adapters)
        if request.suffix:
            raise RequestError("suffix is not currently supported")
        requests.check_sampling(request)
        requests.check_logprobs(request.logprobs or 0, True, self.settings.max_logprobs)
        prompts = request.prompts
        if not prompts:
            raise RequestError("Either prompt or prompt_embeds must be provided and non-empty.")
        counts = [max(1, tokens.count(prompt)) for prompt in prompts]
        asked = request.max_tokens
        limits = [
            self._limit(prompt, count, asked, "max_tokens") for prompt, count in zip(prompts, counts, strict=True)
        ]
        choices: list[Choice] = []
        for prompt, count, limit in zip(prompts, counts, limits, strict=True):
            blocks, echo = self._blocks(prompt, target), prompt if request.echo else ""
            for i in range(request.n):
                answer = self._text_answer(request, Ask(target, quality, prompt, limit, i))
                choices.append(Choice(answer, count, blocks, echo))
        return Plan(
            api="completions",
            model=target.shown,
            lora=target.lora,
            choices=tuple(choices),
            prompt_tokens=sum(counts),
            limit=max(limits),
            n=request.n,
            stream=bool(request.stream),
            include_usage=self._include_usage(request),
            continuous_usage=_continuous_usage(request),
            top_logprobs=request.logprobs,
            shows_cached_tokens=self.settings.enable_prompt_tokens_details,
            parses_tools=False,
            named_tool=False,
        )

    def target(self, model: str | None, adapters: Sequence[Adapter]) -> Target:
        """Return what a request's `model` names; none names the base.

        Raises:
            RequestError: nothing of that name is served.
        """
        return self._target(model, adapters)

    def _target(self, model: str | None, adapters: Sequence[Adapter]) -> Target:
        served = self.settings.served_names
        if model is None or model in served:
            return Target(model or served[0], served[0], None)
        if any(adapter.name == model for adapter in adapters):
            return Target(model, model, model)
        raise requests.unknown_model(model, [*served, *(adapter.name for adapter in adapters)])

    def _limit(self, text: str, count: int, limit: int | None, name: str) -> int:
        most = self.settings.max_model_len
        return requests.check_length(
            prompt_text=text, prompt_tokens=count, limit=limit, limit_name=name, max_model_len=most
        )

    def _blocks(self, text: str, target: Target) -> tuple[int, ...]:
        if not self.settings.enable_prefix_caching:
            return ()
        data = text.encode("utf-8", "replace")
        chained = crc32((target.lora or "").encode())
        blocks: list[int] = []
        for start in range(0, len(data) - tokens.BYTES_PER_BLOCK + 1, tokens.BYTES_PER_BLOCK):
            chained = crc32(data[start : start + tokens.BYTES_PER_BLOCK], chained)
            blocks.append(chained)
        return tuple(blocks)

    def _include_usage(self, request: Sampling) -> bool:
        options = request.stream_options
        return self.settings.enable_force_include_usage or bool(options and options.include_usage)

    def _tool(self, request: ChatRequest) -> Tool | None:
        """Return the tool that the model will call, if any."""
        choice, offered = request.tool_choice, request.tools or []
        if isinstance(choice, NamedTool) or choice == "required":
            return _demanded_tool(choice, offered)
        if not offered or choice == "none":
            return None
        if not self.settings.enable_auto_tool_choice:
            text = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            raise RequestError(text)
        if request.messages and request.messages[-1].role == "tool":
            return None
        said = last_user_text(request.messages).lower()
        return next((tool for tool in offered if _concerns(tool, said)), None)

    def _chat_answer(self, request: ChatRequest, ask: Ask, tool: Tool | None) -> Answer:
        if ask.quality == "empty":
            return answers.make_empty_answer()
        if tool:
            return self._tool_answer(tool, ask, forced=request.tool_choice not in (None, "auto"))
        wanted = request.response_format
        if wanted and wanted.type in {"json_schema", "json_object"}:
            return self._json_answer(wanted.json_schema, ask)
        return self._text_answer(request, ask)

    def _tool_answer(self, tool: Tool, ask: Ask, *, forced: bool) -> Answer:
        arguments = schema.instance(tool.function.parameters or {"type": "object"}, self._number(ask))
        call = ToolCall(tool.function.name, answers.dumps(arguments))
        return answers.make_tool_answer(call, confident=self._confident(ask), limit=ask.limit, forced=forced)

    def _json_answer(self, wanted: JsonSchema | None, ask: Ask) -> Answer:
        value: schema.Json = {"answer": self.oracle.text(ask.target.weights, ask.prompt)}
        if wanted and wanted.schema_:
            value = schema.instance(wanted.schema_, self._number(ask))
        return answers.make_json_answer(value, confident=self._confident(ask), limit=ask.limit)

    def _text_answer(self, request: Sampling, ask: Ask) -> Answer:
        if ask.quality == "empty":
            return answers.make_empty_answer()
        return answers.make_text_answer(
            self.oracle.text(ask.target.weights, ask.prompt, ask.variant),
            confident=self._confident(ask),
            limit=ask.limit,
            stop=request.stop_words,
            min_tokens=ask.limit if request.ignore_eos else min(request.min_tokens, ask.limit),
        )

    def _confident(self, ask: Ask) -> bool:
        return ask.quality == "as_skilled" and self.oracle.is_confident(ask.target.weights, ask.prompt)

    def _number(self, ask: Ask) -> int:
        return self.oracle.number("choice", ask.target.weights, ask.prompt, str(ask.variant))


def render(request: ChatRequest) -> str:
    """Return the prompt as the chat template writes it."""
    parts = [f"<|im_start|>{message.role}\n{text_of(message)}<|im_end|>\n" for message in request.messages]
    if request.tools:
        parts.insert(0, f"<|im_start|>tools\n{_tools_text(request)}<|im_end|>\n")
    return "".join([*parts, "<|im_start|>assistant\n"])


def count_chat(request: ChatRequest) -> int:
    """Return the prompt's tokens: those of the texts and tools, and the template's."""
    total = tokens.GENERATION_PROMPT_TOKENS + (tokens.count(_tools_text(request)) if request.tools else 0)
    return total + sum(tokens.count(text_of(message)) + tokens.MESSAGE_OVERHEAD_TOKENS for message in request.messages)


def last_user_text(messages: Sequence[Message]) -> str:
    """Return what the user said last: the prompt that decides the answer."""
    return next((text_of(message) for message in reversed(messages) if message.role == "user"), "")


def text_of(message: Message) -> str:
    """Return a message's text; of a list of parts, the text parts."""
    if isinstance(message.content, str):
        return message.content
    return "".join(str(part.get("text", "")) for part in message.content or [])


def _tools_text(request: ChatRequest) -> str:
    return "\n".join(tool.model_dump_json() for tool in request.tools or [])


def _demanded_tool(choice: NamedTool | Literal["required"], offered: Sequence[Tool]) -> Tool:
    if not offered:
        raise RequestError("When using `tool_choice`, `tools` must be set.", param="tool_choice")
    if not isinstance(choice, NamedTool):
        return offered[0]
    for tool in offered:
        if tool.function.name == choice.function.name:
            return tool
    raise RequestError(
        "The tool specified in `tool_choice` does not match any of the specified `tools`", param="tool_choice"
    )


def _concerns(tool: Tool, said: str) -> bool:
    """Tell whether the model would call the tool: a word of its name is in what the user said."""
    return any(len(word) > 3 and word in said for word in tool.function.name.lower().replace("-", "_").split("_"))


def _continuous_usage(request: Sampling) -> bool:
    options = request.stream_options
    return bool(options and options.include_usage and options.continuous_usage_stats)
