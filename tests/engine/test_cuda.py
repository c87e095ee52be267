"""The engine on a GPU: decode steps through CUDA graphs against plain calls and against the CPU.

Skipped without a CUDA GPU.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

from shardwise.engine.engine import Engine  # noqa: E402
from shardwise.engine.options import Device, EngineOptions  # noqa: E402
from shardwise.engine.peak_rates import seconds  # noqa: E402
from shardwise.engine.rank import Rank  # noqa: E402
from shardwise.engine.scheduler import SamplingParams  # noqa: E402
from shardwise.engine.step_timer import decode_plan, prefill_plan, profile_rank  # noqa: E402

GREEDY = SamplingParams(max_tokens=40, ignore_eos=True)
#: lengths that cross blocks of 16 tokens, and batches that are not powers of two
PROMPTS = [[1 + (7 * i + 3 * j) % 120 for j in range(5 + 11 * i)] for i in range(7)]


def options(device: Device, **others: Any) -> EngineOptions:
    return EngineOptions(device=device, dtype="fp32", kv_cache_tokens=4096, **others)


@pytest.fixture(autouse=True)
def full_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def call_by_call(rank: Rank) -> None:
    """Let every step of `rank` launch its kernels one by one."""
    rank._graphs = None


def test_graphs_give_the_tokens_of_plain_calls_and_of_the_cpu(llama: Path) -> None:
    with Engine(llama, options("cpu")) as engine:
        on_cpu = engine.generate(PROMPTS, GREEDY)
    with Engine(llama, options("cuda")) as engine:
        replayed = engine.generate(PROMPTS, GREEDY)
        assert engine.group.local._graphs is not None
        shapes = sorted(engine.group.local._graphs._recorded)
        call_by_call(engine.group.local)
        plain = engine.generate(PROMPTS, GREEDY)
    assert replayed == plain
    # the sum of a product has another order on the CPU, so a near tie may fall the other way
    same = sum(a == b for a, b in zip(on_cpu, replayed, strict=True))
    assert same >= len(PROMPTS) - 1
    # 7 sequences are filled up to 8; contexts of up to 111 tokens are 7 blocks, so 8
    assert shapes[-1] == (8, 8)
    assert all(rows & (rows - 1) == width & (width - 1) == 0 for rows, width in shapes)


def test_sequences_that_come_and_go_between_replays_do_not_change_the_others(llama: Path) -> None:
    with Engine(llama, options("cuda")) as engine:
        alone = [engine.generate([prompt], GREEDY)[0] for prompt in PROMPTS]
        got: dict[str, list[int]] = {}
        waiting = list(enumerate(PROMPTS))
        step = 0
        while waiting or engine.has_work:
            if waiting and step % 5 == 0:
                index, prompt = waiting.pop(0)
                engine.add(str(index), prompt, GREEDY)
                got[str(index)] = []
            for output in engine.step():
                got[output.request_id].append(output.token)
            step += 1
    same = sum(got[str(i)] == tokens for i, tokens in enumerate(alone))
    assert same >= len(PROMPTS) - 1  # another batch size may take another kernel: see above


def test_a_step_is_timed_by_events_on_the_gpu_and_its_parts_add_up(llama: Path) -> None:
    with Engine(llama, options("cuda")) as engine:
        for plan in (prefill_plan(2, 64, 16), decode_plan(8, 64, 16)):
            found = profile_rank(engine.group.local, plan, repeats=5)
            parts = dict(found.seconds)
            total = parts.pop("total")
            assert 0 < total < 1
            assert sum(parts.values()) == pytest.approx(total)
            assert parts["attention"] > 0
            assert parts["mlp"] > 0
            assert {product.name for product in found.products} >= {"qkv", "output", "lm_head"}


def test_a_profiled_decode_step_takes_as_long_as_a_replay_and_not_as_plain_calls(
    llama: Path,
) -> None:
    plan = decode_plan(8, 64, 16)
    with Engine(llama, options("cuda")) as engine:
        rank = engine.group.local
        profiled = profile_rank(rank, plan, repeats=20).seconds["total"]
        replay, plain = (
            statistics.median(seconds(partial(call, plan), rank.device, 20))
            for call in (rank.forward, rank.call_by_call)
        )
    assert profiled == pytest.approx(replay, rel=0.3)
    assert replay < plain


@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Qwen3", "Mixtral", "Qwen3Moe"])
def test_every_family_runs_on_the_gpu(models: dict[str, Path], family: str) -> None:
    with Engine(models[family], options("cpu")) as engine:
        expected = engine.logits(PROMPTS[3])
    with Engine(models[family], options("cuda")) as engine:
        got = engine.logits(PROMPTS[3]).cpu()
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_more_ranks_than_gpus_are_refused(llama: Path) -> None:
    from shardwise.errors import InputError

    gpus = torch.cuda.device_count()
    with pytest.raises(InputError, match=f"{gpus} GPUs are visible"):
        Engine(llama, options("cuda", tp_size=2 * gpus))
