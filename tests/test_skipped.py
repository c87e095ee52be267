"""A run that leaves tests out says so, with the reason and the way to get them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.skipped import DEVELOPMENT, REMEDIES, remedy, summary

TESTS = Path(__file__).parent


def test_reasons_are_counted_and_each_has_its_remedy() -> None:
    java, engine = "Skipped: the validator needs java", "needs: pip install 'shardwise[engine]'"
    assert summary([java, engine, java], "not live and not vllm") == [
        "   2 skipped: the validator needs java → apt-get install default-jre-headless",
        "   1 skipped: needs: pip install 'shardwise[engine]' → make test-engine",
        "     left out by -m: live → make test-host",
        "     left out by -m: vllm → make test-vllm",
    ]
    assert summary([], "") == []
    assert remedy("docker-compose is not installed") == DEVELOPMENT


def test_each_remedy_is_for_a_reason_that_a_test_gives() -> None:
    own = {TESTS / "skipped.py", Path(__file__)}
    text = "".join(p.read_text("utf-8").lower() for p in TESTS.rglob("*.py") if p not in own)
    for word, _ in REMEDIES:
        assert word in text, word


def test_a_run_shows_what_it_skipped(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "pytest", "-n", "0", "-m", "not live", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*line, str(TESTS / "vllm"), str(TESTS / "hosting" / "test_hang.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS.parent,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(TESTS.parent / "src"),
        },
    )
    assert re.search(r"\d+ skipped: VLLM_PYTHON names .* → make test-vllm", done.stdout), (
        done.stdout
    )
    assert "left out by -m: live → make test-host" in done.stdout
