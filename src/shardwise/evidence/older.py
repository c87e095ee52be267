"""Read evidence of earlier versions."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from shardwise.evidence.record import Evidence

_LAYOUT: Final = ("tp_size", "pp_size", "replicas")
_LIMITS: Final = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "max_model_len",
)


def evidence_of(text: str | bytes) -> Evidence:
    """Return evidence from its JSON; a flat deployment (version 1 of stores) is nested.

    Raises msgspec.DecodeError for anything else.
    """
    values = msgspec.json.decode(text)
    if isinstance(values, dict) and "tp_size" in (deployment := values.get("deployment") or {}):
        values["deployment"] = _nested(deployment)
    return msgspec.convert(values, Evidence)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Nest a flat deployment with the names of `layout.deployment.Deployment`."""
    layout: dict[str, Any] = {name: flat[name] for name in _LAYOUT if name in flat}
    if flat.get("expert_parallel"):
        layout["ep_size"] = flat["tp_size"]
    return {
        "model": flat["model"],
        "gpu": flat["gpu"],
        "layout": layout,
        "limits": {name: flat[name] for name in _LIMITS if name in flat},
        "dtypes": {
            "weight": flat.get("weight_dtype", "auto"),
            "kv": flat.get("kv_dtype", "auto"),
        },
        "engine": flat.get("engine", "vllm"),
    }
