"""Inference engines: flags, defaults, limits and rules, one module each. `get` returns one."""

from shardwise.engines.device import Device
from shardwise.engines.engine import Engine
from shardwise.engines.facts import Command, Launch, Share
from shardwise.engines.registry import every, get, managed, names, registered
from shardwise.engines.rules import Shard, Weight, cut_heads

__all__ = [
    "Command",
    "Device",
    "Engine",
    "Launch",
    "Shard",
    "Share",
    "Weight",
    "cut_heads",
    "every",
    "get",
    "managed",
    "names",
    "registered",
]
