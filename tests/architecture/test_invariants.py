"""What holds for every bundled model, whatever its family."""

from __future__ import annotations

import pytest

from shardwise.architecture.feed_forward import Moe
from shardwise.architecture.mixers import Attention, Mla
from shardwise.architecture.model import Model, in_dtype
from shardwise.architecture.models import bundled, load


@pytest.fixture(params=bundled())
def model(request: pytest.FixtureRequest) -> Model:
    return load(request.param)


def test_groups_are_all_layers_each_once(model: Model) -> None:
    positions = sorted(position for group in model.groups for position in group.layers)
    assert positions == list(range(model.num_layers))


def test_a_cut_dimension_is_made_of_whole_units(model: Model) -> None:
    for _, tensor in model.tensors():
        if tensor.cut != "replicated" and tensor.units:
            size = tensor.rows if tensor.cut == "rows" else tensor.cols
            assert size % tensor.units == 0, tensor


def test_every_large_matrix_is_multiplied(model: Model) -> None:
    for _, tensor in model.tensors():
        if min(tensor.rows, tensor.cols) > 256 and tensor.part not in ("embedding", "router"):
            assert tensor.gemm, tensor


def test_attention_gives_what_its_output_takes(model: Model) -> None:
    for group in model.groups:
        mixer = group.mixer
        if isinstance(mixer, Attention | Mla):
            outputs = [t for t in mixer.tensors if t.gemm == "o_proj"]
            size = mixer.value_dim if isinstance(mixer, Attention) else mixer.v_head_dim
            assert all(t.cols == mixer.num_heads * size for t in outputs)


def test_experts_are_copies_of_the_sizes_that_their_part_names(model: Model) -> None:
    for group in model.groups:
        moe = group.feed_forward
        if isinstance(moe, Moe):
            experts = [t for t in moe.tensors if t.part == "experts" and t.gemm]
            assert {t.copies for t in experts} == {moe.num_experts}
            assert {t.rows * t.cols for t in experts} == {moe.expert_width * moe.expert_input}


def test_fewer_bits_are_fewer_bytes_and_the_same_parameters(model: Model) -> None:
    wide, narrow = in_dtype(model, "bf16"), in_dtype(model, "int4")
    assert narrow.weight_bytes < wide.weight_bytes
    assert narrow.parameters() == wide.parameters() == model.parameters()


def test_active_parameters_are_at_most_all(model: Model) -> None:
    assert 0 < model.active_parameters <= model.parameters()
    assert model.max_context >= 1024
