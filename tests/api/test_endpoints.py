"""`bench_run` and deployments from Python: real requests and processes, brought down at the end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

pytest.importorskip("uvloop", reason="needs: pip install 'shardwise[bench]'")
pytest.importorskip("psutil", reason="needs: pip install 'shardwise[host]'")

from click.testing import CliRunner
from tests.hosting.conftest import free_port, require_balancer, stand_in

from shardwise import InputError, UnknownNameError, bench_run, down, export, load_bench, status, up
from shardwise.bench.selftest import known_server
from shardwise.cli.host import export as export_command
from shardwise.evidence.measured import Measured
from shardwise.hosting import state
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, NodeTable, save
from shardwise.replica import processes


def test_an_endpoint_is_measured_and_its_store_gives_the_same_cells(tmp_path: Path) -> None:
    store, seen = tmp_path / "s.db", list[Measured]()
    with known_server(0.02, 0.005) as target:
        found = bench_run(
            target.url, concurrencies=(1, 2), isl=8, osl=6, min_repeats=1, max_repeats=1,
            requests=4, gpu="h200", architecture="llama-3.1-8b", store=store, done=seen.append,
        )  # fmt: skip
    assert seen == list(found.cells)
    assert [cell.conditions["completed"] for cell in found.cells] == [4, 4]
    first = found.evidence[0]
    assert 0.02 < first.metrics["ttft_s"].value < 0.2
    assert 0.004 < first.metrics["tpot_s"].value < 0.05
    assert len(found.table().rows) == 2
    assert not found.charts()  # one TP size has no step
    again = load_bench(store, study="bench")
    assert again.to_dict() == found.to_dict()
    assert again.export(tmp_path / "rows.csv") == 2
    with pytest.raises(UnknownNameError, match="unknown study 'bensh'"):
        load_bench(store, study="bensh")
    with pytest.raises(InputError, match=r"allowed: a name ending in \.csv"):
        again.export(tmp_path / "rows.txt")


def test_a_cell_states_the_lengths_of_its_requests(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "hello there"}, {"from": "gpt", "value": "hello"}]
    chats, trace = tmp_path / "chats.json", tmp_path / "trace.csv"
    chats.write_text(json.dumps([{"conversations": said}]))
    trace.write_text("arrival_s,isl,osl\n0,10,6\n0.01,14,10\n")
    usual: dict[str, Any] = {"isl": 8, "osl": 6, "requests": 4, "concurrencies": (2, 3)}
    given: list[dict[str, Any]] = [{}, {"request_rates": (200.0,)}, {"mode": "static_batch"}]
    files: list[dict[str, Any]] = [{"sharegpt": chats}, {"trace": trace}]
    cells: list[Measured] = []
    with known_server(0.002, 0.001) as target:
        for more in (*given, *files):
            cells += bench_run(target.url, min_repeats=1, max_repeats=1, **usual, **more).cells
    *equal, traced = [cell.evidence.workload for cell in cells]
    assert [(w.osl, w.length_spread) for w in equal] == [(6, 0.0)] * 7
    assert {w.isl for w in equal[:5]} == {8}
    # one cell for the trace; outputs of 6 and 10 tokens have a coefficient of variation of 2 / 8
    assert (traced.isl, traced.osl) == (12, 8)
    assert traced.length_cv == pytest.approx(0.25)
    assert [cell.key.split()[2:4] for cell in (cells[0], cells[2], cells[3], cells[-1])] == [
        ["closed_loop", "c=2"],
        ["open_loop", "rate=200"],
        ["static_batch", "c=2"],
        ["open_loop", "trace=trace.csv"],
    ]


@pytest.mark.parametrize("more", [{"request_rates": (1.0,)}, {"mode": "static_batch"}])
def test_a_trace_has_its_own_arrivals(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a trace with a"):
        bench_run("http://127.0.0.1:9", trace=tmp_path / "t.csv", **more)


def test_prompts_come_from_a_trace_or_from_sharegpt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a trace and a ShareGPT file"):
        bench_run("http://127.0.0.1:9", trace=tmp_path / "t.csv", sharegpt=tmp_path / "s.json")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"concurrencies": ()}, "concurrencies"),
        ({"request_rates": (1.0, 0.0)}, "request_rates"),
        ({"osl": 0}, "osl"),
        ({"min_repeats": 4, "max_repeats": 3}, "min_repeats"),
        ({"requests": -1}, "requests"),
        ({"requests": 10**9}, "requests"),
        ({"mode": "max_throughput"}, "mode"),
        ({"precision_pct": math.nan}, "precision_pct"),
        ({"cell_time_s": -1.0}, "cell_time_s"),
        ({"seed": -1}, "seed"),
        ({"tp_size": 0}, "tp_size"),
        ({"gpu": "h2000"}, "gpu"),
        ({"api": "embed"}, "api"),
    ],
)
def test_an_argument_that_cannot_be_is_named_before_any_request(
    given: dict[str, object], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        bench_run("http://127.0.0.1:9", **given)  # type: ignore[arg-type]
    assert caught.value.field == field


def deployment(folder: Path) -> Path:
    """A file of one stand-in engine behind Caddy."""
    path, first = folder / "deployment.toml", free_port(2)
    save(DeploymentFile(port=first, balancer="caddy", models=[stand_in(1, first + 1)]), path)
    return path


def used(path: Path, lines: list[str]) -> None:
    """Look at a running deployment, then fail."""
    with up(path, say=lines.append) as running:
        assert running.models == ("toy",)
        with urlopen(f"{running.url}/v1/models", timeout=10) as answer:
            assert json.load(answer)["data"][0]["id"] == "toy"
        seen = running.status()
        assert seen.is_ready
        assert seen.is_supervised
        assert seen.table().rows[0][1].text == seen.to_dict()["replicas"][0]["status"] == "ready"
        raise RuntimeError("the user's")


def test_a_deployment_is_up_in_its_block_and_down_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_balancer("caddy")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path, lines = deployment(tmp_path), list[str]()
    with pytest.raises(RuntimeError, match="the user's"):
        used(path, lines)
    assert "toy/0 ready" in lines
    assert processes.marked(state.deployment_id(path)) == []
    for gone in (status, down):
        with pytest.raises(InputError, match="nothing was started from"):
            gone(path)


def test_an_export_is_what_the_command_prints(tmp_path: Path) -> None:
    path = tmp_path / "deployment.toml"
    model = ModelTable(model="meta-llama/Llama-3.1-8B-Instruct", tp_size=2, replicas=2)
    save(DeploymentFile(node=NodeTable(gpu="h200", gpus=8), models=[model]), path)
    files = export(path, to="compose", folder=tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_text() for name in files} == files
    printed = CliRunner().invoke(export_command, [str(path), "--to", "compose"])
    assert printed.exit_code == 0, printed.output
    assert all(text in printed.stdout for text in files.values())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        export(path, to="compose", folder=tmp_path / "file")
