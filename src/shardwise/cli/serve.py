"""`shardwise serve`: serve one replica with the OpenAI API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shardwise.cli.options import COMPUTE_DTYPE, DEVICE

MODEL = click.argument("model", type=click.Path(exists=True, path_type=Path))


@click.command()
@MODEL
@click.option(
    "--tensor-parallel-size",
    "tp_size",
    default=1,
    show_default=True,
    help="Number of ranks to shard the model over.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0: any free one.",
)
@click.option("--served-model-name", "model_name", default="", help="Model name for clients.")
@DEVICE
@COMPUTE_DTYPE
@click.option(
    "--max-model-len", default=0, help="Limit of prompt plus output tokens; 0: the model's."
)
@click.option(
    "--max-num-seqs", default=64, show_default=True, help="Limit of sequences in a batch."
)
@click.option(
    "--max-num-batched-tokens", default=1024, show_default=True, help="Limit of tokens per step."
)
@click.option(
    "--kv-cache-tokens",
    default=32768,
    show_default=True,
    help="Capacity of the KV cache in tokens.",
)
@click.option(
    "--max-queue",
    default=256,
    show_default=True,
    help="Number of waiting requests above which requests get 429.",
)
@click.option(
    "--step-timeout",
    "step_timeout_s",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1, 86400),
    help="Seconds without a finished step before /health fails; the replica exits after twice "
    "that.",
)
@click.option(
    "--threads-per-rank", default=0, help="CPU threads per rank; 0: an equal share of the cores."
)
@click.option(
    "--all-reduce",
    default="auto",
    type=click.Choice(["auto", "shared_memory", "torch"]),
    help="All-reduce: torch.distributed, or shared memory on one x86-64 host.",
)
@click.option(
    "--random-weights", is_flag=True, help="Use random weights from config.json, for timing."
)
def serve(
    model: Path,
    host: str,
    port: int,
    model_name: str,
    max_queue: int,
    step_timeout_s: float,
    **engine: Any,
) -> None:
    """Serve MODEL, a Hugging Face directory or a .gguf file, with the OpenAI API.

    Starts one replica with weights sharded over --tensor-parallel-size processes. Without a
    tokenizer, text is read and written as token ids, e.g. "17 4 291".
    """
    from shardwise.api.extras import require_engine_extra

    require_engine_extra()
    from shardwise.engine.options import EngineOptions
    from shardwise.engine.server import ServerOptions
    from shardwise.engine.server import serve as run_server

    options = ServerOptions(host, port, model_name, max_queue, step_timeout_s)
    sys.exit(run_server(model, EngineOptions(**engine), options))
