"""Bad input: one line on stderr, exit 2 (3 for an SLO), no traceback, nothing half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.running import in_process

PLAN = ["plan", "llama-3.1-70b", "--gpu", "mi300x", "--isl", "1024", "--osl", "512"]
STUDY = ["study", "llama-3.1-70b", "--gpu", "mi300x", "--dtype", "fp8", "--batch", "16"]


def shardwise(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def refused(words: list[str], code: int = 2, cwd: Path | None = None) -> str:
    return one_line(shardwise(*words, cwd=cwd), code)


def one_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*STUDY, "--tp", "3"], "64 attention heads"),
        ([*STUDY, "--tp", "16"], "TP=16"),
        ([*STUDY, "--tp", "one"], "--tp is 'one'"),
        (["study", "llama-3.1-70b", "--gpu", "mi300"], "did you mean"),
        (["study", "llama-9-70b", "--gpu", "mi300x"], "llama-9-70b"),
        ([*STUDY[:-1], "0"], "--batch is '0'"),
        ([*STUDY[:-1], "-4"], "--batch"),
        ([*STUDY, "--isl", "0"], "isl is 0"),
        ([*STUDY, "--isl", "130000"], "context"),
        ([*STUDY, "--osl", "999999999999"], "osl"),
        ([*STUDY, "--dtype", "fp7"], "fp7"),
        ([*STUDY, "--profile", "nobody"], "nobody"),
        ([*STUDY, "--price", "-1"], "price"),
        ([*STUDY, "--ttft", "nan"], "--ttft is 'nan'; allowed: a time with a unit"),
        ([*STUDY, "--tpot", "-5"], "--tpot is '-5'; allowed: a time with a unit"),
        ([*STUDY, "--requests", "-3"], "requests is -3"),
        ([*STUDY, "--engine", "frobnicate"], "unknown engine 'frobnicate'"),
        ([*PLAN, "--nodes", "2"], "2 nodes without a network; allowed: ib-hdr"),
        ([*PLAN, "--nodes", "0"], "0 nodes"),
        ([*PLAN, "--nodes", "2", "--network", "fast"], "network 'fast'; allowed: ib-hdr"),
        ([*PLAN, "--network", "ib-ndr"], "--network ib-ndr for one node"),
        ([*PLAN, "--nodes", "2", "--network", "ib-ndr", "--disaggregated"], "--disaggregated on 2"),
        ([*PLAN, "--cached-tokens", "1024"], "allowed: 0 to 1023"),
        (
            [*PLAN, "--request-rate", "1", "--ttft-p99", "1s", "--disaggregated"],
            "--disaggregated with percentile bounds",
        ),
        ([*PLAN, "--cached-tokens", "-1"], "cached_tokens is -1"),
        ([*PLAN, "--engine", "atom", "--cached-tokens", "8"], "does not cache prefixes"),
        ([*STUDY, "--engine-version", "0.7.3", "--cached-tokens", "8"], "does not cache prefixes"),
        ([*PLAN, "--speculation", "mtp:3"], "models with multi-token prediction heads"),
        ([*PLAN, "--speculation", "mtp:0"], "0 drafted tokens"),
        ([*PLAN, "--speculation", "mtp:x"], "speculation 'mtp:x'"),
        ([*PLAN, "--speculation", "qwen3-0.6b:4"], "vocabulary of 151,936"),
        ([*PLAN, "--acceptance", "0.5"], "acceptance 0.5 without speculation"),
        ([*PLAN, "--engine", "builtin", "--speculation", "llama-3.2-1b:4"], "allowed: none"),
        ([*STUDY, "--speculation", "llama-9-1b:4"], "llama-9-1b"),
        ([*STUDY, "--measure", "--speculation", "mtp:1"], "--speculation mtp:1 with --measure"),
        ([*PLAN, "--concurrency", "8", "--save", "/proc/none/d.toml"], "/proc/none"),
        ([*STUDY, "--gpus", "0"], "0"),
        (["study", "deepseek-r1", "--gpu", "h100", "--tp", "8"], "does not fit"),
        (["predict", "absent.csv", "-o", "out.csv"], "absent.csv"),
        (["validate", "absent.csv"], "absent.csv"),
        (["calibrate", "absent.csv"], "--name"),
        (["nonsense"], "nonsense"),
        ([*PLAN, "--concurrency", "0"], "0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words: list[str], said: str, tmp_path: Path) -> None:
    done = in_process(*words, cwd=tmp_path)
    assert said in one_line(done)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_slo_that_nothing_meets_exits_3_with_the_nearest() -> None:
    line = refused([*PLAN, "--dtype", "fp8", "--concurrency", "64", "--tpot", "1ms"], code=3)
    assert "nearest" in line
    assert "TPOT" in line


def test_an_unwritable_folder_is_found_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert "taken" in refused([*STUDY, "--output", str(tmp_path / "taken" / "study")])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json"),
        ('{"model_type": "mamba"}', "hidden_size"),
        ('{"model_type": "llama", "hidden_size": "big"}', "hidden_size"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_by_name(
    config: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)
    assert said in refused(["study", str(tmp_path), "--gpu", "h200"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[gpu.x]\nmemory = { value = 5, source = "me", date = "2026-01-01" }\n', "unit"),
        ("[gpu.x]\nspeed = 4\n", "speed"),
        ("not toml", "toml"),
    ],
)
def test_a_bad_catalogue_file_names_the_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert said in refused(["catalogue", "gpus", "--catalogue", str(path)]).lower()


def test_none_of_the_rows_predicted_is_exit_2_and_some_is_0(tmp_path: Path) -> None:
    header = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl\n"
    bad = "llama-3.1-70b,h9,vllm,fp8,4,serving_closed_loop,8,100,100\n"
    (tmp_path / "bad.csv").write_text(header + bad)
    done = shardwise("predict", "bad.csv", "-o", "out.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown GPU 'h9'" in done.stderr
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "mixed.csv").write_text(header + bad + bad.replace("h9", "h200"))
    done = shardwise("predict", "mixed.csv", "-o", "out.csv", cwd=tmp_path)
    assert done.returncode == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_output_is_plain_when_piped_and_json_is_one_document() -> None:
    import json

    done = shardwise(*STUDY)
    assert done.returncode == 0
    assert "\x1b[" not in done.stdout
    found = json.loads(shardwise(*STUDY, "--json").stdout)
    assert {e["deployment"]["layout"]["tp_size"] for e in found["study"]["evidence"]} == {
        1,
        2,
        4,
        8,
    }


def test_predict_and_calibrate_answer_in_json_too(tmp_path: Path) -> None:
    import json

    header = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl,tpot_ms\n"
    row = "llama-3.1-70b,h200,vllm,fp8,{},serving_closed_loop,8,100,100,{}\n"
    text = header + "".join(row.format(tp, ms) for tp, ms in ((2, 15), (4, 11), (8, 9)))
    (tmp_path / "rows.csv").write_text(text)
    done = shardwise("predict", "rows.csv", "-o", "out.csv", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["predicted"] == 3
    env = {**os.environ, "SHARDWISE_HOME": str(tmp_path)}
    words = ["calibrate", "rows.csv", "--name", "mine", "--json"]
    made = subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(made.stdout)
    assert (found["rows"], set(found["after_pct"])) == (3, {"tpot_s"})


ROWS = "model_id,gpu_id,engine_id,weight_dtype,tp,mode,concurrency,isl,osl,{}\n"
ROW = "llama-3.1-70b,h200,vllm,fp8,{},serving_closed_loop,8,100,100,{}\n"


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        # 10 to 15 ms a token, 1.1 to 1.6 s an answer
        ("tpot_ms", (15000, 11000, 9000), "tpot_ms is"),
        ("e2e_s", (1600, 1200, 1100), "needed: seconds"),
        ("output_tok_s", (0.5, 0.7, 0.9), "needed: tokens/s"),
    ],
)
def test_a_column_in_another_unit_is_not_calibrated_on(
    tmp_path: Path, column: str, values: tuple[float, ...], said: str
) -> None:
    rows = "".join(ROW.format(tp, value) for tp, value in zip((2, 4, 8), values, strict=True))
    (tmp_path / "rows.csv").write_text(ROWS.format(column) + rows)
    line = refused(["calibrate", "rows.csv", "--name", "mine"], cwd=tmp_path)
    assert said in line
    assert "times the prediction" in line


def test_columns_that_nothing_reads_are_named_with_what_they_may_mean(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS.format("ttft_s,remark") + ROW.format(4, "0.05,x"))
    done = shardwise("predict", "rows.csv", "-o", "out.csv", cwd=tmp_path)
    assert done.returncode == 0
    assert "columns not used: ttft_s (did you mean ttft_ms?), remark" in done.stderr
    # what was not read is written out all the same
    assert "0.05,x" in (tmp_path / "out.csv").read_text()


def test_a_row_that_cannot_be_predicted_has_its_number_and_ends_nothing(tmp_path: Path) -> None:
    bad = ROW.format(4, "int8")
    (tmp_path / "rows.csv").write_text(ROWS.format("kv_dtype") + ROW.format(4, "fp8") + bad)
    done = shardwise("predict", "rows.csv", "-o", "out.csv", cwd=tmp_path)
    assert done.returncode == 0
    assert "row 2: kv_dtype is 'int8'" in done.stderr
    assert "1 of 2 rows predicted" in done.stderr


def test_an_import_without_result_says_which_row_and_why(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS.format("tpot_ms") + ROW.format("x", 10) * 3)
    line = refused(["bench", "import", "rows.csv"], cwd=tmp_path)
    assert "rows.csv row 1: tp is 'x'" in line
    assert "2 more rows" in line


def test_version_and_help_answer_without_importing_numpy() -> None:
    code = (
        "import sys; sys.argv = ['shardwise', '--help']\n"
        "from shardwise.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
