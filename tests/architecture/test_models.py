"""Models by name, file, folder and hub id."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
from msgspec.structs import asdict

from shardwise.architecture.models import bundled, load, published_id
from shardwise.errors import InputError, UnknownNameError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}


@pytest.mark.parametrize(
    ("spelling", "model", "dtype"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b", "bf16"),
        ("Meta-Llama-3.1-70B", "llama-3.1-70b", "bf16"),
        ("llama3.1-70b", "llama-3.1-70b", "bf16"),
        ("llama-3.1-70b-instruct-fp8-kv", "llama-3.1-70b", "fp8"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1", "fp8"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "mxfp4"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b", "bf16"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8"),
    ],
)
def test_common_spellings_are_recognised(spelling: str, model: str, dtype: str) -> None:
    arch = load(spelling)
    assert (arch.id, arch.checkpoint_dtype) == (model, dtype)


@pytest.mark.parametrize("other", ["DeepSeek-R1-Distill-Llama-70B", "mistral-7b-v0.1", "gpt-oss"])
def test_a_model_of_another_shape_is_not_taken_for_a_bundled_one(other: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown model"):
        load(other)


def test_every_bundled_model_loads_under_its_id_and_its_hub_id() -> None:
    assert len(bundled()) >= 60
    for model in bundled():
        assert load(model).id == model
        hub_id = published_id(model)
        assert hub_id is None or load(hub_id).id == model


def test_a_file_and_its_folder_are_the_same_model(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert asdict(load(str(folder))) == asdict(load(str(folder / "config.json")))
    assert load(str(folder)).id == "tiny"


def test_a_modelopt_side_file_tells_the_dtype(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert load(str(tmp_path)).checkpoint_dtype == "fp8"


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    quant = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": quant}))
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(InputError, match="FP8 and NVFP4"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"a": NaN']
)
def test_a_malformed_file_is_one_line(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text)
    with pytest.raises(InputError) as caught:
        load(str(file))
    assert "\n" not in str(caught.value)


def test_an_empty_folder_says_what_could_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*config\.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "x" * 5000, "/no/such/folder/config.json"])
def test_an_unusable_name_is_one_line(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_without_the_hub_client_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'shardwise\[hub\]'"):
        load("someone/some-model")


def test_a_cached_hub_config_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra shardwise[hub]")
    constants = import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--mini"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "snapshots" / "abc" / "config.json").write_text(json.dumps(CONFIG))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert hub.try_to_load_from_cache("someone/mini", "config.json", cache_dir=tmp_path)
    assert load("someone/mini").id == "mini"
