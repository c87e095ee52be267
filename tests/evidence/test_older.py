"""Evidence of earlier versions."""

from __future__ import annotations

import json

import msgspec
import pytest

from shardwise.evidence.older import evidence_of
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout

#: A cell as version 1 of the store wrote it.
FLAT = {
    "deployment": {
        "model": "llama-51m",
        "gpu": "cpu",
        "tp_size": 2,
        "pp_size": 1,
        "replicas": 2,
        "weight_dtype": "fp32",
        "kv_dtype": "auto",
        "engine": "builtin",
        "expert_parallel": False,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 1024,
        "gpu_memory_utilization": 0.9,
        "max_model_len": 512,
    },
    "workload": {"isl": 64, "osl": 32, "concurrency": 4},
    "metrics": {"tpot_s": {"value": 0.01, "lo": 0.009, "hi": 0.011, "n": 3}},
    "source": {"kind": "measured", "name": "bench"},
}


def test_a_flat_deployment_is_read_into_its_parts() -> None:
    found = evidence_of(json.dumps(FLAT)).deployment
    assert found == Deployment(
        "llama-51m",
        "cpu",
        Layout(2, replicas=2),
        EngineLimits(16, 1024, 0.9, 512),
        Dtypes("fp32"),
        "builtin",
    )


def test_whole_experts_of_a_flat_deployment_are_spread_over_its_ranks() -> None:
    flat = {**FLAT, "deployment": {**FLAT["deployment"], "expert_parallel": True}}  # type: ignore[dict-item]
    assert evidence_of(json.dumps(flat)).deployment.layout == Layout(2, ep_size=2, replicas=2)


def test_what_is_written_today_is_read_back() -> None:
    found = evidence_of(json.dumps(FLAT))
    assert evidence_of(msgspec.json.encode(found)) == found


def test_what_is_no_evidence_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        evidence_of("[")
    with pytest.raises(msgspec.ValidationError):
        evidence_of('{"deployment": {"tp_size": 1, "model": "m", "gpu": "g"}}')
