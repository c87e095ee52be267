"""A shared profile predicts as the one it was made from, and names nothing of its machine."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.batches import usual_gpu
from shardwise.perfmodel.build import Personal
from shardwise.perfmodel.profiles import Profile, bundled_profile, load_profile
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.sharing import save_shared, shared
from shardwise.perfmodel.shrinking import WHOLE

ROW = Row(
    number=1,
    model="/home/someone/models/Llama-3.1-8B",
    gpu="h200",
    engine="vllm",
    weight_dtype="bf16",
    kv_dtype="",
    layout=Layout(2),
    mode="closed_loop",
    concurrency=8.0,
    isl=512.0,
    osl=128.0,
    source="test",
    version="0.9.1",
    use="calibrate",
    kv_limited=None,
    requests=80.0,
    observed={"tpot_s": 0.005},
)


def written(folder: Path) -> Path:
    profile = named("node-a")
    made = Personal(profile, 1, {"tpot_s": 12.0}, {"tpot_s": 4.0}, WHOLE, is_supported=True)
    path = folder / "node.json"
    save_shared(path, shared(made, [ROW, replace(ROW, observed={})], usual_gpu))
    return path


def named(name: str) -> Profile:
    return msgspec.structs.replace(bundled_profile(), name=name)


def test_a_shared_profile_is_loaded_by_its_file(tmp_path: Path) -> None:
    assert load_profile(str(written(tmp_path))) == named("node-a")


def test_it_holds_hardware_versions_rows_and_errors_and_no_path(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = json.loads(path.read_text("utf-8"))
    assert [gpu["id"] for gpu in found["hardware"]] == ["h200"]
    assert found["engines"] == ["vllm 0.9.1"]
    assert [row["model"] for row in found["rows"]] == ["Llama-3.1-8B"]  # of those measured
    assert found["error_pct"]["after_cross_validated"] == {"tpot_s": 4.0}
    assert "/home" not in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "is not a shared profile"),
        ("not json", "is not a shared profile"),
        ('{"format": "shardwise-profile", "version": 9, "profile": null}', "not a shared profile"),
    ],
)
def test_another_file_is_refused_with_what_to_give(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=says):
        load_profile(str(path))


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text("utf-8").replace('"version": 1', '"version": 9', 1), "utf-8")
    with pytest.raises(InputError, match="allowed: 'shardwise-profile', version 1"):
        load_profile(str(path))
