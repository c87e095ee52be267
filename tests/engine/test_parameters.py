"""Every parameter of the OpenAI API is honoured, ignored because it cannot matter, or refused."""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.engine import parameters, protocol
from shardwise.engine.tokenizer import IdTokenizer
from shardwise.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "serve.md"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "1"}]}
TEXT: dict[str, Any] = {"prompt": [1]}
#: of the client's methods, not of the API
OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def parse(chat: bool = False, **fields: Any) -> protocol.AnyRequest:
    return protocol.parse(json.dumps((CHAT if chat else TEXT) | fields).encode(), chat)


@pytest.mark.parametrize("chat", [False, True])
def test_each_parameter_of_the_openai_client_has_its_place(chat: bool) -> None:
    resources = pytest.importorskip("openai.resources", reason="openai is not installed")
    made = resources.chat.Completions if chat else resources.Completions
    kind = protocol.ChatRequest if chat else protocol.CompletionRequest
    known = {*kind.__struct_fields__, *parameters.IGNORED, *parameters.REFUSED}
    asked = set(inspect.signature(made.create).parameters) - OF_THE_CLIENT
    assert len(asked) > 15
    assert asked <= known


def test_the_page_lists_each_parameter_in_its_place() -> None:
    text = PAGE.read_text("utf-8")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    honoured = {*protocol.CompletionRequest.__struct_fields__}
    honoured |= {*protocol.ChatRequest.__struct_fields__}
    for place, names in (
        ("honoured", honoured),
        ("ignored", parameters.IGNORED),
        ("refused", parameters.REFUSED),
    ):
        missing = [name for name in names if f"`{name}`" not in rows[place]]
        assert not missing, f"{place}: {missing}"


def test_no_parameter_has_two_places() -> None:
    honoured = {*protocol.CompletionRequest.__struct_fields__}
    honoured |= {*protocol.ChatRequest.__struct_fields__}
    assert not honoured & parameters.IGNORED
    assert not honoured & set(parameters.REFUSED)
    assert not parameters.IGNORED & set(parameters.REFUSED)


@pytest.mark.parametrize(
    "field",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"logit_bias": {"5": 100}},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -1},
        {"min_p": 0.1},
        {"min_tokens": 4},
        {"best_of": 2},
        {"suffix": "end"},
        {"guided_regex": "a+"},
        {"logprobs": 0},  # asks for the probability of the tokens drawn
        {"logprobs": True},
        {"top_logprobs": 5},
        {"n": 2},
        {"echo": True},
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        {"temprature": 0},
        {"nobody_knows": 1},
    ],
    ids=lambda field: next(iter(field)),
)
@pytest.mark.parametrize("chat", [False, True])
def test_what_would_change_the_answer_is_refused_by_name(field: dict[str, Any], chat: bool) -> None:
    with pytest.raises(InputError) as caught:
        parse(chat, **field)
    name = "continuous_usage_stats" if "stream_options" in field else next(iter(field))
    assert name in str(caught.value)


@pytest.mark.parametrize("name", [*parameters.REFUSED, *sorted(parameters.IGNORED)])
@pytest.mark.parametrize("chat", [False, True])
def test_null_asks_for_nothing(name: str, chat: bool) -> None:
    parse(chat, **{name: None})


@pytest.mark.parametrize("name", parameters.REFUSED)
def test_a_value_that_asks_for_nothing_is_taken(name: str) -> None:
    for value in parameters.REFUSED[name]:
        parse(**{name: value})


def test_a_misspelt_parameter_is_answered_with_the_right_one() -> None:
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        parse(temprature=0)


@pytest.mark.parametrize("chat", [False, True])
def test_every_honoured_parameter_may_be_null(chat: bool) -> None:
    kind = protocol.ChatRequest if chat else protocol.CompletionRequest
    optional = set(kind.__struct_fields__) - {"messages", "prompt"}
    request = parse(chat, **dict.fromkeys(optional, None))
    params = request.sampling(request.limit(3, 100))
    assert params.temperature == 1.0
    assert not params.ignore_eos
    assert params.max_tokens == (97 if chat else 16)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_completion_tokens": 0}, "max_tokens is 0"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_tokens is 0"),
        ({"max_tokens": -3}, "max_tokens is -3"),
        ({"max_tokens": 10**30}, "max_tokens is too large"),
        ({"top_k": 10**30}, "top_k is too large"),
        ({"top_k": -2}, "top_k is -2"),
        ({"temperature": 1e300}, "temperature is 1e"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stream_options": {"include_usage": True}}, "without stream"),
    ],
)
def test_an_absurd_value_is_refused(fields: dict[str, Any], says: str) -> None:
    request = parse(True, **fields)
    with pytest.raises(InputError, match=says):
        request.sampling(request.limit(3, 100))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [
        *protocol.CompletionRequest.__struct_fields__,
        *protocol.ChatRequest.__struct_fields__,
        *parameters.REFUSED,
        *parameters.IGNORED,
    ]
)


@given(fields=st.dictionaries(NAMES | st.text(max_size=9), VALUES), chat=st.booleans())
def test_any_object_is_a_request_or_one_clear_error(fields: dict[str, Any], chat: bool) -> None:
    body = json.dumps((CHAT if chat else TEXT) | fields).encode()
    with suppress(InputError):
        request = protocol.parse(body, chat)
        prompt = request.tokens(IdTokenizer())
        params = request.sampling(request.limit(len(prompt), 100))
        assert params.max_tokens >= 1
        assert 0 <= params.top_k < 2**31


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"prompt": ' + b"[" * 50_000,
        b'{"prompt": "\\ud800"}',
        b'{"prompt": {}}',
        b'{"prompt": true}',
        b'{"prompt": NaN}',
        b'{"prompt": [1], "max_tokens": 1' + b"0" * 5000 + b"}",
        b'{"prompt": [1], "user": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_request_is_one_clear_error(body: bytes) -> None:
    with pytest.raises(InputError, match="the request is not valid"):
        protocol.parse(body, chat=False)
