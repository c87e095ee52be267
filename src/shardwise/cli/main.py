"""The `shardwise` command: subcommands by name; user errors are one line on stderr."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from shardwise import __version__
from shardwise.cli.examples import with_examples
from shardwise.errors import ShardwiseError, UnknownNameError, printable

#: name -> (module, one line of help). Modules are imported when their command runs.
COMMANDS: Final = {
    "plan": ("shardwise.cli.plan", "Rank the deployments that fit on a node, with reasons."),
    "study": (
        "shardwise.cli.study",
        "Compare latency, throughput and cost of TP sizes and batches.",
    ),
    "simulate": ("shardwise.cli.simulate", "Simulate a deployment under arriving requests."),
    "search": ("shardwise.cli.search", "Run many simulations, on all cores or a Ray cluster."),
    "predict": ("shardwise.cli.predict", "Predict the rows of a CSV file."),
    "validate": ("shardwise.cli.validate", "Compare predictions with measured rows."),
    "compare": ("shardwise.cli.compare", "Test whether run B is slower than run A."),
    "calibrate": ("shardwise.cli.calibrate", "Fit a profile to your own measured rows."),
    "report": ("shardwise.cli.report", "Write a study as one HTML file to read, print and share."),
    "web": ("shardwise.cli.web", "Open the explorer in a browser on this machine."),
    "catalogue": (
        "shardwise.cli.catalogue",
        "Look up GPUs, prices and models, with their sources.",
    ),
    "hardware": ("shardwise.cli.hardware", "Measure this machine as a GPU of the catalogue."),
    "doctor": (
        "shardwise.cli.doctor",
        "Diagnose a node or pasted output: links, TP, what to change.",
    ),
    "explain": ("shardwise.cli.explain", "Show one layer under TP, with real values."),
    "serve": ("shardwise.cli.serve", "Serve a model on the built-in engine, with the OpenAI API."),
    "profile": ("shardwise.cli.profile", "Time a rank's attention, MLP and all-reduce."),
    "bench": ("shardwise.cli.bench", "Measure endpoints and engines, and store the results."),
    "up": ("shardwise.cli.host", "Start a deployment file's replicas behind a balancer."),
    "status": ("shardwise.cli.host", "Show state, memory and load of each replica."),
    "logs": ("shardwise.cli.host", "Show the logs of the replicas and the balancer."),
    "down": ("shardwise.cli.host", "Stop a deployment."),
    "export": (
        "shardwise.cli.host",
        "Translate a deployment to compose, systemd, Kubernetes or Ray Serve.",
    ),
}


class _Commands(click.Group):
    """Import a command's module when it is needed, so that `--help` and `plan` stay fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            raise UnknownNameError("command", cmd_name, COMMANDS, "see shardwise --help")
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return with_examples(command, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


#: New objects between garbage collections; with Python's default of 700, a plan triggers dozens.
GC_THRESHOLD: Final = 200_000


@click.command(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="shardwise")
@click.pass_context
def cli(context: click.Context) -> None:
    """Choose, measure and deploy a parallel layout for LLM inference.

    Example: shardwise plan llama-3.1-70b --gpu h200 --isl 1024 --osl 256 --concurrency 64
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run a command; exit with 2 on bad input, 3 if nothing meets the SLO, 130 if interrupted."""
    # the arrays are small, so BLAS threads cost more than they gain
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.set_threshold(GC_THRESHOLD)
    atexit.register(gc.freeze)  # collecting at exit takes 20 ms
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
        _fail("interrupted; files that were written are kept", 130)
    except BrokenPipeError:
        # the reader (head, less) has exited: write nothing more, not even at shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # a path or disk error that the command did not handle
        where = f"{error.filename!r}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 2)


def _require_utf8(words: Sequence[str]) -> None:
    """Exit with 2 if an argument is not UTF-8, since it could not be written to any file."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            _fail(f"the argument {word[:40]!r} is not UTF-8", 2)


def _fail_for_want_of(error: ModuleNotFoundError) -> None:
    """Print how to install the missing library; re-raise `error` if no extra has it."""
    from shardwise.cli.install_lines import install_line

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
