"""A plan over several nodes, saved and translated for a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from shardwise.cli.main import cli
from shardwise.errors import InputError
from shardwise.hosting.deployment_file import load
from shardwise.hosting.exports import export


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Llama-3.1-405B in 16 bits: 810 GB of weights, more than a node of 8 H100."""
    path = tmp_path / "two.toml"
    words = ["plan", "llama-3.1-405b", "--gpu", "h100", "--gpus", "8", "--nodes", "2"]
    words += ["--network", "ib-ndr", "--dtype", "bf16", "--isl", "4000", "--osl", "1000"]
    done = CliRunner().invoke(cli, [*words, "--concurrency", "64", "--save", str(path)])
    assert done.exit_code == 0, done.output
    assert "shardwise export" in done.stderr
    return path


def test_the_file_has_nodes_of_eight_and_no_devices(saved: Path) -> None:
    file = load(saved)
    assert file.node.gpus == 8
    assert file.models[0].devices == []
    assert file.models[0].devices_per_replica == 16


def test_kubernetes_gets_a_leader_worker_set_of_two(saved: Path) -> None:
    (text,) = export(load(saved), "kubernetes").values()
    made = next(iter(yaml.safe_load_all(text)))
    assert made["kind"] == "LeaderWorkerSet"
    template = made["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    leader = template["leaderTemplate"]["spec"]["containers"][0]
    assert leader["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert "--pipeline-parallel-size 2" in leader["args"][0]


@pytest.mark.parametrize("target", ["compose", "systemd"])
def test_what_starts_on_one_machine_is_refused(saved: Path, target: str) -> None:
    with pytest.raises(InputError, match=f"16 GPUs.*allowed with {target}: one node"):
        export(load(saved), target)


def test_ray_gets_a_placement_group_over_nodes(saved: Path) -> None:
    made = yaml.safe_load(export(load(saved), "ray")["serve.yaml"])
    text = yaml.safe_dump(made)
    assert "strategy: PACK" in text
    assert text.count("GPU: 1") == 16
