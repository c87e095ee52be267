"""What the functions of the Python API give, and that commands give the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.node.samples import PASTE
from tests.reference import FOLDER, needs_reference

from shardwise import (
    Deployment,
    DoesNotFitError,
    Dtypes,
    EngineLimits,
    InputError,
    Layout,
    NothingMeetsError,
    UnknownNameError,
    Workload,
    compare,
    diagnose,
    load_gpu,
    load_model,
    measure_study,
    plan,
    predict,
    predict_rows,
    search,
    simulate,
    simulate_day,
    study,
    study_layouts,
    validate,
)
from shardwise.cli.main import cli
from shardwise.evidence.record import Evidence
from shardwise.reports.files import table_csv

ROW = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl\n"
DEPLOYMENT = Deployment("llama-3.1-8b", "h200", Layout(2), EngineLimits(64), Dtypes("fp8"))


def command(*words: str) -> dict[str, Any]:
    found = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def test_plan_gives_what_its_command_prints() -> None:
    found = plan("llama-3.1-8b", gpu="h200", gpus=2, isl=1000, osl=200, concurrency=16, tpot_s=0.03)
    printed = command(
        *("plan", "llama-3.1-8b", "--gpu", "h200", "--gpus", "2", "--isl", "1000", "--osl", "200"),
        *("--concurrency", "16", "--tpot", "30ms", "--json"),
    )
    assert found.to_dict() == printed
    assert (printed["kind"], printed["schema_version"]) == ("plan", 1)
    assert found.deployment.gpus == 2
    assert found.summary().startswith("Deploy llama-3.1-8b as ")
    assert found.best.evidence.metrics["tpot_s"].value <= 0.03
    assert found.chart()._repr_mimebundle_()["image/svg+xml"].startswith("<svg")


def test_several_models_share_a_node() -> None:
    found = plan(["llama-3.1-8b"] * 2, gpu="h200", gpus=4, isl=[1000, 2000], osl=200, concurrency=8)
    gpus = [m.packed.plan.question.node.gpus for m in found.models]
    assert sum(gpus) == 4
    assert [m.packed.plan.question.demand.isl for m in found.models] == [1000, 2000]
    with pytest.raises(InputError, match="isl given 3 times for 2 models") as got:
        plan(["llama-3.1-8b"] * 2, gpu="h200", isl=[1, 2, 3], osl=200)
    assert got.value.field == "isl"


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"gpu": "h9"}, UnknownNameError, "gpu"),
        ({"gpu": ""}, InputError, "gpu"),
        ({"gpu": "t4", "gpus": 1, "dtype": "bf16"}, DoesNotFitError, ""),
        ({"tpot_s": 1e-6}, NothingMeetsError, ""),
    ],
)
def test_a_question_without_an_answer_raises_with_its_field(
    changes: dict[str, Any], error: type[Exception], field: str
) -> None:
    asked = {"gpu": "h200", "gpus": 2, "isl": 1000, "osl": 200, "concurrency": 16, **changes}
    with pytest.raises(error) as got:
        plan("llama-3.1-70b", **asked)
    assert getattr(got.value, "field", "") == field


def test_study_gives_what_its_command_prints_and_charts() -> None:
    found = study("llama-3.1-8b", gpu="h200", gpus=2, tp_sizes=(1, 2), concurrencies=(1, 16))
    printed = command(
        *("study", "llama-3.1-8b", "--gpu", "h200", "--gpus", "2", "--tp", "1,2"),
        *("--batch", "1,16", "--json"),
    )
    assert found.to_dict() == printed
    assert len(found.evidence) == 4
    assert found.table("cost").name == "cost"
    mime = found.chart("frontier")._repr_mimebundle_()
    assert mime["image/svg+xml"].startswith("<svg")
    assert "<table>" in found._repr_html_()
    with pytest.raises(UnknownNameError, match="unknown table"):
        found.table("costs")


def test_predict_gives_what_study_and_predict_rows_give(tmp_path: Path) -> None:
    load = Workload(1000, 200, 16)
    (one,) = predict(DEPLOYMENT, load).evidence
    (tmp_path / "rows.csv").write_text(
        ROW + "llama-3.1-8b,h200,vllm,fp8,2,serving_closed_loop,16,1000,200\n"
    )
    (row,) = predict_rows(tmp_path / "rows.csv").rows
    assert float(row["pred_tpot_ms"]) == pytest.approx(1e3 * one.metrics["tpot_s"].value, rel=1e-3)
    asked: dict[str, Any] = {"gpus": 2, "tp_sizes": [2], "concurrencies": [16]}
    (cell,) = study("llama-3.1-8b", gpu="h200", isl=1000, osl=200, dtype="fp8", **asked).evidence
    assert cell.metrics["tpot_s"].value == pytest.approx(one.metrics["tpot_s"].value, rel=1e-3)


def test_one_workload_serves_many_deployments_and_the_other_way_round() -> None:
    loads = [Workload(1000, 200, c) for c in (1, 16)]
    found = predict(DEPLOYMENT, loads).evidence
    assert [e.workload.concurrency for e in found] == [1, 16]
    both = predict([DEPLOYMENT, DEPLOYMENT.with_layout(tp_size=1)], loads[0]).evidence
    assert [e.deployment.tp_size for e in both] == [2, 1]
    with pytest.raises(InputError, match="2 deployments and 3 workloads"):
        predict([DEPLOYMENT] * 2, [loads[0]] * 3)


def test_a_deployment_that_does_not_fit_is_refused_by_predict() -> None:
    with pytest.raises(DoesNotFitError):
        predict(Deployment("llama-3.1-70b", "t4"), Workload(1000, 200, 1))


def test_simulate_gives_what_its_command_prints() -> None:
    found = simulate(
        Deployment("llama-3.1-8b", "h200"), request_rate=4, isl=200, osl=20, duration_s=10
    )
    printed = command(
        *("simulate", "llama-3.1-8b", "--gpu", "h200", "--rate", "4", "--isl", "200"),
        *("--osl", "20", "--duration", "10s", "--json"),
    )
    assert found.to_dict() == printed
    assert not found.overloaded
    with pytest.raises(InputError, match="given: no load; needed: exactly one of"):
        simulate(Deployment("llama-3.1-8b", "h200"))


@needs_reference
def test_validate_gives_what_its_command_prints() -> None:
    rows = FOLDER / "serving_2026.csv"
    found = validate(rows, use="calibrate")
    printed = command("validate", str(rows), "--use", "calibrate", "--json")
    assert found.to_dict() == printed
    assert found.rows == printed["rows"] > 10


@pytest.mark.usefixtures("without_figures")
def test_compare_takes_two_saved_studies(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"gpu": "h200", "gpus": 2, "tp_sizes": [1, 2], "concurrencies": [8]}
    for name, isl in (("a", 1000), ("b", 1000)):
        study("llama-3.1-8b", isl=isl, **asked).write(tmp_path / name)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.to_dict()["kind"] == "compare"
    assert not found.slower_by(1)


def test_models_and_gpus_are_found_by_name() -> None:
    assert load_model("llama-3.1-8b").num_layers == 32
    assert load_gpu("h200").vendor == "nvidia"
    with pytest.raises(UnknownNameError, match="did you mean"):
        load_gpu("h201")


def test_a_table_is_a_data_frame_with_the_columns_of_its_csv_file() -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    found = predict(DEPLOYMENT, [Workload(1000, 200, c) for c in (1, 16)])
    frame = found.to_pandas()
    assert list(frame.columns) == table_csv(found.table()).splitlines()[0].split(",")
    assert list(frame["tpot_s"]) == [e.metrics["tpot_s"].value for e in found.evidence]
    assert isinstance(frame, pd.DataFrame)


def test_without_pandas_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match=r"run: pip install 'shardwise\[notebook\]'"):
        predict(DEPLOYMENT, Workload(1000, 200, 1)).to_pandas()


def test_every_record_of_evidence_is_public() -> None:
    (found,) = predict(DEPLOYMENT, Workload(1000, 200, 1)).evidence
    assert isinstance(found, Evidence)
    assert found.source.kind == "predicted"


def test_a_day_is_sized_as_its_command_sizes_it() -> None:
    deployment = Deployment("llama-3.1-8b", "h200")
    found = simulate_day(
        deployment, request_rates=[2, 4], ttft_p99_s=2.0, tpot_p99_s=0.05, isl=200, osl=50
    )
    printed = command(
        *("simulate", "llama-3.1-8b", "--gpu", "h200", "--day", "2,4", "--isl", "200"),
        *("--osl", "50", "--ttft", "2s", "--tpot", "50ms", "--json"),
    )
    assert found.to_dict() == printed
    assert [hour.request_rate for hour in found.day.hours] == [2, 4]
    peak = found.day.plans[0]  # as many replicas in both hours as the fuller one needs
    assert peak.replica_hours == pytest.approx(2 * max(hour.needed for hour in found.day.hours))
    with pytest.raises(InputError, match="a day without a bound"):
        simulate_day(deployment, request_rates=[2])


def test_layouts_are_compared_as_the_command_compares_them(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"gpu": "h200", "isl": 1000, "osl": 200}
    found = study_layouts("gpt-oss-120b", layouts=["TP4", "TP2xDP2xEP4"], **asked)
    printed = command(
        *("study", "gpt-oss-120b", "--gpu", "h200", "--layouts", "TP4,TP2xDP2xEP4"),
        *("--isl", "1000", "--osl", "200", "--json"),
    )
    assert found.to_dict() == printed
    # batch 1 is not among them: two copies of attention cannot share one request
    assert {e.workload.concurrency for e in found.evidence} == {2, 4, 8, 16, 32, 64, 128, 256}
    given = study_layouts("gpt-oss-120b", layouts=[Layout(4)], concurrencies=[16], **asked)
    tp4 = next(
        e
        for e in found.evidence
        if e.deployment.layout == Layout(4) and e.workload.concurrency == 16
    )
    alone = given.evidence[0].metrics
    for name, found_in_all in tp4.metrics.items():
        assert alone[name].value == pytest.approx(found_in_all.value)
    assert {path.name for path in given.write(tmp_path)} == {"layouts.json", "layouts.csv"}


def test_a_search_gives_what_its_command_prints_and_goes_on_from_its_store(tmp_path: Path) -> None:
    store = tmp_path / "runs.sqlite"
    deployments = [Deployment("llama-3.1-8b", "h200", Layout(tp)) for tp in (1, 2)]
    done: list[tuple[int, int]] = []
    found = search(
        deployments,
        request_rates=[4.0],
        isl=200,
        osl=20,
        duration_s=5,
        store=store,
        progress=lambda *at: done.append(at),
    )
    assert done[-1] == (2, 2)
    printed = command(
        *("search", "llama-3.1-8b", "--gpu", "h200", "--tp", "1,2", "--rate", "4", "--isl", "200"),
        *("--osl", "20", "--duration", "5s", "--store", str(store), "--json"),
    )
    assert found.to_dict() == printed
    assert [s.deployment.tp_size for s in found.summaries] == [1, 2]
    with pytest.raises(InputError, match="0 simulations"):
        search([], request_rates=[1.0], store=store)


def test_a_study_that_cannot_be_measured_here_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine trtllm; allowed to be measured: ") as got:
        measure_study("llama-51m", folder=tmp_path, engine="trtllm")
    assert got.value.field == "engine"
    assert not list(tmp_path.iterdir())


def test_a_pasted_node_is_diagnosed_as_its_command_does(tmp_path: Path) -> None:
    paste = tmp_path / "paste.txt"
    paste.write_text(PASTE)
    found = diagnose({str(paste): PASTE})
    assert found.to_dict() == command("doctor", "--from", str(paste), "--json")
    assert found.table().name == "gpus"
    found.save(tmp_path / "node.toml")
    again = diagnose(node_file=tmp_path / "node.toml")
    kept, read = again.reading.node, found.reading.node
    assert kept is not None
    assert read is not None
    assert (kept.indices, kept.links) == (read.indices, read.links)
    with pytest.raises(InputError, match="nothing in it is known"):
        diagnose({"nothing": "hello"})
    with pytest.raises(InputError, match="both given"):
        diagnose({"paste": PASTE}, node_file=tmp_path / "node.toml")
