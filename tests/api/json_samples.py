"""A document of every kind that `--json` prints, from real answers where they take no minutes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import msgspec
from click.testing import CliRunner
from tests.node.samples import FAILED, PASTE

import shardwise
from shardwise import Deployment, DeploymentStatus, Dtypes, Workload, compare, predict
from shardwise.bench.selfcheck import ClientCheck
from shardwise.bench.selftest import Reading, SelfTest
from shardwise.cli.main import cli
from shardwise.evidence.measured import Measured, Repeat
from shardwise.experiment.outcome import Outcome
from shardwise.hardware.measured import Measured as MeasuredMachine
from shardwise.hosting.operating import Seen
from shardwise.hosting.state import ReplicaState, State
from shardwise.perfmodel.profiles import Profile
from shardwise.reports.documents import document
from shardwise.reports.files import write_json

ENGINE: Final = Path(shardwise.__file__).parent / "engine"
H200: Final = ("--gpu", "h200")
LOAD: Final = ("--isl", "1000", "--osl", "200")
EXPLAINED: Final = {"Explanation", "Cut", "Sum"}


def fields_of(kind: Any) -> Iterator[str]:
    """Names of every field of a record and of the records in it; a profile is a file of its own."""
    if kind is Profile:
        return
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for name, of in get_type_hints(kind).items():
            if name in kind.__struct_fields__:
                yield name
                yield from fields_of(of)
    for part in get_args(kind):
        yield from fields_of(part)


def names_of(kind: Any) -> set[str]:
    return set(fields_of(kind))


def fields_in_source(file: str, classes: set[str]) -> set[str]:
    """The same, of classes in a file that needs torch to be imported."""
    tree = ast.parse((ENGINE / file).read_text("utf-8"))
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes <= set(found)
    lines = (line for name in classes for line in found[name].body)
    return {ast.unparse(line.target) for line in lines if isinstance(line, ast.AnnAssign)}


def printed(*words: str) -> dict[str, Any]:
    got = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)
    assert got.exit_code == 0, got.output
    found: dict[str, Any] = json.loads(got.stdout)
    return found


def samples(folder: Path) -> list[dict[str, Any]]:
    """At least one document of every kind."""
    rows = folder / "rows.csv"
    rows.write_text(
        "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl,tpot_ms,source\n"
        "llama-3.1-8b,h200,vllm,fp8,2,serving_closed_loop,16,1000,200,9,test\n"
        "llama-3.1-8b,h200,vllm,fp8,1,serving_closed_loop,16,1000,200,12,test\n"
        "no-such-model,h200,vllm,fp8,1,serving_closed_loop,16,1000,200,12,test\n"
    )
    paste = folder / "paste.txt"
    paste.write_text(PASTE)
    log = folder / "startup.log"
    log.write_text(FAILED)
    store = str(folder / "runs.sqlite")
    model = "llama-3.1-8b"
    asked = ("plan", model, *LOAD, "--gpus", "2", "--dtype", "fp8")
    study = ("study", model, *H200, "--gpus", "2", "--tp", "1,2", "--batch", "1,16")
    studied = printed(*study)
    write_json(folder / "study.json", studied["study"])
    day = ("--day", "2", "--isl", "200", "--osl", "50", "--ttft", "2s")
    load = ("--rate", "4", "--isl", "200", "--osl", "20", "--duration", "5s")
    return [
        printed(*asked, *H200, "--concurrency", "16", "--tpot", "30ms", "--disaggregated"),
        printed("plan", "llama-3.1-70b", *H200, *LOAD, "--concurrency", "16", "--tpot", "20ms"),
        printed("plan", "qwen3.5-27b", *H200, *LOAD, "--concurrency", "4", "--gpus", "1"),
        printed(*asked, *H200, "--gpu", "h100", "--concurrency", "16"),
        printed(*asked, *H200, "--request-rate", "4", "--ttft-p99", "2s", "--gpus", "1"),
        studied,
        printed("study", "llama-3.1-70b", *H200, "--gpus", "2", "--tp", "1,2", "--batch", "1"),
        printed("study", model, *H200, "--gpus", "2", "--layouts", "TP1,TP2", "--batch", "8"),
        document("study_measure", {"outcome": dict.fromkeys(fields_of(Outcome))}),
        printed("simulate", model, *H200, *load),
        printed("simulate", model, *H200, *day),
        printed("search", model, *H200, *load, "--store", store),
        predict(Deployment(model, "h200", dtypes=Dtypes("fp8")), Workload(1000, 200, 1)).to_dict(),
        printed("predict", str(rows), "-o", str(folder / "out.csv")),
        printed("validate", str(rows)),
        compare(folder, folder / "study.json").to_dict(),
        document("calibrate", calibrated()),
        printed("catalogue", "gpus"),
        printed("catalogue", "facts", "h200"),
        printed("catalogue", "models"),
        printed("catalogue", "fits"),
        printed("doctor", "--from", str(paste), str(log)),
        document("hardware", {"path": "", "measured": dict.fromkeys(fields_of(MeasuredMachine))}),
        document("explain", dict.fromkeys(fields_in_source("teaching.py", EXPLAINED))),
        document("profile", profiled()),
        document("bench", {"cells": dict.fromkeys(names_of(Measured) - names_of(Repeat))}),
        document("bench_selftest", {"selftest": [tested().as_json()]}),
        status(),
    ]


def calibrated() -> dict[str, Any]:
    own = dict.fromkeys(("profile", "path", "rows", "before_pct", "after_pct"))
    hints = get_type_hints(Profile)
    anew = {name: dict.fromkeys(fields_of(hints[name])) for name in ("errors", "folds")}
    return {**own, **anew}


def profiled() -> dict[str, Any]:
    names = fields_in_source("profiling.py", {"Profile"})
    names |= fields_in_source("step_timer.py", {"Product", "Message", "RankProfile"})
    names |= fields_in_source("peak_rates.py", {"PeakRates"})
    return {"profiles": [{"profile": dict.fromkeys(names), "evidence": None}]}


def tested() -> SelfTest:
    reading = Reading("ttft_s", 0.05, 0.05, 0.05, 100)
    return SelfTest(
        8, 100, 100, (reading,), 0.01, ClientCheck(0.001, 0.002, 9, 0.1, 8, 8.0, 0.0, ())
    )


def status() -> dict[str, Any]:
    replica = ReplicaState("m/0", "m", "http://127.0.0.1:8000", [0], "", "ready")
    state = State("d", "d.toml", "http://127.0.0.1:80", "caddy")
    return DeploymentStatus(state, [Seen(replica, "ready", 2**30, 1)]).to_dict()
