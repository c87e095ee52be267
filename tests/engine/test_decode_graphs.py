"""What a CUDA graph would replay, on CPU: static inputs, filled-up batches, the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.engine.attention import LayerCache, StepInputs  # noqa: E402
from shardwise.engine.decode_graphs import DecodeGraphs, Step  # noqa: E402
from shardwise.engine.engine import Engine  # noqa: E402
from shardwise.engine.options import EngineOptions  # noqa: E402
from shardwise.engine.scheduler import Segment, StepPlan  # noqa: E402

BLOCK, SCRATCH = 4, 32
OPTIONS = EngineOptions(device="cpu", dtype="fp32", kv_cache_tokens=4 * SCRATCH, block_size=BLOCK)


def test_recorded_steps_give_the_logits_of_plain_ones_and_write_no_block_of_others(
    llama: Path,
) -> None:
    recorded: list[Step] = []

    def record(work: Step) -> Step:
        recorded.append(work)
        return work  # calling it again reads the same tensors, as a replay does

    with Engine(llama, OPTIONS) as engine:
        rank = engine.group.local
        for cache in rank.caches:  # the scratch block
            for name in ("k", "v"):
                kept = getattr(cache, name)
                setattr(cache, name, torch.cat([kept, torch.zeros_like(kept[:BLOCK])]))

        def forward(inputs: StepInputs) -> Any:
            logits = rank.model.forward(inputs, rank.caches)
            assert logits is not None
            return logits

        graphs = DecodeGraphs(forward, BLOCK, SCRATCH, torch.float32, rank.device, record)
        blocks = [(0, 5, 9), (1, 2, 3), (4, 8, 7)]  # neighbours and not
        prompts = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10] * 9]
        for prompt, held in zip(prompts, blocks, strict=True):
            rank.forward(StepPlan(prompt, [Segment(len(prompt), len(prompt), held, True)]))
        with torch.inference_mode():
            for step in range(3):  # contexts grow, past a block's end
                segments = [
                    Segment(1, len(prompt) + 1 + step, held, True)
                    for prompt, held in zip(prompts, blocks, strict=True)
                ]
                plan = StepPlan([11 + step, 12, 13], segments)
                assert graphs.fits(plan)
                before = [_rows(cache) for cache in rank.caches]
                replayed = graphs.run(plan).clone()
                written = [_rows(cache) for cache in rank.caches]
                plain = rank.call_by_call(plan)
                assert replayed.shape == (3, 131)
                assert torch.allclose(replayed, plain, rtol=1e-4, atol=1e-5)
                for old, new in zip(before, written, strict=True):
                    # three tokens' slots changed, and the scratch block's first
                    assert int((old != new).any(-1).sum()) <= 4
        # 3 sequences fill a batch of 4; contexts of up to 12 tokens are 3 blocks, so 4
        assert len(recorded) == 1


def _rows(cache: LayerCache) -> Any:
    return cache.k.reshape(cache.k.shape[0], -1).clone()


def test_prefills_and_mixed_steps_run_as_they_are_called() -> None:
    decode, prefill = Segment(1, 5, (0, 1), True), Segment(3, 3, (2,), True)
    assert not DecodeGraphs.fits(StepPlan([1, 2, 3, 4], [decode, prefill]))
    assert not DecodeGraphs.fits(StepPlan([1], [Segment(1, 5, (0, 1), False)]))
    assert not DecodeGraphs.fits(StepPlan([1], [decode], all_logits=True))
