"""How each method's names for a scheme become bits, blocks, scales and the dtype multiplied in."""

from __future__ import annotations

from typing import Any

import pytest
from tests.architecture.test_quantization import MIXTRAL, quantized, stored

from shardwise.architecture.formats import FORMATS, Format
from shardwise.errors import InputError


def up_proj(quant: dict[str, Any]) -> Format:
    return stored(quantized(quant), "mlp.up_proj")


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        # -1: a scale for each channel; an asymmetric one has a zero point of as many bits
        ({"bits": 4, "group_size": -1}, Format("int4", 4, (1, 0), 2.0, "bf16")),
        ({"bits": 8, "group_size": 128}, Format("int8", 8, (1, 128), 2.0, "bf16")),
        ({"bits": 3, "group_size": 64}, Format("int4", 3, (1, 64), 2.0, "bf16")),
        ({"bits": 2, "group_size": 32}, Format("int4", 2, (1, 32), 2.0, "bf16")),
        ({"bits": 4, "zero_point": True}, Format("int4", 4, (1, 128), 2.5, "bf16")),
        ({"bits": 4, "sym": False}, Format("int4", 4, (1, 128), 2.5, "bf16")),
        ({"w_bit": 4, "q_group_size": 64}, Format("int4", 4, (1, 64), 2.0, "bf16")),
        ({"bits": 4, "data_type": "nv_fp4"}, FORMATS["nvfp4"]),
        ({"bits": 4, "data_type": "mx_fp"}, FORMATS["mxfp4"]),
        ({"bits": 8, "data_type": "mx_fp"}, FORMATS["mxfp8"]),
        ({"bits": 8, "data_type": "fp"}, FORMATS["fp8"]),
    ],
)
def test_integers_by_group_have_their_zero_points_and_other_data_types(
    changes: dict[str, Any], form: Format
) -> None:
    assert up_proj({"quant_method": "auto-round", **changes}) == form


def test_bits_that_no_kernel_has_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"bits is 5; allowed: 2, 3, 4 or 8"):
        quantized({"quant_method": "gptq", "bits": 5})


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({"load_in_4bit": True}, Format("int4", 4, (1, 64), 4.0, "bf16")),
        # the scales of 256 blocks share one of 32 bits, and are 8 bits each
        (
            {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            Format("int4", 4, (1, 64), 1.0 + 4 / 256, "bf16"),
        ),
        ({"_load_in_8bit": True}, Format("int8", 8, (1, 0), 4.0, "int8")),
    ],
)
def test_bitsandbytes(changes: dict[str, Any], form: Format) -> None:
    assert up_proj({"quant_method": "bitsandbytes", **changes}) == form


@pytest.mark.parametrize("both", [{}, {"load_in_4bit": True, "load_in_8bit": True}])
def test_bitsandbytes_is_four_bits_or_eight(both: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"load_in_4bit is .* allowed: one of them true"):
        quantized({"quant_method": "bitsandbytes", **both})


def test_a_4_bit_weight_of_bitsandbytes_takes_half_a_byte_and_its_scales() -> None:
    model = quantized({"quant_method": "bitsandbytes", "load_in_4bit": True})
    plain = quantized({"quant_method": "fp8", "ignored_layers": ["re:.*"]})
    # two layers of 4 x 256 x 256 attention and 3 x 512 x 256 MLP weights: 2 bytes become 4.5 bits
    linear = 2 * (4 * 256 * 256 + 3 * 512 * 256)
    assert plain.weight_bytes - model.weight_bytes == pytest.approx(linear * (2 - 0.5 - 4 / 64))


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("int8_weight_only", Format("int8", 8, (1, 0), 2.0, "bf16")),
        ("float8_dynamic_activation_float8_weight", FORMATS["fp8"]),
        # a scale and a zero point of 16 bits for each group
        ({"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 32}}},
         Format("int4", 4, (1, 32), 4.0, "bf16")),
        ({"_type": "Int8DynamicActivationInt4WeightConfig"},
         Format("int4", 4, (1, 32), 2.0, "int8")),
        ({"_type": "Float8WeightOnlyConfig"}, Format("fp8", 8, (0, 0), 4.0, "bf16")),
        ({"_type": "NVFP4InferenceConfig"}, FORMATS["nvfp4"]),
    ],
)  # fmt: skip
def test_torchao_by_its_short_names_and_its_classes(kind: object, form: Format) -> None:
    assert up_proj({"quant_method": "torchao", "quant_type": kind}) == form


def test_torchao_with_a_table_of_names() -> None:
    table = {
        "_default": {"_type": "Int8WeightOnlyConfig"},
        "model.layers.0.mlp.up_proj": {"_type": "Float8WeightOnlyConfig"},
        "model.layers.1.mlp.down_proj": None,
    }
    kind = {"_type": "ModuleFqnToConfig", "_data": {"module_fqn_to_config": table}}
    model = quantized({"quant_method": "torchao", "quant_type": kind})
    assert stored(model, "mlp.up_proj").dtype == "fp8"
    assert stored(model, "mlp.up_proj", layer=1).dtype == "int8"
    assert stored(model, "mlp.down_proj", layer=1).dtype == "bf16"


def test_torchao_may_quantize_the_embeddings_output() -> None:
    asked = {"quant_method": "torchao", "quant_type": "int8_weight_only"}
    assert stored(quantized(asked), "lm_head", -1).dtype == "bf16"
    both = quantized({**asked, "include_input_output_embeddings": True})
    assert stored(both, "lm_head", -1).dtype == "int8"


def test_an_unknown_type_of_torchao_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"quant_type is 'int1_weight_only'; allowed: int4"):
        quantized({"quant_method": "torchao", "quant_type": "int1_weight_only"})


@pytest.mark.parametrize(
    ("weight", "inputs", "form"),
    [
        ({"dtype": "int4", "qscheme": "per_group", "group_size": 128}, None,
         Format("int4", 4, (1, 128), 2.0, "bf16")),
        ({"dtype": "int8", "qscheme": "per_tensor"}, {"dtype": "int8"},
         Format("int8", 8, (0, 0), 4.0, "int8")),
        ({"dtype": "fp6_e2m3", "qscheme": "per_group", "group_size": 32}, {"dtype": "fp8_e4m3"},
         Format("mxfp6", 6, (1, 32), 1.0, "fp8")),
        # microscaling under the name of its elements
        ({"dtype": "fp8_e4m3", "qscheme": "per_group", "group_size": 32}, {"dtype": "fp8_e4m3"},
         Format("mxfp8", 8, (1, 32), 1.0, "fp8")),
        ({"dtype": "mxfp4"}, None, Format("mxfp4", 4, (1, 32), 1.0, "bf16")),
        # two stages: int4 weights in fp8 ones are stored as int4
        ([{"dtype": "fp8_e4m3"}, {"dtype": "int4", "qscheme": "per_channel"}],
         {"dtype": "fp8_e4m3"}, Format("int4", 4, (1, 0), 4.0, "fp8")),
    ],
)  # fmt: skip
def test_quark_schemes(weight: Any, inputs: Any, form: Format) -> None:
    scheme = {"weight": weight, **({"input_tensors": inputs} if inputs else {})}
    assert up_proj({"quant_method": "quark", "global_quant_config": scheme}) == form


def test_quark_leaves_a_plain_layer_as_it_is() -> None:
    model = quantized(
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}},
            "layer_quant_config": {"*down_proj": {"weight": {"dtype": "bfloat16"}}},
        }
    )
    assert stored(model, "mlp.up_proj").dtype == "fp8"
    assert stored(model, "mlp.down_proj").dtype == "bf16"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"global_quant_config": {"weight": {"dtype": "fp3"}}}, r"dtype is 'fp3'"),
        ({"global_quant_config": {"weight": "fp8"}}, r"an object or a list of objects"),
        ({"global_quant_config": {}}, r"global_quant_config .*an object with a weight"),
        (
            {
                "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}},
                "kv_cache_quant_config": {"*k_proj": {"output_tensors": {"dtype": "int8"}}},
            },
            r"dtype is 'int8'; allowed: fp8_e4m3",
        ),
    ],
)
def test_a_scheme_of_quark_that_cannot_be_read_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        quantized({"quant_method": "quark", **given})


@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        ("FP8", Format("fp8", 8, (0, 0), 4.0, "fp8")),
        ("fp8_pb_wo", Format("fp8", 8, (128, 128), 4.0, "fp8")),
        ("NVFP4", FORMATS["nvfp4"]),
        ("W4A16_NVFP4", Format("nvfp4", 4, (1, 16), 1.0, "bf16")),
        ("W4A8_MXFP4_FP8", Format("mxfp4", 4, (1, 32), 1.0, "fp8")),
        ("W8A16", Format("int8", 8, (1, 0), 2.0, "bf16")),
    ],
)
def test_modelopt_algorithms_in_either_case(algorithm: str, form: Format) -> None:
    assert up_proj({"quant_method": "modelopt", "quant_algo": algorithm}) == form


def test_a_group_size_of_the_file_replaces_that_of_the_algorithm() -> None:
    quant = {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ", "group_size": 64}
    assert up_proj(quant) == Format("int4", 4, (1, 64), 2.0, "fp8")


def test_a_whole_hf_quant_config_may_stand_in_the_config() -> None:
    inner = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    model = quantized({"quant_method": "modelopt", "quantization": inner})
    assert stored(model, "mlp.up_proj").dtype == "fp8"
    assert model.kv_dtype == "fp8"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"quant_algo": "FP3"}, "MIXED_PRECISION or one of FP8, "),
        ({"quant_algo": "MIXED_PRECISION"}, "an object: layer name -> quant_algo"),
    ],
)
def test_an_algorithm_of_modelopt_that_cannot_be_read_is_named(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        quantized({"quant_method": "modelopt", **given})


def test_only_the_experts_of_a_mixture_may_be_quantized() -> None:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    group = {"targets": [r"re:.*experts.*"], "weights": weights}
    quant = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    model = quantized(quant, MIXTRAL)
    assert stored(model, "block_sparse_moe.experts.*.w1") == Format("int4", 4, (1, 32), 2.0, "bf16")
    assert stored(model, "self_attn.q_proj").dtype == "bf16"
