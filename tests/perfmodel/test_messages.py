"""All-reduces of a step: which of them are fused with the norm that follows."""

from __future__ import annotations

import numpy as np
import pytest

from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.messages import FUSED_SAVES_S, Node, reduce_seconds
from shardwise.units import MIB

GPUS = default_catalogue()
SIZES = MIB * np.array([1 / 64, 1 / 2, 8.0, 128.0])


def saved(gpu: str, engine: str, tp_size: int) -> list[float]:
    """Seconds that the fused kernel saves on messages of `SIZES`."""
    node, layouts = Node(GPUS.gpu(gpu), engine), [Layout(tp_size)]
    alone = reduce_seconds(node, layouts, SIZES, before_norm=False)
    fused = reduce_seconds(node, layouts, SIZES)
    return [float(x) for x in (alone - fused)[0]]


def test_a_short_fused_all_reduce_takes_8_7_of_13_5_parts() -> None:
    node = Node(GPUS.gpu("b200"), "vllm")
    alone = reduce_seconds(node, [Layout(2)], SIZES, before_norm=False)
    fused = reduce_seconds(node, [Layout(2)], SIZES)
    assert fused[0, 0] / alone[0, 0] == pytest.approx(8.7 / 13.5)


@pytest.mark.parametrize(
    ("engine", "tp_size", "fused"),
    [("vllm", 2, 3), ("vllm", 4, 3), ("vllm", 8, 2), ("sglang", 8, 3), ("trtllm", 8, 3)],
)
def test_only_messages_up_to_the_engines_limit_are_fused(
    engine: str, tp_size: int, fused: int
) -> None:
    """vLLM on B200: 64 MiB at TP=2, 32 at TP=4, 1 at TP=8. SGLang: 2,048 tokens. TensorRT-LLM:
    8 MiB. A prompt's 128 MiB are never fused."""
    gains = saved("b200", engine, tp_size)
    assert all(gain > 0 for gain in gains[:fused])
    assert gains[fused:] == [0.0] * (len(SIZES) - fused)


def test_a_long_message_saves_the_same_time_and_not_the_same_share() -> None:
    assert saved("b200", "vllm", 2)[2] == pytest.approx(FUSED_SAVES_S)


@pytest.mark.parametrize("gpu", ["h100", "mi355x", "rtx-pro-6000"])
def test_other_gpus_have_no_faster_fused_kernel(gpu: str) -> None:
    assert saved(gpu, "vllm", 4) == [0.0] * len(SIZES)
