"""Combinations of options of `simulate` and `search` in which one would have no effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click
import msgspec
from click.core import ParameterSource

from shardwise.errors import InputError


class Rule(msgspec.Struct, frozen=True):
    """When an option has an effect, by names of parameters."""

    option: str
    needs: tuple[str, ...] = ()  #: only with one of these; none: always
    not_with: tuple[str, ...] = ()  #: not with any of these


LENGTHS: Final = ("isl", "osl", "length_cv")
RULES: Final = (
    *(Rule(name, not_with=("trace", "lengths")) for name in LENGTHS),
    Rule("lengths", not_with=("turns", "day")),
    Rule("hash_block", needs=("trace",)),
    Rule("arrivals", needs=("rate", "stage"), not_with=("turns",)),
    Rule("duration", needs=("rate", "concurrency")),
    Rule("warmup", not_with=("day",)),
    Rule("turns", needs=("rate",)),
    Rule("think", needs=("turns",)),
    Rule("prefix_tokens", not_with=("trace", "day")),
    Rule("prefixes", needs=("prefix_tokens",)),
    Rule("start_up", needs=("day",)),
    Rule("policy", not_with=("day",)),
    Rule("fails", not_with=("day",)),
    Rule("replicas", not_with=("day",)),
    Rule("prefill_tp", needs=("prefill_replicas",)),
    Rule("prefill_replicas", not_with=("concurrency", "turns", "fails", "day", "network")),
)


def given_options() -> dict[str, str]:
    """Return the options given to the running command: flags by parameter."""
    context = click.get_current_context()
    return {
        str(p.name): p.opts[0]
        for p in context.command.params
        if isinstance(p, click.Option)
        and context.get_parameter_source(str(p.name)) is not ParameterSource.DEFAULT
    }


def require_effect(rules: Sequence[Rule] = RULES) -> None:
    """Raise InputError if an option given to the running command would have no effect."""
    params = click.get_current_context().command.params
    flags = {str(p.name): p.opts[0] for p in params}
    given = given_options()
    for rule in rules:
        if rule.option not in given:
            continue
        needed = [flags[name] for name in rule.needs if name in flags]
        if rule.needs and not given.keys() & set(rule.needs):
            raise InputError(
                f"{flags[rule.option]} without {' or '.join(needed)}", "it would have no effect"
            )
        for name in rule.not_with:
            if name in given:
                raise InputError(
                    f"{flags[rule.option]} with {flags[name]}",
                    "one of them would have no effect",
                    "leave it out",
                )
