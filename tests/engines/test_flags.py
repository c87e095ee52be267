"""The commands that start replicas, flag for flag.

Flags were compared with the argument parsers of the engines' releases; see the module docstrings
in `shardwise.engines`.
"""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.engines import Command, Device, Launch, every, get
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.layout.speculation import Speculation

WIDE = Layout(tp_size=4, pp_size=2, ep_size=8, attention_dp=2)


def deployment(layout: Layout = Layout(), kv: str = "auto", version: str = "") -> Deployment:  # noqa: B008
    limits = EngineLimits(128, 4096, 0.85, 20000)
    return Deployment("m", "h100", layout, limits, Dtypes(kv=kv), engine_version=version)


def started(engine: str, given: Deployment, launch: Launch | None = None) -> Command:
    return get(engine).command(given, launch or Launch("org/m", "m", port=8001))


def values(command: Command) -> dict[str, str]:
    return {a: b for a, b in pairwise(command.argv) if a.startswith("--")}


def test_vllm_writes_layout_and_limits() -> None:
    line = started("vllm", deployment(WIDE))
    assert line.argv[:3] == ("vllm", "serve", "org/m")
    found = values(line)
    assert found["--tensor-parallel-size"] == "4"
    assert found["--pipeline-parallel-size"] == "2"
    assert found["--data-parallel-size"] == "2"
    assert "--enable-expert-parallel" in line.argv
    assert found["--max-num-seqs"] == "128"
    assert found["--max-num-batched-tokens"] == "4096"
    assert found["--gpu-memory-utilization"] == "0.85"
    assert found["--max-model-len"] == "20000"
    assert found["--port"] == "8001"
    assert found["--served-model-name"] == "m"


def test_one_gpu_needs_no_flags_of_other_layouts() -> None:
    for engine in ("vllm", "sglang", "trtllm", "atom"):
        for flag in started(engine, deployment()).argv:
            assert flag not in ("--data-parallel-size", "--enable-dp-attention", "--ep-size")
            assert flag not in ("--decode-context-parallel-size", "--dcp-size")
            assert flag not in ("--pp-size", "--pp_size", "--enable-expert-parallel")


def test_sglang_counts_tp_requests_and_chunk_over_all_copies_of_attention() -> None:
    found = values(started("sglang", deployment(WIDE)))
    assert found["--tp-size"] == "8"  # 4 x 2 copies
    assert found["--dp-size"] == "2"
    assert found["--ep-size"] == "8"
    assert found["--max-running-requests"] == "256"  # 128 a copy
    assert found["--chunked-prefill-size"] == "8192"  # 4096 a copy
    assert found["--mem-fraction-static"] == "0.85"


def test_ranks_that_share_a_cache_are_a_flag_of_vllm_and_sglang() -> None:
    shared = deployment(Layout(tp_size=8, dcp_size=8))
    assert values(started("vllm", shared))["--decode-context-parallel-size"] == "8"
    found = values(started("sglang", shared))
    assert found["--dcp-size"] == "8"
    assert found["--tp-size"] == "8"  # no more GPUs


def test_sglang_has_a_flag_of_its_own_for_attention_dp_since_0_5_23() -> None:
    old, new = (
        started("sglang", deployment(WIDE, version=version)).argv for version in ("0.5.9", "0.5.23")
    )
    assert "--enable-dp-attention" in old
    assert "--attn-dp-size" not in old
    assert "--attn-dp-size" in new
    assert "--enable-dp-attention" not in new


def test_sglangs_memory_share_may_be_of_weights_and_cache_alone() -> None:
    launch = Launch("org/m", static_share=0.7894)
    assert values(started("sglang", deployment(), launch))["--mem-fraction-static"] == "0.789"


def test_trtllm_writes_what_only_its_file_can_say() -> None:
    asked = deployment(Layout(ep_size=8, attention_dp=8), kv="fp8", version="1.1.0")
    asked = replace(asked, speculation=Speculation.parse("mtp:3"))
    launch = Launch("org/m", port=8002)
    line = started("trtllm", asked, launch)
    assert values(line)["--tp_size"] == "8"
    assert values(line)["--ep_size"] == "8"
    assert values(line)["--extra_llm_api_options"] == line.files[0].name
    assert line.files[0].text == (
        "enable_attention_dp: true\n"
        "enable_chunked_prefill: true\n"  # 20,000 tokens in steps of 4,096
        "kv_cache_config:\n  dtype: fp8\n  free_gpu_memory_fraction: 0.85\n"
        "speculative_config:\n  decoding_type: MTP\n  num_nextn_predict_layers: 3\n"
        "cuda_graph_config:\n  enable_padding: true\n  max_batch_size: 128\n"
    )


def test_trtllm_pads_every_batch_to_a_graph() -> None:
    """Its defaults capture batches of 1 to 32, 64 and 128 and pad none."""
    asked = deployment(Layout(tp_size=4)).with_limits(max_model_len=4096)
    (file,) = started("trtllm", asked).files
    assert file.text == "cuda_graph_config:\n  enable_padding: true\n  max_batch_size: 128\n"


def test_trtllm_before_1_0_needs_no_file_for_a_plain_layout() -> None:
    asked = deployment(Layout(tp_size=4), version="0.21.0").with_limits(max_model_len=4096)
    line = started("trtllm", asked)
    assert line.files == ()
    assert "--extra_llm_api_options" not in line.argv


def test_one_file_serves_every_replica_of_a_model() -> None:
    first, second = (
        started("trtllm", deployment(), Launch("org/m", port=port)).files for port in (8000, 8001)
    )
    assert first == second
    (other,) = started("trtllm", deployment().with_limits(max_num_seqs=8)).files
    assert other.name != first[0].name


def test_atom_turns_all_of_tp_into_copies_of_attention() -> None:
    line = started("atom", deployment(Layout(attention_dp=8, ep_size=8), kv="fp8"))
    assert values(line)["--tensor-parallel-size"] == "8"
    assert "--enable-dp-attention" in line.argv
    assert values(line)["--kv_cache_dtype"] == "fp8"
    assert values(line)["--server-port"] == "8001"


def test_the_built_in_engine_takes_its_dtype_and_cache_size() -> None:
    launch = Launch("folder", kv_cache_tokens=4096, threads_per_rank=2)
    asked = Deployment("m", "cpu", dtypes=Dtypes("fp32", "fp32"), engine="builtin")
    line = get("builtin").command(asked, launch, Device("cpu"))
    assert line.argv[:3] == ("shardwise", "serve", "folder")
    assert values(line)["--dtype"] == "fp32"
    assert values(line)["--kv-cache-tokens"] == "4096"
    assert values(line)["--threads-per-rank"] == "2"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "atom", "builtin"])
def test_a_kv_cache_nobody_asked_for_is_never_written(engine: str) -> None:
    launch = Launch("org/m", checkpoint_dtype="fp8", checkpoint_kv="fp8")
    words = " ".join(started(engine, deployment(), launch).argv)
    assert "kv-cache-dtype" not in words
    assert "kv_cache_dtype" not in words


def test_16_bit_weights_become_fp8_only_where_they_are_asked_to() -> None:
    asked = Deployment("m", "h100", dtypes=Dtypes("fp8"))
    online = Launch("org/m", checkpoint_dtype="bf16")
    stored = Launch("org/m", checkpoint_dtype="fp8")
    for engine in ("vllm", "sglang"):
        assert values(started(engine, asked, online))["--quantization"] == "fp8"
        assert "--quantization" not in started(engine, asked, stored).argv


def test_mtp_is_written_as_each_engine_has_it() -> None:
    asked = replace(deployment(), speculation=Speculation.parse("mtp:2"))
    found = values(started("vllm", asked))["--speculative-config"]
    assert json.loads(found) == {"method": "mtp", "num_speculative_tokens": 2}
    found_sglang = values(started("sglang", asked))
    assert found_sglang["--speculative-algorithm"] == "EAGLE"
    assert found_sglang["--speculative-num-steps"] == "2"
    assert found_sglang["--speculative-num-draft-tokens"] == "3"  # 2 drafted and 1 verified


def test_versions_without_a_flag_refuse_what_it_says() -> None:
    bf16_for_fp8 = Launch("org/m", checkpoint_kv="fp8")
    for engine, version in (("vllm", "0.10.1"), ("sglang", "0.5.3"), ("trtllm", "1.0")):
        with pytest.raises(InputError, match="allowed"):
            started(engine, deployment(kv="bf16", version=version), bf16_for_fp8)
        # for a checkpoint that asks for nothing, 16 bits are what "auto" gives
        assert "bfloat16" not in started(engine, deployment(kv="bf16", version=version)).argv
    for draft, version, first in (("mtp:1", "0.9.2", "0.11"), ("org/small:4", "0.13.0", "0.15")):
        asked = replace(deployment(version=version), speculation=Speculation.parse(draft))
        with pytest.raises(InputError, match=f"{draft} with vLLM .* from {first} on"):
            started("vllm", asked)


def test_a_draft_model_is_written_as_each_engine_has_it() -> None:
    asked = replace(deployment(), speculation=Speculation.parse("small:4"))
    launch = Launch("org/m", draft="org/small")
    found = values(started("vllm", asked, launch))["--speculative-config"]
    assert json.loads(found) == {
        **{"method": "draft_model", "model": "org/small"},
        "num_speculative_tokens": 4,
    }
    found_sglang = values(started("sglang", asked, launch))
    assert found_sglang["--speculative-algorithm"] == "STANDALONE"
    assert found_sglang["--speculative-draft-model-path"] == "org/small"
    assert found_sglang["--speculative-num-draft-tokens"] == "5"
    assert (
        "speculative_config:\n  decoding_type: Draft_Target\n  max_draft_len: 4\n"
        "  speculative_model_dir: org/small\n"
    ) in started("trtllm", asked, launch).files[0].text


def test_what_an_engine_cannot_draft_is_refused_with_what_it_can() -> None:
    for engine, draft, allowed in (
        ("builtin", "mtp:1", "allowed: none"),
        ("atom", "org/small:4", "allowed: none, mtp:3"),
    ):
        asked = replace(deployment(), speculation=Speculation.parse(draft))
        with pytest.raises(InputError, match=allowed):
            get(engine).require(replace(asked, layout=Layout()), Device(vendor="amd"), None)
    piped = replace(deployment(Layout(pp_size=2)), speculation=Speculation.parse("mtp:1"))
    with pytest.raises(InputError, match="mtp:1 with PP=2"):
        get("vllm").require(piped, Device(), None)


def test_an_unknown_kv_dtype_is_refused_with_those_allowed() -> None:
    for engine in every():
        with pytest.raises(InputError, match="allowed: auto"):
            engine.command(deployment(kv="fp3"), Launch("m"))


def test_an_interpreter_of_its_own_runs_the_engines_module() -> None:
    line = get("vllm").module_command("/venv/bin/python", deployment(), Launch("org/m"))
    assert line.argv[:5] == (
        *("/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", "org/m"),
    )


def test_vllm_on_cpu_has_no_memory_fraction_and_an_embedding_model_no_token_budget() -> None:
    on_cpu = get("vllm").command(deployment(), Launch("m", embeds=True), Device("cpu"))
    assert "--gpu-memory-utilization" not in on_cpu.argv
    assert "--max-num-batched-tokens" not in on_cpu.argv


@given(
    st.sampled_from([engine.name for engine in every()]),
    st.builds(
        Layout,
        tp_size=st.integers(1, 16),
        pp_size=st.integers(1, 4),
        ep_size=st.integers(1, 16),
        attention_dp=st.integers(1, 8),
        dcp_size=st.integers(1, 8),
    ),
    st.sampled_from(["", "0.8.5", "0.11.0", "0.32.0", "nonsense"]),
)
def test_every_argument_is_a_word_and_every_number_positive(
    engine: str, layout: Layout, version: str
) -> None:
    line = started(engine, deployment(layout, version=version))
    assert all(word and word.strip() == word for word in line.argv)
    for flag, value in values(line).items():
        if value.lstrip("-").isdigit():
            assert int(value) > 0, flag
