"""How long a request an engine is started for: room for twice the mean, as far as memory has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.architecture.models import load
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.arrays import Deployments
from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.layout.rules import model_lengths
from shardwise.perfmodel.memory import Platform, fits, longest_held

LLAMA = load("llama-3.1-8b")  # a context of 131,072


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        (1200, (2560, 2048, 1280)),  # 2,400, 1,800 and 1,200 rounded up to 256
        (256, (512, 512, 256)),
        (1, (256,)),
        (131_072, (131_072,)),
        (100_000, (131_072, 100_096)),
    ],
)
def test_twice_the_mean_is_wanted_within_the_context(tokens: int, lengths: tuple[int, ...]) -> None:
    assert model_lengths(tokens, LLAMA) == tuple(dict.fromkeys(lengths))


@given(st.integers(1, 131_072))
def test_lengths_fall_and_the_last_holds_the_mean(tokens: int) -> None:
    found = model_lengths(tokens, LLAMA)
    assert list(found) == sorted(set(found), reverse=True)
    assert found[-1] >= tokens
    assert found[0] <= LLAMA.max_context


@given(
    gpu=st.sampled_from(["l4", "a100", "h200"]),
    tp=st.sampled_from([1, 2, 4]),
    seqs=st.sampled_from([1, 64, 512]),
    tokens=st.integers(1_000, 120_000),
)
@settings(deadline=None, max_examples=30)
def test_the_longest_that_is_held_fits_and_the_next_does_not(
    gpu: str, tp: int, seqs: int, tokens: int
) -> None:
    card = default_catalogue().gpu(gpu)
    deployment = Deployment("llama-3.1-8b", gpu, Layout(tp), EngineLimits(seqs))
    lengths = model_lengths(tokens, LLAMA)
    many = Deployments.of([deployment])
    (found,) = longest_held(LLAMA, Platform.of(card, deployment), many, lengths, "bf16")
    assert int(found) in lengths
    if found > min(lengths):
        assert fits(LLAMA, card, deployment, found)
    longer = [length for length in lengths if length > found]
    assert not any(fits(LLAMA, card, deployment, length) for length in longer)


def test_deployments_are_looked_at_each_by_itself() -> None:
    card = default_catalogue().gpu("l4")
    one = Deployment("llama-3.1-8b", "l4", Layout(1))
    two = one.with_layout(tp_size=4)
    lengths = (131_072, 65_536, 8_192)
    platform = Platform.of(card, one)
    together = longest_held(LLAMA, platform, Deployments.of([one, two]), lengths, "bf16")
    apart = [
        longest_held(LLAMA, platform, Deployments.of([d]), lengths, "bf16")[0] for d in (one, two)
    ]
    assert together.tolist() == apart
    assert np.all(np.diff(together) >= 0)
