"""config.json to Architecture: what is read, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.architecture.config import SUPPORTED, parse
from shardwise.errors import InputError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}


def changed(**fields: Any) -> dict[str, Any]:
    return {**LLAMA, **fields}


def test_head_dim_defaults_to_hidden_over_heads() -> None:
    assert parse(LLAMA, "m").head_dim == 64
    assert parse(changed(head_dim=128), "m").head_dim == 128


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_attention_heads", 0),
        ("num_hidden_layers", -1),
        ("hidden_size", "512"),
        ("hidden_size", True),
        ("vocab_size", 1e3),
        ("vocab_size", 10**30),
        ("num_key_value_heads", 3),
        ("num_key_value_heads", 16),
        ("intermediate_size", None),
        ("tie_word_embeddings", "yes"),
        ("mlp_bias", True),
        ("torch_dtype", "float7"),
        ("quantization_config", []),
        ("quantization_config", {"quant_method": "magic"}),
        ("rope_scaling", {"rope_type": "linear", "factor": "2"}),
    ],
)
def test_nonsense_is_refused_naming_the_field(field: str, value: object) -> None:
    named = {"quantization_config": "quant", "rope_scaling": "factor"}.get(field, field)
    with pytest.raises(InputError, match=named):
        parse(changed(**{field: value}), "m")


@pytest.mark.parametrize("field", sorted(set(LLAMA) - {"num_key_value_heads"}))
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InputError, match=field):
        parse({k: v for k, v in LLAMA.items() if k != field}, "m")


@pytest.mark.parametrize("family", ["gemma3", "mamba", "phi3", "llama4", ""])
def test_an_unknown_family_is_refused_with_the_supported_list(family: str) -> None:
    with pytest.raises(InputError, match=", ".join(SUPPORTED)):
        parse(changed(model_type=family), "m")


def test_a_multimodal_wrapper_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"mllama.*text_config"):
        parse({"model_type": "mllama", "text_config": LLAMA}, "m")


def test_qwen_window_counts_only_when_it_is_used() -> None:
    qwen = changed(model_type="qwen2", sliding_window=128, max_window_layers=3)
    assert parse(qwen, "m").num_sliding_layers == 0
    assert parse({**qwen, "use_sliding_window": True}, "m").num_sliding_layers == 1


def test_mistral_window_holds_for_every_layer() -> None:
    arch = parse(changed(model_type="mistral", sliding_window=4096), "m")
    assert (arch.sliding_window, arch.num_sliding_layers) == (4096, 4)


def test_layer_types_say_which_layers_slide() -> None:
    moe = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128}
    kinds = ["sliding_attention", *["full_attention"] * 3]
    assert parse(changed(model_type="gpt_oss", **moe), "m").num_sliding_layers == 2
    listed = changed(model_type="gpt_oss", layer_types=kinds, **moe)
    assert parse(listed, "m").num_sliding_layers == 1
    with pytest.raises(InputError, match="layer_types"):
        parse({**listed, "layer_types": kinds[:2]}, "m")


def test_sparse_step_and_mlp_only_layers_leave_dense_layers() -> None:
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    arch = parse(
        changed(model_type="qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[1], **moe), "m"
    )
    # of layers 0..3 step 2 takes 1 and 3; layer 1 is listed dense
    assert arch.num_moe_layers == 1
    assert arch.num_dense_layers == 3


def test_yarn_multiplies_the_trained_length() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert parse(changed(rope_scaling=rope), "m").max_context == 131072
    llama3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    assert parse(changed(rope_scaling=llama3), "m").max_context == 4096


@pytest.mark.parametrize(
    ("quantization", "dtype", "block"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 128),
        ({"quant_method": "fp8"}, "fp8", 0),
        ({"quant_method": "mxfp4"}, "mxfp4", 32),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", 64),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 16),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}},
         "fp8", 0),
        ({"quant_method": "compressed-tensors",
          "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}}}, "fp8", 0),
        ({"quant_method": "compressed-tensors",
          "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}}},
         "int4", 128),
    ],
)  # fmt: skip
def test_checkpoint_dtype(quantization: dict[str, Any], dtype: str, block: int) -> None:
    arch = parse(changed(quantization_config=quantization), "m")
    assert (arch.checkpoint_dtype, arch.quantization_block) == (dtype, block)


def test_dtype_is_read_under_its_old_and_new_name() -> None:
    assert parse(changed(torch_dtype="float32"), "m").checkpoint_dtype == "fp32"
    assert parse(changed(dtype="float16"), "m").checkpoint_dtype == "fp16"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = (*LLAMA, "head_dim", "sliding_window", "layer_types", "rope_scaling", "num_experts",
          "quantization_config", "num_local_experts", "num_experts_per_tok", "n_routed_experts",
          "kv_lora_rank", "mlp_only_layers", "torch_dtype", "attention_bias")  # fmt: skip


@given(
    family=st.sampled_from(SUPPORTED),
    garbage=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=4),
)
def test_garbage_gives_an_input_error_or_a_sound_architecture(
    family: str, garbage: dict[str, Any]
) -> None:
    try:
        arch = parse({**LLAMA, "model_type": family, **garbage}, "m")
    except InputError:
        return
    assert min(arch.hidden_size, arch.num_layers, arch.num_heads, arch.head_dim) > 0
