"""Steps of a load: which of them run as CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.serving_steps import as_graphs
from shardwise.perfmodel.subject import Asked, subject_of

ONE = np.ones(1)
LAYOUTS = Layouts.of([Layout()])
KERNELS = subject_of(Asked("llama-3.1-8b", "h100"))[0].setting.kernels(LAYOUTS)


def load_of(isl: float, length_cv: float) -> Load:
    at = {
        name: value * ONE
        for name, value in (
            ("concurrency", 64.0), ("isl", isl), ("osl", 256.0), ("requests", 1e3),
            ("max_num_seqs", 256.0), ("max_num_batched_tokens", 8192.0),
            ("kv_capacity_tokens", 1e6), ("length_cv", length_cv), ("graph_tokens", 1024.0),
        )
    }  # fmt: skip
    return Load(LAYOUTS, **at)  # type: ignore[arg-type]


def share(isl: float, length_cv: float, together: float, sequences: float = 0.0) -> float:
    at = (sequences * ONE, together * isl * ONE)
    return float(as_graphs(load_of(isl, length_cv), KERNELS, *at)[0])


@pytest.mark.parametrize("length_cv", [0.25, 1.0])
@pytest.mark.parametrize("isl", [256.0, 800.0, 1024.0, 2048.0])
@pytest.mark.parametrize("arrivals", [0.01, 0.6, 1.6])
def test_the_share_of_steps_that_run_as_graphs_is_that_of_drawn_prompts(
    length_cv: float, isl: float, arrivals: float
) -> None:
    drawn = np.random.default_rng(7)
    numbers = drawn.poisson(arrivals, 400_000)
    numbers = numbers[numbers > 0]
    sigma = np.sqrt(np.log1p(length_cv**2))
    lengths = drawn.lognormal(np.log(isl) - sigma**2 / 2, sigma, numbers.sum())
    tokens = np.add.reduceat(lengths, np.cumsum(numbers) - numbers)
    found = share(isl, length_cv, float(numbers.mean()), sequences=24.0)
    assert found == pytest.approx(float(np.mean(tokens + 24 <= 1024)), abs=0.12)


def test_prompts_of_one_length_all_fit_or_none() -> None:
    assert share(1000.0, 0.0, 1.0, sequences=24.0) == pytest.approx(1.0)
    assert share(1000.0, 0.0, 1.0, sequences=25.0) == pytest.approx(0.0, abs=1e-6)


def test_replicas_of_attention_have_their_own_graphs() -> None:
    # 8 copies share 400 sequences, 50 each
    copied = replace(KERNELS, attention_dp=8.0 * KERNELS.attention_dp)
    at = (400.0 * ONE, 900.0 * ONE)
    assert float(as_graphs(load_of(900.0, 0.0), copied, *at)[0]) == pytest.approx(1.0)
    assert float(as_graphs(load_of(900.0, 0.0), KERNELS, *at)[0]) < 1e-6
