"""`shardwise bench`: measure endpoints and engines, store and import results."""

from __future__ import annotations

import importlib
from typing import Final

import click

from shardwise.cli.examples import with_examples
from shardwise.errors import UnknownNameError

#: name -> (module, one line of help)
COMMANDS: Final = {
    "run": ("shardwise.cli.bench_run", "Measure a running endpoint."),
    "sweep": ("shardwise.cli.bench_sweep", "Start an engine at each TP and measure it."),
    "show": ("shardwise.cli.bench_store", "Show a store's cells and TP steps."),
    "import": ("shardwise.cli.bench_import", "Import results of vLLM, SGLang, aiperf and others."),
    "export": ("shardwise.cli.bench_store", "Export a store as CSV, JSON or Parquet."),
    "selftest": ("shardwise.cli.bench_selftest", "Check the accuracy of the load client."),
}


class _Commands(click.Group):
    """Import a command's module when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            raise UnknownNameError("command", cmd_name, COMMANDS, "see shardwise bench --help")
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, "import_" if cmd_name == "import" else cmd_name)
        assert isinstance(command, click.Command)
        return with_examples(command, f"bench {cmd_name}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


@click.command(cls=_Commands)
def bench() -> None:
    """Measure any OpenAI-compatible endpoint over TP sizes and batches."""
