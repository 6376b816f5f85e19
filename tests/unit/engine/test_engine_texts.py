"""Tokens, answers, log-probabilities and JSON by schema."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.engine import answers, logprobs, schema, tokens
from fakes.engine.answers import Answer, Known, Oracle, Text, ToolArguments, ToolCall, ToolName

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)


@given(texts)
def test_tokens_of_a_text_join_to_it_and_ids_decode_to_it(text: str):
    """Splitting, counting and encoding agree with each other and lose nothing."""
    pieces = tokens.split(text)

    assert "".join(pieces) == text
    assert len(pieces) == tokens.count(text) == len(tokens.encode(text))
    assert tokens.decode(tokens.encode(text)) == text


def test_a_wide_character_is_silent_until_its_last_token():
    """Tokens inside a multi-byte character have no text yet."""
    assert tokens.split("a…b") == ["a", "", "…", "b"]


def test_english_takes_about_four_bytes_a_token():
    """Counts are of the size of real ones."""
    text = "The quick brown fox jumps over the lazy dog, and then it runs all the way back to its den. " * 10

    assert 3.2 < len(text) / tokens.count(text) < 4.8


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_skill_is_the_share_of_prompts_answered_with_confidence(share: float):
    """Over many prompts the share comes out; for one prompt it is always the same."""
    oracle = Oracle(skill=share)

    confident = [oracle.is_confident("m", f"What is {i} + {i}?") for i in range(2000)]

    assert sum(confident) / 2000 == pytest.approx(share, abs=0.04)
    assert confident == [Oracle(skill=share).is_confident("m", f"What is {i} + {i}?") for i in range(2000)]


def test_models_and_seeds_are_confident_about_different_prompts():
    """Two models of skill one half agree on about half of the prompts."""
    prompts = [f"prompt {i}" for i in range(2000)]
    small, other = Oracle(skill=0.5), Oracle(skill=0.5, seed=1)

    def agree(a: list[bool], b: list[bool]) -> float:
        return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)

    first = [small.is_confident("a", prompt) for prompt in prompts]
    assert agree(first, [small.is_confident("b", prompt) for prompt in prompts]) == pytest.approx(0.5, abs=0.05)
    assert agree(first, [other.is_confident("a", prompt) for prompt in prompts]) == pytest.approx(0.5, abs=0.05)


def test_answers_are_labelled_as_simulated():
    """Nobody can take a made-up text for a model's."""
    assert Oracle().text("tiny", "hello").startswith("[simulated tiny] ")
    known = {"2+2?": Known("4", "5")}
    assert Oracle(known=known).text("tiny", " 2+2? ") == "[simulated tiny] 4"
    assert Oracle(skill=0, known=known).text("tiny", "2+2?") == "[simulated tiny] 5"


def test_an_answer_ends_by_itself_or_at_the_limit():
    """Within the limit it ends with the end-of-turn token, else it is cut and says so."""
    whole = answers.make_text_answer("one two", confident=True, limit=10)
    cut = answers.make_text_answer("one two", confident=True, limit=1)

    assert [token.text for token in whole.tokens] == ["one", " two", "<|im_end|>"]
    assert (whole.text, whole.finish_reason) == ("one two", "stop")
    assert (cut.text, cut.finish_reason, len(cut.tokens)) == ("one", "length", 1)


@pytest.mark.parametrize(
    ("stop", "shown", "reason"),
    [
        pytest.param(["three"], "one two ", "three", id="a whole word"),
        pytest.param(["wo t"], "one t", "wo t", id="across tokens"),
        pytest.param(["three", "two"], "one ", "two", id="the earliest of several"),
        pytest.param(["four"], "one two three", None, id="not in the text"),
    ],
)
def test_a_stop_string_ends_the_text_before_it(stop: list[str], shown: str, reason: str | None):
    """What is shown ends where the stop string begins, and the answer names it."""
    answer = answers.make_text_answer("one two three", confident=True, limit=50, stop=stop)

    assert (answer.text, answer.stop_reason, answer.finish_reason) == (shown, reason, "stop")


def test_a_tool_call_streams_its_name_then_its_arguments():
    """The pieces shown join to the call; the markup around them is hidden."""
    call = ToolCall("get_weather", '{"city": "Paris", "days": [1, 2]}')

    answer = answers.make_tool_answer(call, confident=True, limit=200, forced=True)

    shown = [token.shown for token in answer.tokens]
    assert [item for item in shown if isinstance(item, ToolName)] == [ToolName("get_weather")]
    assert "".join(item.text for item in shown if isinstance(item, ToolArguments)) == call.arguments
    assert (answer.text, answer.finish_reason, answer.tool_call) == ("", "tool_calls", call)
    whole = "".join(token.text for token in answer.tokens).removesuffix("<|im_end|>")
    assert json.loads(whole.removeprefix("<tool_call>").removesuffix("</tool_call>"))["name"] == "get_weather"


def test_a_tool_call_that_is_cut_off_is_plain_text():
    """The parser finds no call in half of one, so the markup is the content."""
    answer = answers.make_tool_answer(ToolCall("f", "{}"), confident=True, limit=5, forced=False)

    assert (answer.finish_reason, answer.tool_call) == ("length", None)
    assert answer.text.startswith("<tool_call>")


def mean_probability(answer: Answer) -> float:
    entries = logprobs.make_entries(answer, 0, len(answer.tokens), 5)
    return math.exp(sum(entry["logprob"] for entry in entries) / len(entries))


def test_log_probabilities_part_confident_answers_from_unsure_ones():
    """exp(mean) is above 0.9 or below 0.35; alternatives are ordered and probabilities sum to at most one."""
    sure = answers.make_text_answer("the answer is 42", confident=True, limit=50)
    unsure = answers.make_text_answer("the answer is 42", confident=False, limit=50)

    assert mean_probability(sure) > 0.9
    assert mean_probability(unsure) < 0.35
    for answer in (sure, unsure):
        for entry in logprobs.make_entries(answer, 0, len(answer.tokens), 5):
            values = [top["logprob"] for top in entry["top_logprobs"]]
            assert values[0] == entry["logprob"]
            assert values == sorted(values, reverse=True)
            assert sum(map(math.exp, values)) <= 1.0 + 1e-9


def test_top_logprobs_zero_gives_entries_without_alternatives():
    """Asking for no alternatives still gives the chosen tokens."""
    answer = answers.make_text_answer("yes", confident=True, limit=5)

    (entry, _end) = logprobs.make_entries(answer, 0, 2, 0)

    assert entry["top_logprobs"] == []
    assert entry["token"] == "yes"


def test_what_the_grammar_forces_has_probability_one():
    """Keys and punctuation of a JSON answer are forced, its values are not."""
    answer = answers.make_json_answer({"total": 7}, confident=False, limit=50)

    entries = logprobs.make_entries(answer, 0, len(answer.tokens) - 1, 3)

    forced = {entry["token"]: entry["top_logprobs"] for entry in entries if entry["logprob"] == 0.0}
    assert "7" not in forced
    assert all(top["logprob"] <= -1000 for tops in forced.values() for top in tops[1:])
    assert len(forced) >= 4


def test_completion_logprobs_are_parallel_lists_with_offsets():
    """Offsets are positions in the text, one entry a token."""
    answer = answers.make_text_answer("one two", confident=True, limit=2)

    found = logprobs.make_completion(answer, 0, 2, 2, 0)

    assert found["tokens"] == ["one", " two"]
    assert found["text_offset"] == [0, 3]
    assert [len(found["token_logprobs"]), len(found["top_logprobs"])] == [2, 2]


SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"total": {"type": "integer", "minimum": 3, "maximum": 9}}, "required": ["total"]},
    {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "ok": {"type": "boolean"}}},
    {"type": "array", "items": {"type": "number", "exclusiveMinimum": 1}, "minItems": 3},
    {"$defs": {"item": {"type": "string", "minLength": 12, "maxLength": 20}}, "$ref": "#/$defs/item"},
    {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]},
    {"allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}}]},
    {"type": ["integer", "string"]},
    {"type": "integer", "multipleOf": 7, "minimum": 8},
    {"type": "object", "properties": {"next": {"$ref": "#"}, "id": {"type": "integer"}}},
    {},
]


@pytest.mark.parametrize("wanted", SCHEMAS, ids=json.dumps)
@pytest.mark.parametrize("choice", [0, 1, 12345])
def test_an_instance_satisfies_its_schema(wanted: Any, choice: int):
    """What the simulator writes for a schema validates against it, and survives JSON."""
    value = schema.instance(wanted, choice)

    jsonschema.validate(json.loads(answers.dumps(value)), wanted)


def test_known_answers_are_read_from_json_and_json_lines(tmp_path: Path):
    """Both forms give the answer, lines also the wrong one."""
    (tmp_path / "a.json").write_text('{"1+1?": "2"}')
    (tmp_path / "b.jsonl").write_text('{"prompt": "1+1? ", "answer": "2", "wrong": "3"}\n\n')

    assert answers.read_known(tmp_path / "a.json")["1+1?"].answer == "2"
    assert answers.read_known(tmp_path / "b.jsonl") == {"1+1?": Known("2", "3")}


def test_a_text_answer_shows_each_token_as_text():
    """Joined pieces are the text that a whole answer has."""
    answer = answers.make_text_answer("naïve … text", confident=True, limit=50)

    assert "".join(token.shown.text for token in answer.tokens if isinstance(token.shown, Text)) == answer.text
