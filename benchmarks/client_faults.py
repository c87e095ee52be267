"""Test how the load client counts faults of servers and proxies, and write the results.

    python benchmarks/client_faults.py [--write]

Each way of answering that the server of known delays knows (bench/known_modes.py), in completions
and in chat, a fault in every fourth of 32 requests and a manner of speaking in every one; then
TLS, redirects, a URL's query, signals and stores, each as a user meets it, by the command. --write
makes docs/reliability_client.md and results/client_faults.json. Exit code 1 where anything did not
hold. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from shardwise.bench.client import run_load
from shardwise.bench.known_answer import Behaviour
from shardwise.bench.known_modes import EXPECTED, FAULTS
from shardwise.bench.known_server import serving
from shardwise.bench.load import Load
from shardwise.bench.selftest import known_server
from shardwise.bench.target import Api, parse_target
from shardwise.evidence.request import check_tokens, count_failures
from shardwise.evidence.store import open_store

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability_client.md"
RESULT = ROOT / "results" / "client_faults.json"
REQUESTS, OSL = 32, 6
SLOW = {"stall", "only_comments", "endless"}
CHAT_ONLY = {"reasoning", "tool_call"}
QUICK = ["--concurrency", "2", "--isl", "8", "--osl", "6", "--repeats", "1,1"]


class Tried(msgspec.Struct, frozen=True):
    """One test: the expected result, the actual result, and whether they agree."""

    kind: str
    what: str
    expected: str
    found: str
    held: bool


def answered(mode: str) -> Tried:
    """A mode in both APIs."""
    fault = mode in FAULTS
    # of HTTP/2 alone there is no fourth request: the whole server speaks it
    every = 4 if fault and mode != "http2" else 1
    wrong = REQUESTS // every if fault else 0
    expected = EXPECTED[mode]
    told, held = [], True
    apis: tuple[Api, ...] = ("chat",) if mode in CHAT_ONLY else ("completions", "chat")
    for api in apis:
        failures, remark = _loaded(mode, every, api)
        counted = failures == ({expected.failure: wrong} if fault else {})
        held &= counted and remark == (REQUESTS if expected.remark else 0)
        told.append(_words(failures) + (f", {remark} noted" if expected.remark else ""))
    want = f"{wrong} {expected.failure}" if fault else f"{REQUESTS} answers"
    if expected.remark:
        want += f", and noted as `{expected.remark}`"
    kind = "fault" if fault else "manner"
    return Tried(kind, f"`{mode}`: the server {expected.does}", want, _same(told), held)


def _loaded(mode: Any, every: int, api: Api) -> tuple[dict[str, int], int]:
    """Failures by kind, and how many requests the mode's remark counts."""
    with serving(Behaviour(0.005, 0.001, mode, every)) as url:
        target = parse_target(url, api, "known")
        body = target.request("one two three", OSL)
        load = Load(
            [body] * REQUESTS,
            [OSL] * REQUESTS,
            8 if mode in SLOW else 4,
            stall_timeout_s=2.0 if mode in {"stall", "only_comments"} else 20.0,
            request_timeout_s=2.0 if mode == "endless" else 60.0,
        )
        run = run_load(target, load)
    remark = EXPECTED[mode].remark
    found = getattr(check_tokens(run.records), remark) if remark else 0
    return count_failures(run.records), found


def _words(failures: dict[str, int]) -> str:
    wrong = ", ".join(f"{count} {kind}" for kind, count in failures.items())
    good = REQUESTS - sum(failures.values())
    return f"{good} answers" + (f", {wrong}" if wrong else "")


def _same(told: list[str]) -> str:
    return told[0] if len(set(told)) == 1 else " / ".join(told)


def shardwise(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def ran(what: str, words: list[str], code: int, says: str) -> Tried:
    """Run a command and check its exit code and output."""
    done = shardwise(*words)
    said = done.stdout + done.stderr
    held = done.returncode == code and says in said and "Traceback" not in said
    line = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    found = f"exit {done.returncode}" + (f": {line.removeprefix('shardwise: ')}" if code else "")
    return Tried("command", what, f"exit {code}" + (f", “{says}”" if code else ""), found, held)


def redirected(folder: Path) -> Tried:
    with known_server(mode="redirect", every=1) as at:
        return ran("a redirect (307)", ["bench", "run", at.url, *_store(folder)], 2, "(307) to")


def http2(folder: Path) -> Tried:
    with known_server(mode="http2", every=1) as at:
        return ran(
            "a server with HTTP/2 only", ["bench", "run", at.url, *_store(folder)], 2, "HTTP/2 only"
        )


def query(folder: Path) -> Tried:
    with known_server(0.005, 0.001, query="key=known") as at:
        url = f"{at.url}?key=known"
        return ran("a URL with a query", ["bench", "run", url, *QUICK, *_store(folder)], 0, "")


def short_answers(folder: Path) -> Tried:
    with known_server(0.005, 0.001, "short", every=1) as at:
        words = ["bench", "run", at.url, *QUICK, *_store(folder)]
        return ran("answers that end early", words, 4, "--actual-lengths")


def actual_lengths(folder: Path) -> Tried:
    with known_server(0.005, 0.001, "short", every=1) as at:
        words = ["bench", "run", at.url, *QUICK, *_store(folder), "--actual-lengths"]
        return ran("the same with `--actual-lengths`", words, 0, "")


def nobody(folder: Path) -> Tried:
    words = ["bench", "run", "http://127.0.0.1:9", *_store(folder)]
    return ran("no server on the port", words, 2, "nobody answers")


def _store(folder: Path) -> list[str]:
    return ["--store", str(folder / "bench.db")]


def interrupted(number: signal.Signals) -> Callable[[Path], Tried]:
    def tried(folder: Path) -> Tried:
        command = [sys.executable, "-m", "shardwise.cli.main", "bench", "run"]
        with known_server(0.5, 0.2) as at:
            line = [*command, at.url, *QUICK, *_store(folder)]
            with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr is not None
                process.stderr.readline()
                time.sleep(0.7)
                sent = time.monotonic()
                os.kill(process.pid, number)
                process.stderr.read()
        took = time.monotonic() - sent
        return Tried(
            "command",
            f"{number.name} during the warm-up",
            "exit 130 at once",
            f"exit {process.returncode}",
            process.returncode == 130 and took < 5.0,
        )

    return tried


def full(folder: Path) -> Tried:
    """A store that takes no further cell."""
    path = folder / "bench.db"
    open_store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON cell BEGIN"
            " SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    with known_server(0.005, 0.001) as at:
        done = shardwise("bench", "run", at.url, *QUICK, *_store(folder))
    beside = shardwise("bench", "show", str(folder / "bench.unsaved-1.db"))
    held = done.returncode == 2 and "tok/s" in done.stdout and "tok/s" in beside.stdout
    found = f"exit {done.returncode}, the cell printed"
    found += " and saved in another store" if beside.returncode == 0 else ""
    return Tried(
        "command",
        "a store that cannot be written to",
        "exit 2, the cell printed and saved in another store",
        found,
        held,
    )


@contextmanager
def tls_before(host: str, port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS and passes on to another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await asyncio.open_connection(host, port)
        await asyncio.gather(copy(reader, far[1]), copy(far[0], writer), return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(passed, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def encrypted(folder: Path) -> list[Tried]:
    """A certificate that nobody vouches for, and the same with --ca-file; none without openssl."""
    if shutil.which("openssl") is None:
        return []
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    with (
        known_server(0.005, 0.001) as at,
        tls_before(at.host, at.port, certificate, key) as port,
    ):
        words = ["bench", "run", f"https://127.0.0.1:{port}", *QUICK, *_store(folder)]
        trusted = [*words, "--ca-file", str(certificate)]
        plain = ["bench", "run", at.url.replace("http:", "https:"), *_store(folder)]
        return [
            ran("TLS with a self-signed certificate", words, 2, "--ca-file"),
            ran("the same with `--ca-file`", trusted, 0, ""),
            ran("https to a plain HTTP server", plain, 2, "is it an http:// server?"),
        ]


COMMANDS: tuple[Callable[[Path], Tried], ...] = (
    *(nobody, redirected, http2, query, short_answers, actual_lengths),
    *(interrupted(signal.SIGINT), interrupted(signal.SIGTERM), full),
)


def everything() -> list[Tried]:
    found = []
    for mode in EXPECTED:
        found.append(answered(mode))
        _say(found[-1])
    for command in COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            found.append(command(Path(folder)))
        _say(found[-1])
    with tempfile.TemporaryDirectory() as folder:
        for tried in encrypted(Path(folder)):
            found.append(tried)
            _say(tried)
    return found


def _say(tried: Tried) -> None:
    mark = "ok" if tried.held else "FAILED"
    print(f"{mark}: {tried.what}: {tried.found}", file=sys.stderr)


TITLES = {
    "fault": (
        "Answers that must count as failures",
        f"{REQUESTS} requests each to completions and chat; every fourth is affected (HTTP/2: "
        f"all).",
    ),
    "manner": (
        "Unusual answers that must count as successes",
        f"{REQUESTS} requests each to completions and chat, all answered in this way.",
    ),
    "command": ("`shardwise bench run`", "Behaviour of the command."),
}


def page(found: list[Tried]) -> str:
    held = sum(tried.held for tried in found)
    lines = [
        "# Reliability of the load client",
        "",
        "Written by `python benchmarks/client_faults.py --write`; do not edit.",
        "",
        f"{held} of {len(found)} cases behave as expected.",
    ]
    for kind, (title, how) in TITLES.items():
        lines += ["", f"## {title}", "", how, "", "| case | expected | found | as expected |"]
        lines.append("|---|---|---|---|")
        lines += [
            f"| {t.what} | {t.expected} | {_cell(t.found)} | {'yes' if t.held else '**no**'} |"
            for t in found
            if t.kind == kind
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Without what differs from run to run, a port or a folder of temporary files."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    return re.sub(r"/tmp/\S+/", "", text).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="Write the page and the JSON file.")
    asked = parser.parse_args()
    found = everything()
    document = {
        "benchmark": "client_faults",
        "tried": len(found),
        "held": sum(t.held for t in found),
        "cases": [asdict(t) | {"found": _cell(t.found)} for t in found],
    }
    if asked.write:
        PAGE.write_text(page(found), "utf-8")
        RESULT.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(json.dumps(document))
    if not all(t.held for t in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
