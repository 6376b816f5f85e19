"""Reading requests and writing them for an attempt."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from cases import Json, a_request, encode, recording
from hypothesis import given
from hypothesis import strategies as st

from flotilla_api.snapshot import RequestEdits
from flotilla_router.openai import (
    Api,
    BadRequest,
    Injection,
    Usage,
    error_body,
    parse_request,
    plan_injection,
    rewrite,
    usage_of,
)
from flotilla_router.splice import span_in

NONE = Injection()
TOOLS: list[Json] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TRICKY = st.sampled_from(['"model":"x"', '\\"model\\": 1', "model", '{"model":"y"}', "é\u2028", '"logprobs":true'])
EXTRAS = st.dictionaries(
    st.text() | st.sampled_from(["metadata", "model ", "MODEL", 'x"model']), VALUES | TRICKY, max_size=4
)
ROUTED = st.fixed_dictionaries(
    {}, optional={"stream": st.booleans(), "logprobs": st.none(), "n": st.integers(1, 4), "stream_options": st.none()}
)
READ = {
    *("model", "stream", "n", "tools", "logprobs", "top_logprobs", "stream_options", "response_format"),
    *("max_tokens", "max_completion_tokens", "tool_choice", "messages", "prompt", "echo", "structured_outputs"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
}


def whole(parts: list[bytes]) -> Json:
    """A rewritten body, read by a parser that is not ours."""
    return json.loads(b"".join(parts))


# --- reading


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, {"stream": False, "choices": 1, "max_tokens": None, "tool_count": 0}, id="defaults"),
        pytest.param({"stream": True, "n": 3}, {"stream": True, "choices": 3}, id="stream and n"),
        pytest.param({"stream": None, "n": None}, {"stream": False, "choices": 1}, id="nulls are defaults"),
        pytest.param({"max_tokens": 7}, {"max_tokens": 7}, id="max_tokens"),
        pytest.param({"max_tokens": 7, "max_completion_tokens": 9}, {"max_tokens": 9}, id="the newer name wins"),
        pytest.param({"tools": TOOLS}, {"tool_count": 1, "tools_possible": True, "tools_forced": False}, id="tools"),
        pytest.param(
            {"tools": TOOLS, "tool_choice": "none"}, {"tool_count": 1, "tools_possible": False}, id="no calls"
        ),
        pytest.param({"tools": TOOLS, "tool_choice": "required"}, {"tools_forced": True}, id="required calls"),
        pytest.param({"tools": TOOLS, "tool_choice": {"type": "function"}}, {"tools_forced": True}, id="named call"),
        pytest.param({"tools": None}, {"tool_count": 0, "tools_possible": False}, id="null tools"),
        pytest.param({"response_format": {"type": "json_object"}}, {"json_schema": True}, id="json_object"),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema": True}, id="schema"
        ),
        pytest.param({"response_format": {"type": "text"}}, {"json_schema": False}, id="text"),
        pytest.param({"structured_outputs": {"regex": "a"}}, {"json_schema": True}, id="structured outputs"),
        pytest.param({"guided_choice": ["a"]}, {"json_schema": True}, id="guided choice"),
        pytest.param({"logprobs": True}, {"logprobs": 0}, id="logprobs"),
        pytest.param({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}, id="alternatives"),
        pytest.param({"logprobs": False}, {"logprobs": None}, id="logprobs off"),
        pytest.param({"stream_options": {"include_usage": True}}, {"wants_usage": True}, id="usage"),
        pytest.param({"stream_options": {}}, {"wants_usage": False}, id="no usage"),
        pytest.param(
            {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
            {"wants_continuous_usage": True},
            id="continuous usage",
        ),
    ],
)
def test_parse_reads_what_routing_needs(fields: Json, expected: Json) -> None:
    """The fields of a chat request that routing and the cascade depend on."""
    request = a_request(fields)

    assert {key: getattr(request, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("prompt", "choices", "tokens"),
    [
        pytest.param("x" * 398, 1, 100, id="a text"),
        pytest.param(["x" * 398, "y"], 2, 100, id="texts: the longest counts"),
        pytest.param([1, 2, 3], 1, 3, id="token ids"),
        pytest.param([[1, 2, 3], [4]], 2, 3, id="lists of token ids"),
        pytest.param([], 1, 0, id="an empty list"),
        pytest.param([[0]], 1, 1, id="one list of one token id"),
        pytest.param(['a "quote"', "a \\", '\\"', "x" * 398, ""], 5, 100, id="texts with quotes and backslashes"),
        pytest.param(["y"] * 9000, 9000, 0, id="thousands of texts"),
        pytest.param([[1], [1, 2], *[[3]] * 9000], 9002, 2, id="thousands of lists of token ids"),
    ],
)
def test_parse_counts_prompts(prompt: object, choices: int, tokens: int) -> None:
    """Each prompt of a completion is a choice of its own, and token ids are counted as such."""
    request = a_request(api="completions", prompt=prompt)

    assert (request.choices, request.prompt_tokens) == (choices, tokens)


@pytest.mark.parametrize(
    ("fields", "unit"),
    [
        pytest.param(b'"prompt":[%s]', b"1,", id="token ids"),
        pytest.param(b'"prompt":[%s]', b"[1],", id="lists of token ids"),
        pytest.param(b'"prompt":[%s]', b'"",', id="texts"),
        pytest.param(b'"prompt":"","tools":[%s]', b"{},", id="tools"),
        pytest.param(b'"prompt":"","tools":[%s]', b"1,", id="tools that are none"),
        pytest.param(b'"prompt":["",%s]', b"1,", id="a text and token ids"),
    ],
)
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_parse_makes_no_object_for_each_of_a_million_items(api: Api, fields: bytes, unit: bytes) -> None:
    """A body of nothing but items takes a few times its own size to read, not a hundred times."""
    body = b'{"model":"a",%s}' % (fields % (unit * (2_000_000 // len(unit)))[:-1])
    tracemalloc.start()
    try:
        parse_request(api, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 6 * len(body)


def test_parse_counts_at_least_as_many_tools_as_there_are() -> None:
    """A list of tools that is too long to decode is no list without tools."""
    request = a_request(tools=[{"type": "function"}] * 150_000)

    assert (request.tool_count >= 150_000, request.tools_possible) == (True, True)


def test_parse_holds_long_bodies_to_the_standard() -> None:
    """What only Python's json reads is taken from bodies that it reads quickly."""
    with pytest.raises(BadRequest) as caught:
        parse_request("completions", b'{"model":"a","x":NaN,"prompt":[%s1]}' % (b"1," * 100_000))

    assert caught.value.code == "invalid_json"


def test_parse_multiplies_prompts_by_n() -> None:
    """n answers to each of two prompts."""
    assert a_request(api="completions", prompt=["a", "b"], n=3).choices == 6


def test_parse_estimates_escapes_as_characters() -> None:
    """A text in escapes is estimated like the same text in UTF-8, not three times as long."""
    messages = [{"role": "user", "content": "привет мир " * 200}]
    plain = parse_request("chat", json.dumps({"model": "a", "messages": messages}, ensure_ascii=False).encode())
    escaped = parse_request("chat", json.dumps({"model": "a", "messages": messages}).encode())

    assert escaped.prompt_tokens == pytest.approx(plain.prompt_tokens, rel=0.1)


def test_parse_does_not_count_images_as_text() -> None:
    """Base64 data says nothing about tokens."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    request = a_request(messages=[{"role": "user", "content": [image, {"type": "text", "text": "x" * 4000}]}])

    assert request.prompt_tokens == pytest.approx(1000, rel=0.1)


def test_parse_counts_tools_as_prompt() -> None:
    """Tool definitions are part of the prompt: the recorded prompt grew from 20 to 211 tokens."""
    assert recording("chat_tools_auto").request.prompt_tokens > recording("chat").request.prompt_tokens + 40


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        pytest.param(b"{not json", None, "not valid JSON", id="broken"),
        pytest.param(b"", None, "not valid JSON", id="empty"),
        pytest.param(b'{"model":"a"} x', None, "not valid JSON", id="trailing text"),
        pytest.param(b"[]", None, "must be a JSON object", id="an array"),
        pytest.param(b"\xef\xbb\xbf[]", None, "must be a JSON object", id="an array after a byte order mark"),
        pytest.param(b"{}", "model", "provide a model", id="no model"),
        pytest.param(b'{"x":NaN}', "model", "provide a model", id="no model beside a NaN"),
        pytest.param(b'{"model":7}', "model", "must be a string", id="model is a number"),
        pytest.param(b'{"model":null}', "model", "must be a string", id="model is null"),
        pytest.param(b'{"model":"\xff"}', None, "not valid JSON", id="model is not UTF-8"),
        pytest.param(b'{"model":"a","x":"\xff"}', None, "not valid JSON", id="a text that is not UTF-8"),
        pytest.param(b'{"model":"a","stream":"yes"}', "stream", "Expected `bool | null`", id="stream"),
        pytest.param(b'{"model":"a","n":"2"}', "n", "Expected `int | null`", id="n"),
        pytest.param(b'{"model":"a","n":NaN}', "n", "Expected `int | null`", id="n is NaN"),
        pytest.param(b'{"model":"a","max_tokens":[]}', "max_tokens", "Expected `int | null`", id="max_tokens"),
        pytest.param(b'{"model":"a","tools":3}', "tools", "Expected `array`", id="tools"),
        pytest.param(b'{"model":"a","logprobs":5}', "logprobs", "must be a boolean", id="chat logprobs"),
        pytest.param(b'{"model":"a","stream_options":3}', "stream_options", "Expected `object`", id="options"),
        pytest.param(b'{"model":"a","response_format":{"type":3}}', "response_format", "Expected `str`", id="format"),
        pytest.param(b'{"model":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}", None, "too deeply", id="deep nesting"),
        pytest.param(b'{"model":"a","y":NaN,"x":' + b"[" * 99999 + b"}", None, "", id="deep nesting beside a NaN"),
    ],
)
def test_parse_refuses_what_it_cannot_read(body: bytes, param: str | None, message: str) -> None:
    """A body that routing cannot read is a 400 that names the field."""
    with pytest.raises(BadRequest) as caught:
        parse_request("chat", body)

    assert (caught.value.status, caught.value.type, caught.value.param) == (400, "invalid_request_error", param)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model":"a","stream":true,"x":NaN,"y":-Infinity}', id="NaN and infinity"),
        pytest.param(b'\xef\xbb\xbf{"model":"a","stream":true}', id="byte order mark"),
        pytest.param('{"model":"a","stream":true,"é":1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"model":"a","stream":true,"messages":[{"content":"\\ud83d"}]}', id="half a surrogate pair"),
        pytest.param(b'{"model":"a","stream":true,"x":"\xed\xa0\xbd"}', id="half a surrogate pair in bytes"),
        pytest.param(b'{"x":NaN,"model":"b","model":"a","stream":true}', id="duplicates beside a NaN"),
    ],
)
def test_parse_takes_what_engines_take(body: bytes) -> None:
    """What Python's json reads is routed and passed on with the same meaning, though the standard forbids it."""
    request = parse_request("chat", body)
    rewritten = b"".join(rewrite(request, model="m", injection=Injection(5, usage=True)))

    assert (request.model, request.stream) == ("a", True)
    added = {"logprobs": True, "top_logprobs": 5, "stream_options": {"include_usage": True}}
    assert repr(json.loads(rewritten)) == repr({**added, **json.loads(body), "model": "m"})


# --- injecting


@pytest.mark.parametrize(
    ("fields", "judged", "external", "expected"),
    [
        pytest.param(
            {"stream": True}, True, False, Injection(5, usage=True, continuous_usage=True), id="judged stream"
        ),
        pytest.param({}, True, False, Injection(0), id="judged whole"),
        pytest.param({"stream": True}, False, False, Injection(None, usage=True, continuous_usage=True), id="metered"),
        pytest.param({"stream": True}, False, True, Injection(None, usage=True), id="external stream"),
        pytest.param({}, False, True, NONE, id="external whole"),
        pytest.param({"logprobs": True}, True, False, NONE, id="the client's own logprobs"),
        pytest.param({"logprobs": True, "top_logprobs": 1}, True, False, NONE, id="the client's K is not raised"),
        pytest.param({"top_logprobs": 3}, True, False, NONE, id="the client's mistake stays one"),
        pytest.param({"logprobs": False, "top_logprobs": 0}, True, False, Injection(0), id="logprobs off"),
        pytest.param({"echo": True}, True, False, NONE, id="an echoed prompt"),
        pytest.param(
            {"stream": True, "stream_options": {"include_usage": True}},
            False,
            False,
            Injection(None, usage=False, continuous_usage=True),
            id="the client's own usage",
        ),
        pytest.param(
            {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
            False,
            False,
            NONE,
            id="the client's own continuous usage",
        ),
    ],
)
def test_plan_injection_adds_what_is_missing(fields: Json, judged: bool, external: bool, expected: Injection) -> None:
    """Only what an attempt needs and the client did not ask for is injected."""
    assert plan_injection(a_request(fields), judged=judged, external=external) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            b'{ "model" : "auto" , "stream":true}',
            b'{"logprobs":true,"top_logprobs":5,"stream_options":{"include_usage":true,"continuous_usage_stats":true}, '
            b'"model" : "tiny" , "stream":true}',
            id="absent fields go after the brace",
        ),
        pytest.param(
            b'{"logprobs":null,"model":"auto","stream":true,"top_logprobs":null,"stream_options":null}',
            b'{"logprobs":true,"model":"tiny","stream":true,"top_logprobs":5,'
            b'"stream_options":{"include_usage":true,"continuous_usage_stats":true}}',
            id="present fields are replaced",
        ),
        pytest.param(
            b'{"model":"auto","logprobs":true,"stream":true,"stream_options":{"x": [1, 2],"include_usage":false}}',
            b'{"model":"tiny","logprobs":true,"stream":true,'
            b'"stream_options":{"x":[1, 2],"include_usage":true,"continuous_usage_stats":true}}',
            id="within the client's stream_options",
        ),
        pytest.param(
            b'\n{"a":{"model":"b"},"model":"x","c":"\\"model\\":\\"d\\"","model":"auto","logprobs":true}\n',
            b'\n{"a":{"model":"b"},"model":"x","c":"\\"model\\":\\"d\\"","model":"tiny","logprobs":true}\n',
            id="of several keys the last",
        ),
        pytest.param(
            b'{"m\\u006fdel":"auto","logprobs":true}', b'{"m\\u006fdel":"tiny","logprobs":true}', id="escapes"
        ),
    ],
)
def test_rewrite_touches_only_its_spans(body: bytes, expected: bytes) -> None:
    """Every byte outside the replaced values and the insertion stays what the client sent."""
    request = parse_request("chat", body)

    assert b"".join(rewrite(request, model="tiny", injection=plan_injection(request, judged=True))) == expected


def test_rewrite_speaks_the_completions_dialect() -> None:
    """For completions the number of alternatives is `logprobs` itself."""
    request = a_request(api="completions", stream=True, logprobs=None)

    assert whole(rewrite(request, model="tiny", injection=Injection(5)))["logprobs"] == 5


@given(
    before=EXTRAS,
    after=EXTRAS,
    model=st.text(min_size=1),
    routed=ROUTED,
    style=st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 1])}),
)
def test_rewrite_changes_the_meaning_of_nothing_else(
    before: Json, after: Json, model: str, routed: Json, style: Json
) -> None:
    """For arbitrary bodies: what comes out is what went in, with the new model and the injected fields."""
    fields = {key: value for key, value in {**before, "model": "a", **routed, **after}.items() if key not in READ}
    fields = {**fields, "model": "a", **routed}
    body = json.dumps(fields, **style).encode("utf-8", "surrogatepass")
    request = parse_request("chat", body)

    rewritten = whole(rewrite(request, model=model, injection=Injection(5, usage=True, continuous_usage=True)))

    options = {"include_usage": True, "continuous_usage_stats": True}
    assert rewritten == {**fields, "model": model, "logprobs": True, "top_logprobs": 5, "stream_options": options}


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        pytest.param({"drop": ("min_p", "absent")}, {"model": "m", "max_tokens": 5, "x": 1.50}, id="drop"),
        pytest.param(
            {"rename": {"max_tokens": "max_completion_tokens", "absent": "y"}},
            {"model": "m", "min_p": 0.1, "max_completion_tokens": 5, "x": 1.50},
            id="rename",
        ),
        pytest.param(
            {"rename": {"min_p": "x"}}, {"model": "m", "max_tokens": 5, "x": 1.50}, id="rename overwrites nothing"
        ),
        pytest.param(
            {"set": {"x": {"a": [1, None]}, "y": 2}},
            {"model": "m", "max_tokens": 5, "min_p": 0.1, "x": {"a": [1, None]}, "y": 2},
            id="set",
        ),
        pytest.param(
            {"drop": ("x",), "rename": {"min_p": "x"}, "set": {"max_tokens": 9}},
            {"model": "m", "max_tokens": 9, "x": 0.1},
            id="in the order drop, rename, set",
        ),
    ],
)
def test_rewrite_edits_top_level_fields(edits: dict[str, Any], expected: Json) -> None:
    """What a provider would refuse is dropped, renamed or set."""
    request = parse_request("chat", b'{"model":"auto","max_tokens":5,"min_p":0.1,"x":1.50}')

    assert whole(rewrite(request, model="m", injection=NONE, edits=RequestEdits(**edits))) == expected


def test_rewrite_keeps_values_byte_for_byte_when_it_edits() -> None:
    """Numbers and spaces within values survive an edit of their neighbours."""
    request = parse_request("chat", b'{"model":"auto", "x": [1.50,  2e3], "drop": 1}')

    parts = rewrite(request, model="m", injection=NONE, edits=RequestEdits(drop=("drop",)))

    assert b"".join(parts) == b'{"model":"m","x":[1.50,  2e3]}'


def test_rewrite_edits_what_only_python_reads() -> None:
    """A NaN does not keep a field from being dropped."""
    request = parse_request("chat", b'{"model":"auto","x":NaN,"min_p":1}')

    assert (
        b"".join(rewrite(request, model="m", injection=NONE, edits=RequestEdits(drop=("min_p",))))
        == b'{"model":"m","x":NaN}'
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model":"cheap","model":"auto"}', id="twice"),
        pytest.param(b'{"m\\u006fdel":"cheap","model":"auto"}', id="first in escapes"),
        pytest.param(b'{"model":"cheap","mod\\u0065l":"auto"}', id="second in escapes"),
        pytest.param(b'{"\\u006dodel":"auto"}', id="in escapes"),
        pytest.param(b'{"x":{"model":"a"},"mode\\u006C":"auto"}', id="in escapes beside a nested one"),
    ],
)
def test_rewrite_leaves_one_plain_model_when_strict(body: bytes) -> None:
    """A provider that takes the first of two keys must not be sent another model than was judged."""
    rewritten = b"".join(rewrite(parse_request("chat", body), model="m", injection=NONE, strict=True))

    pairs: list[tuple[str, object]] = json.loads(rewritten, object_pairs_hook=list)
    assert [value for key, value in pairs if key == "model"] == ["m"]
    assert rewritten.count(b'"model":"m"') == 1


def test_rewrite_when_strict_keeps_everything_but_the_model() -> None:
    """Whatever a body takes to be unambiguous, its other fields are sent as they were, byte for byte."""
    body = b'{ "model":"cheap", "x": {"model" : [1.50, "\\u0061"]}, "model":"auto", "n":1}'

    rewritten = b"".join(rewrite(parse_request("chat", body), model="m", injection=NONE, strict=True))

    assert rewritten == b'{"model":"m","x":{"model" : [1.50, "\\u0061"]},"n":1}'


def test_rewrite_refuses_what_is_nested_too_deeply_for_its_edits() -> None:
    """What the first reader could follow and a later one, deeper in the stack, cannot, is the client's own mistake."""
    head = b'{"model":"auto"'
    deep = msgspec.structs.replace(
        parse_request("chat", head + b"}"), body=head + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    )

    with pytest.raises(BadRequest, match="nested too deeply"):
        rewrite(deep, model="m", injection=NONE, edits=RequestEdits(drop=("min_p",)))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model" : "auto"}', id="once"),
        pytest.param(b'{"a":{"model":"b"},"model":"auto"}', id="a nested key"),
        pytest.param(b'{"a":"\\"model\\"","model":"auto","b":["model"]}', id="in texts"),
        pytest.param(b'{"a":"\\u006d","model":"auto"}', id="an escaped letter in a text"),
    ],
)
def test_rewrite_takes_one_plain_model_when_strict(body: bytes) -> None:
    """Only keys of the top level count."""
    rewritten = whole(rewrite(parse_request("chat", body), model="m", injection=NONE, strict=True))

    assert rewritten == {**json.loads(body), "model": "m"}


# --- answers


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        pytest.param(recording("chat").body, Usage(20, 8), id="a recorded answer"),
        pytest.param(b'{"usage":null}', None, id="null"),
        pytest.param(b"{}", None, id="absent"),
        pytest.param(b"<html>", None, id="no JSON"),
        pytest.param(b'{"usage":{"prompt_tokens":"x"}}', None, id="another shape"),
        pytest.param(b'{"usage":{"prompt_tokens":-1}}', None, id="less than nothing"),
        pytest.param(b'{"usage":{"prompt_tokens":1%s}}' % (b"0" * 400), None, id="more than a price can hold"),
    ],
)
def test_usage_is_the_engines_own_count(body: bytes, usage: Usage | None) -> None:
    """Prompt and completion tokens of a whole answer, where it has them."""
    assert usage_of(body) == usage


def test_error_body_has_all_four_fields() -> None:
    """Errors always have message, type, param and code."""
    body = error_body("no", type="server_error")

    assert json.loads(body) == {"error": {"message": "no", "type": "server_error", "param": None, "code": None}}


def test_encode_and_parse_agree_on_recorded_requests() -> None:
    """The recorded requests parse, and go out again as they came when nothing is injected and the model stays."""
    for name in ("chat", "chat_n2", "chat_tools_named", "chat_json_schema_stream", "completions_stream"):
        request = recording(name).request

        assert b"".join(rewrite(request, model=request.model, injection=NONE)) == encode(json.loads(request.body))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model":"auto"}', id="there once"),
        pytest.param(b'{"user":"auto","model":"auto"}', id="another field has the same value before"),
        pytest.param(b'{"model":"auto","user":"auto"}', id="another field has the same value after"),
        pytest.param(b'{"user":{"model":"auto"},"model":"auto"}', id="the same field nested"),
        pytest.param(b'{"user":"%s","model":"auto"}' % (b"x" * 70_000), id="a large body"),
    ],
)
def test_span_is_where_the_decoder_found_the_part(body: bytes) -> None:
    """Not where the same bytes lie elsewhere."""
    start, end = span_in(body, msgspec.json.decode(body, type=dict[str, msgspec.Raw])["model"])

    assert (start, end) == (at := body.rindex(b'"model":"auto"') + 8, at + 6)
