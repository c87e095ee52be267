"""Prompts have exactly the tokens asked for, by whichever way they are made."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.bench import prompts as module
from shardwise.bench.prompts import (
    PromptSource,
    choose_source,
    feedback_source,
    make_prompts,
    prompt_tokens,
    tokenizer_source,
)
from shardwise.bench.selftest import known_server
from shardwise.bench.target import Target, parse_target
from shardwise.bench.tokenizer import Tokenizer, load_tokenizer
from shardwise.bench.words import CANDIDATES, Words, measure
from shardwise.errors import InputError


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with known_server(0.001, 0.001) as target:
        yield target


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE trained here on a few sentences: many words cost several tokens."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(["the river and the house are on the green field " * 9], trainer)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(file))
    return file


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_file)


def _served_by(count: Callable[[str], int], template: int) -> Callable[..., int]:
    """In place of asking a server: one with this tokenizer, whose template adds `template`."""
    return lambda _target, prompt: count(str(prompt)) + template


def test_token_ids_are_used_where_the_server_takes_them(server: Target) -> None:
    source = choose_source(server)
    assert source.name == "token ids"
    made = make_prompts(source, [5, 300], seed=1)
    assert [len(ids) for ids in made] == [5, 300]
    assert [prompt_tokens(server, ids) for ids in made] == [5, 300]


def test_chat_prompts_are_made_from_words_that_the_servers_usage_counted(server: Target) -> None:
    chat = parse_target(server.url, "chat", "known")
    source = choose_source(chat)
    assert source.name == "words by usage feedback"
    for isl, prompt in zip([3, 64, 1000], make_prompts(source, [3, 64, 1000], 1), strict=True):
        assert prompt_tokens(chat, prompt) == isl


@pytest.mark.parametrize("template", [0, 11])
def test_words_of_several_tokens_still_give_the_exact_length(
    tokenizer: Tokenizer, template: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the server has this tokenizer, we do not: costs come from its usage, few of them are 1
    monkeypatch.setattr(module, "prompt_tokens", _served_by(tokenizer.count, template))
    source = feedback_source(parse_target("http://x", "chat"))
    assert source.words is not None
    assert source.words.overhead == tokenizer.count("the") + template
    for isl in (40, 128, 777):
        assert tokenizer.count(str(make_prompts(source, [isl], isl)[0])) + template == isl


def test_the_prompt_that_checks_the_length_is_new_each_time(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def served(_target: Target, prompt: Any) -> int:
        asked.append(str(prompt))
        return tokenizer.count(str(prompt))

    monkeypatch.setattr(module, "prompt_tokens", served)
    checks = set()
    for _ in range(3):
        tokenizer_source(parse_target("http://x"), tokenizer)
        checks.add(asked[-1])
    assert len(checks) == 3
    assert all(len(check.split()) > 8 for check in checks)


@pytest.mark.parametrize("template", [0, 1, 11])
def test_a_tokenizer_and_one_question_give_the_exact_length(
    tokenizer: Tokenizer, template: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "prompt_tokens", _served_by(tokenizer.count, template))
    source = tokenizer_source(parse_target("http://x"), tokenizer)
    for isl in (40, 128, 777):
        assert tokenizer.count(str(make_prompts(source, [isl], isl)[0])) + template == isl


def test_a_tokenizer_that_is_not_the_servers_is_noticed(
    server: Target, tokenizer: Tokenizer
) -> None:
    # the known server counts words, this tokenizer pieces of them; only if all are single do
    # they agree, so count a word as two
    double = Tokenizer("double", lambda t: 2 * len(t.split()), tokenizer.decode, tokenizer.size)
    with pytest.raises(InputError, match=r"counts .* tokens in a prompt made to have"):
        tokenizer_source(server, double)


@settings(deadline=None)
@given(st.integers(12, 500), st.integers(0, 11), st.integers(0, 10**6))
def test_a_shared_prefix_is_shared_and_leaves_the_length_exact(
    isl: int, prefix: int, seed: int
) -> None:
    words = Words(tuple((word, 1) for word in CANDIDATES), overhead=3)
    for source in (PromptSource("words", words), PromptSource("ids", ids=(100, 1000))):
        if source.words is not None and 0 < prefix < 3:
            continue  # shorter than the template itself
        one, two = make_prompts(source, [isl, isl + 1], seed, prefix)
        assert (source.length(one), source.length(two)) == (isl, isl + 1)
        if prefix:
            # words: the first word and the template are 3 tokens, so prefix - 3 more words
            begin = prefix if isinstance(one, list) else prefix - 2
            a = one if isinstance(one, list) else one.split(" ")
            b = two if isinstance(two, list) else two.split(" ")
            assert a[:begin] == b[:begin]


def test_prompts_differ_from_each_other_and_repeat_with_their_seed() -> None:
    source = PromptSource("words", Words(tuple((word, 1) for word in CANDIDATES), 1))
    made = make_prompts(source, [64] * 50, seed=3)
    assert len({str(prompt) for prompt in made}) == 50
    assert make_prompts(source, [64] * 50, seed=3) == made


def test_a_prefix_as_long_as_the_prompt_is_refused() -> None:
    source = PromptSource("ids", ids=(100, 1000))
    with pytest.raises(InputError, match="allowed: 0 to 9"):
        make_prompts(source, [10, 20], 0, shared_prefix=10)


def test_an_isl_below_the_template_is_refused_with_the_least() -> None:
    source = PromptSource("words", Words((("a", 1),), overhead=12))
    with pytest.raises(InputError, match="the shortest has 12"):
        make_prompts(source, [11], 0)


@settings(deadline=None)
@given(st.sets(st.integers(2, 9), min_size=1, max_size=4), st.integers(0, 120))
def test_words_fill_every_length_that_their_costs_can_sum_to(costs: set[int], tokens: int) -> None:
    words = Words(tuple((str(cost), cost) for cost in costs), 0)
    sums = {0}
    for _ in range(tokens):
        sums |= {s + c for s in sums for c in costs if s + c <= tokens}
    chosen = words.fill(random.Random(0), tokens)
    assert (chosen is not None) == (tokens in sums)
    if chosen is not None:
        assert sum(map(int, chosen)) == tokens


def test_a_count_that_does_not_add_up_is_not_trusted() -> None:
    assert measure(lambda text: len(text.split()) ** 2) is None
    assert measure(lambda _: 0) is None


def test_a_server_without_usage_asks_for_a_tokenizer() -> None:
    nobody = parse_target("http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"pass a tokenizer\.json"):
        feedback_source(nobody)


def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    wrong = tmp_path / "tokenizer.json"
    wrong.write_text("{}")
    with pytest.raises(InputError, match="is not a tokenizer"):
        load_tokenizer(wrong)
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path / "none")


def test_usage_of_another_form_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class _Answer:
        status = 200

        def json(self) -> Any:
            return ["not", "an", "object"]

    monkeypatch.setattr(module, "ask", lambda *_: _Answer())
    assert prompt_tokens(parse_target("http://x"), "hi") == 0
