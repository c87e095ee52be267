"""Engines by name, versions, and the recipe for a new one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shardwise.engines import Device, Launch, every, get, managed, names, registered
from shardwise.engines.versions import Version, parse, since
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Layout


def test_engines_are_found_by_name() -> None:
    assert names() == ("vllm", "sglang", "trtllm", "atom", "builtin")
    assert [engine.name for engine in every()] == list(names())
    for name in names():
        assert get(name).name == name


def test_only_some_are_started_by_shardwise_itself() -> None:
    assert managed() == ("vllm", "sglang", "builtin")


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="known: atom, builtin, sglang, trtllm, vllm"):
        get("huggingface")
    with pytest.raises(InputError, match="did you mean vllm"):
        get("vlm")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("vllm 0.11.0", (0, 11)),
        ("v0.8.5.post1", (0, 8, 5)),
        ("vLLM 0.9.1 (AMD rocm/vllm-dev:main)", (0, 9, 1)),
        ("1.2.0rc4", (1, 2)),
        ("0.20.2rc1.dev249+g9f", (0, 20, 2)),
        ("SGLang 0.5.23", (0, 5, 23)),
    ],
)
def test_versions_are_read_from_what_people_write(text: str, numbers: tuple[int, ...]) -> None:
    assert parse(text) == Version(numbers)


@pytest.mark.parametrize("text", ["", "vllm", "latest", "main", "H100"])
def test_a_text_without_a_version_has_none(text: str) -> None:
    assert parse(text) is None


def test_a_value_changes_with_the_version_and_is_else_the_newest() -> None:
    changes = (("0", "old"), ("0.9", "newer"), ("0.11", "newest"))
    assert since(parse("0.8.5"), changes) == "old"
    assert since(parse("0.9.0"), changes) == "newer"
    assert since(parse("0.10.2"), changes) == "newer"
    assert since(parse("0.11"), changes) == "newest"
    assert since(None, changes) == "newest"


def test_an_unknown_version_is_remarked_on() -> None:
    vllm = get("vllm")
    for known in ("0.8.5", "vllm 0.11.0", "0.32.1"):
        assert vllm.is_known(known)
        assert vllm.version_remark(known) == ""
    for unknown in ("", "nightly", "0.5.0", "0.40.0", "1.0.0"):
        assert not vllm.is_known(unknown)
        assert "0.6 to 0.32" in vllm.version_remark(unknown)


def test_a_new_engine_is_one_record() -> None:
    """CONTRIBUTING.md, "Add an engine", step by step."""

    def flags(deployment: Deployment, launch: Launch, device: Device) -> list[str]:
        del launch, device
        return ["--num-shard", str(deployment.layout.tp_size)]

    toy = replace(
        get("vllm"),
        name="toy",
        title="Toy",
        program=("toy-server", "--model-id"),
        write_flags=flags,
        capabilities=replace(get("vllm").capabilities, vendors=("nvidia",), pipeline=False),
    )
    with registered(toy):
        assert "toy" in names()
        line = get("toy").command(Deployment("m", "h100", Layout(tp_size=2)), Launch("org/m"))
        assert line.argv[:5] == ("toy-server", "--model-id", "org/m", "--num-shard", "2")
        with pytest.raises(InputError, match="PP=2 with Toy"):
            get("toy").require(Deployment("m", "h100", Layout(pp_size=2)), Device(), None)
    assert "toy" not in names()
