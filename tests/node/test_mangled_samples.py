"""Every sample says the same after what a paste goes through."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.node.samples import FOLDER, needs_samples

from shardwise.node.reading.read import Reading, read

pytestmark = needs_samples


def each_line(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "\n".join(change(line) for line in text.splitlines())


def cut(width: int) -> Callable[[str], str]:
    """What a terminal of that width shows, copied with its line breaks."""

    def pieces(line: str) -> str:
        return "\n".join(line[i : i + width] for i in range(0, max(len(line), 1), width))

    return each_line(pieces)


MANGLED: dict[str, Callable[[str], str]] = {
    "docker compose": each_line(lambda line: f"node-1  | {line}"),
    "kubectl logs": each_line(lambda line: f"2026-05-01T20:44:30.358123Z stdout F {line}"),
    "journal": each_line(lambda line: f"Aug 18 13:15:02 host bash[123]: {line}"),
    "windows": lambda text: text.replace("\n", "\r\n"),
    "colour": each_line(lambda line: f"\x1b[36m{line}\x1b[0m"),
    "mail": each_line(lambda line: f"> {line}"),
    "indented": each_line(lambda line: f"      {line}"),
    "web page": lambda text: text.replace("  ", "\u00a0\u00a0"),
    "blank lines": lambda text: text.replace("\n", "\n\n"),
    "lost blanks": lambda text: re.sub(r"[ \t]+", " ", text),
    "terminal of 120": cut(120),
    "terminal of 90": cut(90),
}


def facts(found: Reading) -> Any:
    """Everything that was read but for line numbers and the odd version string."""
    node = found.node
    starts = [
        (
            s.engine, s.weights_bytes, s.kv_bytes, s.kv_tokens, s.concurrency, s.concurrency_len,
            s.graph_bytes, s.graph_estimate_bytes, s.activation_bytes, s.non_torch_bytes,
            s.total_bytes, s.left_bytes, s.tp_size, s.tp_at_least, s.processes, s.max_model_len,
            s.gpu_memory_utilization, s.all_reduce, s.failure and s.failure.what,
        )
        for s in found.startups
    ]  # fmt: skip
    return (
        node and (node.devices, node.links, node.peer_access),
        starts,
        found.nccl,
        [gpu.bus_id for gpu in found.failed],
        found.versions,
        found.unknown_pairs,
    )


@pytest.mark.parametrize("how", MANGLED)
def test_a_mangled_sample_says_what_it_said(how: str) -> None:
    wrong = []
    for path in sorted(FOLDER.glob("*/*.txt")):
        text = path.read_text("utf-8")
        if facts(read(MANGLED[how](text))) != facts(read(text)):
            wrong.append(path.name)
    assert wrong == []


def test_lines_of_others_between_change_nothing_of_a_topology() -> None:
    noise = each_line(lambda line: f"{line}\nan unrelated line about GPU0 and 3.5 GiB of memory")
    for path in sorted(FOLDER.glob("topology/*.txt")):
        text = path.read_text("utf-8")
        assert facts(read(noise(text))) == facts(read(text)), path.name
