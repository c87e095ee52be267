"""Config files that are not understood: one line, never a guess."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.architecture.bundled import bundled_config
from shardwise.architecture.reading.parse import parse
from shardwise.architecture.reading.registry import NOT_DESCRIBED
from shardwise.errors import InputError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}
DEEPSEEK = bundled_config("deepseek-v3")


def without(values: dict[str, Any], *names: str, **changes: Any) -> dict[str, Any]:
    return {**{k: v for k, v in values.items() if k not in names}, **changes}


def refused(values: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse(values, "tiny")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 6000
    return text


def test_an_unknown_model_type_with_llamas_fields_is_refused() -> None:
    text = refused({**LLAMA, "model_type": "llama_but_different"})
    assert "'llama_but_different'" in text
    assert "supported: " in text
    assert "CONTRIBUTING.md" in text


@pytest.mark.parametrize("model_type", sorted(NOT_DESCRIBED))
def test_a_known_model_that_cannot_be_described_is_refused_with_the_reason(
    model_type: str,
) -> None:
    text = refused({**LLAMA, "model_type": model_type})
    assert f"{model_type!r} is not supported: {NOT_DESCRIBED[model_type]}" in text


def test_a_file_without_a_model_type_is_refused() -> None:
    assert "model_type" in refused(without(LLAMA, "model_type"))


@pytest.mark.parametrize("count", ["num_deep_experts", "n_experts_routed", "moe_num_experts"])
def test_renamed_expert_counts_are_not_a_dense_model(count: str) -> None:
    text = refused(without(DEEPSEEK, "n_routed_experts", **{count: 256}))
    assert "expert" in text


def test_an_expert_size_without_an_expert_count_is_refused() -> None:
    text = refused(without(DEEPSEEK, "n_routed_experts"))
    assert "moe_intermediate_size without n_routed_experts" in text


def test_renamed_shared_experts_are_not_passed_over() -> None:
    values = without(DEEPSEEK, "n_shared_experts", n_common_experts=1)
    assert "n_common_experts" in refused(values)


def test_experts_in_a_dense_family_are_not_passed_over() -> None:
    assert "num_experts is 8" in refused({**LLAMA, "num_experts": 8})


def test_a_count_given_twice_is_no_contradiction() -> None:
    values = {**DEEPSEEK, "num_local_experts": 256, "num_experts": 256}
    assert parse(values, "tiny").moe is not None


def test_a_wrapper_without_text_is_refused() -> None:
    text = refused({"model_type": "some_vlm", "vision_config": {"hidden_size": 8}})
    assert "no text model" in text


def test_a_wrapper_around_an_unknown_text_model_is_refused() -> None:
    text = refused({"model_type": "some_vlm", "text_config": {**LLAMA, "model_type": "new_text"}})
    assert "'new_text'" in text


def test_a_tower_that_is_only_named_must_be_a_known_one() -> None:
    values = {**LLAMA, "model_type": "llava_llama", "mm_vision_tower": "someone/new-tower"}
    assert "someone/new-tower" in refused(values)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"torch_dtype": "float8"}, "torch_dtype"),
        ({"torch_dtype": "float16", "dtype": "bfloat16"}, "dtype"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": 8}, "num_key_value_heads"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": -64}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"hidden_size": 66}, "hidden_size"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"mlp_bias": "no"}, "mlp_bias"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rope_scaling": 8}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor"),
        ({"quantization_config": []}, "quantization_config"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
)
def test_a_bad_value_names_its_field(changes: dict[str, Any], field: str) -> None:
    assert field in refused({**LLAMA, **changes})


def test_layer_types_must_be_as_many_as_the_layers() -> None:
    values = {**LLAMA, "model_type": "mistral", "sliding_window": 8, "layer_types": ["x"]}
    assert "layer_types" in refused(values)


def test_a_10_kb_name_is_cut_short() -> None:
    text = refused({**LLAMA, "model_type": "x" * 10_000})
    assert "x" * 100 not in text
    assert "\n" not in refused({**LLAMA, "num_experts" + "_x" * 5_000: 8, "num_experts": 8})


@pytest.mark.parametrize("values", [None, [], "llama", 3])
def test_anything_but_an_object_is_refused(values: Any) -> None:
    assert "JSON object" in refused(values)


FIELDS = sorted({*LLAMA, "rope_scaling", "quantization_config", "text_config", "layer_types"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["llama", "deepseek_v3", "qwen3_5_moe_text", "nemotron_h", "gemma4_text"]),
       st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))  # fmt: skip
def test_no_value_ends_in_a_traceback(family: str, changes: dict[str, Any]) -> None:
    refusal = ""
    try:
        parse({**LLAMA, **changes, "model_type": family}, "tiny")
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal


@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLMEagle3",
        "EagleLlamaForCausalLM",
        "DFlashDraftModel",
        "Qwen3NextMTP",
        "DeepseekV3ForCausalLMNextN",
    ],
)
def test_a_draft_head_is_not_taken_for_a_model_of_one_layer(name: str) -> None:
    assert f"{name} drafts tokens for another model" in refused(LLAMA | {"architectures": [name]})


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Eagle2_5_VLForConditionalGeneration"])
def test_a_model_that_answers_is_no_draft_head(name: str) -> None:
    assert parse(LLAMA | {"architectures": [name]}, "tiny").num_layers == 2
