"""Files that real peers wrote come out at the server's known delays, within the peer's own error.

tests/bench/recorded/README.md says how each was made.
"""

from __future__ import annotations

import json
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.bench.importers.about import About
from shardwise.bench.importers.reading import read_file
from shardwise.errors import InputError
from shardwise.evidence.export import write
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence

RECORDED = Path(__file__).with_name("recorded")
LENGTHS = About(isl=16, osl=20)


def read(name: str, about: About = LENGTHS) -> Evidence:
    (found,), problems = read_file(RECORDED / name, about)
    assert not problems
    return found


@pytest.mark.parametrize(
    "name",
    [
        "vllm_plain.json",
        "vllm_detailed.json",
        "aiperf.json",
        "guidellm.json",
        "inferencex_agg.json",
    ],
)
def test_every_peers_file_is_the_known_server(name: str) -> None:
    found = read(name)
    # told: TTFT 50 ms, 10 ms a token, so 0.05 + 19 x 0.01 = 0.24 s; a peer adds to each
    m = found.metrics
    assert 0.0495 < m["ttft_s"].value < 0.065
    assert m["tpot_s"].value == pytest.approx(0.010, rel=0.03)
    assert m["e2e_latency_s"].value == pytest.approx(0.24, rel=0.06)
    assert m["ttft_s"].lo < m["ttft_s"].value < m["ttft_s"].hi
    assert found.workload.concurrency == 4
    assert found.workload.mode == "closed_loop"
    # 4 in flight x 20 tokens / 0.24 s = 333 tok/s in the steady part, less over the whole run
    assert 200 < m["output_tok_s"].value < 340
    assert found.source.note


def test_vllms_detailed_file_agrees_with_its_own_means() -> None:
    plain = json.loads((RECORDED / "vllm_detailed.json").read_text())
    found = read("vllm_detailed.json").metrics
    assert found["ttft_s"].value == pytest.approx(plain["mean_ttft_ms"] / 1e3, rel=1e-6)
    assert found["tpot_s"].value == pytest.approx(plain["mean_tpot_ms"] / 1e3, rel=1e-6)
    assert found["e2e_latency_s"].value == pytest.approx(plain["mean_e2el_ms"] / 1e3, rel=2e-3)


def test_guidellms_time_per_output_token_is_not_taken_for_tpot() -> None:
    metrics = json.loads((RECORDED / "guidellm.json").read_text())["benchmarks"][0]["metrics"]
    theirs = metrics["time_per_output_token_ms"]["successful"]["mean"]
    # it divides the whole latency by the tokens: 0.247 s / 20 = 12.3 ms
    assert theirs == pytest.approx(12.3, rel=0.05)
    assert read("guidellm.json").metrics["tpot_s"].value == pytest.approx(0.010, rel=0.01)


def test_inferencex_is_published_in_seconds_and_per_gpu() -> None:
    found = read("inferencex_agg.json")
    assert found.source.kind == "published"
    assert (found.deployment.gpu, found.deployment.tp_size) == ("h200", 8)
    plain = json.loads((RECORDED / "vllm_plain.json").read_text())
    assert found.metrics["total_tok_s"].value == pytest.approx(plain["total_token_throughput"])
    with pytest.raises(InputError, match="pass --isl and --osl"):
        read("inferencex_agg.json", About())


def test_sglangs_names_are_known(tmp_path: Path) -> None:
    line = {
        "backend": "sglang",
        "request_rate": float("inf"),
        "max_concurrency": 4,
        "completed": 12,
        "total_input_tokens": 192,
        "total_output_tokens": 240,
        "mean_e2e_latency_ms": 240.0,
        "mean_ttft_ms": 50.0,
        "mean_tpot_ms": 10.0,
        "output_throughput": 330.0,
        "total_throughput": 594.0,
    }
    file = tmp_path / "sglang.jsonl"
    file.write_text(f"{json.dumps(line)}\n{json.dumps(line)}\n")
    found, _ = read_file(file, About())
    assert len(found) == 2
    assert found[0].deployment.engine == "sglang"
    assert (found[0].workload.isl, found[0].workload.osl) == (16.0, 20.0)
    assert found[0].metrics["total_tok_s"].value == 594.0


def test_what_the_user_says_wins() -> None:
    found = read("vllm_plain.json", About("llama-3.1-8b", "h100", "vllm", 2, "bf16", 100, 20))
    d = found.deployment
    assert (d.model, d.gpu, d.tp_size, d.dtypes.weight) == ("llama-3.1-8b", "h100", 2, "bf16")
    assert found.workload.isl == 100


def test_rows_come_back_as_they_were_exported(tmp_path: Path) -> None:
    about = replace(LENGTHS, engine="vllm")  # aiperf does not say
    names = ("vllm_plain.json", "aiperf.json")
    cells = [Measured("s", name, read(name, about)) for name in names]
    assert write(cells, tmp_path / "rows.csv") == 2
    found, problems = read_file(tmp_path / "rows.csv", About())
    assert not problems
    for cell, back in zip(cells, found, strict=True):
        for metric, interval in back.metrics.items():
            assert interval.value == pytest.approx(cell.evidence.metrics[metric].value, rel=1e-5)
        assert back.workload.concurrency == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "unknown format"),
        ("[1, 2]", "unknown format"),
        ("", "unknown format"),
        ("not json", "no JSON"),
        ('{"mean_ttft_ms": 5, "total_output_tokens": 3}', "completed is None"),
        ('{"mean_ttft_ms": 5, "total_output_tokens": 3, "completed": 0}', "no request completed"),
        ('{"tput_per_gpu": 1, "conc": "four"}', "conc is 'four'"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        read_file(file, About())
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path / "none.json", About())


def test_a_file_that_does_not_say_its_engine_is_of_an_unknown_one() -> None:
    assert read("aiperf.json").deployment.engine == "unknown"


VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e308, float("nan"), "", "x", [], {}, [1, 2], "1e9", -5.5, 10**30),
    *("nan", [[]], {"a": 1}),
)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document; of a list, the first five."""
    if isinstance(document, dict):
        keys: list[Any] = list(document)
    elif isinstance(document, list):
        keys = list(range(min(len(document), 5)))
    else:
        return []
    inner = [place for key in keys for place in _places(document[key])]
    return [(document, key) for key in keys] + inner


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(RECORDED.glob("*.json"))), st.data())
def test_a_file_with_any_of_its_values_changed_is_read_or_refused(
    tmp_path: Path, recorded: Path, data: st.DataObject
) -> None:
    document = json.loads(recorded.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(_places(document)))
        with suppress(LookupError):  # it was in what was replaced
            # a copy: what was put in once may be put into itself next
            holder[key] = deepcopy(data.draw(st.sampled_from(VALUES)))
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(document))
    with suppress(InputError):
        for found in read_file(changed, About())[0]:
            assert all(0 < each.value < float("inf") for each in found.metrics.values())
