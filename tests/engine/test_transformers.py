"""Sharded inference equals transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
transformers = pytest.importorskip("transformers")

from shardwise.engine.engine import Engine  # noqa: E402
from shardwise.engine.options import EngineOptions  # noqa: E402
from shardwise.engine.ranks import RankGroup  # noqa: E402
from shardwise.engine.scheduler import SamplingParams  # noqa: E402

FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3", "Mixtral", "Qwen3Moe"]
PROMPT = [(7 * i * i + 3) % 131 for i in range(37)]


def reference(path: Path) -> tuple[Any, list[int]]:
    """Logits after each prompt token, and 64 greedy tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        logits = model(ids).logits[0]
        made = model.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=None)
    return logits, made[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_tokens_equal_transformers(
    family: str, models: dict[str, Path], ranks: RankGroup
) -> None:
    # tp_size 4 with 2 KV heads: replicated; prefill in chunks of 16, and 131 tokens over 4 ranks
    logits, greedy = reference(models[family])
    options = EngineOptions(
        tp_size=ranks.spec.tp_size,
        device="cpu",
        dtype="fp32",
        kv_cache_tokens=512,
        max_num_seqs=4,
        max_num_batched_tokens=16,
    )
    engine = Engine(models[family], options, group=ranks)
    ours = engine.logits(PROMPT)
    assert ours.shape == logits.shape
    assert ((ours - logits).abs().max() / logits.abs().max()).item() < 1e-4
    made = engine.generate([PROMPT], SamplingParams(max_tokens=64, ignore_eos=True))
    assert made == [greedy]
