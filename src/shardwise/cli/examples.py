"""An example of each command, shown at the end of its help."""

from __future__ import annotations

from typing import Final

import click

#: Command -> its words after `shardwise`, one line each.
EXAMPLES: Final = {
    "plan": ("plan llama-3.1-70b --gpu h200 --isl 1024 --osl 256 --concurrency 64",),
    "study": (
        "study llama-3.1-70b --gpu mi300x --tp 1,2,4,8 -o study",
        "study llama-51m --measure --minutes 4 -o measured",
    ),
    "simulate": ("simulate llama-3.1-8b --gpu h200 --rate 4 --duration 60s",),
    "search": ("search llama-3.1-8b --gpu h200 --tp 1,2 --rate 5,10 --seeds 3",),
    "predict": ("predict rows.csv -o predicted.csv",),
    "validate": ("validate rows.csv -o validation",),
    "compare": ("compare before.db after.db --fail-if-slower 5%",),
    "calibrate": ("calibrate rows.csv --name my-node", "calibrate rows.csv --export node.json"),
    "report": ("report study -o report.html",),
    "web": ("web --port 8765",),
    "catalogue gpus": ("catalogue gpus --wide",),
    "catalogue facts": ("catalogue facts h200",),
    "catalogue models": ("catalogue models",),
    "catalogue fits": ("catalogue fits",),
    "hardware detect": ("hardware detect --name my-machine",),
    "doctor": ("doctor --from topology.txt --save node.toml",),
    "explain": ("explain llama-51m --tp 2",),
    "serve": ("serve ./Llama-3.2-1B --tensor-parallel-size 2 --port 8000",),
    "profile": ("profile llama-51m --tp 1,2 --batch 1,16",),
    "bench run": ("bench run http://localhost:8000 --concurrency 1,8,64 --gpu h200 --tp 2",),
    "bench sweep": ("bench sweep ./Llama-3.2-1B --engine vllm --tp 1,2 --concurrency 1,16",),
    "bench show": ("bench show shardwise.db",),
    "bench import": ("bench import result.json --gpu h200 --tp 2",),
    "bench export": ("bench export shardwise.db -o rows.csv",),
    "bench selftest": ("bench selftest --concurrency 64",),
    "up": ("up deployment.toml",),
    "status": ("status deployment.toml --watch",),
    "logs": ("logs deployment.toml llama-3.1-8b/0",),
    "down": ("down deployment.toml",),
    "export": ("export deployment.toml --to kubernetes -o manifests",),
}


def with_examples(command: click.Command, name: str) -> click.Command:
    """`command`, and the commands of a group, with their examples at the end of the help."""
    if isinstance(command, click.Group):
        for below, found in command.commands.items():
            with_examples(found, f"{name} {below}")
    elif name in EXAMPLES:
        lines = "\n".join(f"  shardwise {line}" for line in EXAMPLES[name])
        several = "s" if len(EXAMPLES[name]) > 1 else ""
        command.epilog = f"\b\nExample{several}:\n{lines}"
    return command
