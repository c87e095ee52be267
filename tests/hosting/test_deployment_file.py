"""The deployment file is read strictly and written as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import (
    DeploymentFile,
    ModelTable,
    NodeTable,
    dump,
    first_ports,
    load,
    parse,
    save,
)

MODEL = {"model": "llama-3.1-70b"}


def test_saved_file_reads_back_the_same(tmp_path: Path) -> None:
    model = ModelTable(
        model="amd/Llama-3.1-70B",
        replicas=4,
        tp_size=2,
        devices=[[0, 1], [2, 3], [4, 5], [6, 7]],
        env={"A": 'quote " and ü', "B.C": "1"},
        flags=["--kv-cache-dtype", "fp8"],
    )
    file = DeploymentFile(node=NodeTable(gpu="mi300x", gpus=8), models=[model])
    save(file, tmp_path / "deployment.toml")
    assert load(tmp_path / "deployment.toml") == file


texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)


@given(texts, st.dictionaries(texts.filter(bool), texts))
def test_any_text_survives_the_file(flag: str, env: dict[str, str]) -> None:
    import tomllib

    file = DeploymentFile(models=[ModelTable(model="a", flags=[flag], env=env)])
    assert parse(tomllib.loads(dump(file)), "file") == file


def test_record_for_predictions_has_the_file_s_settings() -> None:
    file = parse({"node": {"gpu": "h200"}, "model": [{**MODEL, "tp_size": 4, "replicas": 2}]}, "f")
    (record,) = file.deployments()
    assert (record.gpu, record.tp_size, record.replicas, record.gpus) == ("h200", 4, 2, 8)


def test_ports_follow_the_model_before() -> None:
    file = parse({"model": [{"model": "a", "replicas": 3}, {"model": "b", "replicas": 2}]}, "f")
    assert first_ports(file) == [8101, 8104]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"model": [{**MODEL, "tp": 2}]}, "unknown field `tp`; allowed keys: model"),
        ({"prot": 1, "model": [MODEL]}, "unknown field `prot`; allowed keys: name, host"),
        ({"model": [{**MODEL, "tp_size": "2"}]}, "model\\[0\\].tp_size: Expected `int`"),
        ({"model": []}, "no \\[\\[model\\]\\]"),
        ({"model": [{**MODEL, "replicas": 10**9}]}, "replicas = 1000000000; allowed: 1 to"),
        ({"host": "\x80", "model": [MODEL]}, "host '.x80'; allowed: a host name or IP address"),
        ({"model": [{**MODEL, "kv_dtype": "int8"}]}, "kv_dtype 'int8'; allowed: auto"),
        ({"model": [{**MODEL, "flags": ["--x\0"]}]}, "NUL"),
        ({"host": ".a.", "model": [MODEL]}, "host '.a.'; allowed: a host name or IP address"),
        ({"model": [MODEL, MODEL]}, "2 models are served as 'llama-3.1-70b'"),
        ({"port": 8101, "model": [MODEL]}, "port 8101 is claimed 2 times"),
        ({"model": [{**MODEL, "engine": "trt"}]}, "engine 'trt'"),
        ({"model": [{**MODEL, "engine": "command"}]}, "needs a command"),
        ({"model": [{**MODEL, "replicas": 2, "devices": [[0]]}]}, "1 device lists for 2"),
        ({"model": [{**MODEL, "replicas": 0}]}, "replicas = 0; allowed: 1 to"),
    ],
)
def test_bad_file_is_one_line(data: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse(data, "deployment.toml")
    assert "\n" not in str(caught.value)
