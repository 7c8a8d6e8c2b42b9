"""How gradients went wrong elsewhere, as edits of a syntax tree: what tests/wild_bugs.py collects, planted in our code.

tests/mutation.py plants them beside its own. Each edit names a thread that went wrong in that way.
"""

import ast
import copy

PAIRS = ("kernel", "size", "stride", "dilation", "pads", "out_hw")  # (h, w) each
RELATED = {"x": ("y", "xhat"), "y": ("x",), "xhat": ("x",), "g": ("dy",), "df": ("dy",), "dy": ("g", "df")}
PASSED_ON = ("channel_window_sum", "relu_dx", "scaled", "scaled_add", "pad_images", "copy_to")
OF_NO_VALUE = ("shape", "dtype", "flags")  # what an array's numbers do not change
LIKE = ("zeros", "empty", "as_writable", "array_module")  # calls that ask an array for its kind alone


def edits(node, parent, bound):
    """Every (what, replacement) of one node. parent: the node above. bound: the names that its function has."""
    yield from EDITS.get(type(node), lambda node, parent, bound: ())(node, parent, bound)


def names(function):
    """The names of a function's arguments and variables."""
    found = {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    return found | {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def parsed(text, **parts):
    """An expression in which names stand for nodes."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node):
            return copy.deepcopy(parts[node.id]) if node.id in parts else node

    return Fill().visit(ast.parse(text, mode="eval").body)


def reading(node):
    """A copy of a target that is read."""
    node = copy.deepcopy(node)
    node.ctx = ast.Load()
    return node


def pair(node, name, parent):
    """One axis' number in the place of the other's: tracel-ai/burn#4466, deeplearning4j#964, torch-xpu-ops#4380."""
    if name in PAIRS and not isinstance(parent, ast.Subscript):
        yield f"the first of {name} twice", parsed("(a[0], a[0])", a=node)
        yield f"{name} of the other axis", parsed("(a[1], a[0])", a=node)


def mode(node, name):
    """Training taken for evaluation, and the other way round: pytorch/xla#3361, apache/mxnet#9580."""
    if name == "train":
        yield "always in training", ast.Constant(True)
        yield "never in training", ast.Constant(False)


def edit_name(node, parent, bound):
    if not isinstance(node.ctx, ast.Load):
        return
    yield from pair(node, node.id, parent)
    yield from mode(node, node.id)
    if node.id == "groups":  # ml-explore/mlx#3800
        yield "one group", ast.Constant(1)
    if node.id == "rstd":  # flagos-ai/FlagGems#5222
        yield "the root twice", parsed("a ** -0.5", a=node)
    if isinstance(parent, ast.Attribute) and parent.attr in OF_NO_VALUE:
        return
    if isinstance(parent, ast.Call) and getattr(parent.func, "id", "") in LIKE:
        return
    for other in RELATED.get(node.id, ()):  # pytorch#47671: y for x; a forgotten gamma: dy for g
        if other in bound:
            yield f"{other} for {node.id}", ast.Name(other, ast.Load())
    if node.id == "dy":  # tensorflow#107706
        yield "small dy dropped", parsed("a * (abs(a) > 0.3)", a=node)
        if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Mult):  # paiml/aprender#2182
            yield "the first image's dy for all", parsed("a[:1]", a=node)


def edit_attribute(node, parent, bound):
    yield from pair(node, node.attr, parent)
    yield from mode(node, node.attr)


def edit_call(node, parent, bound):
    f, name = node.func, getattr(node.func, "id", getattr(node.func, "attr", ""))
    if name in ("sum", "mean") and isinstance(f, ast.Attribute):  # ROCm/MIOpen#1109
        short = ast.Attribute(parsed("a[:-1]", a=f.value), f.attr, ast.Load())
        yield f"{name} without the last image", ast.Call(short, node.args, node.keywords)
    if name == "zeros":  # pytorch/executorch#21686
        yield "not cleared", parsed("a + 0.1", a=node)
    if name == "where" and len(node.args) == 3:  # deeplearning4j#8178
        yield "one side for both", node.args[1]
        yield "the other side for both", node.args[2]
    if name in PASSED_ON and node.args:  # deeplearning4j#7272, ddbourgin/numpy-ml#94
        yield "left out", node.args[1] if name == "copy_to" else node.args[0]


def edit_test(node, parent, bound):
    for what, value in (("always", True), ("never", False)):
        new = copy.copy(node)
        new.test = ast.Constant(value)
        yield what, new


def edit_for(node, parent, bound):
    """riccardoandreoni0/CNN-from-scratch#1 (return in the loop), pytorch#68868 (the remainder left out)."""
    first, all_but_last = copy.copy(node), copy.copy(node)
    first.body = [*node.body, ast.Break()]
    yield "the first round only", first
    all_but_last.iter = parsed("list(a)[:-1]", a=node.iter)
    yield "without the last round", all_but_last


def edit_augassign(node, parent, bound):
    """What is left out at an end: pytorch#25101 (rows), pytorch#68868 (channels), ROCm/MIOpen#1109 (images)."""
    if not isinstance(node.op, ast.Add):
        return
    target = reading(node.target)
    for what, end in (("channel", "a[..., :-1]"), ("row", "a[:, :-1]"), ("image", "a[:-1]")):
        part = parsed(end, a=target)
        part.ctx = ast.Store()
        yield f"without the last {what}", ast.AugAssign(part, node.op, parsed(end, a=node.value))
    yield "in the other layout", ast.AugAssign(node.target, node.op, shuffled(node.value))


def shuffled(node):
    """The same numbers in another layout: pytorch#107199, apple/tensorflow_macos#230."""
    return parsed("a.reshape(a.shape[::-1]).T", a=node)


def edit_return(node, parent, bound):
    if isinstance(node.value, ast.Name):
        yield "in the other layout", ast.Return(shuffled(node.value))
    if "dy" in bound and not (isinstance(node.value, (ast.Name, type(None))) and getattr(node.value, "id", "") == "dy"):
        yield "hands dy on", ast.Return(ast.Name("dy", ast.Load()))  # andersbll/deeppy#15


def edit_binop(node, parent, bound):
    if isinstance(node.op, ast.Pow):  # flagos-ai/FlagGems#5222
        yield "the power twice", ast.BinOp(node, ast.Pow(), copy.deepcopy(node.right))


def edit_subscript(node, parent, bound):
    """A number per window or row: the first one for all of them (pytorch#198119, Paddle#74077), or along another axis
    (BobMcDear/attorch#17)."""
    at = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    none = next((i for i, e in enumerate(at) if isinstance(e, ast.Constant) and e.value is None), None)
    full = next((i for i, e in enumerate(at) if isinstance(e, ast.Slice)), None)
    if none is None or full is None:
        return
    first = [ast.Slice(None, ast.Constant(1)) if i == full else e for i, e in enumerate(at)]
    turned = [at[{none: full, full: none}.get(i, i)] for i in range(len(at))]
    for what, indices in (("the first for all", first), ("along another axis", turned)):
        yield what, ast.Subscript(node.value, ast.Tuple(indices, ast.Load()), node.ctx)


def edit_slice(node, parent, bound):
    """x[a : a + n] without its a: pytorch#188344."""
    lower, upper = node.lower, node.upper
    sum_of_two = lower is not None and isinstance(upper, ast.BinOp) and isinstance(upper.op, ast.Add)
    if sum_of_two and ast.dump(upper.left) == ast.dump(lower):
        yield "without its offset", ast.Slice(None, upper.right)


EDITS = {
    ast.Name: edit_name,
    ast.Attribute: edit_attribute,
    ast.Call: edit_call,
    ast.If: edit_test,
    ast.IfExp: edit_test,
    ast.For: edit_for,
    ast.AugAssign: edit_augassign,
    ast.Return: edit_return,
    ast.BinOp: edit_binop,
    ast.Subscript: edit_subscript,
    ast.Slice: edit_slice,
}
