"""--node: one node file, the same links and the same numbers in every command that takes a GPU."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner, Result

from shardwise import calibrate, plan, predict, validate
from shardwise.cli.main import COMMANDS, cli
from shardwise.errors import InputError
from shardwise.hosting.deployment_file import load
from shardwise.hosting.placing import placed
from shardwise.node.files import write
from shardwise.node.links import Link
from shardwise.node.node import Device, Node

MODEL: Final = "llama-3.1-70b"
QUESTION: Final = {"isl": 1024, "osl": 512, "dtype": "fp8"}
#: Commands whose --gpu names the machine of measured results and is not looked up on a node.
NAMES_A_RESULT: Final = ("bench run", "bench sweep", "bench import")


def cliques(cut: tuple[int, ...] = (0, 2, 4, 6), name: str = "NVIDIA H200 NVL") -> Node:
    """Eight GPUs: four-way bridges over `cut` and over the others, sockets between."""
    links = {
        (a, b): Link("NVLINK", 6) if (a in cut) == (b in cut) else Link("SYS")
        for a, b in combinations(range(8), 2)
    }
    return Node(tuple(Device(i, name=name) for i in range(8)), links)


@pytest.fixture
def node_file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    write(path, cliques())
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def answer(*words: object) -> dict[str, Any]:
    found = run(*words, "--json")
    assert found.exit_code == 0, found.output
    made = json.loads(found.stdout)
    assert isinstance(made, dict)
    return made


def leaves(command: click.Command, name: str = "") -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(name, command)]
    context = click.Context(command)
    found = []
    for part in command.list_commands(context):
        below = command.get_command(context, part)
        assert below is not None
        found += leaves(below, f"{name} {part}".strip())
    return found


def test_every_command_that_looks_a_gpu_up_takes_a_node() -> None:
    for name, command in leaves(cli):
        options = {option for p in command.params for option in p.opts}
        if "--gpu" in options and name not in NAMES_A_RESULT:
            assert "--node" in options, name
    assert {"up", "predict", "report", "web"} <= set(COMMANDS)
    for name, command in leaves(cli):
        if name in ("up", "export", "predict", "validate", "calibrate", "report", "web", "search"):
            assert "--node" in {option for p in command.params for option in p.opts}, name


def value(record: dict[str, Any], metric: str) -> float:
    found = record["metrics"][metric]["value"]
    assert isinstance(found, float)
    return found


@pytest.mark.parametrize("tp_size", [2, 4, 8])
def test_one_node_has_one_answer_in_every_command(
    node_file: Path, tmp_path: Path, tp_size: int
) -> None:
    """plan's TPOT of a layout is study's, predict's of a record and predict's of a row."""
    planned = plan(MODEL, node_file=node_file, concurrency=64, **QUESTION)  # type: ignore[arg-type]
    name = f"{8 // tp_size} x TP{tp_size} in fp8"
    (candidate,) = (c for c in planned.candidates if c.name == name)
    own = candidate.evidence
    tpot = own.metrics["tpot_s"].value
    batch = int(own.workload.concurrency)

    told = answer(
        "study", MODEL, "--node", node_file, "--tp", tp_size, "--batch", batch,
        "--isl", 1024, "--osl", 512, "--dtype", "fp8",
    )  # fmt: skip
    (cell,) = told["study"]["evidence"]
    assert value(cell, "tpot_s") == pytest.approx(tpot, rel=1e-9)

    (again,) = predict(own.deployment, own.workload, node_file=node_file).evidence
    assert again.metrics["tpot_s"].value == pytest.approx(tpot, rel=1e-9)
    (elsewhere,) = predict(own.deployment, own.workload).evidence
    assert elsewhere.metrics["tpot_s"].value > 1.05 * tpot, "PCIe, as the catalogue has it"

    rows, made = tmp_path / "rows.csv", tmp_path / "predicted.csv"
    row = {
        "model_id": MODEL, "gpu_id": "h200-nvl", "engine_id": "vllm", "weight_dtype": "fp8",
        "tp": tp_size, "mode": "serving_closed_loop", "concurrency": batch, "isl": 1024,
        "osl": 512, "length_cv": own.workload.length_cv,
    }  # fmt: skip
    with rows.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    found = run("predict", rows, "-o", made, "--node", node_file)
    assert found.exit_code == 0, found.output
    (cells,) = csv.DictReader(made.open())
    assert float(cells["pred_tpot_ms"]) == pytest.approx(1e3 * tpot, rel=1e-5)


def test_rows_of_a_node_are_judged_and_calibrated_on_its_links(
    node_file: Path, tmp_path: Path
) -> None:
    """Rows that are exactly what is predicted on the node need no correction there."""
    rows, made = tmp_path / "rows.csv", tmp_path / "measured.csv"
    header = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl,use"
    lines = [
        f"{MODEL},h200-nvl,vllm,fp8,{tp},serving_closed_loop,{batch},1024,512,calibrate"
        for tp in (2, 4) for batch in (4, 32)
    ]  # fmt: skip
    rows.write_text("\n".join([header, *lines, ""]))
    done = run("predict", rows, "-o", made, "--node", node_file)
    assert done.exit_code == 0, done.output
    measured = [
        {**cells, "tpot_ms": cells["pred_tpot_ms"]} for cells in csv.DictReader(made.open())
    ]
    with made.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*header.split(","), "tpot_ms"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(measured)

    here, elsewhere = validate(made, node_file=node_file), validate(made)
    assert [point.error for point in here.points] == pytest.approx([0.0] * 4, abs=1e-5)
    assert min(abs(point.error) for point in elsewhere.points) > 0.01
    told = answer("validate", made, "--node", node_file)
    assert told["scores"] == here.to_dict()["scores"]

    fitted = calibrate(made, name="node", node_file=node_file, save=False, force=True).made
    assert fitted.before_pct["tpot_s"] < 0.01
    blamed = calibrate(made, name="node", save=False, force=True).made
    assert blamed.before_pct["tpot_s"] > 1.0, "without the node, its links are corrected for"


def test_a_row_that_the_node_does_not_hold_is_not_predicted(tmp_path: Path) -> None:
    path, rows = tmp_path / "node.toml", tmp_path / "rows.csv"
    write(path, cliques().only({0, 2, 4, 6}))
    rows.write_text(
        "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl\n"
        "llama-3.1-70b,h200-nvl,vllm,fp8,8,serving_closed_loop,16,1024,512\n"
    )
    found = run("predict", rows, "-o", tmp_path / "out.csv", "--node", path)
    assert found.exit_code != 0
    assert "TP8 needs 8 GPUs, and the node has 4" in str(found.exception)


def test_a_simulation_has_the_node_s_links(node_file: Path) -> None:
    words = (MODEL, "--tp", 4, "--dtype", "fp8", "--isl", 1024, "--osl", 128, "--concurrency", 16)
    here = answer("simulate", *words, "--node", node_file)
    there = answer("simulate", *words, "--gpu", "h200-nvl")
    metric = [
        next(e for e in each["evidence"])["metrics"]["tpot_s"]["value"] for each in (here, there)
    ]
    assert metric[0] < 0.8 * metric[1]


def test_a_search_has_the_node_s_links_and_its_changes_are_new_jobs(
    node_file: Path, tmp_path: Path
) -> None:
    store = tmp_path / "runs.sqlite"
    words = (
        "search", MODEL, "--node", node_file, "--tp", "4", "--rate", "2", "--dtype", "fp8",
        "--isl", 256, "--osl", 64, "--duration", "20s", "--store", store,
    )  # fmt: skip
    first = answer(*words)["summaries"]
    assert answer(*words)["summaries"] == first
    write(node_file, Node(cliques().devices, dict.fromkeys(cliques().links, Link("SYS"))))
    assert answer(*words)["summaries"] != first


@pytest.mark.usefixtures("without_figures")
def test_study_writes_commands_for_the_node_s_devices(node_file: Path) -> None:
    found = run(
        "study", MODEL, "--node", node_file, "--tp", "4", "--batch", "32", "--dtype", "fp8",
        "-o", node_file.parent / "study",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    about = json.loads((node_file.parent / "study" / "about.json").read_text())
    assert "--node" in about["plan"]
    assert "CUDA_VISIBLE_DEVICES=0,2,4,6" in about["start"]["lines"][0]

    page = node_file.parent / "report.html"
    shown = run(
        "report", node_file.parent / "study", "-o", page, "--vs", "h100", "--node", node_file
    )
    assert shown.exit_code == 0, shown.output
    alone = run("report", node_file.parent / "study", "-o", page, "--node", node_file)
    assert isinstance(alone.exception, InputError)
    assert "without --vs" in str(alone.exception)


def test_plan_takes_each_bridge_for_a_copy_and_saves_it(node_file: Path, tmp_path: Path) -> None:
    saved = tmp_path / "up.toml"
    done = run(
        "plan", MODEL, "--isl", 1024, "--osl", 512, "--concurrency", 64,
        "--node", node_file, "--save", saved,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,2,4,6 vllm serve" in done.stdout
    (model,) = tomllib.loads(saved.read_text("utf-8"))["model"]
    assert model["tp_size"] == 4
    assert model["devices"] == [[0, 2, 4, 6], [1, 3, 5, 7]]


Change = Callable[[str], str]


def deployment(tmp_path: Path, *models: str, gpu: str = "h200-nvl") -> Path:
    path = tmp_path / "up.toml"
    tables = "\n".join(f"[[model]]\n{model}" for model in models)
    path.write_text(f'[node]\ngpu = "{gpu}"\ngpus = 8\n{tables}\n')
    return path


def test_up_deals_the_best_groups_to_replicas_without_devices(
    node_file: Path, tmp_path: Path
) -> None:
    file = load(deployment(tmp_path, 'model = "a"\ntp_size = 4\nreplicas = 2'))
    assert placed(file, node_file).models[0].devices == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_up_leaves_devices_that_the_file_names_and_deals_the_rest(
    node_file: Path, tmp_path: Path
) -> None:
    """GPU 4 is taken, so the whole bridge is the other one; small replicas take what is left."""
    file = load(
        deployment(
            tmp_path,
            'model = "small"\nreplicas = 2',
            'model = "fixed"\ndevices = [[4]]',
            'model = "big"\ntp_size = 4',
        )
    )
    small, fixed, big = (model.devices for model in placed(file, node_file).models)
    assert (big, fixed) == ([[1, 3, 5, 7]], [[4]])
    assert {d for (d,) in small} <= {0, 2, 6}


@pytest.mark.parametrize(
    ("models", "gpu", "said"),
    [
        (('model = "a"\ntp_size = 4\nreplicas = 3',), "h200-nvl", "take 12 GPUs; free on .*: 8"),
        (('model = "a"\ndevices = [[9]]',), "h200-nvl", "device 9 is not in .*node.toml"),
        (('model = "a"',), "h100", "is for h100, and .* is a node of h200-nvl"),
    ],
)
def test_up_refuses_what_the_node_does_not_hold(
    node_file: Path, tmp_path: Path, models: tuple[str, ...], gpu: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        placed(load(deployment(tmp_path, *models, gpu=gpu)), node_file)


def test_export_pins_what_up_would_pin(node_file: Path, tmp_path: Path) -> None:
    path = deployment(tmp_path, 'model = "a"\ntp_size = 4\nreplicas = 2')
    found = run("export", path, "--to", "systemd", "--node", node_file)
    assert found.exit_code == 0, found.output
    assert "CUDA_VISIBLE_DEVICES=0,2,4,6" in found.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("study", MODEL, "--gpu", "h100"),
        ("simulate", MODEL, "--gpu", "h100", "--rate", "1"),
        ("plan", MODEL, "--gpu", "h100", "--isl", "8", "--osl", "8"),
    ],
)
def test_a_gpu_beside_the_node_that_it_contradicts_is_refused(
    node_file: Path, words: tuple[str, ...]
) -> None:
    found = run(*words, "--node", node_file)
    assert isinstance(found.exception, InputError)
    assert "is a node of h200-nvl, and --gpu says h100; leave --gpu out" in str(found.exception)


@pytest.mark.parametrize("command", ["study", "simulate", "search", "plan"])
def test_a_node_file_that_is_not_there_is_named(command: str) -> None:
    more = {"simulate": ("--rate", "1"), "search": ("--rate", "1"), "study": ()}
    words = more.get(command, ("--isl", "8", "--osl", "8"))
    found = run(command, MODEL, "--node", "/nowhere/node.toml", *words)
    assert isinstance(found.exception, InputError)
    assert str(found.exception).startswith("/nowhere/node.toml: No such file")


def test_more_gpus_than_the_node_has_are_refused(node_file: Path) -> None:
    found = run("study", MODEL, "--node", node_file, "--gpus", 16)
    assert isinstance(found.exception, InputError)
    assert "--gpus 16 on " in str(found.exception)
    found = run("simulate", MODEL, "--node", node_file, "--tp", 16, "--rate", 1)
    assert isinstance(found.exception, InputError)
    assert "allowed: up to 8 GPUs a replica" in str(found.exception)


def test_the_explorer_starts_on_the_node(node_file: Path) -> None:
    from msgspec.structs import replace

    from shardwise.web.asking import explorer, found_of
    from shardwise.web.payload import payload

    known = replace(explorer(), catalogue_files=(node_file,))
    state = replace(known.start, gpu="h200-nvl", isl=1024, osl=512, tpot=18.0)
    shown = payload(known, state)
    pinned = [line for line in shown["commands"]["lines"] if "=0,2,4,6" in line]
    assert pinned, shown["commands"]["lines"]
    assert any("--node" in line for line in shown["terminal"])
    measured = found_of(known, state).subject.gpu.all_reduce_source
    assert measured.startswith("node file: ")


@pytest.fixture
def two_small_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose nvidia-smi reports two H200 NVL with 16 GiB, the second half full."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'echo "index, name, memory.total [MiB], memory.used [MiB], mig.mode.current"\n'
        'echo "0, NVIDIA H200 NVL, 16384 MiB, 0 MiB, Disabled"\n'
        'echo "1, NVIDIA H200 NVL, 16384 MiB, 8000 MiB, Disabled"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("shardwise.hosting.devices.present", lambda _: {0, 1})
    return tmp_path


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            'model = "llama-3-8b"\nmax_model_len = 2048\ndevices = [[0]]',
            "llama-3-8b: weights and activations leave no room for a KV cache on h200-nvl at TP=1 "
            "with the 16.0 GiB that it has here",
        ),
        (
            'model = "qwen3-0.6b"\nmax_model_len = 2048\ndevices = [[1]]',
            "qwen3-0.6b/0: 7.8 GiB of GPU 1 are in use",
        ),
    ],
)
def test_up_says_what_would_fail_and_starts_nothing(
    two_small_cards: Path, model: str, says: str
) -> None:
    found = run("up", deployment(two_small_cards, model))
    assert found.exception is not None
    assert says in str(found.exception)
    assert not (two_small_cards / "state").exists()


def test_up_pins_each_replica_to_its_bridge(node_file: Path, tmp_path: Path) -> None:
    """The environment that replicas start with."""
    from shardwise.hosting.launching import launches

    file = load(deployment(tmp_path, 'model = "a"\ntp_size = 4\nreplicas = 2'))
    made = launches(placed(file, node_file), "cuda")
    assert [launch.env["CUDA_VISIBLE_DEVICES"] for launch in made] == ["0,2,4,6", "1,3,5,7"]


def test_mixed_links_and_two_islands_are_dealt_by_their_links(tmp_path: Path) -> None:
    """Bridged pairs 0-5 and 1-4 across sockets, and a switch under 2-3: TP=2 takes the bridges."""
    codes = dict.fromkeys(combinations(range(6), 2), Link("SYS"))
    codes |= {(0, 5): Link("NVLINK", 4), (1, 4): Link("NVLINK", 4), (2, 3): Link("PIX")}
    devices = tuple(Device(i, name="NVIDIA RTX A6000", numa=int(i > 2)) for i in range(6))
    write(tmp_path / "node.toml", Node(devices, codes))
    file = load(deployment(tmp_path, 'model = "a"\ntp_size = 2\nreplicas = 3', gpu="rtx-a6000"))
    assert placed(file, tmp_path / "node.toml").models[0].devices == [[0, 5], [1, 4], [2, 3]]
