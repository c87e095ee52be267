"""Assign GPUs to TP groups: prefer bridged pairs, and one NUMA node over two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final

import msgspec

from shardwise.errors import InputError
from shardwise.node.links import Link
from shardwise.node.node import Node, Pair, pair

#: Up to this group size every ring is evaluated (2,520 for 8 GPUs). Above it, the ring goes to the
#: nearest neighbour at each step.
_EXACT_RING: Final = 8
#: Up to this node size every split into groups is evaluated (105 for 8 GPUs in pairs).
_EXACT_SPLIT: Final = 8
#: Maximum number of groups to evaluate. Above it, one group is grown from each GPU.
_EXACT_GROUPS: Final = 500
_UNKNOWN: Final = (-99, 0)  #: worse than any link


class Placement(msgspec.Struct, frozen=True, dict=True):
    """The GPUs of one replica in ring order."""

    node: Node
    devices: tuple[int, ...]  #: ascending, for CUDA_VISIBLE_DEVICES
    ring: tuple[int, ...]

    @property
    def ring_pairs(self) -> tuple[Pair, ...]:
        """Pairs of neighbours in the ring."""
        return _steps(self.ring)

    @property
    def ring_links(self) -> tuple[Link | None, ...]:
        """The links of the ring; None for a pair whose link is unknown."""
        return tuple(self.node.link(a, b) for a, b in self.ring_pairs)

    @cached_property
    def slowest(self) -> Link | None:
        """The slowest link of the ring; None for a single GPU or if a link is unknown."""
        links = self.ring_links
        known = [link for link in links if link is not None]
        if not links or len(known) < len(links):
            return None
        return min(known, key=lambda link: link.quality)

    @property
    def crosses_numa(self) -> bool:
        """Whether the GPUs are known to span several NUMA nodes."""
        islands = {self.node.device(i).island for i in self.devices} - {""}
        return len(islands) > 1

    @property
    def fully_connected(self) -> bool:
        """Whether every pair has a direct link."""
        return self.node.fully_connected(self.devices)


def tp_sizes(node: Node) -> tuple[int, ...]:
    """Return the powers of two up to the number of GPUs, and that number if it is even."""
    count = len(node.devices)
    sizes = {2**k for k in range(count.bit_length()) if 2**k <= count}
    return tuple(sorted(sizes | ({count} if count % 2 == 0 and count else set())))


def placements(node: Node, tp_size: int) -> tuple[Placement, ...]:
    """Return as many disjoint groups of `tp_size` GPUs as the node has, the best first.

    On nodes of up to 8 GPUs, the split with the best worst group is chosen. On larger nodes, or if
    links are unknown, the best remaining group is chosen repeatedly. Raises InputError if the node
    has fewer than `tp_size` GPUs.
    """
    count = len(node.devices)
    if not 1 <= tp_size <= count:
        raise InputError(f"TP={tp_size} on a node of {count} GPUs", f"allowed: 1 to {count}")
    if count <= _EXACT_SPLIT and not node.unknown_pairs():
        splits = _splits(node.indices, tp_size, count % tp_size)
        groups = max(splits, key=lambda split: _split_quality(node, split))
    else:
        groups = _one_after_another(node, tp_size)
    made = [Placement(node, group, _best_ring(node, group)) for group in groups]
    return tuple(sorted(made, key=lambda p: _group_quality(node, p.devices), reverse=True))


def best(node: Node, tp_size: int) -> Placement:
    """Return the best group of `tp_size` GPUs. Raises InputError if the node has fewer GPUs."""
    if not 1 <= tp_size <= len(node.devices):
        raise InputError(
            f"TP={tp_size} on a node of {len(node.devices)} GPUs",
            f"allowed: 1 to {len(node.devices)}",
        )
    group = _best_group(node, node.indices, tp_size)
    return Placement(node, group, _best_ring(node, group))


def _splits(left: tuple[int, ...], size: int, spare: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield every split of `left` into groups of `size` with `spare` GPUs unused."""
    if len(left) < size:
        yield ()
        return
    first, rest = left[0], left[1:]
    for others in itertools.combinations(rest, size - 1):
        remaining = tuple(i for i in rest if i not in others)
        for split in _splits(remaining, size, spare):
            yield ((first, *others), *split)
    if spare:
        yield from _splits(rest, size, spare - 1)


def _split_quality(node: Node, split: Sequence[tuple[int, ...]]) -> tuple[object, ...]:
    """Return a sort key for splits: the worst group first, then the next better one."""
    return tuple(sorted(_group_quality(node, group) for group in split))


def _one_after_another(node: Node, size: int) -> tuple[tuple[int, ...], ...]:
    left, groups = node.indices, []
    while len(left) >= size:
        group = _best_group(node, left, size)
        groups.append(group)
        left = tuple(i for i in left if i not in group)
    return tuple(groups)


def _best_group(node: Node, left: tuple[int, ...], size: int) -> tuple[int, ...]:
    if math.comb(len(left), size) <= _EXACT_GROUPS:
        groups: Iterable[tuple[int, ...]] = itertools.combinations(left, size)
    else:
        groups = [_grown(node, left, seed, size) for seed in left]
    return max(groups, key=lambda group: _group_quality(node, group))


def _grown(node: Node, left: tuple[int, ...], seed: int, size: int) -> tuple[int, ...]:
    """Grow a group from `seed`, adding the GPU whose worst link into the group is best."""
    group = [seed]
    while len(group) < size:
        rest = [i for i in left if i not in group]
        group.append(max(rest, key=lambda i: sorted(_quality(node, i, j) for j in group)))
    return tuple(sorted(group))


def _group_quality(node: Node, group: tuple[int, ...]) -> tuple[object, ...]:
    """Return a sort key: slowest ring link, full connection, one NUMA node, all links."""
    ring = _best_ring(node, group)
    links = [_quality(node, a, b) for a, b in _steps(ring)]
    every = sorted(_quality(node, a, b) for a, b in node.pairs(group))
    one_island = len({node.device(i).island for i in group} - {""}) <= 1
    return (
        min(links, default=(0, 0)),
        node.fully_connected(group),
        one_island,
        tuple(every),
    )


def _best_ring(node: Node, group: tuple[int, ...]) -> tuple[int, ...]:
    """Return the order of `group` whose ring has the best slowest link."""
    if len(group) <= 3:
        return group
    if len({_quality(node, a, b) for a, b in node.pairs(group)}) == 1:
        return group
    if len(group) > _EXACT_RING:
        return _nearest_neighbours(node, group)
    first, rest = group[0], group[1:]
    rings = ((first, *order) for order in itertools.permutations(rest) if order[0] < order[-1])
    return max(rings, key=lambda ring: _ring_quality(node, ring))


def _ring_quality(node: Node, ring: tuple[int, ...]) -> tuple[object, ...]:
    return tuple(sorted(_quality(node, a, b) for a, b in _steps(ring)))


def _nearest_neighbours(node: Node, group: tuple[int, ...]) -> tuple[int, ...]:
    ring, left = [group[0]], set(group[1:])
    while left:
        near = max(left, key=lambda i: (_quality(node, ring[-1], i), -i))
        ring.append(near)
        left.remove(near)
    return tuple(ring)


def _steps(ring: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if len(ring) < 2:
        return ()
    if len(ring) == 2:
        return (pair(*ring),)
    return tuple(pair(a, b) for a, b in zip(ring, (*ring[1:], ring[0]), strict=True))


def _quality(node: Node, a: int, b: int) -> tuple[int, int]:
    link = node.link(a, b)
    return link.quality if link else _UNKNOWN
