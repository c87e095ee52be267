"""The parts of README.md that are output: a command's answer, a snippet's, and the accuracy.

`python benchmarks/readme.py --write` replaces what stands between `<!-- NAME -->` and
`<!-- /NAME -->`; without it, the parts are printed. A test compares the two.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = ROOT / "README.md"
WIDTH: Final = 96  #: columns that a code block of an index page shows without scrolling
PLAN: Final = (
    "plan llama-3.1-70b --gpu h200 --gpus 4 --isl 1024 --osl 256 --concurrency 64 --dtype fp8"
)
STEPS: Final = (
    "study llama-3.1-70b --gpu mi300x --dtype fp8 --kv-dtype fp8 --requests 256 --batch 16,128"
    " --length-cv 0"
)


def run(command: str) -> str:
    """What a command prints at the README's width."""
    from shardwise.cli.main import cli

    done = CliRunner().invoke(
        cli, command.split(), catch_exceptions=False, env={"COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def plan_part() -> str:
    """The command and its answer: the recommendation and the ranking."""
    import textwrap

    answer, _, rest = run(PLAN).partition("\n\n")
    table = rest.partition("\n\n")[0]
    lines = [line for text in answer.splitlines() for line in textwrap.wrap(text, WIDTH)]
    return "\n".join(["```console", f"$ shardwise {PLAN}", *lines, "", table, "```"])


def python_part() -> str:
    """What the snippet above it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(snippet(README.read_text("utf-8")), {})
    return f"```text\n{out.getvalue().rstrip()}\n```"


def snippet(readme: str) -> str:
    """The README's Python block."""
    found = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert found, "README.md has no Python block"
    return found.group(1)


def steps_part() -> str:
    """The published study's steps beside the predicted ones."""
    from shardwise.analysis.published import load_published

    found = json.loads(run(f"{STEPS} --json"))["study"]["steps"]
    published = {
        (s.concurrency, s.from_tp, s.to_tp): s.change_pct.value
        for s in load_published().steps
        if s.metric == "e2e_latency_s"
    }
    ups = [s for s in found if s["metric"] == "e2e_latency_s" and s["to_tp"] > s["from_tp"]]
    lines = ["| E2E latency | TP1→2 | TP2→4 | TP4→8 |", "|---|---|---|---|"]
    for batch in (16, 128):
        some = [s for s in ups if s["concurrency"] == batch]
        changes = [s["change_pct"] for s in some]
        ours = [f"{c['value']:+.1f} % ({c['lo']:+.1f}…{c['hi']:+.1f})" for c in changes]
        theirs = [f"{published[batch, s['from_tp'], s['to_tp']]:+.1f} %" for s in some]
        lines.append(f"| batch {batch}, predicted (80 % interval) | {' | '.join(ours)} |")
        lines.append(f"| batch {batch}, published | {' | '.join(theirs)} |")
    values = [(s["change_pct"], published[s["concurrency"], s["from_tp"], s["to_tp"]]) for s in ups]
    off = sum(abs(c["value"] - p) for c, p in values) / len(values)
    inside = sum(c["lo"] <= p <= c["hi"] for c, p in values)
    lines += [
        "",
        f"The {len(values)} steps are off by {off:.1f} points on average; {inside} of "
        f"{len(values)} published values lie in the interval.",
    ]
    return "\n".join(lines)


def accuracy_part() -> str:
    """Errors on rows that no fit had seen, from `results/accuracy.json`."""
    folds = json.loads((ROOT / "results" / "accuracy.json").read_text("utf-8"))["folds"]
    cases = (
        ("layout", "a number of GPUs"),
        ("model", "a model on that GPU and engine"),
        ("family", "a model family"),
        ("gpu", "a GPU"),
    )
    lines = [
        "| never seen in the fit | metric | rows | median error | in the 80 % interval |",
        "|---|---|---:|---:|---:|",
    ]
    for fold, words in cases:
        for metric, label in (("tpot_s", "TPOT"), ("ttft_s", "TTFT")):
            some = [f for f in folds if (f["fold"], f["metric"]) == (fold, metric)]
            if some:
                lines.append(f"| {words} | {label} | {_pooled(some)} |")
    return "\n".join(lines)


def _pooled(folds: list[dict[str, Any]]) -> str:
    """Dense models and mixtures of experts together: rows, medians as a range, coverage."""
    rows = sum(f["rows"] for f in folds)
    medians = sorted(f["median_error_pct"] for f in folds)
    covered = sum(f["covered_pct"] * f["rows"] for f in folds) / rows
    shown = " to ".join(dict.fromkeys(f"{median:.1f}" for median in (medians[0], medians[-1])))
    return f"{rows:,} | {shown} % | {covered:.0f} %"


PARTS: Final = {
    "plan": plan_part,
    "python": python_part,
    "steps": steps_part,
    "accuracy": accuracy_part,
}


def part_of(readme: str, name: str) -> str:
    """What README.md has between the marks of a part."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", readme, re.DOTALL)
    assert found, f"README.md has no part {name}"
    return found.group(1)


def written(readme: str) -> str:
    """`readme` with every part anew."""
    for name, made in PARTS.items():
        old = part_of(readme, name)
        marks = f"<!-- {name} -->\n{{}}\n<!-- /{name} -->"
        readme = readme.replace(marks.format(old), marks.format(made()))
    return readme


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(written(README.read_text("utf-8")), "utf-8")
    else:
        for each in PARTS.values():
            print(each(), end="\n\n")
