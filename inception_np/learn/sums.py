"""The gradients of a batch's shards, added in several ways by several workers; how much the bits of the sums differ.

shards: (count, ...), of which each of N workers holds count / N, in order. Each way gives the sum, (...).
"""

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import numpy as np

from ..backend.arrays import Array
from ..parallel.tree import Range, are_siblings, blocks, subtrees, tree_sum


def teams(count: int) -> list[int]:
    """How many workers can share that many shards evenly."""
    return [n for n in range(1, count + 1) if count % n == 0]


def in_order(shards: Iterable[Any]) -> Any:
    """((s0 + s1) + s2) + ..."""
    total, *rest = shards
    for shard in rest:
        total = total + shard
    return total


def in_every_order(shards: Array) -> Array:
    """`in_order` of all orders in which the shards may arrive: (count!, ...)."""
    orders = np.array(list(permutations(range(len(shards)))))
    return np.asarray(in_order(shards[orders[:, k]] for k in range(len(shards))))


def in_a_ring(shards: Array, workers: int) -> Array:
    """Each worker adds its shards in order. A piece of the sum then travels once around all workers.

    Piece w begins behind worker w, so that it ends there: each piece has brackets of its own.
    """
    own = np.stack([in_order(shards[first:end]) for first, end in blocks(len(shards), workers)])
    pieces = np.array_split(own.reshape(workers, -1), workers, axis=1)
    around = [in_order(np.roll(piece, -w - 1, axis=0)) for w, piece in enumerate(pieces)]
    return np.concatenate(around).reshape(shards.shape[1:])


def by_worker(shards: Array, workers: int) -> Array:
    """Each worker adds its shards in order, and the workers' sums are added in a tree over the workers."""
    own = {(w, w + 1): in_order(shards[first:end]) for w, (first, end) in enumerate(blocks(len(shards), workers))}
    return tree_sum(own, (0, workers))


def in_the_fixed_tree(shards: Array, workers: int) -> Array:
    """Each worker adds up the subtrees that it holds; whoever has them all adds them along the tree over the shards."""
    whole = (0, len(shards))
    leaves = {(i, i + 1): shard for i, shard in enumerate(shards)}
    parts = {node: tree_sum(leaves, node) for block in blocks(len(shards), workers) for node in subtrees(block, whole)}
    return tree_sum(parts, whole)


def sums_in_memory(count: int) -> int:
    """How many sums are there at most, where shards come in order and siblings are added as soon as both are there."""
    held: list[Range] = []
    most = 0
    for i in range(count):
        held.append((i, i + 1))
        most = max(most, len(held))
        while len(held) > 1 and are_siblings(held[-2], held[-1], count):
            right, left = held.pop(), held.pop()
            held.append((left[0], right[1]))
    return most


def sent(count: int, workers: int) -> list[float]:
    """How much each worker sends for the sum of a vector, in lengths of the vector. Worker w owns piece w of it.

    Every other owner gets its piece of each subtree that the worker holds; every other worker gets the sum of the
    worker's own piece.
    """
    others = (workers - 1) / workers
    return [others * len(subtrees(block, (0, count))) + others for block in blocks(count, workers)]


def patterns(sums: Array) -> Array:
    """How many bit patterns there are along the first axis, for each entry. sums: (ways, ...) of float32."""
    ordered = np.sort(np.ascontiguousarray(sums, np.float32).view(np.uint32), axis=0)
    return np.asarray(1 + (ordered[1:] != ordered[:-1]).sum(0))


def spread(sums: Array) -> Array:
    """The distance of the largest from the smallest along the first axis, for each entry, in steps of float32."""
    steps = place(sums)
    return np.asarray(steps.max(0) - steps.min(0))


def place(values: Array) -> Array:
    """The place of each float32 in the row of all of them, int64: neighbours differ by 1, and 0 is at 0."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits + (1 << 31)), bits)
