"""The machine as entries of the hardware catalogue, one for each use of its cores.

A rank with two threads is a different "GPU" from a rank with one. A rank with idle neighbours has
the full memory bandwidth: 41 GB/s alone and 26 GB/s next to another rank on two Zen 5 cores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

from shardwise.errors import InputError
from shardwise.experiment.split import Machine, Split, busy_ranks
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.user_files import hardware_folder


def gpu_id(split: Split, concurrency: int, machine: Machine, name: str) -> str:
    """Return the hardware id of a cell."""
    if machine.gpu:
        return machine.gpu
    if machine.kind != "cpu":
        return name
    return f"{name}-{busy_ranks(split, concurrency)}x{split.threads}"


def detect(name: str, machine: Machine, ranks: int, threads: int) -> None:
    """Measure the machine with these ranks and threads, unless already done.

    Runs in a separate process, so that its memory is free when the load client measures.
    InputError with its message if it fails.
    """
    if (hardware_folder() / f"{name}.toml").is_file():
        return
    device = "cpu" if machine.kind == "cpu" else "cuda"
    line = [sys.executable, "-m", "shardwise.cli.main", "hardware", "detect", "--name", name]
    line += ["--device", device]
    if machine.kind == "cpu":
        line += ["--ranks", str(ranks), "--threads-per-rank", str(threads)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason was given"]
        raise InputError(f"cannot measure this machine: {words[-1][:300]}")
    default_catalogue.cache_clear()  # the cached catalogue does not have it


def shapes(
    wanted: Iterable[tuple[Split, int]], machine: Machine, name: str
) -> dict[str, tuple[int, int]]:
    """Return ranks and threads by hardware id for the (split, concurrency) pairs."""
    return {
        gpu_id(split, slots, machine, name): (busy_ranks(split, slots), split.threads)
        for split, slots in wanted
    }
