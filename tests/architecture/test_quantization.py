"""Quantization configs of all methods: which tensors are stored how."""

from __future__ import annotations

from typing import Any

import pytest

from shardwise.architecture.formats import Format
from shardwise.architecture.model import Model
from shardwise.architecture.quantization.names import Names
from shardwise.architecture.reading.parse import parse
from shardwise.errors import InputError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 256,
}
MIXTRAL = {
    **LLAMA,
    "model_type": "mixtral",
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def quantized(quant: dict[str, Any], values: dict[str, Any] = LLAMA) -> Model:
    return parse({**values, "quantization_config": quant}, "tiny")


def stored(model: Model, name: str, layer: int = 0) -> Format:
    if layer < 0:
        return next(t.format for t in model.outer if t.name == name)
    group = next(g for g in model.groups if layer in g.layers)
    return next(t.format for t in group.tensors if t.name == name)


@pytest.mark.parametrize(
    ("entry", "name", "is_in"),
    [
        ("lm_head", "lm_head", True),
        ("gate", "model.layers.3.mlp.gate", True),
        ("gate", "model.layers.3.mlp.gate_proj", False),
        ("model.layers.3.self_attn", "model.layers.3.self_attn.q_proj", True),
        ("model.layers.3.self_attn", "model.layers.30.self_attn.q_proj", False),
        ("model.layers.*.self_attn", "model.layers.30.self_attn.q_proj", True),
        ("model.layers.3.self_attn*", "model.layers.3.self_attn.q_proj", True),
        ("language_model.model.layers.3.self_attn*", "model.layers.3.self_attn.q_proj", True),
        ("model.language_model.layers.3.mlp", "model.layers.3.mlp.up_proj", True),
        ("*shared_expert*", "model.layers.3.mlp.shared_experts.up_proj", True),
        ("re:.*self_attn.*", "model.layers.3.self_attn.q_proj", True),
        ("re:self_attn", "model.layers.3.self_attn.q_proj", False),
        (r"re:.*mlp\.(gate|up)_proj$", "model.layers.3.mlp.down_proj", False),
        (r"re:.*layers\.[0-2]\..*", "model.layers.3.mlp.up_proj", False),
        (r"re:.*layers\.[0-3]\..*", "model.layers.3.mlp.up_proj", True),
        ("experts", "model.layers.3.mlp.experts.*.up_proj", True),
    ],
)
def test_names_are_matched_as_their_writers_mean_them(entry: str, name: str, is_in: bool) -> None:
    assert (name in Names([entry])) == is_in


def test_what_is_excluded_in_one_layer_is_not_in_the_next() -> None:
    names = Names(["model.layers.0.mlp*", "lm_head"])
    assert "model.layers.0.mlp.up_proj" in names
    assert "model.layers.1.mlp.up_proj" not in names


def test_fp8_by_block_and_by_tensor() -> None:
    by_block = quantized({"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert stored(by_block, "mlp.up_proj") == Format("fp8", 8, (128, 128), 4.0, "fp8")
    by_tensor = quantized({"quant_method": "fp8", "weight_block_size": None})
    assert stored(by_tensor, "mlp.up_proj").block == (0, 0)
    assert stored(by_tensor, "lm_head", -1).dtype == "bf16"
    assert stored(by_tensor, "input_layernorm").dtype == "bf16"


def test_several_groups_each_with_its_targets() -> None:
    eight = {"num_bits": 8, "type": "float", "strategy": "channel"}
    four = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    model = quantized(
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {"targets": ["re:.*self_attn.*"], "weights": eight},
                "group_1": {"targets": ["Linear"], "weights": four, "input_activations": four},
            },
            "ignore": ["lm_head", "re:.*down_proj"],
        }
    )
    assert stored(model, "self_attn.q_proj") == Format("fp8", 8, (1, 0), 4.0, "bf16")
    assert stored(model, "mlp.up_proj") == Format("nvfp4", 4, (1, 16), 1.0, "fp4")
    assert stored(model, "mlp.down_proj").dtype == "bf16"


@pytest.mark.parametrize(
    ("weights", "inputs", "form"),
    [
        (
            {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128},
            {"num_bits": 8, "type": "float"},
            Format("int4", 4, (1, 128), 2.0, "fp8"),
        ),
        (
            {"num_bits": 8, "type": "int", "strategy": "channel"},
            {"num_bits": 8, "type": "int"},
            Format("int8", 8, (1, 0), 2.0, "int8"),
        ),
        (
            {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32},
            {"num_bits": 8, "type": "float"},
            Format("mxfp8", 8, (1, 32), 1.0, "fp8"),
        ),
        (
            {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
            {"num_bits": 8, "type": "float"},
            Format("fp8", 8, (128, 128), 4.0, "fp8"),
        ),
        (
            {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
            {},
            Format("mxfp4", 4, (1, 32), 1.0, "bf16"),
        ),
    ],
)
def test_compressed_tensors_schemes(
    weights: dict[str, Any], inputs: dict[str, Any], form: Format
) -> None:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    model = quantized({"quant_method": "compressed-tensors", "config_groups": {"group_0": group}})
    assert stored(model, "mlp.up_proj") == form


def test_mixed_precision_names_the_algorithm_of_each_layer() -> None:
    layers = {
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.0.mlp.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "lm_head": {"quant_algo": "FP8"},
    }
    model = quantized(
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "kv_cache_quant_algo": "FP8",
            "quantized_layers": layers,
        }
    )
    assert stored(model, "self_attn.q_proj").dtype == "fp8"
    assert stored(model, "mlp.up_proj").dtype == "nvfp4"
    assert stored(model, "mlp.down_proj").dtype == "bf16"
    assert stored(model, "mlp.up_proj", layer=1).dtype == "bf16"
    assert stored(model, "lm_head", -1).dtype == "fp8"
    assert model.kv_dtype == "fp8"


def test_quark_has_a_global_scheme_and_others_by_layer() -> None:
    four = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}
    eight = {"dtype": "fp8_e4m3", "qscheme": "per_channel"}
    model = quantized(
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": four, "input_tensors": four},
            "layer_quant_config": {"*self_attn*": {"weight": eight, "input_tensors": eight}},
            "exclude": ["lm_head", "model.layers.1.mlp.down_proj"],
            "kv_cache_quant_config": {"*k_proj": {"output_tensors": {"dtype": "fp8_e4m3"}}},
        }
    )
    assert stored(model, "mlp.up_proj") == Format("mxfp4", 4, (1, 32), 1.0, "fp4")
    assert stored(model, "self_attn.q_proj") == Format("fp8", 8, (1, 0), 4.0, "fp8")
    assert stored(model, "mlp.down_proj", layer=1).dtype == "bf16"
    assert stored(model, "lm_head", -1).dtype == "bf16"
    assert model.kv_dtype == "fp8"


def test_mxfp4_of_gpt_oss_is_of_experts_alone() -> None:
    model = quantized({"quant_method": "mxfp4"}, MIXTRAL)
    assert stored(model, "block_sparse_moe.experts.*.w1").dtype == "mxfp4"
    assert stored(model, "self_attn.q_proj").dtype == "bf16"


def test_a_router_is_never_quantized() -> None:
    model = quantized({"quant_method": "fp8"}, MIXTRAL)
    assert stored(model, "block_sparse_moe.gate").dtype == "bf16"


@pytest.mark.parametrize("method", ["awq", "gptq", "auto-round"])
def test_integers_by_group(method: str) -> None:
    model = quantized({"quant_method": method, "bits": 4, "group_size": 64, "sym": True})
    assert stored(model, "mlp.up_proj") == Format("int4", 4, (1, 64), 2.0, "bf16")


def test_gptq_may_have_rules_by_layer_and_a_quantized_head() -> None:
    model = quantized(
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "lm_head": True,
            "dynamic": {r"-:.*down_proj": {}, r"+:.*self_attn.*": {"bits": 8}},
        }
    )
    assert stored(model, "mlp.down_proj").dtype == "bf16"
    assert stored(model, "self_attn.q_proj").bits == 8
    assert stored(model, "mlp.up_proj").bits == 4
    assert stored(model, "lm_head", -1).bits == 4


def test_gptq_and_auto_round_may_quantize_some_modules_or_blocks() -> None:
    some = {"modules_in_block_to_quantize": [["self_attn.q_proj", "self_attn.k_proj"]]}
    model = quantized({"quant_method": "gptq", "bits": 4, **some})
    assert stored(model, "self_attn.q_proj").dtype == "int4"
    assert stored(model, "mlp.up_proj").dtype == "bf16"
    first = {"block_name_to_quantize": "model.layers.0"}
    model = quantized({"quant_method": "auto-round", "bits": 4, **first})
    assert stored(model, "mlp.up_proj").dtype == "int4"
    assert stored(model, "mlp.up_proj", 1).dtype == "bf16"
    every = {"block_name_to_quantize": ["model.language_model.layers"]}
    model = quantized({"quant_method": "auto-round", "bits": 4, **every})
    assert stored(model, "mlp.up_proj", 1).dtype == "int4"


@pytest.mark.parametrize(
    "quant",
    [
        {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"},
        {"quant_method": "compressed-tensors", "config_groups": {},
         "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
    ],
)  # fmt: skip
def test_the_cache_alone_may_be_quantized(quant: dict[str, Any]) -> None:
    model = quantized(quant)
    assert model.kv_dtype == "fp8"
    assert stored(model, "mlp.up_proj").dtype == "bf16"


def test_groups_without_an_algorithm_are_not_the_cache_alone() -> None:
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}
    quant = {"quant_method": "modelopt", "config_groups": {"group_0": group},
             "kv_cache_quant_algo": "FP8"}  # fmt: skip
    assert stored(quantized(quant), "mlp.up_proj").dtype == "fp8"


@pytest.mark.parametrize(
    "sparse",
    [{"sparsity_config": {"format": "sparse-24-bitmask"}}, {"format": "marlin-24"}],
)
def test_sparse_weights_are_not_read_as_dense_ones(sparse: dict[str, Any]) -> None:
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 128}}}
    with pytest.raises(InputError, match="sparse weights are not supported"):
        quantized({"quant_method": "compressed-tensors", "config_groups": groups, **sparse})


def test_bitsandbytes_nf4_has_a_scale_for_each_64() -> None:
    plain = quantized({"quant_method": "bitsandbytes", "load_in_4bit": True})
    nested = quantized(
        {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_use_double_quant": True,
            "llm_int8_skip_modules": ["lm_head", "down_proj"],
        }
    )
    assert stored(plain, "mlp.up_proj").scale_bytes == 4.0
    assert stored(nested, "mlp.up_proj").scale_bytes < 1.1
    assert stored(nested, "mlp.down_proj").dtype == "bf16"
    eight = quantized({"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert stored(eight, "mlp.up_proj").dtype == "int8"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("int4_weight_only", "int4"),
        ({"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}}, "int4"),
        ({"default": {"_type": "Float8DynamicActivationFloat8WeightConfig", "_data": {}}}, "fp8"),
        ("int8_weight_only", "int8"),
    ],
)
def test_torchao_names_a_config_class(kind: object, dtype: str) -> None:
    model = quantized({"quant_method": "torchao", "quant_type": kind})
    assert stored(model, "mlp.up_proj").dtype == dtype
    assert stored(model, "lm_head", -1).dtype == "bf16"


def test_torchao_int4_has_a_scale_and_a_zero_point_per_group() -> None:
    kind = {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}}
    form = stored(quantized({"quant_method": "torchao", "quant_type": kind}), "self_attn.q_proj")
    assert form.size(256, 256) == 256 * 256 / 2 + 256 * 256 / 64 * 4


def test_fbgemm_fp8_has_a_scale_for_each_output() -> None:
    quant = {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["model.layers.0.mlp"]}
    model = quantized(quant)
    assert stored(model, "mlp.up_proj").dtype == "bf16"
    up = stored(model, "mlp.up_proj", layer=1)
    assert float(up.bytes_of(512, 256)) == 512 * 256 + 4 * 512


def test_w4afp8_has_integer_experts_and_fp8_for_the_rest() -> None:
    quant = {"quant_method": "w4afp8", "weight_block_size": [128, 128], "group_size": 128}
    model = quantized(quant, MIXTRAL)
    experts = stored(model, "block_sparse_moe.experts.*.w1")
    assert (experts.dtype, experts.activations) == ("int4", "fp8")
    assert stored(model, "self_attn.q_proj").dtype == "fp8"


@pytest.mark.parametrize(
    ("fields", "kv"),
    [
        ({}, "bf16"),
        ({"kv_cache_scheme": None}, "bf16"),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({"kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"kv_cache_quant_algo": None}, "bf16"),
        ({"kv_cache_scheme": "FP8"}, "fp8"),
    ],
)
def test_the_cache_has_the_dtype_that_the_checkpoint_asks_for(
    fields: dict[str, Any], kv: str
) -> None:
    quant = {"quant_method": "modelopt", "quant_algo": "NVFP4", **fields}
    assert quantized(quant).kv_dtype == kv


@pytest.mark.parametrize(
    ("quant", "field"),
    [
        ({"quant_method": "fp3"}, "quant_method"),
        ({}, "quant_method"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
        ({"quant_method": "fp8", "ignored_layers": "lm_head"}, "ignored_layers"),
        ({"quant_method": "gptq", "bits": 5}, "bits"),
        ({"quant_method": "compressed-tensors"}, "config_groups"),
        ({"quant_method": "modelopt", "quant_algo": "FP2"}, "quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quantized_layers"),
        ({"quant_method": "quark"}, "global_quant_config"),
        ({"quant_method": "torchao", "quant_type": "int3"}, "quant_type"),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["re:("]}, "regular expression"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "X"}, "kv_cache"),
    ],
)
def test_a_quantization_that_is_not_understood_names_its_field(
    quant: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError, match=field) as caught:
        quantized(quant)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("quant", "dtype", "bytes_a_weight"),
    [
        # 4 bits, and 4 bytes of scale and zero point for 64 weights
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4,
          "group_size": 64}}, "skip_modules": ["lm_head"]}, "int4", 0.5 + 4 / 64),
        ({"quant_method": "eetq", "weights": "int8"}, "int8", 1 + 2 / 256),
        ({"quant_method": "quanto", "weights": "float8"}, "fp8", 1 + 2 / 256),
        ({"quant_method": "bitnet", "quantization_mode": "offline"}, "int4", 0.25),
        ({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, "mxfp4", 0.5 + 1 / 32),
        ({"quant_method": "w8a8_int8"}, "int8", 1 + 4 / 256),
        ({"quant_method": "blockwise_int8", "weight_block_size": [128, 128]}, "int8",
         1 + 4 / 128**2),
        ({"quant_method": "nvfp4"}, "nvfp4", 0.5 + 1 / 16),
        ({"quant_method": "fouroversix"}, "nvfp4", 0.5 + 1 / 16),
        ({"quant_method": "higgs", "bits": 3, "group_size": 256}, "int4", 3 / 8 + 2 / 256),
    ],
)  # fmt: skip
def test_methods_with_configs_of_their_own(
    quant: dict[str, Any], dtype: str, bytes_a_weight: float
) -> None:
    form = stored(quantized(quant), "self_attn.q_proj")
    assert form.dtype == dtype
    held = float(form.bytes_of(256, 256)) / 256**2
    assert held == pytest.approx(bytes_a_weight, rel=1e-3)


def test_experts_int8_leaves_attention_as_it_is() -> None:
    model = quantized({"quant_method": "experts_int8"}, MIXTRAL)
    assert stored(model, "block_sparse_moe.experts.*.w1").dtype == "int8"
    assert stored(model, "self_attn.q_proj").dtype == "bf16"


@pytest.mark.parametrize(
    ("quant", "field"),
    [
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 5}}}, "nbits"),
        ({"quant_method": "hqq"}, "quant_config"),
        ({"quant_method": "quanto", "weights": "int3"}, "weights"),
        ({"quant_method": "fp_quant", "forward_dtype": "fp6"}, "forward_dtype"),
    ],
)
def test_a_bad_value_of_these_methods_names_its_field(quant: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        quantized(quant)


LLAMA_2_7B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}


@pytest.mark.parametrize(("books", "bits"), [(1, 16), (2, 8)])
def test_aqlm_has_codebooks_for_each_matrix(books: int, bits: int) -> None:
    """With one codebook of 16 bits, 2.4 GB as in AQLM's README."""
    quant = {
        "quant_method": "aqlm", "in_group_size": 8, "out_group_size": 1, "num_codebooks": books,
        "nbits_per_codebook": bits,
        "linear_weights_not_to_quantize": ["model.embed_tokens.weight", "lm_head.weight"],
    }  # fmt: skip
    model = quantized(quant, LLAMA_2_7B)
    if bits == 16:
        assert round(model.weight_bytes / 1e9, 1) == 2.4
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    scales = 32 * 2 * (5 * 4096 + 2 * 11008)
    tables = 32 * 7 * books * 2**bits * 8 * 2
    outside = 2 * (2 * 32000 * 4096 + 65 * 4096)
    assert model.weight_bytes == weights * 2 / 8 + scales + tables + outside


def test_ranks_have_a_copy_of_the_codebooks() -> None:
    form = Format("int4", 2, (1, 0), 2.0, "bf16", table_bytes=1000.0)
    assert float(form.bytes_of(64, 64)) == form.size(64, 64) == 64 * 64 / 4 + 2 * 64 + 1000
    halves = 2 * form.size(32, 64)
    assert halves - form.size(64, 64) == 1000
    assert form.size(0, 64) == float(form.bytes_of(0, 64)) == 0.0


def test_vptq_lists_each_module_with_its_codebooks() -> None:
    module = {
        "vector_lens": [-1, 8], "num_centroids": [-1, 65536], "num_res_centroids": [-1, 256],
        "group_num": 1, "group_size": 256, "outlier_size": 0, "in_features": 256,
        "out_features": 256, "enable_norm": True, "enable_perm": True, "indices_as_float": False,
        "is_indice_packed": True,
    }  # fmt: skip
    name = "model.layers.0.self_attn.q_proj"
    model = quantized({"quant_method": "vptq", "config_for_layers": {name: module}})
    form = stored(model, "self_attn.q_proj")
    # 16 + 8 bits for 8 weights; two codebooks; scale, offset and position of each input
    held = 256 * 256 * 3 / 8 + (65536 + 256) * 8 * 2 + 256 * 6
    assert form.size(256, 256) == held
    assert stored(model, "self_attn.q_proj", 1).dtype == "bf16"
    for field, value in (("outlier_size", 4), ("num_centroids", [-1, 1000])):
        with pytest.raises(InputError, match=field):
            quantized(
                {"quant_method": "vptq", "config_for_layers": {name: {**module, field: value}}}
            )


@pytest.mark.parametrize("method", ["spqr", "gguf", "sinq"])
def test_a_method_whose_bytes_the_file_does_not_tell_is_refused_by_name(method: str) -> None:
    with pytest.raises(InputError, match=f"quant_method is '{method}': ") as caught:
        quantized({"quant_method": method})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["quantization", "quantization_config"])
def test_an_mlx_checkpoint_is_not_read_as_16_bits(field: str) -> None:
    with pytest.raises(InputError, match="MLX"):
        parse({**LLAMA, field: {"group_size": 64, "bits": 4}}, "tiny")


def test_nvfp4_experts_in_an_fp8_checkpoint_leave_the_rest_in_fp8() -> None:
    """nvidia/DeepSeek-V4-Flash-NVFP4: `ignore` lists what is not NVFP4, and stays fp8."""
    quant = {
        "quant_method": "fp8", "weight_block_size": [128, 128], "moe_quant_algo": "NVFP4",
        "quant_algo": "MIXED_PRECISION", "ignore": ["*.attn.*", "*.self_attn.*"],
        "quantized_layers": {"model.layers.0.block_sparse_moe.experts": {"quant_algo": "NVFP4"}},
    }  # fmt: skip
    model = quantized(quant, MIXTRAL)
    assert stored(model, "block_sparse_moe.experts.*.w1").dtype == "nvfp4"
    assert stored(model, "block_sparse_moe.experts.*.w1", 1).dtype == "fp8"
    assert stored(model, "self_attn.q_proj").dtype == "fp8"
    in_fp4 = parse({**MIXTRAL, "quantization_config": quant, "expert_dtype": "fp4"}, "tiny")
    assert stored(in_fp4, "block_sparse_moe.experts.*.w1", 1).dtype == "mxfp4"
