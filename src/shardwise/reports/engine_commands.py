"""Engine commands that start a deployment."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shardwise.architecture.model import Model
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.layout.deployment import Deployment
from shardwise.planner.command import checkpoint, note, replicas


class EngineCommands(msgspec.Struct, frozen=True):
    """A command line per replica, the files they use, and what the user must supply.

    `problem`: why the engine has no command for this deployment; "" if it has one.
    """

    lines: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  #: name, content
    note: str = ""
    problem: str = ""


def engine_commands(
    given: str, arch: Model, gpu: Gpu, deployment: Deployment, order: Sequence[int] = ()
) -> EngineCommands:
    """Return the engine's own commands for `deployment`, as printed by `shardwise plan`.

    `given` is the model as the user named it; `order` the node's GPUs as they are dealt (empty: as
    they are numbered).
    """
    try:
        found = checkpoint(given, arch, deployment)
        made = replicas(deployment, arch, gpu, found, order=order)
    except InputError as error:
        return EngineCommands(problem=str(error))
    files = tuple((file.name, file.text) for file in made[0].files)
    return EngineCommands(tuple(r.line for r in made), files, note(found))
