"""What reading a config.json gives: shapes, cuts, caches of families, and merged layers."""

from __future__ import annotations

from typing import Any

import pytest

from shardwise.architecture.feed_forward import Mlp, Moe, NoFeedForward
from shardwise.architecture.mixers import Attention, LinearAttention, Mamba2, Mla, NoMixer
from shardwise.architecture.model import Model
from shardwise.architecture.models import load
from shardwise.architecture.reading.parse import parse

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}


def tensors(model: Model) -> dict[str, Any]:
    return {tensor.name: tensor for _, tensor in model.tensors()}


def test_llama_cuts_heads_and_widths() -> None:
    found = tensors(parse(LLAMA, "tiny"))
    q, k, o = (found[f"self_attn.{name}_proj"] for name in "qko")
    assert (q.rows, q.cols, q.cut, q.units) == (64, 64, "rows", 4)
    assert (k.rows, k.cols, k.cut, k.units) == (32, 64, "rows", 2)
    assert (o.rows, o.cols, o.cut, o.units) == (64, 64, "cols", 4)
    assert found["mlp.down_proj"].cut == "cols"
    assert found["input_layernorm"].cut == "replicated"
    assert {q.gemm, k.gemm} == {"qkv_proj"}


def test_equal_layers_are_one_group() -> None:
    (group,) = parse(LLAMA, "tiny").groups
    assert group.layers == (0, 1, 2, 3)


def test_layers_whose_formats_differ_are_groups_of_their_own() -> None:
    quant = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp", "lm_head"]}
    first, rest = parse({**LLAMA, "quantization_config": quant}, "tiny").groups
    assert (first.layers, rest.layers) == ((0,), (1, 2, 3))
    assert {t.format.dtype for t in first.feed_forward.tensors} == {"bf16"}
    assert {t.format.dtype for t in rest.feed_forward.tensors} == {"fp8"}


def test_a_tied_head_is_no_tensor_of_its_own() -> None:
    untied, tied = (parse({**LLAMA, "tie_word_embeddings": t}, "tiny") for t in (False, True))
    assert untied.parameters() - tied.parameters() == 100 * 64
    assert tied.head is not None


@pytest.mark.parametrize(
    ("architecture", "generates"),
    [
        ("LlamaForCausalLM", True),
        ("LlamaForSequenceClassification", False),
        ("InternLM2ForRewardModel", False),
        ("MistralModel", False),
        ("ChatGLMModel", True),
        ("GPT2LMHeadModel", True),
    ],
)
def test_architectures_tell_whether_there_is_a_head(architecture: str, generates: bool) -> None:
    model = parse({**LLAMA, "architectures": [architecture]}, "tiny")
    assert model.generates == generates
    assert ("lm_head" in tensors(model)) == generates


def test_a_window_is_kept_by_the_layers_that_slide() -> None:
    model = load("gpt-oss-20b")
    windows = {g.layers[0]: g.mixer.caches[0].window for g in model.groups}
    assert windows == {0: 128, 1: 0}
    assert "self_attn.sinks" in tensors(model)


def test_mla_keeps_one_latent_that_no_layout_cuts() -> None:
    model = load("deepseek-r1")
    mla = model.mla
    assert mla is not None
    (latent,) = mla.caches
    assert (latent.elements, latent.units) == (512 + 64, 1)
    found = {t.name: t for t in mla.tensors}
    assert found["self_attn.kv_a_proj_with_mqa"].cut == "replicated"
    assert found["self_attn.q_b_proj"].units == 128
    assert found["self_attn.q_a_proj"].gemm == found["self_attn.kv_a_proj_with_mqa"].gemm


def test_dense_first_layers_and_shared_experts_of_deepseek() -> None:
    dense, sparse = load("deepseek-r1").groups
    assert (dense.layers, sparse.count) == ((0, 1, 2), 58)
    assert isinstance(dense.feed_forward, Mlp)
    moe = sparse.feed_forward
    assert isinstance(moe, Moe)
    assert (moe.num_experts, moe.top_k, moe.expert_width, moe.shared_width) == (256, 8, 2048, 2048)
    experts = [t for t in moe.tensors if t.part == "experts"]
    assert {t.copies for t in experts} == {256}


def test_the_indexer_keeps_a_key_and_a_scale_for_each_token() -> None:
    mla = load("deepseek-v3.2").mla
    assert mla is not None
    assert mla.indexer is not None
    assert (mla.indexer.num_heads, mla.indexer.head_dim, mla.indexer.top_k) == (64, 128, 2048)
    key = mla.caches[1]
    assert (key.name, key.elements, key.dtype) == ("indexer", 128 + 4, "fp8")


def test_layers_that_share_an_indexer_keep_no_keys_of_their_own() -> None:
    kinds = {len(g.mixer.caches) for g in load("glm-5.2").groups}
    assert kinds == {1, 2}


def test_deepseek_v4_keeps_a_window_and_compressed_entries() -> None:
    caches = {g.mixer.caches for g in load("deepseek-v4-flash").groups}
    kept = {tuple((c.name, c.window, c.stride) for c in layer) for layer in caches}
    window = ("kv", 128, 1)
    assert kept == {
        (window,),
        (window, ("compressed_kv", 0, 4), ("indexer", 0, 4)),
        (window, ("compressed_kv", 0, 128)),
    }


def test_gated_delta_net_keeps_a_state_for_each_sequence() -> None:
    delta = next(
        g.mixer for g in load("qwen3-next-80b-a3b").groups if isinstance(g.mixer, LinearAttention)
    )
    conv, state = delta.caches
    assert conv.per_sequence
    assert state.per_sequence
    assert conv.elements == (2 * 16 * 128 + 32 * 128) * 3
    assert state.elements == 32 * 128 * 128


def test_states_have_the_dtype_that_the_file_asks_for() -> None:
    asked, unasked = load("qwen3.5-27b"), load("qwen3-next-80b-a3b")
    assert {c.dtype for g in asked.groups for c in g.mixer.caches if c.name == "ssm_state"} == {
        "fp32"
    }
    assert {c.dtype for g in unasked.groups for c in g.mixer.caches if c.per_sequence} == {"bf16"}


def test_nemotron_alternates_blocks_of_one_part() -> None:
    groups = load("nemotron-3-nano").groups
    kinds = [(type(g.mixer), type(g.feed_forward), g.count) for g in groups]
    assert kinds == [
        (Mamba2, NoFeedForward, 23),
        (NoMixer, Moe, 23),
        (Attention, NoFeedForward, 6),
    ]


def test_experts_of_a_latent_space_take_in_less_than_the_hidden_size() -> None:
    moe = load("nemotron-3-ultra").moe
    assert moe is not None
    assert (moe.expert_input, moe.gated) == (2048, False)
    assert not any(t.name.endswith("gate_proj") for t in moe.tensors)


def test_kimi_k3_mixes_delta_attention_and_mla() -> None:
    groups = load("kimi-k3").groups
    counts = {type(g.mixer): 0 for g in groups}
    for group in groups:
        counts[type(group.mixer)] += group.count
    assert counts == {LinearAttention: 69, Mla: 24}


def test_llama4_keeps_a_chunk_in_three_layers_of_four() -> None:
    model = load("llama-4-scout")
    chunked = [g for g in model.groups if isinstance(g.mixer, Attention) and g.mixer.chunk]
    assert sum(g.count for g in chunked) == 36
    assert {g.mixer.caches[0].window for g in chunked} == {8192}


def test_layers_that_share_keys_and_values_keep_none() -> None:
    values = {
        "model_type": "gemma3n_text",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 100,
        "vocab_size_per_layer_input": 100,
    }
    model = parse(values, "tiny")
    kept = sum(g.count for g in model.groups if g.mixer.caches)
    assert kept == 5


@pytest.mark.parametrize("model_type", [None, "my_llama"])
def test_an_unknown_type_is_read_as_the_class_that_engines_load(model_type: str | None) -> None:
    """vLLM and SGLang choose their model class by `architectures`."""
    named = {**LLAMA, "model_type": model_type, "architectures": ["LlamaForCausalLM"]}
    assert parse(named, "tiny").parameters() == parse(LLAMA, "tiny").parameters()
    assert parse(named, "tiny").family == "llama"


@pytest.mark.parametrize("field", ["text_config", "llm_config", "llm_cfg", "language_config"])
def test_wrappers_name_their_text_model_differently(field: str) -> None:
    wrapper = {"model_type": "some_vlm", field: LLAMA}
    assert parse(wrapper, "tiny").parameters() == parse(LLAMA, "tiny").parameters()


@pytest.mark.parametrize("name", ["google/siglip-so400m-patch14-384", "siglip_so400m_patch14_384"])
def test_a_named_tower_is_known_with_and_without_its_publisher(name: str) -> None:
    model = parse({**LLAMA, "model_type": "llava_llama", "mm_vision_tower": name}, "tiny")
    assert model.towers[0].parameters - (1025 * 64 + 65 * 64) == 428_225_600


def test_a_window_has_two_names() -> None:
    given = {**LLAMA, "model_type": "mistral", "sliding_window_size": 32}
    assert parse(given, "tiny").groups[0].mixer.caches[0].window == 32


def test_a_known_type_is_not_read_as_another_class() -> None:
    named = {**LLAMA, "model_type": "qwen3", "architectures": ["LlamaForCausalLM"]}
    assert parse(named, "tiny").family == "qwen3"


def test_text_is_found_in_a_wrapper_and_the_tower_is_counted() -> None:
    text = {name: value for name, value in LLAMA.items() if name != "model_type"}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "patch_size": 4}
    for name in ("text_config", "llm_config", "language_config"):
        values = {
            "model_type": "some_vlm",
            name: {**text, "model_type": "llama"},
            "vision_config": vision,
        }
        model = parse(values, "tiny")
        assert model.parameters() == parse(LLAMA, "tiny").parameters()
        (tower,) = model.towers
        # four matrices of attention, two of the MLP, their biases, two norms; the patches
        layer = 4 * 32 * 32 + 2 * 32 * 64 + 4 * 32 + 64 + 32 + 4 * 32
        assert tower.parameters == 2 * layer + 3 * 4 * 4 * 32
        assert tower.bytes == 2 * tower.parameters


@pytest.mark.parametrize(
    ("audio", "transformers"),
    [
        ({"model_type": "gemma4_audio", "hidden_size": 1024, "num_hidden_layers": 12}, 304_824_608),
        ({"model_type": "gemma3n_audio", "hidden_size": 1536, "conf_num_hidden_layers": 12,
          "conf_conv_kernel_size": 5}, 681_348_640),
    ],
)  # fmt: skip
def test_a_conformer_has_the_weights_that_transformers_builds(
    audio: dict[str, Any], transformers: int
) -> None:
    model = parse({**LLAMA, "audio_config": audio}, "tiny")
    (tower,) = model.towers
    projector = (1536 if audio["model_type"] == "gemma4_audio" else audio["hidden_size"]) * 64
    assert tower.parameters - projector == pytest.approx(transformers, rel=1e-4)


def test_the_text_of_an_omni_model_is_its_thinker_s() -> None:
    encoder = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    thinker = {
        "model_type": "some_thinker",
        "text_config": {**LLAMA, "model_type": "qwen2_5_omni_text"},
        "vision_config": {**encoder, "patch_size": 4},
        "audio_config": {"d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 64},
    }
    model = parse({"model_type": "some_omni", "thinker_config": thinker}, "tiny")
    assert model.family == "qwen2_5_omni_text"
    assert [tower.name for tower in model.towers] == ["vision", "audio"]


def test_sizes_that_a_wrapper_leaves_out_are_its_class_s() -> None:
    """Wrappers are saved without what is at its default: LLaVA 1.5 says no more than this."""
    model = parse({"model_type": "llava", "text_config": {"model_type": "llama"}}, "tiny")
    assert model.parameters() == 6_738_415_616  # Llama 2 7B


def test_a_wrapper_hands_its_quantization_to_the_text_model() -> None:
    values = {
        "model_type": "llava",
        "text_config": LLAMA,
        "quantization_config": {
            "quant_method": "fp8",
            "modules_to_not_convert": ["language_model.model.layers.0.self_attn"],
        },
    }
    first, rest = parse(values, "tiny").groups
    assert (first.layers, rest.layers) == ((0,), (1, 2, 3))


def test_a_llama_nemotron_layer_may_lack_a_part() -> None:
    blocks = [
        {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 3.0}},
        {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
        {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
    ]
    values = {
        **LLAMA,
        "model_type": "nemotron-nas",
        "num_hidden_layers": 3,
        "block_configs": blocks,
        "hidden_size": 512,
    }
    whole, without_attention, without_mlp = parse(values, "tiny").groups
    assert isinstance(whole.feed_forward, Mlp)
    assert whole.feed_forward.width == 1024  # 2 / 3 * 3 * 512
    assert isinstance(without_attention.mixer, NoMixer)
    assert isinstance(without_mlp.feed_forward, NoFeedForward)
    assert isinstance(without_mlp.mixer, Attention)
    assert without_mlp.mixer.num_kv_heads == 1
