"""docs/reliability.md says what the last run of the faults said, and each fault has its tests."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import reliability  # noqa: E402

MATRIX = tomllib.loads(reliability.MATRIX.read_text("utf-8"))


def test_the_page_is_what_the_results_say() -> None:
    results = json.loads(reliability.RESULT.read_text("utf-8"))
    assert reliability.DOCUMENT.read_text("utf-8") == reliability.page(MATRIX, results)


def test_every_fault_names_tests_that_exist_and_was_tried_by_each() -> None:
    results = json.loads(reliability.RESULT.read_text("utf-8"))
    for name, section in MATRIX.items():
        tried = {fault["tried"]: fault["cases"] for fault in results[name]["faults"]}
        for fault in section["fault"]:
            for test in fault["tests"]:
                path, _, function = test.partition("::")
                assert re.search(rf"def {function}\(", (ROOT / path).read_text("utf-8")), test
                cases = [reliability.Case(**case) for case in tried[fault["tried"]]]
                assert any(reliability.belongs(case, test) for case in cases), test


def test_a_failure_and_a_skip_are_shown_as_such() -> None:
    case = {"test": "tests.a.test_x[caddy]", "ending": "passed", "seen": "9 of 9", "why": ""}
    skipped = {"test": "y", "ending": "skipped", "seen": "", "why": "smg is not installed: pip"}
    failed = case | {"ending": "failed"}
    assert reliability.verdict([case, case]) == "yes (2); 9 of 9; 9 of 9"
    assert reliability.verdict([case, skipped]) == (
        "yes (1); 9 of 9; not run where smg is not installed"
    )
    assert reliability.verdict([case, failed]) == "**no**: test_x[caddy]"
    assert reliability.verdict([]) == "not run"
