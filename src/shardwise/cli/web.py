"""`shardwise web`: the explorer on this machine."""

from __future__ import annotations

import socket
from pathlib import Path
from threading import Thread
from typing import Final

import click

from shardwise.cli.options import CATALOGUE, NODE, PROFILE
from shardwise.errors import InputError

HOST: Final = "127.0.0.1"


@click.command()
@click.option("--port", default=8765, show_default=True, help="Port on 127.0.0.1; 0: any free one.")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Folder of saved studies, or a store of `bench`, to show over predictions.",
)
@click.option(
    "--model", "models", multiple=True, help="Your own config.json or model folder; repeatable."
)
@PROFILE
@NODE
@CATALOGUE
def web(
    port: int,
    store: Path | None,
    models: tuple[str, ...],
    profile: str,
    node_file: Path | None,
    catalogue_files: tuple[Path, ...],
) -> None:
    """Open the explorer: choose model, GPU and TP, and compare latency, throughput and cost.

    It listens on 127.0.0.1 alone and reads no file but those of --store, --model, --node and
    --catalogue.
    """
    try:
        import uvicorn

        from shardwise.web.app import app, prepare
    except ImportError as error:
        raise InputError(
            f"the explorer needs {error.name}", "", "pip install 'shardwise[web]'"
        ) from None
    from msgspec.structs import replace

    from shardwise.api.hardware import hardware_of
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.web.asking import explorer
    from shardwise.web.store import Store

    load_profile(profile)
    known = replace(
        explorer(models, Store(store)), profile=profile, catalogue_files=catalogue_files
    )
    if node_file is not None:
        taken = hardware_of("", None, node_file, catalogue_files)
        start = replace(known.start, gpu=taken.gpu, gpus=taken.gpus)
        known = replace(known, catalogue_files=taken.files, start=start)
    _ = known.catalogue
    _ = known.store.files  # checked here, so that the user sees the error
    listener = _listen(port)
    click.echo(f"http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C to stop)", err=True)
    Thread(target=prepare, args=(known,), daemon=True).start()  # while a browser is opened
    config = uvicorn.Config(app(known), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}", "allowed: 0 to 65535")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)  # so that the address printed answers at once
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen on {HOST}:{port}: {error.strerror}", "", "choose another --port"
        ) from None
    return listener
