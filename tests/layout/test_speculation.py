"""What `--speculation` and `--acceptance` mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.layout.speculation import Acceptance, Speculation, chain, usual_acceptance


def test_a_draft_and_a_number_are_read_and_written_back() -> None:
    found = Speculation.parse("llama-3.2-1b:4", 0.5)
    assert found == Speculation("llama-3.2-1b", 4, Acceptance(0.5, 0.5, 0.5))
    assert found.options == ["--speculation", "llama-3.2-1b:4", "--acceptance", "0.5"]
    assert Speculation.parse(found.name, 0.5) == found
    assert Speculation.parse("none") is None
    assert Speculation.parse("mtp").name == "mtp:3"  # type: ignore[union-attr]


def test_a_step_gives_the_accepted_tokens_and_the_models_own() -> None:
    found = Speculation.parse("mtp:3", 0.5)
    assert found is not None
    assert found.tokens_per_step() == 2.5
    assert found.tokens_per_step(0.0) == 1.0


def test_a_chain_breaks_at_the_first_rejected_token() -> None:
    # each accepted with 1/2 once those before it were: 1/2 + 1/4 of two tokens
    assert chain(0.5, 2) == pytest.approx(0.375)
    assert chain(1.0, 5) == 1.0


def test_mtp_is_assumed_within_what_nvidia_measured() -> None:
    # DeepSeek-R1 on B200: 2.82 tokens a step of 3 drafted
    assert usual_acceptance("mtp", 3).hi == pytest.approx(1.82 / 3)
    for tokens in range(1, 17):
        share = usual_acceptance("mtp", tokens)
        assert 0 < share.lo < share.value < share.hi < 1


@given(st.sampled_from(["mtp", "some-model"]), st.integers(1, 15))
def test_each_further_token_is_accepted_less_but_never_in_vain(draft: str, tokens: int) -> None:
    fewer = Speculation(draft, tokens, usual_acceptance(draft, tokens))
    more = Speculation(draft, tokens + 1, usual_acceptance(draft, tokens + 1))
    assert more.acceptance.value < fewer.acceptance.value
    assert more.tokens_per_step() >= fewer.tokens_per_step() - 1e-9


@pytest.mark.parametrize(
    ("text", "acceptance", "says"),
    [
        ("mtp:", None, "allowed: none, mtp:3"),
        (":3", None, "allowed: none, mtp:3"),
        ("mtp:99", None, "allowed: 1 to 16"),
        ("mtp:3", 1.5, "allowed: 0 to 1"),
        ("none", 0.5, "without speculation"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, acceptance: float | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Speculation.parse(text, acceptance)
