"""Takes what was injected out of an answer again, so that the client sees what it asked for, byte for byte.

Injected logprobs become null, and the empty chunks that only they caused are dropped; injected usage is removed, and so
is the event that ends a stream with it. One difference to an un-injected stream remains: vLLM writes
`system_fingerprint` into that last event instead of the finish.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from .chunks import Answer, Event, is_present, read_event
from .openai import Injection, ParsedRequest, Usage, decode_usage
from .splice import Span, replace_spans, span_in
from .wire import ABSENT

_LOGPROBS = b'"logprobs":{'
_FINISH = b',"finish_reason":'
_USAGE = b',"usage":{'
_Replacement = tuple[int, int, bytes]


class StreamStripper:
    """Strips the events of one stream and remembers the usage that they carried.

    An event is read, and its spans are cut out, until one has shown that this engine writes its keys in vLLM's order
    (logprobs, finish_reason, usage); from then on they are found by searching, at a tenth of the cost.
    """

    __slots__ = ("_choices", "_drops_usage", "_injection", "_per_choice", "_strip", "_usage")

    def __init__(self, request: ParsedRequest, injection: Injection) -> None:
        self._choices = request.choices
        self._injection = injection
        self._drops_usage = injection.usage
        self._per_choice: dict[int, bytes] = {}
        self._usage = b""
        injects = injection.top_logprobs is not None or injection.usage or injection.continuous_usage
        self._strip: Callable[[bytes], bytes] = self._learn if injects or request.wants_usage else _keep

    def strip(self, event: bytes) -> bytes:
        """The event without its injected parts; b"" when nothing of it is left."""
        return self._strip(event)

    @property
    def usage(self) -> Usage | None:
        """Latest count of the engine: the total where it has come, else what each choice last said."""
        texts = [self._usage] if self._usage else list(self._per_choice.values())
        counts = [usage for text in texts if (usage := decode_usage(text)) is not None]
        if not counts:
            return None
        return Usage(max(c.prompt_tokens for c in counts), sum(c.completion_tokens for c in counts))

    def strip_read(self, event: Event) -> bytes:
        """The same for an event that was read."""
        if self._strip not in (self._learn, self._read_and_cut):
            return self._strip(event.raw)
        stripped = self._cut(event)
        if self._strip == self._learn and self._choices == 1 and self._shows_order(event.answer):
            self._strip = self._search if self._search(event.raw) == stripped else self._read_and_cut
        return stripped

    def _learn(self, event: bytes) -> bytes:
        read = read_event(event)
        return event if read is None else self.strip_read(read)

    def _read_and_cut(self, event: bytes) -> bytes:
        read = read_event(event)
        return event if read is None else self._cut(read)

    def _shows_order(self, answer: Answer) -> bool:
        """Whether a chunk has everything that was injected."""
        injection = self._injection
        wanted_logprobs = injection.top_logprobs is not None
        return (
            len(answer.choices) == 1
            and (not wanted_logprobs or is_present(answer.choices[0].logprobs))
            and (not injection.continuous_usage or is_present(answer.usage))
        )

    def _cut(self, event: Event) -> bytes:
        answer = event.answer
        self._note_usage(answer)
        if not answer.choices and self._drops_usage and is_present(answer.usage):
            return b""
        replacements: list[_Replacement] = []
        if self._injection.top_logprobs is not None:
            if answer.choices and all(choice.hollow and is_present(choice.logprobs) for choice in answer.choices):
                return b""
            replacements += null_logprobs(event.payload, answer)
        if self._strips_usage(answer):
            replacements.append((*_member(event.payload, b'"usage"', answer.usage), b""))
        if not replacements:
            return event.raw
        return event.raw[: event.offset] + b"".join(replace_spans(event.payload, replacements))

    def _strips_usage(self, answer: Answer) -> bool:
        injected = self._injection.continuous_usage or self._drops_usage
        return injected and bool(answer.choices) and answer.usage is not ABSENT

    def _note_usage(self, answer: Answer) -> None:
        if not is_present(answer.usage):
            return
        text = bytes(answer.usage)
        if answer.choices and self._choices > 1:
            self._per_choice[answer.choices[0].index] = text
        else:
            self._usage = text

    def _search(self, event: bytes) -> bytes:
        """Strip an event of vLLM's key order; unescaped quotes never stand within a string, so a match is a key."""
        if self._injection.top_logprobs is not None:
            start = event.find(_LOGPROBS)
            if start >= 0:
                finish = event.rfind(_FINISH)
                if finish < start:
                    return self._read_and_cut(event)
                if event.startswith(b'"delta":{},', start - 11) and _is_hollow(event, finish):
                    self._cut_usage(event[finish:])
                    return b""
                return b"%snull%s" % (event[: start + 11], self._cut_usage(event[finish:]))
        return self._cut_usage(event)

    def _cut_usage(self, text: bytes) -> bytes:
        """Note the usage at the end of an event, and cut it out unless the client asked for it."""
        start = text.rfind(_USAGE)
        if start < 0:  # OpenAI writes null into every chunk but the last
            return text.replace(b',"usage":null', b"", 1) if self._drops_usage else text
        end = _object_end(text, start + len(_USAGE))
        if end < 0:
            return text
        self._usage = text[start + len(_USAGE) - 1 : end]
        if b'"choices":[]' in text:
            return b"" if self._drops_usage else text
        if self._injection.continuous_usage or self._drops_usage:
            return text[:start] + text[end:]
        return text


def _keep(event: bytes) -> bytes:
    return event


def _is_hollow(event: bytes, finish: int) -> bool:
    """Whether the chunk goes on after an empty delta, and shows no token ids."""
    after = finish + len(_FINISH)
    return event.startswith(b"null", after) and event.find(b'"token_ids":[', after) < 0


def _object_end(text: bytes, start: int) -> int:
    """Just after the brace that closes the object whose text begins at `start` and holds no strings; -1: none does."""
    end = text.find(b"}", start) + 1
    open_objects = text.count(b"{", start, end)
    while open_objects and end:
        start, end = end, text.find(b"}", end) + 1
        open_objects += text.count(b"{", start, end) - 1
    return end or -1


def null_logprobs(payload: bytes, answer: Answer) -> list[_Replacement]:
    """Replacements that make every choice's logprobs null."""
    return [(*span_in(payload, choice.logprobs), b"null") for choice in answer.choices if is_present(choice.logprobs)]


def _member(payload: bytes, key: bytes, value: Raw) -> Span:
    """Span of a member, with the comma before it or, for the first member, after it."""
    start, end = span_in(payload, value)
    start = payload.rindex(key, 0, start)
    before = payload[:start].rstrip()
    if before.endswith(b","):
        return len(before) - 1, end
    after = payload[end:].lstrip()
    return (start, len(payload) - len(after) + 1) if after.startswith(b",") else (start, end)
