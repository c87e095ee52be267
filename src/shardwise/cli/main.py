"""The `shardwise` command: subcommands by name, and every user error as one line on stderr."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from shardwise import __version__
from shardwise.errors import ShardwiseError, UnknownNameError, printable

#: name -> (module, one line of help). Modules are imported when their command runs.
COMMANDS: Final = {
    "plan": ("shardwise.cli.plan", "Rank the deployments that fit a node, with the reason."),
    "study": ("shardwise.cli.study", "Latency, throughput and cost for each TP and batch."),
    "simulate": ("shardwise.cli.simulate", "A deployment under arriving requests."),
    "search": ("shardwise.cli.search", "Many simulations, on all cores or a Ray cluster."),
    "predict": ("shardwise.cli.predict", "Predict the rows of a CSV file."),
    "validate": ("shardwise.cli.validate", "Compare predictions with measured rows."),
    "compare": ("shardwise.cli.compare", "Is run B slower than run A, and how sure is that?"),
    "calibrate": ("shardwise.cli.calibrate", "Make a profile from your own measured rows."),
    "report": ("shardwise.cli.report", "A study as one HTML file to read, print and forward."),
    "web": ("shardwise.cli.web", "The explorer: play with TP in a browser, on this machine."),
    "catalogue": ("shardwise.cli.catalogue", "GPUs, prices and models, with their sources."),
    "hardware": ("shardwise.cli.hardware", "Measure this machine as a GPU of the catalogue."),
    "doctor": ("shardwise.cli.doctor", "Read a node or a paste of it: links, TP, what to change."),
    "explain": ("shardwise.cli.explain", "One layer's way through TP, with real numbers."),
    "serve": ("shardwise.cli.serve", "The built-in engine on the OpenAI API."),
    "profile": ("shardwise.cli.profile", "Where a rank's time goes: attention, MLP, all-reduce."),
    "bench": ("shardwise.cli.bench", "Measure endpoints and engines, and keep the results."),
    "up": ("shardwise.cli.host", "Start a deployment file's replicas behind a balancer."),
    "status": ("shardwise.cli.host", "State, memory and load of each replica."),
    "logs": ("shardwise.cli.host", "What the replicas and the balancer wrote."),
    "down": ("shardwise.cli.host", "Stop a deployment."),
    "export": ("shardwise.cli.host", "The same as compose, systemd, Kubernetes or Ray Serve."),
}


class _Commands(click.Group):
    """Imports a command's module when it is needed, so that `--help` and `plan` stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            raise UnknownNameError("command", cmd_name, COMMANDS, "see shardwise --help")
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


#: New objects between collections; Python's 700 collects dozens of times while a plan is made.
GC_THRESHOLD: Final = 200_000


@click.command(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="shardwise")
@click.pass_context
def cli(context: click.Context) -> None:
    """Choose, prove and deploy the right parallel layout for LLM inference.

    Example: shardwise plan llama-3.1-70b --gpu h200 --isl 1024 --osl 256 --concurrency 64
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run a command; exit 2 on bad input, 3 where nothing meets the SLO, 130 when interrupted."""
    # the arrays here are small: threads of a BLAS would cost more than they give
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.set_threshold(GC_THRESHOLD)
    _require_utf8(sys.argv[1:])
    try:
        cli.main(prog_name="shardwise", standalone_mode=False)
    except ShardwiseError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except ModuleNotFoundError as error:
        _fail_for_want_of(error)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; what was written is kept", 130)
    except BrokenPipeError:
        # the reader (head, less) has gone: nothing is left to say, not even at shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # a path that was given, or a disk: the commands name what they expect, this is the rest
        where = f"{error.filename!r}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 2)


def _require_utf8(words: Sequence[str]) -> None:
    """Exit 2 for an argument whose bytes are no UTF-8, which no file that is written could hold."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            _fail(f"the argument {word[:40]!r} is not UTF-8", 2)


def _fail_for_want_of(error: ModuleNotFoundError) -> None:
    """Say how to install the missing library; raise `error` again where it is none of an extra."""
    from shardwise.cli.engine_extra import install_line

    command = next((word for word in sys.argv[1:] if word in COMMANDS), "")
    line = install_line(error.name or "", command)
    if not line:
        raise error
    _fail(f"{command} needs {error.name}; {line}", 2)


def _fail(message: str, code: int) -> None:
    line = printable(" ".join(message.split()))
    sys.stderr.write(f"shardwise: {line}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
