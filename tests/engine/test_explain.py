"""The teaching view's numbers are real: partial outputs add up to the unsharded result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.cli.explain import explain as command  # noqa: E402
from shardwise.engine.teaching import explain  # noqa: E402
from shardwise.errors import InputError, UnknownNameError  # noqa: E402


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mixtral", "Qwen3Moe"])
def test_partial_outputs_differ_and_add_up_to_the_unsharded_layer(
    family: str, models: dict[str, Path]
) -> None:
    found = explain(models[family], 4, 1, [5, 17, 99], random=False)
    for part in found.sums:
        assert part.shape == (3, 64)
        assert part.relative_error < 1e-5
        assert all(partial != part.total for partial in part.partials)
        added = [sum(numbers) for numbers in zip(*part.partials, strict=True)]
        assert added == pytest.approx(part.unsharded, abs=1e-4)


def test_the_command_shows_cuts_replication_and_the_sum(llama: Path) -> None:
    got = CliRunner().invoke(command, [str(llama), "--tp", "4", "--prompt", "1 2 3"])
    assert got.exit_code == 0
    assert "KV heads rank 0: 0, rank 1: 0, rank 2: 1, rank 3: 1" in got.output
    assert "<- all-reduce of 3x64 values" in got.output
    down = next(line for line in got.output.splitlines() if "mlp.down_proj" in line)
    assert down.split() == ["mlp.down_proj", "64x96", "columns", "0-23", "24-47", "48-71", "72-95"]


def test_the_command_speaks_json(llama: Path) -> None:
    got = CliRunner().invoke(command, [str(llama), "--json"])
    found = json.loads(got.output)
    assert (found["kind"], found["schema_version"], found["tp_size"]) == ("explain", 1, 2)


def test_a_bundled_name_is_explained_with_random_weights_and_says_so() -> None:
    got = CliRunner().invoke(command, ["llama-51m", "--json"])
    assert got.exit_code == 0, got.output
    assert "llama-51m: random weights" in got.stderr
    found = json.loads(got.stdout)
    assert found["heads_per_rank"] == 12 // 2  # of the bundled shape, on two ranks
    assert found["kv_heads"] == [[0, 2], [2, 4]]
    assert all(part["relative_error"] < 1e-5 for part in found["sums"])


def test_an_unknown_name_suggests_a_bundled_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean llama-51m"):
        CliRunner().invoke(command, ["llama-51"], catch_exceptions=False)


def test_a_layer_that_is_not_there_says_which_are(llama: Path) -> None:
    with pytest.raises(InputError, match="layer is 2; allowed: 0 to 1"):
        explain(llama, 2, 2, [1], random=False)
