"""The heap of the inner loop: whatever is put in comes out in order."""

from __future__ import annotations

import heapq

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardwise.simulator import queues
from shardwise.simulator.trace import Ints

# compiled functions are not callable from Python: their source is what is tested
heap_up = getattr(queues.heap_up, "py_func", queues.heap_up)
heap_down = getattr(queues.heap_down, "py_func", queues.heap_down)

KEYS = st.lists(st.integers(-1000, 1000), min_size=1, max_size=60)


def heap_of(keys: list[int]) -> tuple[Ints, Ints]:
    key = np.array(keys, dtype=np.int64)
    value = np.arange(len(keys), dtype=np.int64)
    for at in range(1, len(keys)):
        heap_up(key, value, at)
    return key, value


@given(KEYS)
def test_a_parent_is_never_larger_than_its_children(keys: list[int]) -> None:
    key, _ = heap_of(keys)
    assert all(key[(i - 1) // 2] <= key[i] for i in range(1, len(key)))


@given(KEYS)
def test_a_value_stays_with_its_key(keys: list[int]) -> None:
    key, value = heap_of(keys)
    assert [keys[v] for v in value] == key.tolist()
    assert sorted(value.tolist()) == list(range(len(keys)))


@given(KEYS)
def test_taking_the_first_again_and_again_gives_them_in_order(keys: list[int]) -> None:
    key, value = heap_of(keys)
    taken, size = [], len(keys)
    while size:
        taken.append(int(key[0]))
        size -= 1
        key[0], value[0] = key[size], value[size]
        heap_down(key, value, 0, size)
    assert taken == sorted(keys)


@given(KEYS, st.integers(-2000, 2000))
def test_it_is_the_heap_of_the_standard_library(keys: list[int], new: int) -> None:
    key, value = heap_of(keys)
    expected = list(keys)
    heapq.heapify(expected)
    assert int(key[0]) == expected[0]
    key[0] = new
    heap_down(key, value, 0, len(key))
    heapq.heapreplace(expected, new)
    assert int(key[0]) == expected[0]
