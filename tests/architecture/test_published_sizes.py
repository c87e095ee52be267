"""Weights of published checkpoints whose families no bundled model has.

The fields are those of each checkpoint's config.json. An exact count is the hub's "Model size" (the
sum of the safetensors' shapes); a rounded one is its model card's or report's.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from shardwise.architecture.feed_forward import Mlp, Moe
from shardwise.architecture.mixers import Attention, LinearAttention
from shardwise.architecture.model import Model
from shardwise.architecture.reading.parse import parse
from shardwise.errors import InputError


def fields(
    kind: str, hidden: int, width: int, layers: int, heads: int, kv: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        **more,
    }


DBRX: Final = {
    "model_type": "dbrx",
    "d_model": 6144,
    "n_heads": 48,
    "n_layers": 40,
    "max_seq_len": 32768,
    "vocab_size": 100352,
    "attn_config": {"kv_n_heads": 8},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}
PHI_2: Final = fields("phi", 2560, 10240, 32, 32, 32, 51200)
PHI_3_MINI: Final = fields("phi3", 3072, 8192, 32, 32, 32, 32064)
PHI_3_SMALL: Final = {
    **fields("phi3small", 4096, 0, 32, 32, 8, 100352, tie_word_embeddings=True),
    "ff_intermediate_size": 14336,
}
LFM2: Final = {
    **fields("lfm2", 2048, 12288, 16, 32, 8, 65536, tie_word_embeddings=True),
    "block_ff_dim": 12288,
    "block_multiple_of": 256,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "conv_L_cache": 3,
    "conv_bias": False,
}
MINICPM_V: Final = fields("minicpmv", 4096, 14336, 32, 32, 8, 128256, version="2.5")
BITNET: Final = fields("bitnet", 2560, 6912, 30, 20, 5, 128256, tie_word_embeddings=True)
GRANITE_MOE: Final = fields(
    "granitemoe", 1024, 512, 24, 16, 8, 49155,
    num_local_experts=32, num_experts_per_tok=8, tie_word_embeddings=True,
)  # fmt: skip

EXACT: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "databricks/dbrx-instruct": (DBRX, 131_596_523_520),
    "microsoft/phi-2": (PHI_2, 2_779_683_840),
    "microsoft/Phi-3-mini-4k-instruct": (PHI_3_MINI, 3_821_079_552),
    "microsoft/Phi-3-small-8k-instruct": (PHI_3_SMALL, 7_392_272_384),
    "LiquidAI/LFM2-1.2B": (LFM2, 1_170_340_608),
    "microsoft/bitnet-b1.58-2B-4T-bf16": (BITNET, 2_412_820_480),
    "ibm-granite/granite-3.0-1b-a400m-base": (GRANITE_MOE, 1_334_628_352),
    # its text model is Llama 3 8B
    "openbmb/MiniCPM-Llama3-V-2_5": (MINICPM_V, 8_030_261_248),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_count_is_that_of_the_hub(name: str) -> None:
    given, published = EXACT[name]
    assert parse(given, name).parameters() == published


GROK_1: Final = fields(
    "grok-1", 6144, 32768, 64, 48, 8, 131072,
    num_experts=8, num_experts_per_tok=2, tie_word_embeddings=True,
)  # fmt: skip
ARCTIC: Final = fields(
    "arctic", 7168, 4864, 35, 56, 8, 32000,
    num_local_experts=128, num_experts_per_tok=2, moe_layer_frequency=1, use_residual=True,
)  # fmt: skip
HUNYUAN: Final = {
    **fields("hunyuan_v1_moe", 4096, 3072, 32, 32, 8, 128167, tie_word_embeddings=True),
    "attention_head_dim": 128,
    "num_experts": 64,
    "moe_topk": [8] * 32,
    "num_shared_expert": [1] * 32,
    "moe_intermediate_size": [3072] * 32,
    "use_qk_norm": True,
}
LFM2_MOE: Final = fields(
    "lfm2_moe", 2048, 7168, 24, 32, 8, 65536,
    moe_intermediate_size=1792, num_experts=32, num_experts_per_tok=4, num_dense_layers=2,
    full_attn_idxs=[2, 6, 10, 14, 18, 21], use_expert_bias=True, conv_L_cache=3, conv_bias=False,
    tie_word_embeddings=True,
)  # fmt: skip
MINIMAX: Final = fields(
    "minimax_text_01", 6144, 9216, 80, 64, 8, 200064,
    head_dim=128, num_local_experts=32, num_experts_per_tok=2, shared_intermediate_size=0,
    attn_type_list=([0] * 7 + [1]) * 10,
)  # fmt: skip
STEP3: Final = {
    **fields("step3_text", 7168, 18432, 61, 64, 1, 128815),
    "num_attention_groups": 1,
    "head_dim": 256,
    "share_q_dim": 2048,
    "moe_num_experts": 48,
    "moe_top_k": 3,
    "moe_intermediate_size": 5120,
    "share_expert_dim": 5120,
    "moe_layers_enum": ",".join(map(str, range(4, 60))),
}
DOTS: Final = fields(
    "dots1", 4096, 10944, 62, 32, 32, 152064,
    moe_intermediate_size=1408, n_routed_experts=128, n_shared_experts=2, num_experts_per_tok=6,
    first_k_dense_replace=1,
)  # fmt: skip
LONGCAT: Final = {
    **fields("longcat_flash", 6144, 0, 28, 64, 64, 131072),
    "ffn_hidden_size": 12288,
    "expert_ffn_hidden_size": 2048,
    "num_layers": 28,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "moe_topk": 12,
}
NANOCHAT: Final = fields("nanochat", 1280, 5120, 20, 10, 10, 65536)
ORION: Final = fields("orion", 5120, 15360, 40, 40, 40, 84608)

#: total and active parameters in billions, as published
ROUNDED: Final[dict[str, tuple[dict[str, Any], float, float]]] = {
    "xai-org/grok-1": (GROK_1, 314, 84),  # "25 % of the weights": two of eight experts
    "Snowflake/snowflake-arctic-base": (ARCTIC, 480, 17),
    "tencent/Hunyuan-A13B-Instruct": (HUNYUAN, 80, 13),
    "LiquidAI/LFM2-8B-A1B": (LFM2_MOE, 8.3, 1.5),
    "MiniMaxAI/MiniMax-Text-01": (MINIMAX, 456, 45.9),
    "stepfun-ai/step3": (STEP3, 316, 38),
    "rednote-hilab/dots.llm1.base": (DOTS, 142, 14),
    "meituan-longcat/LongCat-Flash-Chat": (LONGCAT, 560, 31.3),  # 18.6 to 31.3
    "karpathy/nanochat": (NANOCHAT, 0.561, 0.561),
    "OrionStarAI/Orion-14B-Base": (ORION, 14.5, 14.5),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_total_and_active_weights_are_those_of_the_report(name: str) -> None:
    given, total, active = ROUNDED[name]
    found = parse(given, name)
    assert found.parameters() / 1e9 == pytest.approx(total, rel=0.008)
    # reports differ in whether the embeddings that a token looks up count as active
    assert found.multiplied_parameters / 1e9 * 0.96 < active < found.active_parameters / 1e9 * 1.03


@pytest.mark.parametrize("name", ["grok-1", "arctic", "step3", "hunyuan"])
def test_each_token_reads_its_experts_and_what_every_token_reads(name: str) -> None:
    given = {"grok-1": GROK_1, "arctic": ARCTIC, "step3": STEP3, "hunyuan": HUNYUAN}[name]
    found = parse(given, name)
    moe = next(g.feed_forward for g in found.groups if isinstance(g.feed_forward, Moe))
    routed = sum(g.count for g in found.groups if isinstance(g.feed_forward, Moe))
    one = 3 * found.hidden_size * moe.expert_width
    idle = routed * (moe.num_experts - moe.top_k) * one
    assert found.parameters() - found.active_parameters == idle


def kinds_of(found: Model) -> list[type]:
    """The kind of each layer's mixer, in order."""
    kinds = {i: type(g.mixer) for g in found.groups for i in g.layers}
    return [kinds[i] for i in range(found.num_layers)]


def test_seven_layers_of_lightning_attention_then_one_of_softmax() -> None:
    found = parse(MINIMAX, "minimax-text-01")
    assert kinds_of(found) == ([LinearAttention] * 7 + [Attention]) * 10
    with pytest.raises(InputError, match=r"attn_type_list .*80 times 0 \(linear\) or 1"):
        parse({**MINIMAX, "attn_type_list": [0, 1]}, "minimax-text-01")


def test_layers_with_experts_are_those_of_the_list() -> None:
    found = parse(STEP3, "step3")
    sparse = {i for g in found.groups if isinstance(g.feed_forward, Moe) for i in g.layers}
    assert sparse == set(range(4, 60))
    with pytest.raises(InputError, match="layer numbers with commas between"):
        parse({**STEP3, "moe_layers_enum": [4, 5]}, "step3")


def test_arctic_has_experts_in_every_nth_layer_and_a_dense_mlp_in_the_others() -> None:
    found = parse({**ARCTIC, "moe_layer_frequency": 5}, "arctic")
    sparse = sorted(i for g in found.groups if isinstance(g.feed_forward, Moe) for i in g.layers)
    assert sparse == list(range(4, 35, 5))
    dense = next(g for g in found.groups if isinstance(g.feed_forward, Mlp))
    assert len(dense.layers) == 28


def test_the_first_layers_of_hunyuan_skip_their_experts() -> None:
    every, skipped = (
        parse({**HUNYUAN, "moe_layer_num_skipped": n}, "hunyuan").parameters() for n in (0, 2)
    )
    # a layer without experts has one MLP of intermediate_size, and no router
    one = 3 * 4096 * 3072
    assert every - skipped == 2 * (64 * one + one + 64 * 4096 - one)
    with pytest.raises(InputError, match=r"moe_topk .*at most the 64 experts"):
        parse({**HUNYUAN, "moe_topk": 65}, "hunyuan")


def test_a_draft_layer_is_counted_apart_from_the_model() -> None:
    """MiMo-7B: 7,833,409,536 weights on the hub, with its layer of multi-token prediction."""
    given = fields("mimo", 4096, 11008, 36, 32, 8, 151680, attention_bias=True)
    plain = parse({**given, "num_nextn_predict_layers": 0}, "mimo")
    drafting = parse({**given, "num_nextn_predict_layers": 1}, "mimo")
    assert drafting.parameters() == plain.parameters() == 7_622_619_136
    (draft,) = drafting.drafts
    own = sum(t.rows * t.cols * t.copies for t in draft.tensors)
    assert plain.parameters() + own == 7_833_409_536


QWEN4: Final = {
    **fields("qwen4_exp_text", 64, 128, 8, 4, 2, 1000),
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "hc_count": 4,
    "hc_lowrank": 8,
    "indexer_n_heads": 2,
    "indexer_head_dim": 16,
    "indexer_kv_heads": 1,
    "indexer_compress_ratio": 4,
    "indexer_budget": 64,
}


@pytest.mark.parametrize(
    ("changes", "counted"),
    # Qwen4ExpForCausalLM of transformers 5.23, built on the meta device
    [({}, 782_816), ({"hc_count": 2}, 733_536), ({"attention_bias": True}, 783_328)],
)
def test_qwen4_has_the_weights_that_transformers_builds(
    changes: dict[str, Any], counted: int
) -> None:
    assert parse({**QWEN4, **changes}, "qwen4").parameters() == counted


def test_three_layers_of_qwen4_keep_a_state_and_the_fourth_an_indexed_cache() -> None:
    found = parse(QWEN4, "qwen4")
    assert kinds_of(found) == ([LinearAttention] * 3 + [Attention]) * 2
    (mixer,) = {g.mixer for g in found.groups if isinstance(g.mixer, Attention)}
    assert isinstance(mixer, Attention)
    assert mixer.indexer is not None
    assert (mixer.indexer.num_heads, mixer.indexer.head_dim, mixer.indexer.top_k) == (2, 16, 64)
    keys = next(c for c in mixer.caches if c.name == "indexer")
    assert (keys.elements, keys.stride) == (16, 4)  # one key head of 16 for every fourth token


def test_ngram_embeddings_of_qwen4_stand_on_the_layers_named() -> None:
    words = {
        "ple_layer_ids": [1, 3],
        "ple_embed_dim": 64,
        "ngram_size": 3,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 1024,
    }
    plain, with_words = (parse({**QWEN4, **more}, "qwen4") for more in ({}, words))
    # 2-grams and 3-grams with two heads each of 1,024 rows, 16 wide; keys to four streams of 64,
    # values to one; three norms over the streams; a convolution over 4 tokens
    layer = 4 * 1024 * 16 + 256 * 64 + 64 * 64 + 3 * 256 + 256 * 4
    assert with_words.parameters() - plain.parameters() == 2 * layer
    with pytest.raises(InputError, match=r"ple_layer_ids .*linear_attention layers, counted from"):
        parse({**QWEN4, **words, "ple_layer_ids": [4]}, "qwen4")
    with pytest.raises(InputError, match=r"ple_embed_dim .*a multiple of the 4 n-gram heads"):
        parse({**QWEN4, **words, "ple_embed_dim": 66}, "qwen4")
