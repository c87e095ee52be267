"""Ray Serve: the config that `serve run` takes, one LLM application for all models.

https://docs.ray.io/en/latest/serve/llm/index.html; data-parallel attention:
https://docs.ray.io/en/latest/serve/llm/user-guides/data-parallel-attention.html (since
ray-project/ray#61480 `num_replicas` counts groups of ranks).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from shardwise.engines import get
from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable
from shardwise.hosting.exports.images import dump
from shardwise.hosting.launching import Launch


def write(file: DeploymentFile, made: Sequence[Launch]) -> dict[str, str]:
    """Return serve.yaml. Raises InputError for engines other than vLLM, and unsupported flags."""
    kind = made[0].kind
    models = [_llm(file, model, kind) for model in file.models]
    copied = next((model for model in file.models if model.attention_dp > 1), None)
    if copied is not None and len(models) > 1:
        raise InputError(
            f"{copied.served_name}: {copied.layout.name} together with other models on Ray Serve",
            "allowed: one model with attention DP",
            "Ray needs a separate application for it; split the file",
        )
    application = {
        "name": file.name,
        "route_prefix": "/",
        "import_path": f"ray.serve.llm:{'build_dp_openai_app' if copied else 'build_openai_app'}",
        "args": {"llm_config": models[0]} if copied else {"llm_configs": models},
    }
    config = {
        "http_options": {"host": file.host, "port": file.port},
        "applications": [application],
    }
    return {"serve.yaml": dump(config)}


def _llm(file: DeploymentFile, model: ModelTable, kind: str) -> dict[str, Any]:
    if model.engine != "vllm":
        raise InputError(
            f"{model.served_name}: engine {model.engine!r} on Ray Serve", "allowed: vllm"
        )
    engine: dict[str, Any] = {
        "tensor_parallel_size": model.tp_size,
        "pipeline_parallel_size": model.pp_size,
        "enable_expert_parallel": model.expert_parallel,
        "max_num_seqs": model.max_num_seqs,
        "max_num_batched_tokens": model.max_num_batched_tokens,
    }
    if model.dcp_size > 1:
        engine["decode_context_parallel_size"] = model.dcp_size
    if model.attention_dp > 1:
        engine["data_parallel_size"] = model.attention_dp
    if kind != "cpu":
        engine["gpu_memory_utilization"] = model.gpu_memory_utilization
    spelled = get("vllm").capabilities.kv_dtypes
    if model.kv_dtype != "auto":
        engine["kv_cache_dtype"] = spelled.get(model.kv_dtype, model.kv_dtype)
    if model.max_model_len:
        engine["max_model_len"] = model.max_model_len
    engine.update(_fields(model))
    replicas = {"min_replicas": model.replicas, "max_replicas": model.replicas}
    made: dict[str, Any] = {
        "model_loading_config": {"model_id": model.served_name, "model_source": model.model},
        "engine_kwargs": engine,
        "deployment_config": {"autoscaling_config": replicas},
        "runtime_env": {"env_vars": dict(model.env)},
    }
    if model.attention_dp > 1:
        # number of groups of ranks; Ray places each rank's GPUs and starts complete groups
        made["deployment_config"] = {"num_replicas": model.replicas}
    elif model.devices_per_replica > 1 and kind != "cpu":
        # all ranks of a replica on one node, for fast links
        bundles = [{"GPU": 1}] * model.devices_per_replica
        within = not file.node.gpus or model.devices_per_replica <= file.node.gpus
        strategy = "STRICT_PACK" if within else "PACK"
        made["placement_group_config"] = {
            "bundles": [dict(bundle) for bundle in bundles],
            "strategy": strategy,
        }
    return made


def _fields(model: ModelTable) -> dict[str, Any]:
    """Return `flags` as fields: --a-b 1 becomes a_b: "1", and --a-b alone becomes true."""
    found: dict[str, Any] = {}
    rest = list(model.flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise InputError(f"{model.served_name}: flag {flag!r}", "allowed: --name [value]")
        name, has_value, value = flag[2:].partition("=")
        if not has_value and rest and not rest[0].startswith("--"):
            value, has_value = rest.pop(0), "="
        found[name.replace("-", "_")] = _value(value) if has_value else True
    return found


def _value(text: str) -> Any:
    """Return a number, or the fields of a JSON object, or the text itself."""
    kinds: list[Callable[[str], Any]] = [json.loads] if text.startswith("{") else [int, float]
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text
