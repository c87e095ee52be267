"""Does a load client read what a server really did? Ours and its peers, on one core each.

A server of exactly known delays (TTFT 50 ms, 10 ms between tokens, 100 tokens) runs on one core,
at real-time priority where that is permitted, since it is the clock all are held to. Each client
runs on another core, with the same streams, requests and ramp, one after the other. What a client
reads above the delay is its own doing, but for the server's own lateness, which it reports.
Ours asks for real-time priority, as in any run; the peers do not, so on a machine that is not
quiet (`load_average`) they are at a disadvantage.

CPU is that of the whole command less that of the same command for one request, so start-up is not
in it. `bare` is no client: epoll and recv on the same streams in a bare Python loop, and so about
what any Python program spends on being woken for each token on this machine.

Peers are run where given: aiperf and guidellm are commands on PATH, or in a folder named by option.
Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from shardwise.bench.http import ask
from shardwise.bench.priority import ahead
from shardwise.bench.selftest import ITL_S, OSL, TTFT_S, check_client, known_server, realtime_prefix
from shardwise.bench.target import Target, parse_target
from shardwise.errors import InputError

PROMPT = " ".join(["known"] * 16)
TOLD_MS = {"ttft": TTFT_S * 1e3, "itl": ITL_S * 1e3, "e2e": (TTFT_S + (OSL - 1) * ITL_S) * 1e3}
TOLERANCES = {"ttft": 0.02, "itl": 0.01, "e2e": 0.01}
CPU_S_PER_1000_TOKENS = 0.015
RAMP_S = TOLD_MS["e2e"] / 1e3
TIME_LIMIT_S = 600.0
#: (url, streams, requests, folder for files) -> command line, and how to read what it wrote
Tool = Callable[[Target, int, int, Path], tuple[list[str], Callable[[str], dict[str, float]]]]


class Row(msgspec.Struct, frozen=True):
    """What one client read at one number of streams. Means, in ms; CPU in s."""

    tool: str
    streams: int
    requests: int
    completed: int
    cpu_s_per_1000_tokens: float
    startup_cpu_s: float
    ttft: float
    itl: float
    e2e: float
    server_late_ttft: float  #: ms, by the server's own account
    server_late_e2e: float
    #: ours alone tells it: CPU between the first request and the last token, start and end apart
    run_cpu_s_per_1000_tokens: float | None = None

    def error(self, metric: str) -> float:
        return float(getattr(self, metric)) / TOLD_MS[metric] - 1.0

    @property
    def within(self) -> bool:
        good = all(abs(self.error(metric)) <= TOLERANCES[metric] for metric in TOLERANCES)
        return good and self.completed == self.requests


def ours(target: Target, streams: int, requests: int, _folder: Path) -> Any:
    """This file, run again for our client alone."""
    command = [sys.executable, __file__, "--ours", target.url, str(streams), str(requests)]

    def read(printed: str) -> dict[str, float]:
        found = json.loads(printed.splitlines()[-1])
        ttft, itl, e2e = (found["readings"][name] for name in ("ttft_s", "itl_s", "e2e_latency_s"))
        return {
            "completed": found["completed"],
            "ttft": ttft["measured_s"] * 1e3,
            "itl": itl["measured_s"] * 1e3,
            "e2e": e2e["measured_s"] * 1e3,
            "run_cpu_s_per_1000_tokens": found["cpu_s_per_1000_tokens"],
            # it asks the server itself
            "server_late_ttft": (ttft["sent_s"] - ttft["told_s"]) * 1e3,
            "server_late_e2e": (e2e["sent_s"] - e2e["told_s"]) * 1e3,
        }

    return command, read


def aiperf(path: str) -> Tool:
    def tool(target: Target, streams: int, requests: int, folder: Path) -> Any:
        prompts = folder / "aiperf.jsonl"
        prompts.write_text(json.dumps({"text": PROMPT}) + "\n")
        out = folder / "aiperf"
        command = f"{path} profile --model known --url {target.url} --endpoint-type completions "
        command += f"--streaming --concurrency {streams} --concurrency-ramp-duration {RAMP_S} "
        command += f"--request-count {requests} --use-server-token-count --use-legacy-max-tokens "
        command += f"--tokenizer {_tokenizer(folder)} --input-file {prompts} "
        command += f"--custom-dataset-type single_turn --extra-inputs max_tokens:{OSL} "
        command += f"--artifact-dir {out}"

        def read(_: str) -> dict[str, float]:
            found = json.loads((out / "profile_export_aiperf.json").read_text())
            return {
                "completed": found["request_count"]["avg"],
                "ttft": found["time_to_first_token"]["avg"],
                "itl": found["inter_token_latency"]["avg"],
                "e2e": found["request_latency"]["avg"],
            }

        return command.split(), read

    return tool


def guidellm(path: str) -> Tool:
    def tool(target: Target, streams: int, requests: int, folder: Path) -> Any:
        line = json.dumps({"prompt": PROMPT, "output_tokens_count": OSL}) + "\n"
        data, out = folder / "guidellm.jsonl", folder / "guidellm.json"
        data.write_text(line * requests)
        backend = f"kind=openai_http,target={target.url},model=known,request_format=/v1/completions"
        profile = f"kind=concurrent,streams={streams},rampup_duration={RAMP_S}"
        command = f"{path} run --backend {backend} --profile {profile} "
        command += f"--constraint kind=max_requests,count={requests} "
        command += f"--tokenizer kind=huggingface_auto,model={_tokenizer(folder)} "
        command += f"--data kind=json_file,path={data} --output kind=json,path={out} "
        command += "--disable-console-interactive"

        def read(_: str) -> dict[str, float]:
            metrics = json.loads(out.read_text())["benchmarks"][0]["metrics"]
            mean = {name: metrics[name]["successful"]["mean"] for name in metrics if "ms" in name}
            return {
                "completed": metrics["request_totals"]["successful"],
                "ttft": mean["time_to_first_token_ms"],
                "itl": mean["inter_token_latency_ms"],
                "e2e": metrics["request_latency"]["successful"]["mean"] * 1e3,
            }

        return command.split(), read

    return tool


def _tokenizer(folder: Path) -> Path:
    """A tokenizer that the peers can load from disk: words at spaces."""
    made = folder / "tokenizer"
    made.mkdir(exist_ok=True)
    parts = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    model = {"type": "WordLevel", "vocab": {"known": 0, "x": 1, "?": 2}, "unk_token": "?"}
    whole = {"version": "1.0", "added_tokens": [], "model": model} | dict.fromkeys(parts)
    whole["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (made / "tokenizer.json").write_text(json.dumps(whole))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?", "eos_token": "?"}
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    return made


def _cpu_of(command: list[str], core: int) -> tuple[float, str]:
    """CPU seconds of a command and all its children, held to one core, and what it printed."""
    before = os.times()
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    limit = threading.Timer(TIME_LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    printed, complained = process.communicate()
    limit.cancel()
    after = os.times()
    if process.returncode:
        raise InputError(f"{command[0]} ended with {process.returncode}: {complained[-300:]}")
    user_s = after.children_user - before.children_user
    return user_s + after.children_system - before.children_system, printed


def read_by(name: str, tool: Tool, streams: int, requests: int, cores: tuple[int, int]) -> Row:
    """The row of one tool, against a server of its own."""
    with tempfile.TemporaryDirectory() as folder, known_server(prefix=_server_prefix(cores)) as at:
        command, _ = tool(at, 1, 1, Path(folder))
        startup_cpu_s, _ = _cpu_of(command, cores[1])
        command, read = tool(at, streams, requests, Path(folder))
        ask(at, "/lateness")
        cpu_s, printed = _cpu_of(command, cores[1])
        late = ask(at, "/lateness").json()
        found = {
            "server_late_ttft": 1e3 * late["first_sum_s"] / max(late["first_tokens"], 1),
            "server_late_e2e": 1e3 * late["last_sum_s"] / max(late["last_tokens"], 1),
        } | read(printed)
    cpu_s_per_1000 = max(cpu_s - startup_cpu_s, 0.0) / ((requests - 1) * OSL) * 1e3
    completed = int(found.pop("completed"))
    return Row(name, streams, requests, completed, cpu_s_per_1000, startup_cpu_s, **found)


def bare(streams: int, cores: tuple[int, int]) -> float:
    """CPU seconds per 1,000 tokens of a loop that only waits for tokens and takes them."""
    with known_server(prefix=_server_prefix(cores)) as at:
        os.sched_setaffinity(0, {cores[1]})
        request = at.request(PROMPT, 3 * OSL)
        poll, sockets = select.epoll(), {}
        for _ in range(streams):
            opened = socket.create_connection((at.host, at.port))
            opened.sendall(request)
            sockets[opened.fileno()] = opened
            poll.register(opened, select.EPOLLIN)
            time.sleep(RAMP_S / streams)
        with ahead():
            cpu_s, started_s = time.process_time(), time.monotonic()
            while time.monotonic() - started_s < RAMP_S:  # all streams go on for longer than this
                for number, _ in poll.poll():
                    sockets[number].recv(65536)
            cpu_s = time.process_time() - cpu_s
        os.sched_setaffinity(0, set(cores))
    return cpu_s / (RAMP_S / ITL_S * streams) * 1e3


def _server_prefix(cores: tuple[int, int]) -> Sequence[str]:
    return ("taskset", "-c", str(cores[0]), *realtime_prefix())


def _print(row: Row) -> None:
    means = "".join(
        f"{getattr(row, metric):9.2f} {row.error(metric):+7.2%}" for metric in TOLERANCES
    )
    print(
        f"{row.streams:7d} {row.tool:10s}{means} {row.cpu_s_per_1000_tokens:9.4f} "
        f"{row.startup_cpu_s:8.1f} {row.completed:5d}/{row.requests:<5d} "
        f"{row.server_late_ttft:6.3f} {row.server_late_e2e:6.3f}"
        + (f"  {own:.4f} in the run" if (own := row.run_cpu_s_per_1000_tokens) else "")
    )


def _found(name: str, given: str) -> str:
    """The command of a peer, "" where there is none."""
    return shutil.which(given or name) or shutil.which(str(Path(given) / name)) or ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--streams", default="1,16,128,512")
    parser.add_argument("--requests-a-slot", type=int, default=5)
    parser.add_argument("--aiperf", default="", help="the command, or the folder it lies in")
    parser.add_argument("--guidellm", default="", help="the command, or the folder it lies in")
    parser.add_argument("--no-peers", action="store_true", help="our client alone")
    parser.add_argument("--cores", default="0,1", help="the server's and the client's")
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        url, streams, requests = given.ours
        test = check_client(parse_target(url, model="known"), int(streams), int(requests))
        print(json.dumps(test.as_json()))
        return
    server_core, client_core = (int(core) for core in given.cores.split(","))
    cores = (server_core, client_core)
    tools: dict[str, Tool] = {"shardwise": ours}
    for name, peer in (("aiperf", aiperf), ("guidellm", guidellm)):
        path = "" if given.no_peers else _found(name, getattr(given, name))
        if path:
            tools[name] = peer(path)
    print(
        "streams tool        TTFT ms   error    ITL ms   error    E2E ms   error "
        "CPU-s/1k start-up  completed   server late ms (TTFT, E2E)"
    )
    rows, bares = [], {}
    for streams in (int(part) for part in given.streams.split(",")):
        for name, tool in tools.items():
            requests = max(streams * given.requests_a_slot, 10)
            try:
                row = read_by(name, tool, streams, requests, cores)
            except (InputError, OSError, KeyError, ValueError, TypeError) as error:
                print(f"{streams:7d} {name:10s} failed: {str(error)[-160:]}")
                continue
            rows.append(row)
            _print(row)
        bares[streams] = bare(streams, cores)
        print(f"{streams:7d} bare{' ' * 57}{bares[streams]:9.4f}", flush=True)
    mine = [row for row in rows if row.tool == "shardwise"]
    line = {
        "benchmark": "client",
        "told_ms": TOLD_MS,
        "tolerances": TOLERANCES,
        "within": bool(mine) and all(row.within for row in mine),
        "cpu_target_s_per_1000_tokens": CPU_S_PER_1000_TOKENS,
        "cpu_within": {
            row.streams: (row.run_cpu_s_per_1000_tokens or 0.0) < CPU_S_PER_1000_TOKENS
            for row in mine
        },
        "bare_cpu_s_per_1000_tokens": {n: round(cpu, 5) for n, cpu in bares.items()},
        "load_average": os.getloadavg()[0],
        "rows": [asdict(row) | {"within": row.within} for row in rows],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
