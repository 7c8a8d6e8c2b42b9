"""The fixed tree of a sum, as a counter's carries: the judge of inception_np/parallel/tree.py.

Sums of equally many shards are joined as soon as there are two of them, as two bits of a counter carry into the next.
At the end what is left is joined from the right.
"""


def brackets(count):
    """The sum over shards 0 .. count - 1 with its brackets, as text: "((0+1)+2)" for three."""
    stack = []  # (text, how many shards)
    for shard in range(count):
        text, size = str(shard), 1
        while stack and stack[-1][1] == size:
            left, _ = stack.pop()
            text, size = f"({left}+{text})", 2 * size
        stack.append((text, size))
    text, _ = stack.pop()
    while stack:
        text = f"({stack.pop()[0]}+{text})"
    return text


def tree_sum(values):
    """The sum of a list of arrays in these brackets, one addition after the other."""
    stack = []
    for value in values:
        size = 1
        while stack and stack[-1][1] == size:
            value, size = stack.pop()[0] + value, 2 * size
        stack.append((value, size))
    total, _ = stack.pop()
    while stack:
        total = stack.pop()[0] + total
    return total
