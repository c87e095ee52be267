"""Command lines made from the commands' own options, mostly sound, with some values that are not.

Every option that click knows of a command is drawn from, so a new one is tried without a word
here. What would start a server or an engine, or measure this machine, is given a last word that
keeps it from doing so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from hypothesis import strategies as st

from shardwise.cli.main import cli

NUMBERS: Final = (
    *("0", "1", "2", "3", "7", "8", "64", "1000", "131072", "-1", "-0", "1.5", "0.001", "1e-300"),
    *("1e6", "1e300", "nan", "inf", "-inf", "9999999999999999999999", "0x10", "1_000", "٣"),
)
WORDS: Final = (
    *("", " ", ",", "1,2,4", "1,,2", "8,1", "1,x", "auto", "fp8", "bf16", "int8", "vllm", "sglang"),
    *("trtllm", "builtin", "h200", "mi300x", "H200 SXM", "llama-3.1-8b", "llama-51m", "reference"),
    *(
        "200ms",
        "2s",
        "2:3s",
        "9:x",
        "latency",
        "0:1:2",
        "0:nan",
        "A=b",
        "=",
        "../x",
        "☃",
        "\u202e",
        "a" * 300,
    ),
    *("%s%n", "{x}", "$(x)", "'\"", "line\nbreak", "\udcff", "-", "--", "round_robin,best"),
)
#: files that `write_files` makes, and places where nothing can be read or written
PATHS: Final = (
    *("rows.csv", "bad.csv", "utf16.csv", "empty", "noise", "store.db", "trace.csv", "gpu.toml"),
    *(
        "topology.txt",
        "text.toml",
        "deployment.toml",
        "result.json",
        "folder",
        "absent",
        "out.csv",
        "out.json",
    ),
    *(
        "folder/out.csv",
        "/proc/none/out.csv",
        "/dev/null",
        "/dev/full",
        "",
        "a" * 300,
        "nul\x01.csv",
    ),
)


class Subject(msgspec.Struct, frozen=True):
    """A command with arguments that make it quick, and what stands last, come what may."""

    words: tuple[str, ...]
    sound: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  #: options


_MODEL: Final = ("llama-3.1-8b",)
_TRAFFIC: Final = ("--rate", "2", "--duration", "3s", "--osl", "20")
_NOBODY: Final = ("http://127.0.0.1:9",)
SUBJECTS: Final = (
    Subject(("plan",), (*_MODEL, "--gpu", "h200", "--isl", "512", "--osl", "64"), ()),
    Subject(
        ("plan",), (*_MODEL, "--gpu", "h200", "--isl", "512", "--osl", "64", "--concurrency", "8")
    ),
    Subject(("study",), (*_MODEL, "--gpu", "h200", "--batch", "8"), left_out=("--measure",)),
    Subject(("simulate",), (*_MODEL, *_TRAFFIC)),
    Subject(("simulate",), (*_MODEL, "--concurrency", "4", "--osl", "20")),
    Subject(("simulate",), (*_MODEL, "--stage", "2:2s", "--stage", "4:1s", "--osl", "20")),
    Subject(("simulate",), (*_MODEL, *_TRAFFIC, "--turns", "3", "--think", "1s")),
    Subject(("simulate",), (*_MODEL, "--day", "1", "--osl", "20", "--ttft", "1s")),
    Subject(("search",), (*_MODEL, *_TRAFFIC), left_out=("--on",)),
    Subject(("predict",), ("rows.csv", "-o", "out.csv")),
    Subject(("validate",), ("rows.csv",)),
    Subject(("calibrate",), ("rows.csv", "--name", "mine")),
    Subject(("compare",), ("run.jsonl", "run.jsonl", "--fail-if-slower", "5%")),
    Subject(("report",), ("folder", "-o", "report.html")),
    Subject(("catalogue", "gpus")),
    Subject(("catalogue", "models")),
    Subject(("catalogue", "facts"), ("h200",)),
    Subject(("catalogue", "fits")),
    Subject(("bench", "run"), _NOBODY),
    Subject(("bench", "sweep"), _MODEL, last=("--devices", "99999")),
    Subject(("bench", "show"), ("store.db",)),
    Subject(("bench", "export"), ("store.db", "-o", "out.csv")),
    Subject(("bench", "import"), ("rows.csv", "--store", "imported.db")),
    Subject(("bench", "selftest"), last=("--concurrency", "0")),
    Subject(("export",), ("deployment.toml",)),
    Subject(("up",), last=("absent.toml",)),
    Subject(("status",), ("deployment.toml",), left_out=("--watch",)),
    Subject(("logs",), ("deployment.toml",)),
    Subject(("down",), ("deployment.toml",)),
    Subject(("explain",), last=("absent",)),
    Subject(("profile",), last=("absent",)),
    Subject(("serve",), last=("absent",)),
    Subject(("web",), last=("--profile", "nobody")),
    Subject(("doctor",), ("--from", "topology.txt"), left_out=("--measure",)),
    Subject(("hardware", "detect"), last=("-o", "/proc/none/hardware.toml")),
)


def command_of(words: Sequence[str]) -> click.Command:
    """The click command behind `words`."""
    found: click.Command = cli
    for word in words:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, word
        found = inner
    return found


def _values(kind: click.ParamType[Any]) -> st.SearchStrategy[str]:
    numbers, words, paths = map(st.sampled_from, (NUMBERS, WORDS, PATHS))
    if isinstance(kind, click.Choice):
        return st.one_of(st.sampled_from([str(choice) for choice in kind.choices]), words)
    if isinstance(kind, click.Path):
        return paths
    if kind.name.startswith(("integer", "float")):
        whole = st.integers(-5, 4096).map(str)
        return st.one_of(numbers, whole, st.floats(0.001, 1000.0).map(str), words)
    return st.one_of(words, numbers, st.text(max_size=20).filter(lambda s: "\0" not in s))


def _option(option: click.Option) -> st.SearchStrategy[list[str]]:
    name = max(option.opts, key=len)
    if option.is_flag:
        return st.just([name])
    return _values(option.type).map(lambda value: [name, value])


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command line: a subject with up to four options, an argument changed now and then."""
    subject = draw(st.sampled_from(SUBJECTS))
    command = command_of(subject.words)
    options = [
        p
        for p in command.params
        if isinstance(p, click.Option) and not set(p.opts) & set(subject.left_out)
    ]
    sound = list(subject.sound)
    if sound and draw(st.integers(0, 7)) == 0:
        sound[draw(st.integers(0, len(sound) - 1))] = draw(st.sampled_from((*WORDS, *PATHS)))
    given = draw(st.lists(st.sampled_from(options), max_size=4)) if options else []
    drawn = [word for option in given for word in draw(_option(option))]
    return [*subject.words, *sound, *drawn, *subject.last]


_ROWS: Final = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl,tpot_ms\n"
_ROW: Final = "llama-3.1-8b,h200,vllm,fp8,{},serving_closed_loop,8,100,100,{}\n"
_GPU: Final = """[gpu.mine]
memory = { value = 80, unit = "GB" }
memory_bandwidth = { value = 2, unit = "TB/s" }
flops.bf16 = { value = 300, unit = "TFLOPS" }
compute_units = { value = 100, unit = "1" }
interconnect = { topology = "switched", bandwidth = { value = 300, unit = "GB/s" }, max_world = 8 }
"""
_TOPOLOGY: Final = """\tGPU0\tGPU1\tCPU Affinity
GPU0\t X \tNV18\t0-31
GPU1\tNV18\t X \t32-63
"""
_DEPLOYMENT: Final = """name = "fuzz"
[node]
gpu = "h200"
[[models]]
model = "llama-3.1-8b"
engine = "vllm"
"""


_RUN: Final = (
    '{"deployment": {"model": "m", "gpu": "h200"}, "workload": {"isl": 8, "osl": 8,'
    ' "concurrency": 1}, "metrics": {"tpot_s": {"value": 0.01, "lo": 0.009, "hi": 0.011, "n": 9}},'
    ' "source": {"kind": "measured", "name": "x"}}'
)


def write_files(folder: Path) -> None:
    """What PATHS names, sound and unsound."""
    from shardwise.evidence.store import open_store

    rows = _ROWS + "".join(_ROW.format(tp, ms) for tp, ms in ((1, 9), (2, 6), (4, 4), (8, 3)))
    for name, text in (
        ("rows.csv", rows),
        ("bad.csv", _ROWS + "\n".join(["x,y", '"open', ",,,,,,,,,,,,,", "x" * 9999])),
        ("trace.csv", "arrival_s,isl,osl\n0,100,10\n0.5,100,10\n"),
        ("gpu.toml", _GPU),
        ("text.toml", "not toml"),
        ("topology.txt", _TOPOLOGY),
        ("deployment.toml", _DEPLOYMENT),
        ("run.jsonl", _RUN),
        ("result.json", '{"results": [1, null, {"x": 1e999}]}'),
        ("empty", ""),
    ):
        (folder / name).write_text(text)
    (folder / "utf16.csv").write_bytes(rows.encode("utf-16"))
    (folder / "noise").write_bytes(bytes(range(256)) * 4)
    (folder / "folder").mkdir()
    open_store(folder / "store.db").close()
