"""One request being answered: tokens in, stream events or a body out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fakes.engine import logprobs, wire
from fakes.engine.answers import Token
from fakes.engine.dialect import Dialect
from fakes.engine.http import Exchange
from fakes.engine.model import Work
from fakes.engine.plans import Choice, Plan
from fakes.engine.wire import Head, Object, Part, Usage

EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Cut:
    """A stream that is to fall silent after some events; `then` says how."""

    after_events: int
    then: Callable[[], None]


class Generation:
    """One accepted request on its way: it writes stream events as tokens come, or the body when all are there."""

    def __init__(
        self, plan: Plan, head: Head, exchange: Exchange, dialect: Dialect, headers: Mapping[str, str]
    ) -> None:
        self.plan, self.head, self.exchange = plan, head, exchange
        self.works = [
            Work(choice.prompt_tokens, len(choice.answer.tokens), choice.blocks, plan.lora) for choice in plan.choices
        ]
        self.unfinished = len(plan.choices)
        self.cut: Cut | None = None
        self._dialect, self._headers = dialect, headers
        self._tool_call_id = f"chatcmpl-tool-{secrets.token_hex(8)}"
        self._events = 0
        self._muted = False
        self._counts = [0] * len(plan.choices)
        self._offsets = [0] * len(plan.choices)

    def start(self) -> None:
        """Send the head of a stream."""
        if self.plan.stream:
            self.exchange.start_stream({**EVENT_STREAM, **self._headers})
            self._cut_if_due()

    def produced(self, index: int, number: int) -> None:
        """Take token `number` of choice `index`."""
        self._counts[index] = number
        if self.plan.stream:
            self._show(index, number)

    def finished(self) -> None:
        """Send what comes after the last token of the last choice."""
        if not self.plan.stream:
            body = wire.encode(self._dialect.shape(self._body()))
            self.exchange.respond(200, body, {**JSON, **self._headers})
            return
        if self.plan.include_usage:
            kind = "chat.completion.chunk" if self.plan.api == "chat" else "text_completion"
            self._send(wire.make_usage_event(self.head, kind, self.usage()))
        if not self._muted:
            self.exchange.write(wire.DONE)
            self.exchange.end()

    def fail(self, error: Object) -> None:
        """End a stream with an error event, as vLLM does when a running request fails."""
        self.exchange.write(wire.event(error))
        self.exchange.write(wire.DONE)
        self.exchange.end()

    def usage(self) -> Usage:
        """Return the tokens so far."""
        cached = self.works[0].cached_tokens if self.plan.shows_cached_tokens else None
        return Usage(self.plan.prompt_tokens, sum(self._counts), cached)

    def _show(self, index: int, produced: int) -> None:
        choice, usage = self.plan.choices[index], self._running_usage(index)
        last = produced == len(choice.answer.tokens)
        reason = wire.finish_reason(choice.answer, named_tool=self.plan.named_tool) if last else None
        part = Part(self.head, index, reason, choice.answer.stop_reason if last else None)
        if self.plan.api == "chat":
            self._show_chat(part, produced, usage)
        else:
            self._show_completion(part, produced, usage)

    def _show_chat(self, part: Part, produced: int, usage: Usage | None) -> None:
        answer = self.plan.choices[part.index].answer
        token = answer.tokens[produced - 1]
        if produced == 1:
            start = Usage(self.plan.prompt_tokens, 0) if usage else None
            self._send(wire.make_role_event(part, start))
        entries = None
        if self.plan.top_logprobs is not None:
            entries = {"content": logprobs.make_entries(answer, produced - 1, produced, self.plan.top_logprobs)}
        delta = wire.make_delta(token.shown, self._tool_call_id)
        if part.finish_reason:
            self._send(self._finish(wire.make_chat_finish(part, usage, delta, entries)))
        elif delta or entries:
            self._send(wire.make_chat_event(part, usage, delta, entries))

    def _show_completion(self, part: Part, produced: int, usage: Usage | None) -> None:
        choice = self.plan.choices[part.index]
        token, found = choice.answer.tokens[produced - 1], None
        if self.plan.top_logprobs is not None:
            offset = self._offsets[part.index]
            found = logprobs.make_completion(choice.answer, produced - 1, produced, self.plan.top_logprobs, offset)
            self._offsets[part.index] += len(token.text)
        text = _text(token)
        if produced == 1:
            text = choice.echo + text
        payload = wire.make_completion_event(part, usage, text, found)
        self._send(self._finish(payload) if part.finish_reason else payload)

    def _finish(self, payload: Object) -> Object:
        """The fingerprint is in the stream's last event: the usage event if there is one."""
        return payload if self.plan.include_usage else payload | {"system_fingerprint": wire.FINGERPRINT}

    def _send(self, payload: Object) -> None:
        if self._muted:
            return
        self.exchange.write(wire.event(self._dialect.shape(payload)))
        self._events += 1
        self._cut_if_due()

    def _cut_if_due(self) -> None:
        if self.cut and self._events >= self.cut.after_events:
            self._muted = True
            self.cut.then()

    def _running_usage(self, index: int) -> Usage | None:
        if not self.plan.continuous_usage:
            return None
        return Usage(self.plan.choices[index].prompt_tokens, self._counts[index])

    def _body(self) -> Object:
        make = wire.make_chat if self.plan.api == "chat" else wire.make_completion
        choices = [self._choice(index, choice) for index, choice in enumerate(self.plan.choices)]
        return make(self.head, choices, self.usage())

    def _choice(self, index: int, choice: Choice) -> Object:
        answer, top = choice.answer, self.plan.top_logprobs
        count = len(answer.tokens)
        if self.plan.api == "completions":
            found = None if top is None else logprobs.make_completion(answer, 0, count, top, 0)
            return wire.make_completion_choice(index, choice.echo + answer.text, answer, found)
        entries = None if top is None else {"content": logprobs.make_entries(answer, 0, count, top)}
        named = self.plan.named_tool
        return wire.make_chat_choice(index, answer, entries, tool_call_id=self._tool_call_id, named_tool=named)


def _text(token: Token) -> str:
    return getattr(token.shown, "text", "")
