"""LeaderWorkerSet: a replica that spans several nodes, one pod per node, with the engine's own
multi-node flags.

The leader serves HTTP. LeaderWorkerSet from 0.6 sets `LWS_LEADER_ADDRESS` and `LWS_WORKER_INDEX` in
every pod (https://lws.sigs.k8s.io/docs/reference/labels-annotations-and-environment-variables).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Final

from shardwise.engines import Share, get, managed
from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable
from shardwise.hosting.exports.images import command
from shardwise.hosting.exports.pods import container, pod
from shardwise.hosting.launching import Launch

#: Label of the pods that serve HTTP.
LEADER: Final = {"role": "leader"}
_HEAD: Final = "$HEAD"
_RANK: Final = "$LWS_WORKER_INDEX"
#: The leader binds this address, so it must be an IP: ZeroMQ binds no host names. `$$` is
#: Kubernetes' escape of `$`.
_FIND_HEAD: Final = (
    'while HEAD=$$(getent hosts "$LWS_LEADER_ADDRESS" | cut -d" " -f1); [ -z "$HEAD" ]; '
    "do sleep 1; done"
)


def nodes_of(file: DeploymentFile, model: ModelTable) -> int:
    """Return the number of nodes of one replica: one, unless it needs more GPUs than a node has.

    Raises InputError if its layout cannot be divided among nodes.
    """
    per_node = file.node.gpus
    if not per_node or model.devices_per_replica <= per_node:
        return 1
    nodes = -(-model.devices_per_replica // per_node)
    divided = model.attention_dp if model.attention_dp > 1 else model.pp_size
    if divided % nodes or model.devices_per_replica // nodes > per_node:
        raise InputError(
            f"{model.served_name}: {model.layout.name} on nodes of {per_node}",
            "allowed: TP within a node; PP, or the copies of attention, a multiple of the nodes",
        )
    able = [name for name in managed() if get(name).capabilities.multi_node]
    if model.engine not in able:
        raise InputError(
            f"{model.served_name}: a replica over {nodes} nodes with {model.engine}",
            f"allowed: {', '.join(able)}",
        )
    return nodes


def leader_worker_set(
    file: DeploymentFile, launch: Launch, name: str, labels: dict[str, str], nodes: int
) -> dict[str, Any]:
    """Return the LeaderWorkerSet of a model whose replicas span `nodes` nodes each."""
    leader = container(file, launch, launch.model.devices_per_replica // nodes)
    leader["command"] = ["sh", "-c"]
    leader["args"] = [_script(command(launch, Share(nodes, 0, _HEAD)))]
    worker = {
        **{key: leader[key] for key in ("image", "env", "command", "resources", "volumeMounts")},
        "name": "worker",
        "args": [_script(_of_any_worker(launch, nodes))],
    }
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": launch.model.replicas,
            "leaderWorkerTemplate": {
                "size": nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": pod({**labels, **LEADER}, leader),
                "workerTemplate": pod(labels, worker),
            },
        },
    }


def _of_any_worker(launch: Launch, nodes: int) -> list[str]:
    """Return the workers' command. The one value that differs between them, a multiple of the
    node's rank, is computed from `LWS_WORKER_INDEX`."""
    first, second = (command(launch, Share(nodes, rank, _HEAD)) for rank in (1, 2))
    return [
        one if one == two else _times_rank(int(two) - int(one))
        for one, two in zip(first, second, strict=True)
    ]


def _times_rank(step: int) -> str:
    return _RANK if step == 1 else f"$$(({_RANK[1:]} * {step}))"


def _script(words: Sequence[str]) -> str:
    return f"{_FIND_HEAD}; exec {' '.join(_quoted(word) for word in words)}"


def _quoted(word: str) -> str:
    if _HEAD in word or _RANK[1:] in word:
        return f'"{word}"'
    return shlex.quote(word).replace("$", "$$")
