"""Families with sliding, linear or gated attention by hand, at tiny sizes, and published counts."""

from __future__ import annotations

from typing import Any, Final

import pytest

from shardwise.architecture.model import Model
from shardwise.architecture.reading.parse import parse
from shardwise.errors import InputError
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import rank_shards

H, WIDTH, EXPERT, VOCAB = 64, 128, 32, 100
BASE: Final[dict[str, Any]] = {
    "hidden_size": H,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
GQA = 2 * H * H + 2 * H * 32  # queries and output, keys and values
GATED = 3 * H * WIDTH
OUTSIDE = 2 * VOCAB * H + H
#: A router, 8 experts and their bias, one shared expert.
SPARSE = 8 * H + 8 + 9 * 3 * H * EXPERT
EXPERTS: Final[dict[str, Any]] = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": EXPERT,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
}
LIGHTNING = 3 * H * H + H * H + H + H * H  # projections, gate, its norm, output


def model(kind: str, **more: Any) -> Model:
    return parse({**BASE, "model_type": kind, **more}, "tiny")


def mixers(found: Model) -> list[str]:
    named = {i: getattr(g.mixer, "kind", type(g.mixer).__name__) for g in found.groups
             for i in g.layers}  # fmt: skip
    return [named[i] for i in range(found.num_layers)]


def windows(found: Model) -> list[int]:
    held = {i: g.mixer.caches[0].window for g in found.groups for i in g.layers}
    return [held[i] for i in range(found.num_layers)]


def test_ring_linear_has_gqa_in_the_last_layer_of_each_group_and_behind_the_last_group() -> None:
    found = model(
        "bailing_moe_linear", num_hidden_layers=5, layer_group_size=2, group_norm_size=2,
        use_qk_norm=True, moe_router_enable_expert_bias=True, **EXPERTS,
    )  # fmt: skip
    assert mixers(found) == ["lightning", "Attention", "lightning", "Attention", "Attention"]
    attention = 3 * (GQA + 32) + 2 * (LIGHTNING + 32)
    assert found.parameters() == attention + 5 * 2 * H + GATED + 4 * SPARSE + OUTSIDE


LATENT: Final = {
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 4,
    "v_head_dim": 16,
}
MLA = H * 4 * 20 + H * 12 + 8 + 8 * 4 * 32 + 64 * H


@pytest.mark.parametrize("named", [True, False])
def test_ling_2_5_is_not_read_as_ling_3_of_the_same_model_type(named: bool) -> None:
    by_class = {"architectures": ["BailingMoeV2_5ForCausalLM"]} if named else {}
    found = model(
        "bailing_hybrid", layer_group_size=4, group_norm_size=2, use_qk_norm=True,
        moe_router_enable_expert_bias=True, **EXPERTS, **LATENT, **by_class,
    )  # fmt: skip
    assert mixers(found) == ["lightning"] * 3 + ["Mla"]
    attention = 3 * (LIGHTNING + 32) + MLA
    assert found.parameters() == attention + 4 * 2 * H + GATED + 3 * SPARSE + OUTSIDE


def test_ling_3_has_one_gate_per_mla_head_if_its_file_says_so() -> None:
    given = {**EXPERTS, **LATENT, "layer_group_size": 2, "short_conv_kernel_size": 4}
    plain = model("bailing_hybrid", **given)
    gated = model("bailing_hybrid", **given, gated_attention_proj_granularity_type="head_wise")
    assert mixers(plain) == ["kda", "Mla"] * 2
    assert gated.parameters() - plain.parameters() == 2 * 4 * H
    with pytest.raises(InputError, match="gated_attention_proj_granularity_type"):
        model("bailing_hybrid", **given, gated_attention_proj_granularity_type="token_wise")


def test_spark_slides_in_three_layers_of_four_and_gates_each_head() -> None:
    found = model("spark2_5", sliding_window=32)
    assert windows(found) == [32, 32, 32, 0]
    assert found.parameters() == 4 * (GQA + 4 * H + GATED + 2 * H) + OUTSIDE


def test_iquest_q1_has_a_dense_first_layer_and_sinks() -> None:
    found = model(
        "iquest_q1", num_hidden_layers=8, num_hybrid_layers_block=1, sliding_window=32,
        intermediate_size=EXPERT, dense_intermediate_size=WIDTH, num_experts=8,
        num_experts_per_tok=2,
    )  # fmt: skip
    assert windows(found) == [0, 0, 32, 32, 32, 0, 0, 0]
    layer = GQA + 2 * 16 + 2 * 16 + 4 * H
    sparse = 8 * H + 8 * 3 * H * EXPERT
    assert found.parameters() == 8 * layer + GATED + 7 * sparse + OUTSIDE
    with pytest.raises(InputError, match="num_hybrid_layers_block"):
        model("iquest_q1", num_experts=8, num_experts_per_tok=2)


def test_baichuan_m1_mixes_keys_and_values_with_the_previous_token() -> None:
    found = model(
        "baichuan_m1", head_dim=None, sliding_window=32, sliding_window_layers=[1, 3],
        num_swa_attention_heads=8, num_swa_key_value_heads=4, conv_window=2,
    )  # fmt: skip
    assert windows(found) == [0, 32, 0, 32]
    full, sliding = GQA + 2 * 2 * 2, GQA + 2 * 2 * 4
    assert found.parameters() == 2 * (full + sliding) + 4 * (GATED + 2 * H) + OUTSIDE
    assert [c.elements for c in found.groups[0].mixer.caches] == [2 * 2 * 16, 2 * 2 * 16]


DORY: Final = {"layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"]}


def test_dory_alternates_and_its_recurrent_part_runs_again() -> None:
    found = model("dory", **DORY, sliding_window=32)
    attention = GQA + H * H + 2 * H + H  # gate, two scales, alpha
    mlp = GATED + 2 * WIDTH + H
    assert found.parameters() == 2 * (attention + mlp) + 2 * VOCAB * H + VOCAB
    again = model("dory", **DORY, sliding_window=32, n_input_layers=2, n_recurrent_loops=3)
    assert again.parameters() == found.parameters()
    assert again.num_layers == 8
    cached = [sum(c.name == "kv" for c in g.mixer.caches) * g.count for g in again.groups]
    assert sum(cached) == 1 + 3
    last = model(
        "dory", **DORY, sliding_window=32, n_input_layers=2, n_recurrent_loops=3,
        recurrent_kv_cache_mode="last_loop",
    )  # fmt: skip
    assert sum(len(g.mixer.caches) * g.count for g in last.groups) == 2


def test_jet_nemotron_generates_its_convolution_from_the_input() -> None:
    jet = {
        "mode": "chunk", "expand_v": 2.0, "num_heads": 4, "head_dim": 8, "conv_size": 4,
        "dconv_generator_reduction": 8,
    }  # fmt: skip
    found = model(
        "jet_nemotron", layer_types=["jet", "jet", "attn", "swa"],
        efficient_attention_config={"jet": jet, "swa": {"window_size": 32}},
    )  # fmt: skip
    assert mixers(found) == ["gdn", "gdn", "Attention", "Attention"]
    keys, values = 32, 64
    block = (
        H * (2 * keys + 2 * values + 2 * 4) + 2 * 4 + 16 + values * H
        + H * 8 + 8 * values * 4 + values * 4
    )  # fmt: skip
    attention = GQA + H + 2 * 32  # biases of queries, keys and values
    assert found.parameters() == 2 * (block + attention) + 4 * (GATED + 2 * H) + OUTSIDE
    assert windows(found)[2:] == [0, 32]


def test_gigachats_norms_have_low_rank_gates() -> None:
    given = {
        "layer_types": ["linear_attention", "attention"] * 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": EXPERT, "first_k_dense_replace": 1, **LATENT, "q_lora_rank": 12,
    }  # fmt: skip
    plain = model("gigachat3_5", **given)
    keys, values = 16, 32
    delta = (
        H * (2 * keys + 2 * values) + H * 2 * 4 + 4 * (2 * keys + values) + 2 * 4 + 8 + values * H
    )
    latent = H * 12 + 12 + 12 * 4 * 20 + H * 12 + 8 + 8 * 4 * 32 + 64 * H
    body = 2 * (delta + latent) + GATED + 3 * SPARSE
    assert plain.parameters() == body + 4 * 2 * H + OUTSIDE
    gated = model(
        "gigachat3_5", **given, norm_type="ZeroCenteredGatedNorm", layernorm_type="pre_post",
        gated_attention=True,
    )  # fmt: skip
    low = 2 * 16  # two matrices of rank 16 per feature of a norm
    more = 4 * 4 * low * H + 4 * 2 * H + low * H + 2 * low * (12 + 8) + 2 * H * 64
    assert gated.parameters() - plain.parameters() == more


def test_alice_weighs_the_residuals_of_earlier_blocks() -> None:
    found = model(
        "alice_ai", layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=4, linear_num_value_heads=4, linear_key_head_dim=16,
        linear_value_head_dim=16, linear_conv_kernel_dim=4, block_attn_res_block_size=2,
        num_experts=8, num_experts_per_tok=2, moe_intermediate_size=EXPERT,
        shared_expert_intermediate_size=48,
    )  # fmt: skip
    delta = 3 * H * H + 3 * 4 * H + 2 * (16 * H + 16 * H) + 4 * H + 4 + H + 16 + H * H
    attention = GQA + H * H + 2 * 16
    sparse = 8 * H + 8 + 8 * 3 * H * EXPERT + 3 * H * 48 + H
    layers = 2 * (delta + attention) + 4 * (sparse + 6 * H)
    assert found.parameters() == layers + OUTSIDE + 2 * H
    with pytest.raises(InputError, match="block_attn_res_block_size"):
        model("alice_ai", layer_types=["linear_attention"] * 4)


def test_minicpm_sala_alternates_lightning_and_softmax_attention() -> None:
    given = {
        "mixer_types": ["minicpm4", "lightning"], "lightning_nkv": 4, "use_output_gate": True,
        "use_output_norm": True, "attn_use_output_gate": True,
    }  # fmt: skip
    found = model("minicpm_sala", **given)
    assert mixers(found) == ["Attention", "lightning"] * 2
    attention = 2 * (GQA + H * H) + 2 * (LIGHTNING + 2 * 16)
    assert found.parameters() == attention + 4 * (GATED + 2 * H) + OUTSIDE
    shard = rank_shards(found, Layout())
    grown = shard.cache_bytes(200.0, "bf16")[0] - shard.cache_bytes(100.0, "bf16")[0]
    assert grown == 100 * 2 * 2 * 2 * 16 * 2


def test_klear_weighs_its_shared_expert() -> None:
    found = model(
        "Klear", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=EXPERT,
        n_shared_experts=1, decoder_sparse_step=1, mlp_only_layers=[0],
    )  # fmt: skip
    layer = GQA + 2 * 16 + 2 * H
    assert found.parameters() == 4 * layer + GATED + 3 * (SPARSE + 2 * H + 2) + OUTSIDE


K2_HORIZON: Final = {
    "architectures": ["K2HorizonForCausalLM"],
    "model_type": "k2_horizon",
    "attention_bias": False,
    "attention_gate_func": None,
    "decoder_sparse_step": 1,
    "dtype": "bfloat16",
    "head_dim": 128,
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "layernorm_num_groups": 1,
    "max_position_embeddings": 524288,
    "mlp_only_layers": [0, 1, 2],
    "moe_gate_bias": True,
    "moe_intermediate_size": 1792,
    "mova_num_experts": 0,
    "mova_num_experts_per_tok": 0,
    "num_attention_heads": 48,
    "num_experts": 192,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 8,
    "num_shared_experts": 1,
    "query_key_norm": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 250624,
}


def test_k2_horizon_has_the_bytes_of_its_checkpoint() -> None:
    """K2-Horizon-375B-A23B: 758 GB in 16 bits on the hub."""
    model = parse(K2_HORIZON, "k2-horizon")
    assert model.weight_bytes == pytest.approx(758e9, rel=1e-3)
    attention = 2 * 6144**2 + 2 * 6144 * 1024
    sparse = 192 * 6144 + 192 + 193 * 3 * 6144 * 1792
    layers = 61 * (attention + 2 * 6144) + 3 * 3 * 6144 * 16384 + 58 * sparse
    assert model.parameters() == layers + 2 * 250624 * 6144 + 6144


def test_values_from_routed_experts_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="mova_num_experts is 64"):
        parse({**K2_HORIZON, "mova_num_experts": 64}, "k2-horizon")


OPENELM: Final = {
    "model_type": "openelm",
    "model_dim": 1280,
    "head_dim": 64,
    "num_transformer_layers": 16,
    "num_query_heads": [12] * 5 + [16] * 7 + [20] * 4,
    "num_kv_heads": [3] * 5 + [4] * 7 + [5] * 4,
    "ffn_multipliers": [round(0.5 + 3.5 * i / 15, 2) for i in range(16)],
    "ffn_dim_divisor": 256,
    "vocab_size": 32000,
    "max_context_length": 2048,
}


def test_openelm_has_a_width_and_heads_for_each_layer() -> None:
    """OpenELM-270M: 271,527,168 weights on the hub."""
    assert parse(OPENELM, "openelm").parameters() == 271_527_168
    with pytest.raises(InputError, match="ffn_multipliers"):
        parse({**OPENELM, "ffn_multipliers": [1.0]}, "openelm")


LONGCAT_LITE: Final = {
    "model_type": "longcat_flash",
    "architectures": ["LongcatFlashNgramForCausalLM"],
    "hidden_size": 3072,
    "num_layers": 14,
    "num_attention_heads": 32,
    "ffn_hidden_size": 6144,
    "expert_ffn_hidden_size": 1024,
    "n_routed_experts": 256,
    "zero_expert_num": 128,
    "moe_topk": 12,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 327680,
    "tie_word_embeddings": False,
}


def test_longcat_lite_has_tables_of_ngrams() -> None:
    """LongCat-Flash-Lite: 68.5 billion weights, 31.4 of them in tables of n-grams."""
    with_tables = {"ngram_vocab_size_ratio": 78, "emb_split_num": 4, "emb_neighbor_num": 4}
    plain, lite = parse(LONGCAT_LITE, "flash"), parse({**LONGCAT_LITE, **with_tables}, "lite")
    rows = sum(78 * 131072 + 2 * i + 1 for i in range(12))
    assert lite.parameters() - plain.parameters() == rows * 256 + 12 * 256 * 3072
    assert lite.parameters() == pytest.approx(68.5e9, rel=1e-3)


def test_xverse_with_experts_has_them_in_every_layer() -> None:
    found = model(
        "xverse", intermediate_size=EXPERT, num_experts=8, moe_top_k=2, num_shared_experts=2
    )
    sparse = 8 * H + 10 * 3 * H * EXPERT
    assert found.parameters() == 4 * (GQA + sparse + 2 * H) + OUTSIDE


def test_step_1_names_its_kv_heads_groups() -> None:
    named = {"num_key_value_heads": None, "head_dim": None, "max_position_embeddings": None}
    found = model("step1", num_attention_groups=2, max_seq_len=8192, **named)
    assert found.parameters() == 4 * (GQA + GATED + 2 * H) + OUTSIDE
    assert found.max_context == 8192


def test_layers_of_intern_s2_mobius_share_banks_of_experts() -> None:
    given = {
        "layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT,
        "shared_expert_intermediate_size": 48,
    }  # fmt: skip
    apart, shared = (
        model("qwen3_5_moe_text", **given),
        model("interns2_mobius_text", **given, num_blocks=2),
    )
    bank = 8 * H + 8 * 3 * H * EXPERT
    assert apart.parameters() - shared.parameters() == 2 * bank
    assert shared.parameters("experts") == 2 * 8 * 3 * H * EXPERT
    assert shared.num_layers == 4
