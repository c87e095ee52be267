"""`shardwise explain`: show one layer under tensor parallelism, with real values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shardwise.cli.files import print_result
from shardwise.cli.options import JSON

if TYPE_CHECKING:
    from shardwise.engine.teaching import Explanation, Sum

WHY = {
    "attention": "Each rank computes attention for its own heads. Its columns of o_proj turn them\n"
    "   into a partial output of full width. The all-reduce adds the partial outputs.",
    "mlp": "Each rank computes its own intermediate features. Its columns of the down\n"
    "   projection turn them into a partial output of full width. The all-reduce adds them.",
}


@click.command()
@click.argument("model")
@click.option("--tp", default=2, show_default=True, help="Number of ranks to shard over.")
@click.option("--layer", default=0, show_default=True, help="Number of the layer, from 0.")
@click.option(
    "--prompt", default="", help='Prompt text, or token ids such as "17 4 291" without a tokenizer.'
)
@click.option(
    "--random-weights", is_flag=True, help="Use random weights; only config.json is needed."
)
@JSON
def explain(
    model: str, tp: int, layer: int, prompt: str, random_weights: bool, as_json: bool
) -> None:
    """Show how each tensor of a layer of MODEL is sharded, and the sum over ranks.

    MODEL is a Hugging Face folder, a .gguf file, or a bundled id (llama-51m) with random weights.
    """
    from shardwise.api.explaining import explain as explain_layer

    found = explain_layer(
        model,
        tp_size=tp,
        layer=layer,
        prompt=prompt,
        random_weights=random_weights,
        say=lambda line: click.echo(line, err=True),
    )
    if as_json:
        print_result(found)
    else:
        _print(found.explanation)


def _print(found: Explanation) -> None:
    from shardwise.reports.explain_tables import collapsed, held, kv_heads, shape_of

    click.echo(f"Layer {found.layer} on {found.tp_size} ranks, {found.num_tokens} tokens\n")
    click.echo("1. The weights are sharded. A matrix is stored as (outputs, inputs).")
    for name, cut in collapsed(found.cuts):
        where = "every rank" if cut.how == "whole" else "  ".join(map(held, cut.ranges))
        click.echo(f"   {name:34} {shape_of(cut):>12}  {cut.how:17} {where}")
    click.echo(f"\n   {found.heads_per_rank} query heads per rank; KV heads {kv_heads(found)}\n")
    for number, part in enumerate(found.sums, start=2):
        click.echo(f"{number}. {WHY[part.part]}")
        _print_sum(part)


def _print_sum(part: Sum) -> None:
    rows, width = part.shape
    click.echo(f"\n   last token's {part.part} output, first values:")
    for rank, values in enumerate(part.partials):
        click.echo(f"   {f'rank {rank}':10} {_numbers(values)}")
    click.echo(f"   {'sum':10} {_numbers(part.total)}   <- all-reduce of {rows}x{width} values")
    click.echo(f"   {'unsharded':10} {_numbers(part.unsharded)}")
    click.echo(f"   largest difference anywhere: {part.relative_error:.1e} of the largest value\n")


def _numbers(values: list[float]) -> str:
    return "  ".join(f"{value:+.5f}" for value in values)
