r"""The tree in which the gradients of a batch's shards are added.

Floating-point addition rounds, so that (a + b) + c and a + (b + c) differ in their last bits. A sum over shards has the
same bits for any number of workers only if its brackets never move. They are those of one binary tree over the shards,
in order, which depends on their number alone: a range of shards is cut behind the largest power of two that is smaller
than it. For eight shards, and for six:

               +                                  +
           /       \                          /       \
         +           +                      +           \
       /   \       /   \                  /   \           \
      +     +     +     +                +     +           +
     / \   / \   / \   / \              / \   / \         / \
    0   1 2   3 4   5 6   7            0   1 2   3       4   5

N workers hold count / N shards each, in order. The maximal subtrees of what a worker holds are all that it has to send:
for eight shards, one subtree for 1, 2, 4 or 8 workers; for six and two workers, 0..2 are the subtrees 0..1 and 2.
Whoever has all subtrees adds them up along the same tree, and each pair of brackets is added once, on one worker.

The largest power of two (rather than half) lets shards that arrive in order be joined as soon as they are there, as
the bits of a counter carry. Demmel & Nguyen 2015 (Parallel Reproducible Summation) discuss fixed trees, and sums whose
bits need no order at all.
"""

from collections.abc import Mapping

from ..backend.arrays import Array

Range = tuple[int, int]  # shards from the first to before the second


def blocks(count: int, workers: int) -> list[Range]:
    """The shards that each worker holds. Raises ValueError where they cannot be shared evenly."""
    if workers < 1 or count % workers:
        raise ValueError(f"blocks: got {count} shards for {workers} workers, wanted a multiple of the workers")
    each = count // workers
    return [(w * each, (w + 1) * each) for w in range(workers)]


def middle(node: Range) -> int:
    """Where a range of at least two shards is cut."""
    first, end = node
    return first + (1 << ((end - first - 1).bit_length() - 1))


def subtrees(block: Range, node: Range) -> list[Range]:
    """The maximal subtrees of the tree over `node` that lie in `block`, in order.

    >>> subtrees((0, 3), (0, 6)), subtrees((4, 8), (0, 8))
    ([(0, 2), (2, 3)], [(4, 8)])
    """
    if block[0] <= node[0] and node[1] <= block[1]:
        return [node]
    if node[1] <= block[0] or block[1] <= node[0]:
        return []
    cut = middle(node)
    return subtrees(block, (node[0], cut)) + subtrees(block, (cut, node[1]))


def are_siblings(left: Range, right: Range, count: int) -> bool:
    """Whether the tree over `count` shards adds these two."""
    both = (left[0], right[1])
    return left[1] == right[0] and subtrees(both, (0, count)) == [both] and middle(both) == left[1]


def tree_sum(parts: Mapping[Range, Array], node: Range) -> Array:
    """The sum over `node`, from the sums over subtrees that cover it. A new array, or a part where it is that alone.

    Raises KeyError where a shard is in none of the parts.
    """
    if node in parts:
        return parts[node]
    if node[1] - node[0] == 1:
        raise KeyError(f"tree_sum: got no part with shard {node[0]}, wanted parts that cover all shards")
    cut = middle(node)
    return tree_sum(parts, (node[0], cut)) + tree_sum(parts, (cut, node[1]))
