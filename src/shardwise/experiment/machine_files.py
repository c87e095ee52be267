"""The machine as entries of the hardware catalogue, one for each way its cores are at work.

A rank of two threads is another "GPU" than a rank of one, and a rank whose neighbours idle has the
memory's bandwidth to itself: 41 GB/s alone and 26 GB/s beside another on two Zen 5 cores.
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
    """What the hardware of a cell is called."""
    if machine.gpu:
        return machine.gpu
    if machine.kind != "cpu":
        return name
    return f"{name}-{busy_ranks(split, concurrency)}x{split.threads}"


def detect(name: str, machine: Machine, ranks: int, threads: int) -> None:
    """Measure the machine at so many ranks and threads, unless that was done before.

    A process of its own, so that what it loads is gone when the load client measures. InputError
    with its words where it fails.
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
    default_catalogue.cache_clear()  # what was read before has not got it


def shapes(
    wanted: Iterable[tuple[Split, int]], machine: Machine, name: str
) -> dict[str, tuple[int, int]]:
    """Each hardware id that the (split, concurrency) pairs need: its ranks and threads."""
    return {
        gpu_id(split, slots, machine, name): (busy_ranks(split, slots), split.threads)
        for split, slots in wanted
    }
