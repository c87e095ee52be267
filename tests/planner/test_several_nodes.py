"""Plans over several nodes, and a command for each."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shardwise.hardware.network import network
from shardwise.hardware.node import Node
from shardwise.layout.deployment import Layout
from shardwise.layout.nodes import nodes_of
from shardwise.planner.command import Replica, checkpoint, replicas_across
from shardwise.planner.plan import plan
from shardwise.planner.question import Demand, Question


def over(question: Question, nodes: int, name: str = "ib-ndr") -> Question:
    node = question.node
    return replace(question, node=Node(node.gpu, node.gpus * nodes, nodes, network(name)))


def started(question: Question, layout: Layout, engine: str = "vllm") -> tuple[Replica, ...]:
    best = plan(question).best.deployment
    best = replace(best, layout=layout, engine=engine)
    found = checkpoint(question.arch.id, question.arch, best)
    return replicas_across(best, question.arch, question.node, found)


def test_a_model_too_large_for_a_node_is_spread_over_two(ask: Any) -> None:
    question = over(ask("deepseek-r1", "h100", 8, Demand(4000, 1000, 64)), 2)
    found = plan(question)
    assert nodes_of(found.best.deployment.layout, 8) == 2
    assert found.best.gpus_paid == 16
    assert "nodes" in found.best.unseen
    tp16 = [r.reason for r in found.rejected if r.option.layout.tp_size == 16]
    assert tp16
    assert all("TP within a node" in reason for reason in tp16)


def test_what_fits_a_node_has_its_copies_in_each(ask: Any) -> None:
    one = plan(ask("llama-3.1-70b", "h100", 8, Demand(1000, 500, 64), weight_dtype="fp8"))
    two = plan(over(ask("llama-3.1-70b", "h100", 8, Demand(1000, 500, 128), weight_dtype="fp8"), 2))
    layout = one.best.deployment.layout
    same = next(
        c for c in two.ranked if replace(c.deployment.layout, replicas=layout.replicas) == layout
    )
    assert same.deployment.replicas == 2 * layout.replicas
    assert same.evidence.metrics["tpot_s"] == one.best.evidence.metrics["tpot_s"]
    assert same.node_output_tok_s.value == pytest.approx(2 * one.best.node_output_tok_s.value)


def test_each_node_of_a_pipeline_has_vllms_flags(ask: Any) -> None:
    question = over(ask("llama-3.1-70b", "h100", 8, Demand(1000, 500, 64)), 4)
    lines = started(question, Layout(8, 2, replicas=2))
    assert [r.node for r in lines] == [0, 1, 2, 3]
    assert all(r.devices == tuple(range(8)) for r in lines)
    assert "--nnodes 2 --node-rank 0 --master-addr NODE0" in lines[0].line
    assert "--headless" not in lines[0].argv
    assert "--nnodes 2 --node-rank 1 --master-addr NODE2 --headless" in lines[3].line


def test_each_node_of_copies_of_attention_has_vllms_flags(ask: Any) -> None:
    question = over(ask("deepseek-r1", "h100", 8, Demand(1000, 500, 64)), 2)
    first, second = started(question, Layout(4, 1, 16, 4))
    assert "--data-parallel-size-local 2 --data-parallel-address NODE0" in first.line
    assert "--data-parallel-start-rank" not in first.argv
    assert "--data-parallel-start-rank 2 --headless" in second.line


def test_sglang_has_the_same_flags_but_for_the_rank(ask: Any) -> None:
    question = over(ask("deepseek-r1", "h100", 8, Demand(1000, 500, 64), engine="sglang"), 2)
    first, second = started(question, Layout(8, 2), "sglang")
    assert "--nnodes 2 --node-rank 0 --dist-init-addr NODE0:20000" in first.line
    assert second.line == first.line.replace("--node-rank 0", "--node-rank 1")


def test_replicas_within_nodes_have_ports_and_devices_of_their_node(ask: Any) -> None:
    question = over(ask("llama-3.1-70b", "h100", 8, Demand(1000, 500, 64)), 2)
    lines = started(question, Layout(4, replicas=4))
    assert [(r.node, r.devices[0], r.port) for r in lines] == [
        (0, 0, 8000),
        (0, 4, 8001),
        (1, 0, 8000),
        (1, 4, 8001),
    ]
    assert "--nnodes" not in lines[0].argv


def test_other_engines_stay_within_nodes(ask: Any) -> None:
    question = over(ask("llama-3.1-70b", "h100", 8, Demand(1000, 500, 64), engine="trtllm"), 2)
    found = plan(question)
    assert all(nodes_of(c.deployment.layout, 8) == 1 for c in found.ranked)
    assert any("TensorRT-LLM across nodes" in r.reason for r in found.rejected)
