"""What the simulated model says: an answer as tokens, each with what a stream shows at that token, and its confidence.

Everything follows from the prompt, the model's name and the seed, so an answer is the same in every run and process.
Texts are labelled `[simulated MODEL]`; a tool call or a JSON answer has no room for a label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from fakes.engine import schema, tokens


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer's text; empty inside a wide character and at the end."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolName:
    """The tool call's name is complete."""

    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """The next piece of the tool call's arguments."""

    text: str


@dataclass(frozen=True, slots=True)
class Hidden:
    """Markup that the tool-call parser swallows."""


Shown = Text | ToolName | ToolArguments | Hidden

_HIDDEN = Hidden()
_NOTHING = Text("")


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its own text (for logprobs), what a stream shows then, and whether the grammar forced it."""

    text: str
    shown: Shown
    forced: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A finished call of a tool."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, the end-of-turn token included in `tokens` when it ended by itself."""

    tokens: tuple[Token, ...]
    finish_reason: str
    confident: bool
    stop_reason: str | None = None
    tool_call: ToolCall | None = None

    @property
    def text(self) -> str:
        """What a client reads; a tool call that was cut off is plain text, as vLLM's parser leaves it."""
        if self.tool_call:
            return ""
        return "".join(token.shown.text if isinstance(token.shown, Text) else token.text for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Known:
    """What SIM_ANSWERS says about one prompt."""

    answer: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Oracle:
    """The simulated weights: what is known, and on how many prompts the model is sure."""

    skill: float = 1.0
    seed: int = 0
    output_tokens: int = 32
    known: Mapping[str, Known] | None = None

    def is_confident(self, model: str, prompt: str) -> bool:
        """Return whether `model` answers `prompt` with confidence: true for a share `skill` of prompts."""
        return self.draw("skill", model, prompt) < self.skill

    def draw(self, *parts: str) -> float:
        """Return a number in [0, 1) that depends on the parts and the seed only."""
        return self.number(*parts) / 2**32

    def number(self, *parts: str) -> int:
        """Return 32 bits that depend on the parts and the seed only."""
        value = self.seed
        for part in parts:
            value = crc32(part.encode("utf-8", "replace") + b"\0", value)
        # A cyclic code is linear: without a second mix, prompts that differ in one digit would draw nearly alike.
        return (value * 0x9E3779B97F4A7C15 >> 16) & 0xFFFFFFFF

    def text(self, model: str, prompt: str, variant: int = 0) -> str:
        """Return the labelled answer: the known one, the wrong one when unsure, or words made from the prompt."""
        label = f"[simulated {model}] "
        known = (self.known or {}).get(prompt.strip())
        if known:
            return label + (known.answer if self.is_confident(model, prompt) else known.wrong)
        number = self.number("text", model, prompt, str(variant))
        words = prompt.split()[:8]
        echo = " ".join(words)[:60]
        text = f"{label}answer {number % 10_000} … to: {echo}"
        length = max(1, int(self.output_tokens * (0.5 + number / 2**32)))
        missing = length - tokens.count(text)
        return text + "".join(f" {_WORDS[(number + i * 7) % len(_WORDS)]}" for i in range(missing))


_WORDS = ("made", "from", "your", "own", "text", "and", "not", "by", "any", "real", "set", "of", "much", "used", "gear")


def make_text_answer(
    text: str, *, confident: bool, limit: int, stop: Sequence[str] = (), min_tokens: int = 0
) -> Answer:
    """Return `text` cut at `limit` tokens or the first stop string; else the end-of-turn token ends it."""
    pieces = tokens.split(text)
    while len(pieces) < min_tokens:
        pieces.append(f" {_WORDS[len(pieces) % len(_WORDS)]}")
    body = "".join(pieces)
    found = [(position, word) for word in stop if word and (position := body.find(word)) >= 0]
    if found:
        position, word = min(found)
        return _stopped(pieces, position, word, confident=confident, limit=limit)
    return _closed([Token(piece, Text(piece)) for piece in pieces], confident=confident, limit=limit)


def make_json_answer(instance: schema.Json, *, confident: bool, limit: int) -> Answer:
    """Return a JSON answer; what the schema leaves no choice for is grammar-forced."""
    parts = [Token(piece, Text(piece), forced) for piece, forced in _json_pieces(instance)]
    return _closed(parts, confident=confident, limit=limit)


def make_tool_answer(call: ToolCall, *, confident: bool, limit: int, forced: bool) -> Answer:
    """Return a tool call in hermes markup; `forced` when the request left no choice but to call."""
    parts = [Token(piece, _HIDDEN, forced) for piece in ("<tool_call>", "\n", '{"', "name", '":', ' "')]
    parts += [Token(piece, _HIDDEN, forced) for piece in tokens.split(call.name)]
    parts.append(Token('"', ToolName(call.name), forced))
    parts += [Token(piece, _HIDDEN, forced) for piece in (",", ' "', "arg", "uments", '":', " ")]
    for piece, fixed in _json_pieces(json.loads(call.arguments)):
        parts.append(Token(piece, ToolArguments(piece), forced and fixed))
    parts += [Token(piece, _HIDDEN, forced) for piece in ("}", "\n", "</tool_call>")]
    answer = _closed(parts, confident=confident, limit=limit)
    if answer.finish_reason == "length":
        return answer
    return Answer(answer.tokens, "tool_calls", confident, tool_call=call)


def make_empty_answer() -> Answer:
    """Return an answer that ends at once."""
    return _closed([], confident=True, limit=1)


def read_known(path: Path) -> dict[str, Known]:
    """Read SIM_ANSWERS: a JSON object of prompt -> answer, or JSON lines of {prompt, answer, wrong?}."""
    text = path.read_text()
    if path.suffix == ".json":
        rows = [{"prompt": prompt, "answer": answer} for prompt, answer in json.loads(text).items()]
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return {row["prompt"].strip(): Known(row["answer"], row.get("wrong", "I am not sure.")) for row in rows}


def dumps(value: schema.Json) -> str:
    """Return the JSON text that a simulated model writes for `value`."""
    return json.dumps(value, ensure_ascii=False)


def _closed(parts: list[Token], *, confident: bool, limit: int) -> Answer:
    if len(parts) >= limit:
        return Answer(tuple(parts[:limit]), "length", confident)
    end = Token(tokens.END_OF_TURN, _NOTHING)
    return Answer((*parts, end), "stop", confident)


def _stopped(pieces: list[str], position: int, word: str, *, confident: bool, limit: int) -> Answer:
    """Generation ends with the token that completes the stop string; text from its start on is not shown."""
    parts: list[Token] = []
    at = 0
    for piece in pieces:
        shown = piece[: max(0, position - at)]
        parts.append(Token(piece, Text(shown)))
        at += len(piece)
        if at >= position + len(word):
            break
    if len(parts) > limit:
        return Answer(tuple(parts[:limit]), "length", confident)
    return Answer(tuple(parts), "stop", confident, stop_reason=word)


def _json_pieces(value: schema.Json) -> list[tuple[str, bool]]:
    """Split JSON into tokens; keys and punctuation are fixed by the schema, values are not."""
    match value:
        case dict():
            pieces: list[tuple[str, bool]] = [("{", True)] if not value else []
            for i, (key, item) in enumerate(value.items()):
                pieces.append((', "' if i else '{"', True))
                pieces += [(piece, True) for piece in tokens.split(json.dumps(key, ensure_ascii=False)[1:])]
                pieces += [(":", True), (" ", True), *_json_pieces(item)]
            return [*pieces, ("}", True)]
        case list():
            pieces = [("[", True)]
            for i, item in enumerate(value):
                pieces += [(", ", True), *_json_pieces(item)] if i else _json_pieces(item)
            return [*pieces, ("]", True)]
        case _:
            return [(piece, False) for piece in tokens.split(dumps(value))]
