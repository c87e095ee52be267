"""Names of the flags that engines take, read off their sources into flags.json.

    python tests/engines/read_flags.py SGLANG VLLM > names.json

SGLANG and VLLM are folders with unpacked wheels. Nothing of them is imported. TensorRT-LLM's and
ATOM's names are few and were copied from the files that flags.json names.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path


def added(source: Path) -> Iterator[str]:
    """Names in calls of `add_argument`."""
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            yield from _names(node.args)


def _names(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and str(node.value).startswith("--"):
            yield str(node.value)


def sglang(root: Path) -> list[str]:
    """Fields declared as `name: A[type, Arg(...)]`, and what server_args.py adds to them."""
    package = root / "sglang" / "srt"
    found = set(added(package / "server_args.py"))
    for source in sorted((package / "arg_groups" / "fields").glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Subscript):
                found |= set(_field(node, node.annotation))
    return sorted(found)


def _field(node: ast.AnnAssign, annotation: ast.Subscript) -> Iterator[str]:
    inner = annotation.slice
    if getattr(annotation.value, "id", "") != "A" or not isinstance(inner, ast.Tuple):
        return
    call = next((x for x in inner.elts if isinstance(x, ast.Call)), None)
    options = {k.arg: k.value for k in call.keywords} if call else {}
    if "no_cli" in options:
        return
    name = options.get("cli_name")
    own = name.value if isinstance(name, ast.Constant) else f"--{ast.unparse(node.target)}"
    yield str(own).replace("_", "-")
    aliases = options.get("aliases")
    if isinstance(aliases, ast.List):
        yield from _names(aliases.elts)


def vllm(root: Path) -> list[str]:
    """The engine's arguments, and the server's: fields of `FrontendArgs`."""
    found = set(added(root / "vllm" / "engine" / "arg_utils.py"))
    server = root / "vllm" / "entrypoints" / "launchers" / "cli_args.py"
    found |= set(added(server))
    for node in ast.walk(ast.parse(server.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name.endswith("FrontendArgs"):
            found |= {
                f"--{ast.unparse(item.target).replace('_', '-')}"
                for item in node.body
                if isinstance(item, ast.AnnAssign)
            }
    return sorted(found)


if __name__ == "__main__":
    print(json.dumps({"sglang": sglang(Path(sys.argv[1])), "vllm": vllm(Path(sys.argv[2]))}))
