"""Run the fault-injection tests and write docs/reliability.md from their results.

    python benchmarks/reliability.py              write the page from the last run's results
    python benchmarks/reliability.py --run serve  run the faults of a section first (or: all)

reliability.toml names the tests of each fault. They run with real processes. Their outcomes and
recorded values are saved in results/reliability.json. Tests that did not run, for example because
a balancer is not installed, are marked as such.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import msgspec
from msgspec.structs import asdict

ROOT = Path(__file__).resolve().parents[1]
MATRIX = Path(__file__).with_suffix(".toml")
RESULT = ROOT / "results" / "reliability.json"
DOCUMENT = ROOT / "docs" / "reliability.md"

INTRODUCTION = """\
# Reliability

Injected faults, the expected behaviour, and the results. `make reliability` writes this page. The
tests named in `benchmarks/reliability.toml` inject each fault into real processes. The number in
brackets is the number of passed cases.
"""

Ending = Literal["passed", "failed", "skipped"]


class Case(msgspec.Struct, frozen=True):
    """The outcome of one test: `seen` is what it recorded, `why` the reason if it was skipped."""

    test: str
    ending: Ending
    seen: str = ""
    why: str = ""


def run_tests(tests: Sequence[str]) -> list[Case]:
    """Run the tests one after the other; each parameter of a parametrized test is one case."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        line = [sys.executable, "-m", "pytest", "-n", "0", f"--junit-xml={report}"]
        line += [
            "-o",
            "junit_family=xunit1",
            *tests,
        ]  # the only family that keeps recorded properties
        subprocess.run(line, cwd=ROOT, check=False)
        return [_case(element) for element in ElementTree.parse(report).iter("testcase")]


def _case(element: ElementTree.Element) -> Case:
    name = f"{element.get('classname')}.{element.get('name')}"
    seen = "; ".join(
        str(found.get("value")) for found in element.iter("property") if found.get("name") == "seen"
    )
    if (skipped := element.find("skipped")) is not None:
        return Case(name, "skipped", seen, str(skipped.get("message")).removeprefix("Skipped: "))
    failed = element.find("failure") is not None or element.find("error") is not None
    return Case(name, "failed" if failed else "passed", seen)


def belongs(case: Case, test: str) -> bool:
    """Return whether `case` is the test with node id `test`, or one of its parameters."""
    path, _, function = test.partition("::")
    module = path.removesuffix(".py").replace("/", ".")
    name = case.test.removeprefix(f"{module}.")
    return name != case.test and name.partition("[")[0] == function


def run_section(section: dict[str, Any]) -> dict[str, Any]:
    """Run a section; return the cases of each fault."""
    cases = run_tests([test for fault in section["fault"] for test in fault["tests"]])
    faults = []
    for fault in section["fault"]:
        mine = [case for test in fault["tests"] for case in cases if belongs(case, test)]
        faults.append({"tried": fault["tried"], "cases": [asdict(case) for case in mine]})
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "faults": faults,
    }


def verdict(cases: Sequence[dict[str, str]]) -> str:
    """Format the cases of a fault: yes, **no** with the failed tests, or not run; with recorded
    values."""
    failed = [case["test"].rpartition(".")[2] for case in cases if case["ending"] == "failed"]
    if failed or not cases:
        return f"**no**: {', '.join(failed)}" if failed else "not run"
    whys = sorted({case["why"].split(":")[0] for case in cases if case["ending"] == "skipped"})
    ran = [case for case in cases if case["ending"] == "passed"]
    parts = [f"yes ({len(ran)})" if ran else "not run"]
    parts += [case["seen"] for case in ran if case["seen"]]
    return "; ".join(parts + [f"not run where {why}" for why in whys])


def page(matrix: dict[str, Any], results: dict[str, Any]) -> str:
    """Format the page. A section that was never run is marked as such."""
    lines = INTRODUCTION.splitlines()
    for name, section in matrix.items():
        result = results.get(name, {"faults": [], "date": "never", "machine": "no machine"})
        found = {fault["tried"]: fault["cases"] for fault in result["faults"]}
        lines += ["", f"## {section['title']}", "", section["about"]]
        lines += [f"Run {result['date']} on {result['machine']}.", ""]
        lines += ["| fault | expected | met |", "|---|---|---|"]
        for fault in section["fault"]:
            held = verdict(found.get(fault["tried"], []))
            lines.append(f"| {fault['tried']} | {fault['holds']} | {held} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="run fault-injection tests and write docs/reliability.md"
    )
    matrix = tomllib.loads(MATRIX.read_text("utf-8"))
    parser.add_argument("--run", choices=[*matrix, "all"], help="section to run first")
    options = parser.parse_args()
    results = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    for name, section in matrix.items():
        if options.run in (name, "all"):
            results[name] = run_section(section)
            RESULT.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    DOCUMENT.write_text(page(matrix, results), "utf-8")
    cases = [c for result in results.values() for f in result["faults"] for c in f["cases"]]
    failed = [case["test"] for case in cases if case["ending"] == "failed"]
    print(json.dumps({"cases": len(cases), "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
