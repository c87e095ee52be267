"""What an engine cannot do is refused, with what is allowed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shardwise.architecture.model import Model
from shardwise.architecture.models import load
from shardwise.engines import Device, get
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.layout.speculation import Acceptance, Speculation

H100 = Device("nvidia", 85.0e9, "hopper")
A100 = Device("nvidia", 85.1e9, "ampere", name="A100 SXM")
DENSE, EXPERTS, LATENT = (load(x) for x in ("llama-3.1-8b", "qwen3-235b-a22b", "deepseek-r1"))
MI300X = Device("amd", 205.8e9, "cdna3")


def asked(layout: Layout = Layout(), weight: str = "auto", kv: str = "auto") -> Deployment:  # noqa: B008
    return Deployment("m", "gpu", layout, dtypes=Dtypes(weight, kv))


def refused(engine: str, given: Deployment, device: Device, model: Model | None = EXPERTS) -> str:
    with pytest.raises(InputError) as error:
        get(engine).require(given, device, model)
    message = str(error.value)
    assert "\n" not in message
    assert "allowed" in message
    return message


def test_tensorrt_llm_is_refused_on_amd_and_atom_elsewhere() -> None:
    assert "TensorRT-LLM does not run on amd" in refused("trtllm", asked(), MI300X)
    assert "ATOM does not run on nvidia" in refused("atom", asked(), H100)


def test_only_some_engines_run_on_cpus() -> None:
    cpu = Device("cpu")
    for engine in ("vllm", "sglang", "builtin"):
        get(engine).require(asked(), cpu, DENSE)
    for engine in ("trtllm", "atom"):
        refused(engine, asked(), cpu)


def test_an_fp8_cache_is_refused_on_ampere_and_allowed_on_hopper() -> None:
    """vllm#26431: fp8e4nv not supported in this architecture."""
    for engine in ("vllm", "sglang", "trtllm"):
        assert "fp8" in refused(engine, asked(kv="fp8"), A100)
        get(engine).require(asked(kv="fp8"), H100, EXPERTS)
    get("vllm").require(asked(kv="fp8"), MI300X, EXPERTS)


def test_rtx_4090_and_blackwell_workstation_gpus_take_fp8_caches_3090_does_not() -> None:
    for capability in ((8, 9), (12, 0), (12, 1)):
        device = Device("nvidia", 24e9, compute_capability=capability)
        get("vllm").require(asked(kv="fp8"), device, DENSE)
    refused("vllm", asked(kv="fp8"), Device("nvidia", 24e9, "ampere", (8, 6)), DENSE)


def test_expert_parallelism_is_over_all_gpus_or_by_a_divisor() -> None:
    half = asked(Layout(tp_size=8, ep_size=4))
    assert "allowed: 1 or 8" in refused("vllm", half, H100)
    get("sglang").require(half, H100, EXPERTS)
    get("trtllm").require(half, H100, EXPERTS)
    assert "divisor of 8" in refused("sglang", asked(Layout(tp_size=8, ep_size=3)), H100)
    get("vllm").require(asked(Layout(tp_size=4, attention_dp=2, ep_size=8)), H100, EXPERTS)


def test_a_dense_model_has_no_experts_to_spread_and_no_copies_of_attention() -> None:
    assert "no experts" in refused("vllm", asked(Layout(tp_size=8, ep_size=8)), H100, DENSE)
    assert "8 replicas" in refused("sglang", asked(Layout(attention_dp=8)), H100, DENSE)


def test_tensorrt_llm_and_atom_copy_attention_onto_single_gpus_only() -> None:
    mixed = asked(Layout(tp_size=2, attention_dp=4))
    assert "TP=1" in refused("trtllm", mixed, H100)
    assert "TP=1" in refused("atom", mixed, MI300X)
    get("vllm").require(mixed, H100, EXPERTS)


def test_the_built_in_engine_has_tp_alone() -> None:
    for layout in (Layout(pp_size=2), Layout(tp_size=2, ep_size=2), Layout(attention_dp=2)):
        refused("builtin", asked(layout), H100)
    refused("builtin", asked(weight="fp8"), H100)


def test_tensorrt_llm_needs_matrix_units_for_its_dtypes() -> None:
    assert "fp8 on A100 SXM" in refused("trtllm", asked(weight="fp8"), A100)
    assert "nvfp4" in refused("trtllm", asked(weight="nvfp4"), H100)
    get("vllm").require(asked(weight="fp8"), A100, DENSE)  # Marlin, weights only


def test_weight_dtypes_an_engine_does_not_load_are_refused() -> None:
    assert "nvfp4" in refused("atom", asked(weight="nvfp4"), MI300X)
    get("trtllm").require(asked(weight="nvfp4"), Device("nvidia", 192e9, "blackwell"), DENSE)


def shared(size: int, version: str = "", kv: str = "auto", **others: Speculation) -> Deployment:
    return replace(asked(Layout(tp_size=8, dcp_size=size), kv=kv), engine_version=version, **others)


def test_only_vllm_and_sglang_share_a_cache_between_ranks_of_tp() -> None:
    get("vllm").require(shared(8), H100, LATENT)
    get("sglang").require(shared(8), H100, LATENT)
    assert "DCP=8 with TensorRT-LLM" in refused("trtllm", shared(8), H100, LATENT)
    assert "DCP=8 with ATOM" in refused("atom", shared(8), MI300X, LATENT)


def test_sglang_shares_latent_caches_alone_vllm_those_of_kv_heads_too() -> None:
    get("vllm").require(shared(2), H100, EXPERTS)
    assert "only the cache of latent attention" in refused("sglang", shared(2), H100, EXPERTS)


def test_a_cache_is_shared_from_a_version_on_and_on_nvidia() -> None:
    assert "from 0.11 on" in refused("vllm", shared(8, "0.10.1"), H100, LATENT)
    get("vllm").require(shared(8, "0.24.0"), H100, LATENT)
    assert "fp8 latent cache" in refused("vllm", shared(8, "0.24.0", "fp8"), H100, LATENT)
    get("vllm").require(shared(8, "0.28.0", "fp8"), H100, LATENT)
    assert "on cdna3" in refused("vllm", shared(8), MI300X, LATENT)


def test_vllm_does_not_draft_beside_a_shared_cache() -> None:
    """vllm#50391."""
    drafted = shared(8, speculation=Speculation("mtp", 1, Acceptance(0.8, 0.5, 1.0)))
    assert "drafted tokens" in refused("vllm", drafted, H100, LATENT)
    get("sglang").require(drafted, H100, LATENT)
