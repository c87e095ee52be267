"""Each export is checked by the tool of its own world."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shardwise.engines import Share
from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, NodeTable
from shardwise.hosting.exports import export
from shardwise.replica.command import argv


def node(gpu: str = "mi300x", **model: object) -> DeploymentFile:
    table = {"model": "llama-3.1-70b", "weight_dtype": "fp8", "tp_size": 2, "replicas": 4, **model}
    return DeploymentFile(node=NodeTable(gpu=gpu, gpus=8), models=[ModelTable(**table)])  # type: ignore[arg-type]


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def written(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("gpu", ["mi300x", "h100-sxm"])
def test_compose_accepts_its_file_and_pins_each_replica(tmp_path: Path, gpu: str) -> None:
    import yaml

    folder = written(export(node(gpu), "compose"), tmp_path)
    line = [tool("docker-compose"), "-f", str(folder / "compose.yaml"), "config", "-q"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    assert len(services) == 5  # four replicas and the balancer
    last = services["llama-3-1-70b-3"]
    if gpu == "mi300x":
        assert last["environment"]["HIP_VISIBLE_DEVICES"] == "6,7"
        assert "/dev/kfd" in last["devices"]
    else:
        reserved = last["deploy"]["resources"]["reservations"]["devices"][0]
        assert reserved["device_ids"] == ["6", "7"]


def test_compose_tool_refuses_a_bad_key(tmp_path: Path) -> None:
    text = export(node(), "compose")["compose.yaml"].replace("    restart:", "    restrat:")
    folder = written({"compose.yaml": text}, tmp_path)
    line = [tool("docker-compose"), "-f", str(folder / "compose.yaml"), "config", "-q"]
    assert subprocess.run(line, capture_output=True, check=False).returncode


def test_haproxy_accepts_the_config_of_compose_and_systemd(tmp_path: Path) -> None:
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    if not Path(program).exists():
        pytest.skip("haproxy is not installed")
    for target, name in (("compose", "haproxy.cfg"), ("systemd", "shardwise.haproxy.cfg")):
        text = export(node(), target)[name].replace("llama-3-1-70b-", "127.0.0.")
        assert text.count("    server ") == 4
        (tmp_path / name).write_text(text)
        line = [program, "-c", "-f", str(tmp_path / name)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("gpu", "key"), [("mi300x", "amd.com/gpu"), ("h100-sxm", "nvidia.com/gpu")]
)
def test_kubernetes_accepts_its_manifests(tmp_path: Path, gpu: str, key: str) -> None:
    files = export(node(gpu), "kubernetes")
    (name,) = files
    assert f'{key}: "2"' in files[name].replace("'", '"')
    folder = written(files, tmp_path)
    line = [tool("kubernetes-validate"), "--strict", str(folder / name)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / name).write_text(files[name].replace("containers:", "container:"))
    assert subprocess.run(line, capture_output=True, check=False).returncode


def test_replica_over_two_nodes_is_a_leader_worker_set() -> None:
    import yaml

    file = node(model="llama-3.1-405b", tp_size=8, pp_size=2, replicas=1)
    text = next(iter(export(file, "kubernetes").values()))
    made = next(iter(yaml.safe_load_all(text)))
    assert made["kind"] == "LeaderWorkerSet"
    template = made["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2  # 16 GPUs on nodes of 8
    leader = template["leaderTemplate"]["spec"]["containers"][0]
    assert leader["resources"]["limits"] == {"amd.com/gpu": "8"}


def expanded(text: str) -> str:
    """Return a container's argument as Kubernetes passes it: `$$` is an escaped `$`."""
    return text.replace("$$", "$")


def started(template: dict[str, Any], index: int, folder: Path) -> list[str]:
    """Run a pod's script in a shell with stand-ins for the programs; return the engine's argv."""
    (container,) = template["spec"]["containers"]
    for name, body in (
        ("getent", 'test "$2" = head.example && echo "10.0.0.7  $2"'),
        ("python3", 'printf "%s\\n" "$@"'),
        ("vllm", 'printf "%s\\n" "$@"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        [*container["command"], expanded(container["args"][0])],
        env={
            "PATH": f"{folder}:/usr/bin:/bin",
            "LWS_LEADER_ADDRESS": "head.example",
            "LWS_WORKER_INDEX": str(index),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout.splitlines()


def over_nodes(engine: str, **layout: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The LeaderWorkerSet and the Service of one replica on nodes of 8 GPUs."""
    import yaml

    file = node("h200", model="deepseek-r1", engine=engine, replicas=1, **layout)
    (text,) = export(file, "kubernetes").values()
    assert "&id" not in text
    made, service = yaml.safe_load_all(text)
    return made, service


COPIES = {"tp_size": 1, "attention_dp": 32, "expert_parallel": True}
OWN_FLAGS = json.loads((Path(__file__).parents[1] / "engines" / "flags.json").read_text("utf-8"))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("layout", [COPIES, {"tp_size": 8, "pp_size": 4}], ids=["DP32", "TP8xPP4"])
def test_every_node_of_a_replica_gets_the_command_that_plan_prints_for_it(
    tmp_path: Path, engine: str, layout: dict[str, Any]
) -> None:
    made, _ = over_nodes(engine, **layout)
    assert made["kind"] == "LeaderWorkerSet"
    group = made["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 4
    instance = (
        node("h200", model="deepseek-r1", engine=engine, replicas=1, **layout).models[0].instance
    )
    for index in range(4):
        template = group["workerTemplate" if index else "leaderTemplate"]
        assert template["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        words = started(template, index, tmp_path)
        share = Share(4, index, "10.0.0.7")
        assert words == argv(instance, "0.0.0.0", 8000, "cuda", share)[1:]
        used = {word for word in words if word.startswith("--")}
        assert used <= set(OWN_FLAGS[engine]["flags"].split())


def test_copies_of_attention_start_at_their_rank_on_each_node(tmp_path: Path) -> None:
    made, _ = over_nodes("vllm", **COPIES)
    words = started(made["spec"]["leaderWorkerTemplate"]["workerTemplate"], 2, tmp_path)
    assert words[words.index("--data-parallel-start-rank") + 1] == "16"
    assert words[words.index("--data-parallel-size-local") + 1] == "8"
    assert words[words.index("--data-parallel-address") + 1] == "10.0.0.7"
    assert "--headless" in words


def test_requests_reach_the_leader_only() -> None:
    made, service = over_nodes("vllm", **COPIES)
    group = made["spec"]["leaderWorkerTemplate"]
    chosen = service["spec"]["selector"].items()
    assert chosen <= group["leaderTemplate"]["metadata"]["labels"].items()
    assert not chosen <= group["workerTemplate"]["metadata"]["labels"].items()
    assert "readinessProbe" not in group["workerTemplate"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"tp_size": 16}, "TP within a node"),
        ({"tp_size": 4, "attention_dp": 3, "expert_parallel": True}, "multiple of the nodes"),
        ({"tp_size": 1, "attention_dp": 16, "engine": "atom"}, "allowed: vllm, sglang"),
    ],
)
def test_layouts_that_no_node_boundary_divides_are_refused(
    layout: dict[str, Any], words: str
) -> None:
    file = node("h200", **{"model": "deepseek-ai/unknown", "replicas": 1, **layout})
    with pytest.raises(InputError, match=words):
        export(file, "kubernetes")


def test_systemd_accepts_its_units(tmp_path: Path) -> None:
    files = export(node(), "systemd")
    folder = written(files, tmp_path)
    replica = files["shardwise-llama-3-1-70b-1.service"]
    assert "Environment=HIP_VISIBLE_DEVICES=2,3" in replica
    program = tool("systemd-analyze")
    if not Path("/usr/sbin/haproxy").exists():
        # it also looks whether the program is there, which is not what is tested
        unit = folder / "shardwise-balancer.service"
        unit.write_text(unit.read_text().replace("/usr/sbin/haproxy", sys.executable))
    units = [str(folder / name) for name in files if not name.endswith(".cfg")]
    done = subprocess.run([program, "verify", *units], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ray_serve_reads_its_config() -> None:
    import yaml

    drafts = '{"method":"mtp","num_speculative_tokens":3}'
    flags = ["--quantization", "fp8", "--enforce-eager", "--speculative-config", drafts]
    text = export(node(flags=flags), "ray")["serve.yaml"]
    config = yaml.safe_load(text)
    (llm,) = config["applications"][0]["args"]["llm_configs"]
    assert llm["engine_kwargs"]["quantization"] == "fp8"
    assert llm["engine_kwargs"]["enforce_eager"] is True
    # vLLM's Python arguments take fields where its command line takes JSON
    assert llm["engine_kwargs"]["speculative_config"]["num_speculative_tokens"] == 3
    assert llm["placement_group_config"]["strategy"] == "STRICT_PACK"
    schema = pytest.importorskip("ray.serve.schema", reason="ray[serve] is not installed")
    read = schema.ServeDeploySchema.model_validate(config)
    assert read.applications[0].name == "shardwise"


def test_ray_serve_builds_copies_of_attention_as_groups_of_ranks() -> None:
    import yaml

    layout = {"tp_size": 2, "attention_dp": 4, "expert_parallel": True, "replicas": 2}
    text = export(node("h200", model="deepseek-r1", **layout), "ray")["serve.yaml"]
    (application,) = yaml.safe_load(text)["applications"]
    assert application["import_path"] == "ray.serve.llm:build_dp_openai_app"
    llm = application["args"]["llm_config"]
    assert llm["engine_kwargs"]["data_parallel_size"] == 4
    assert llm["engine_kwargs"]["tensor_parallel_size"] == 2
    assert llm["engine_kwargs"]["enable_expert_parallel"] is True
    assert llm["deployment_config"] == {"num_replicas": 2}
    assert "placement_group_config" not in llm


def test_ray_serve_names_ranks_that_share_a_cache() -> None:
    import yaml

    one = node("h200", model="deepseek-r1", tp_size=8, dcp_size=8, replicas=1)
    text = export(one, "ray")["serve.yaml"]
    (llm,) = yaml.safe_load(text)["applications"][0]["args"]["llm_configs"]
    assert llm["engine_kwargs"]["decode_context_parallel_size"] == 8


def test_ray_serve_is_for_vllm_only() -> None:
    with pytest.raises(InputError, match="allowed: vllm"):
        export(node(engine="sglang"), "ray")


def test_dashboard_asks_only_for_metrics_of_the_endpoint() -> None:
    from shardwise.hosting.metrics_endpoint import NAMES

    dashboard = json.loads(export(node(), "grafana")["dashboard.json"])
    known = {*NAMES, "shardwise_replica_up", "shardwise_replica_restarts"}
    for panel in dashboard["panels"]:
        expr = panel["targets"][0]["expr"]
        assert any(name in expr for name in known), expr
