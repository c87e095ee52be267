"""Sharded inference equals transformers'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
transformers = pytest.importorskip("transformers")

from shardwise.engine.checkpoint import open_checkpoint  # noqa: E402
from shardwise.engine.engine import Engine  # noqa: E402
from shardwise.engine.options import EngineOptions  # noqa: E402
from shardwise.engine.ranks import RankGroup  # noqa: E402
from shardwise.engine.scheduler import SamplingParams  # noqa: E402
from shardwise.errors import InputError  # noqa: E402

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
    ours = engine.logits(PROMPT)  # longer than a chunk, and than the messages have room for
    assert ours.shape == logits.shape
    assert ((ours - logits).abs().max() / logits.abs().max()).item() < 1e-4
    made = engine.generate([PROMPT], SamplingParams(max_tokens=64, ignore_eos=True))
    assert made == [greedy]


def windowed(path: Path, target: Path, **change: Any) -> Path:
    """The model at `path` with other config.json fields."""
    shutil.copytree(path, target)
    config = target / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    return target


WINDOWED: dict[str, dict[str, Any]] = {
    "Mistral": {"sliding_window": 48},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1},
}


@pytest.mark.parametrize("family", WINDOWED)
def test_within_its_sliding_window_a_model_equals_transformers_and_beyond_it_is_refused(
    family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    change = dict(WINDOWED[family])
    if family == "Qwen2":  # what transformers 5 writes beside max_window_layers
        change["layer_types"] = ["full_attention", "sliding_attention"]
    path = windowed(models[family], tmp_path / family, **change)
    logits, _ = reference(path)
    with Engine(path, EngineOptions(device="cpu", dtype="fp32", kv_cache_tokens=512)) as engine:
        ours = engine.logits(PROMPT)
        assert ((ours - logits).abs().max() / logits.abs().max()).item() < 1e-4
        with pytest.raises(InputError, match=r"at most 48 tokens, the model's sliding window"):
            engine.add("x", PROMPT, SamplingParams(max_tokens=12))


def test_a_window_that_the_config_leaves_off_limits_nothing(
    models: dict[str, Path], tmp_path: Path
) -> None:
    # Qwen2 checkpoints carry a window with use_sliding_window false
    change = {"sliding_window": 48, "use_sliding_window": False, "layer_types": None}
    path = windowed(models["Qwen2"], tmp_path / "m", **change)
    assert open_checkpoint(path).config.max_context == 256
