"""Layouts over nodes: TP stays within a node; pipeline stages and attention ranks may span
nodes."""

from __future__ import annotations

from shardwise.layout.deployment import Layout


def nodes_of(layout: Layout, gpus_per_node: int) -> int:
    """Return the number of nodes of one replica."""
    return -(-layout.replica_gpus // gpus_per_node)


def replicas_on(layout: Layout, nodes: int, gpus_per_node: int) -> int:
    """Replicas that the nodes hold: several in each, or one over several whole ones."""
    if layout.replica_gpus <= gpus_per_node:
        return nodes * (gpus_per_node // layout.replica_gpus)
    return nodes // nodes_of(layout, gpus_per_node)


def straddles(layout: Layout, gpus_per_node: int) -> str:
    """Return why a replica cannot span nodes, or ""."""
    if layout.tp_size > gpus_per_node:
        return f"TP={layout.tp_size} over nodes of {gpus_per_node} GPUs; allowed: TP within a node"
    if layout.replica_gpus <= gpus_per_node:
        return ""
    if layout.replica_gpus % gpus_per_node:
        return f"{layout.replica_gpus} GPUs a replica are not whole nodes of {gpus_per_node}"
    stage = layout.stage_gpus
    if gpus_per_node % stage and stage % gpus_per_node:
        return f"a stage of {stage} GPUs straddles nodes of {gpus_per_node}"
    return ""


def crossing_hops(layout: Layout, gpus_per_node: int) -> int:
    """Hand-overs between pipeline stages that pass from one node to another."""
    return nodes_of(layout, gpus_per_node) - 1 if layout.pp_size > 1 else 0
