"""Families by hand: what each adds to a Llama of tiny sizes, and which of its layers slide."""

from __future__ import annotations

from typing import Any, Final

import pytest

from shardwise.architecture.reading.parse import parse

HIDDEN, WIDTH, LAYERS, VOCAB = 64, 128, 4, 100
LLAMA: Final[dict[str, Any]] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
}
Q, KV = HIDDEN * 4 * 16, HIDDEN * 2 * 16
ATTENTION = Q + 2 * KV + Q  # queries, keys and values, output
GATED, PLAIN = 3 * HIDDEN * WIDTH, 2 * HIDDEN * WIDTH
EMBEDDING = VOCAB * HIDDEN
QKV_BIAS, OUT_BIAS = 64 + 32 + 32, 64

#: model type -> (per layer, outside of the layers), as the family's modelling code has them
BY_HAND: Final = {
    # two norms a layer, one behind all; embedding and head
    "llama": (ATTENTION + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    "mistral": (ATTENTION + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    # a bias on queries, keys and values
    "qwen2": (ATTENTION + QKV_BIAS + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    # one norm of 16 for all query heads, one for all key heads
    "qwen3": (ATTENTION + 2 * 16 + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    "hunyuan_v1_dense": (ATTENTION + 2 * 16 + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    "exaone4": (ATTENTION + 2 * 16 + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    # norms over all heads together: 64 for queries, 32 for keys
    "olmo2": (ATTENTION + 64 + 32 + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    # norms without weights
    "olmo": (ATTENTION + GATED, 2 * EMBEDDING),
    # one norm in front of attention and MLP side by side; the head is the embedding
    "cohere": (ATTENTION + GATED + HIDDEN, EMBEDDING + HIDDEN),
    # biases on all of attention
    "internlm": (ATTENTION + QKV_BIAS + OUT_BIAS + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    # biases on queries, keys and values, none on the output
    "seed_oss": (ATTENTION + QKV_BIAS + GATED + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    # an MLP without a gate; norms with biases
    "nemotron": (ATTENTION + PLAIN + 4 * HIDDEN, 2 * EMBEDDING + 2 * HIDDEN),
    "arcee": (ATTENTION + PLAIN + 2 * HIDDEN, 2 * EMBEDDING + HIDDEN),
    # biases everywhere, an MLP without a gate, a tied head
    "starcoder2": (
        ATTENTION + QKV_BIAS + OUT_BIAS + PLAIN + WIDTH + HIDDEN + 4 * HIDDEN,
        EMBEDDING + 2 * HIDDEN,
    ),
    "stablelm": (ATTENTION + GATED + 4 * HIDDEN, 2 * EMBEDDING + 2 * HIDDEN),
    "smollm3": (ATTENTION + GATED + 2 * HIDDEN, EMBEDDING + HIDDEN),
    "minicpm": (ATTENTION + GATED + 2 * HIDDEN, EMBEDDING + HIDDEN),
    "gemma": (ATTENTION + GATED + 2 * HIDDEN, EMBEDDING + HIDDEN),
}


@pytest.mark.parametrize("family", BY_HAND)
def test_parameters_of_a_family_are_those_counted_by_hand(family: str) -> None:
    layer, outside = BY_HAND[family]
    found = parse({**LLAMA, "model_type": family}, "tiny")
    assert found.parameters() == LAYERS * layer + outside
    assert found.num_layers == LAYERS


@pytest.mark.parametrize("family", BY_HAND)
def test_a_family_caches_keys_and_values_of_its_kv_heads(family: str) -> None:
    for group in parse({**LLAMA, "model_type": family}, "tiny").groups:
        assert sum(cache.elements for cache in group.mixer.caches) == 2 * 2 * 16


def test_a_tied_head_saves_one_table() -> None:
    apart = parse(LLAMA, "tiny").parameters()
    tied = parse({**LLAMA, "tie_word_embeddings": True}, "tiny").parameters()
    assert apart - tied == EMBEDDING


@pytest.mark.parametrize("layers", [1, 2, 80])
def test_layers_add_up(layers: int) -> None:
    layer, outside = BY_HAND["llama"]
    found = parse({**LLAMA, "num_hidden_layers": layers}, "tiny")
    assert found.parameters() == layers * layer + outside


WINDOW: Final = 32
#: model type -> which of eight layers have the window
SLIDING: Final = {
    "mistral": [True] * 8,
    "starcoder2": [True] * 8,
    "olmo3": [True, True, True, False] * 2,
    "cohere2": [True, True, True, False] * 2,
    "cwm": [False, True, True, True] * 2,
    "gemma3_text": [True] * 5 + [False] + [True] * 2,
    "gemma2": [True, False] * 4,
    "exaone4": [True, True, True, False] * 2,
}


@pytest.mark.parametrize("family", SLIDING)
def test_the_layers_of_a_family_slide_where_its_code_says(family: str) -> None:
    given = {**LLAMA, "model_type": family, "num_hidden_layers": 8, "sliding_window": WINDOW}
    found = parse(given, "tiny")
    window = {i: g.mixer.caches[0].window for g in found.groups for i in g.layers}
    assert [window[i] == WINDOW for i in range(8)] == SLIDING[family]
    assert set(window.values()) <= {0, WINDOW}


def test_layer_types_of_the_file_win_over_the_familys_pattern() -> None:
    kinds = ["full_attention", "sliding_attention"] * 4
    given = {
        **LLAMA, "model_type": "olmo3", "num_hidden_layers": 8, "sliding_window": WINDOW,
        "layer_types": kinds,
    }  # fmt: skip
    window = {i: g.mixer.caches[0].window for g in parse(given, "tiny").groups for i in g.layers}
    assert [window[i] for i in range(8)] == [0, WINDOW] * 4


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "linear", "factor": 2.0}, 512),
        ({"rope_type": "dynamic", "factor": 1.5}, 384),
        # llama3 scaling is already counted in max_position_embeddings
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}, 256),
        ({"type": "linear", "factor": 2.0}, 512),
        ({}, 256),
    ],
)
def test_the_context_is_scaled_as_vllm_scales_it(rope: dict[str, Any], expected: int) -> None:
    more: dict[str, Any] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled = {**rope, **(more if rope.get("rope_type") == "llama3" else {})}
    assert parse({**LLAMA, "rope_scaling": scaled}, "tiny").max_context == expected
