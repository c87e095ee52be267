"""Container images of engines, and the arguments after the entrypoint."""

from __future__ import annotations

from typing import Any

from shardwise.engines import Share, every, get
from shardwise.errors import InputError
from shardwise.hosting.launching import Launch
from shardwise.replica.command import argv

#: (engine, kind of device) -> image published by the engine's project
IMAGES = {
    (engine.name, kind): image
    for engine in every()
    for kind, image in engine.packaging.images.items()
}
CONTAINER_PORT = 8000


def image(launch: Launch) -> str:
    """Return the image. InputError for an engine without a published image."""
    found = IMAGES.get((launch.model.engine, launch.kind))
    if found is None:
        allowed = ", ".join(f"{engine} on {kind}" for engine, kind in IMAGES)
        raise InputError(
            f"{launch.replica}: no image for engine {launch.model.engine!r} on {launch.kind}",
            f"allowed: {allowed}",
            "or export to systemd",
        )
    return found


def api_key_variable(launch: Launch) -> str:
    """Return the environment variable of the engine's API key; "" if it has none."""
    if launch.model.engine == "command":
        return ""
    return get(launch.model.engine).packaging.api_key_variable


def command(launch: Launch, share: Share | None = None) -> list[str]:
    """Return the flags of `up`, with the container's own address; with `share`, of one node."""
    line = argv(launch.model.instance, "0.0.0.0", CONTAINER_PORT, launch.kind, share)
    return line if share and line[0] != "python" else ["python3", *line[1:]]


def dump(*documents: dict[str, Any]) -> str:
    """Return YAML with keys in the given order, and equal parts written out each time."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _data: Any) -> bool:
            return True

    text: str = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, width=100)
    return text
