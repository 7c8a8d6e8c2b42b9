"""Small faults, planted one at a time in the backward passes, to see that the tests find every one of them.

    python tests/mutation.py                  all of them: the score, a table, and what survived
    python tests/mutation.py kernels/lrn.py   those of one file
    pytest -m mutation                        the same as a test

A mutant is one edit of one function's syntax tree: a dropped term, a wrong axis, a missing 1/N, H for W, a swapped
stride, pad or tap, = for +=, an index off by one, a wrong tie, a missing mask, a transposed weight, a factor of 1.01
or 1.0001, or one of the ways in which gradients went wrong elsewhere (wild_operators.py). It is compiled, and its code
is put into the function that everybody has imported already, so that a mutant
costs milliseconds. The judges are the suite's own promises (test_layers.py), its definitions by reference loops, its
exact tests, and check_gradients, over fixed cases that the suite's strategies draw.

A mutant that cannot change any result is listed in mutation_equivalents.txt with the reason. Every run proves the list
again: each entry must still name a survivor, which must give the same bits as the right code (or, where the reason
begins with "rounding", the same numbers to 1e-13) in every array of every case.
"""

import ast
import contextlib
import copy
import importlib
import inspect
import signal
import sys
import time
import types
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import test_layers  # noqa: E402
import test_own_layers  # noqa: E402
import wild_operators  # noqa: E402
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from numerics import H, arrays  # noqa: E402

import inception_np.kernels.batchnorm as batchnorm_kernels  # noqa: E402
import inception_np.kernels.conv as conv_kernels  # noqa: E402
import inception_np.kernels.philox as philox  # noqa: E402
from inception_np import (  # noqa: E402
    AdaptiveAvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    ConvBNReLU,
    ConvReLU,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    Linear,
    Mode,
    ReLU,
    Residual,
    Sequential,
    cast,
    check_gradients,
    named_buffers,
    named_params,
)
from inception_np import softmax_cross_entropy as cross_entropy  # noqa: E402
from inception_np.backend import device  # noqa: E402
from inception_np.models.network import Network  # noqa: E402
from inception_np.testing import LAYERS, Case, networks, random_like, randomise  # noqa: E402

EQUIVALENTS = HERE / "mutation_equivalents.txt"
PACKAGE = HERE.parent / "inception_np"
CASES = 40  # of every layer
SECONDS = 5  # of computing until a mutant counts as hanging

# Which functions are mutated, and the layers whose cases judge them.
WINDOWED = ("Conv2D", "DepthwiseConv2D", "MaxPool2D", "AvgPool2D", "ConvReLU")
TARGETS = {
    "kernels/conv.py": (("conv2d_dx", "conv2d_dw", "groups_of"), ("Conv2D", "ConvReLU", "ConvBNReLU")),
    "kernels/im2col.py": (("im2col", "col2im"), ("Conv2D", "ConvReLU", "ConvBNReLU")),
    "kernels/depthwise.py": (("depthwise2d_dx", "depthwise2d_dw"), ("DepthwiseConv2D", "SeparableConv2D")),
    "kernels/pool.py": (
        ("max_pool_dx", "avg_pool_dx", "global_avg_pool_dx", "_weights", "_reach", "_padded", "_inside"),
        ("MaxPool2D", "AvgPool2D", "GlobalAvgPool2D"),
    ),
    "kernels/window.py": (("taps", "pad_images"), WINDOWED),
    "kernels/batchnorm.py": (
        ("batch_norm_grad", "batch_norm_backward", "moments", "statistics", "move_running_averages"),
        ("BatchNorm", "ConvBNReLU"),
    ),
    "kernels/lrn.py": (("channel_window_sum", "lrn_dx"), ("LRN",)),
    "kernels/elementwise.py": (
        ("relu_dx", "scaled_add", "sum_rows", "add", "copy", "add_to", "copy_to"),
        ("ReLU", "ConvReLU", "Conv2D", "networks"),
    ),
    "kernels/linear.py": (("linear_dx", "linear_dw"), ("Linear",)),
    "kernels/loss.py": (("softmax_cross_entropy",), ("loss",)),
    "kernels/philox.py": (("dropout", "dropout_dx"), ("Dropout",)),
    "layers/activation.py": (
        (
            "ReLU.recompute_output",
            "ReLU.backward",
            "ELU.recompute_output",
            "ELU.backward",
            "Dropout.backward",
            "Dropout.forward",
        ),
        ("ReLU", "ELU", "Dropout"),
    ),
    "layers/batchnorm.py": (
        ("BatchNorm.forward", "BatchNorm.backward", "BatchNorm.learned"),
        ("BatchNorm", "ConvBNReLU"),
    ),
    "layers/conv.py": (
        ("Conv2D.backward", "Conv2D._geometry", "ConvReLU.recompute_output", "ConvReLU.backward"),
        ("Conv2D", "ConvReLU", "PatchWhitening"),
    ),
    "layers/conv_bn_relu.py": (
        ("ConvBNReLU.recompute_output", "ConvBNReLU.forward", "ConvBNReLU.backward"),
        ("ConvBNReLU",),
    ),
    "layers/depthwise.py": (("DepthwiseConv2D.backward",), ("DepthwiseConv2D", "SeparableConv2D")),
    "layers/linear.py": (("Linear.backward", "Scale.forward", "Scale.backward"), ("Linear", "Scale")),
    "layers/lrn.py": (("LRN._constants", "LRN.backward"), ("LRN",)),
    "layers/pool.py": (
        (
            "MaxPool2D.backward",
            "AvgPool2D.backward",
            "GlobalAvgPool2D.backward",
            "AdaptiveAvgPool2D._windows",
            "AdaptiveAvgPool2D.backward",
            "Flatten.backward",
        ),
        ("MaxPool2D", "AvgPool2D", "GlobalAvgPool2D", "Flatten", "adaptive"),
    ),
    "compose.py": (
        ("Sequential.backward", "Concat._recompute_output", "Concat.backward", "Residual.backward"),
        ("networks", "SeparableConv2D", "user"),
    ),
    "models/network.py": (("Network.backward",), ("heads",)),
}


# -- making mutants ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One edit. Its name is stable while the line it edits is: file::function: line of code => edit (number)."""

    file: str
    function: str
    name: str
    code: types.CodeType

    @property
    def target(self):
        """The function whose code is replaced."""
        found = importlib.import_module("inception_np." + self.file[:-3].replace("/", "."))
        for part in self.function.split("."):
            found = getattr(found, part) if not isinstance(found, type) else found.__dict__[part]
        return inspect.unwrap(found.fget if isinstance(found, property) else found)


SWAPPED = {"top": "bottom", "left": "right", "h": "w", "kh": "kw", "stride": "dilation", "body_cache": "cut_cache"}
SWAPPED |= {b: a for a, b in SWAPPED.items()} | {"start": "stop", "width": "h", "first": "last", "lo": "hi"}
OTHER = {ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
OTHER |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is}
ELSEWHERE = {"on_gpu", "compiled", "on_tensor_cores"}  # the branches to compiled kernels


def edits(node):
    """Every (what, replacement) of one node; a replacement of None drops a statement."""
    yield from EDITS.get(type(node), lambda node: ())(node)


def edit_binop(node):
    op, a, b = type(node.op), node.left, node.right
    for new in {ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult]}.get(op, []):
        yield f"{op.__name__} to {new.__name__}", ast.BinOp(a, new(), b)
    if op is not ast.MatMult:
        yield "drop right", a
    if op in (ast.Add, ast.Sub, ast.Mult):
        yield "drop left", b


def edit_constant(node):
    if isinstance(node.value, bool):
        yield "flip", ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        yield "plus 1", ast.Constant(node.value + 1)
        yield "minus 1", ast.Constant(node.value - 1)


def edit_name(node):
    if node.id == "NHW" and isinstance(node.ctx, ast.Load):
        for axes in ((0, 1), (0, 2), (1, 2)):
            yield f"axes {axes}", ast.Tuple([ast.Constant(a) for a in axes], ast.Load())
    if node.id in SWAPPED and isinstance(node.ctx, ast.Load):
        yield f"{SWAPPED[node.id]} for {node.id}", ast.Name(SWAPPED[node.id], ast.Load())


def edit_attribute(node):
    if node.attr == "T":
        yield "not transposed", node.value


def edit_call(node):
    f = node.func
    if isinstance(f, ast.Attribute) and f.attr in ("sum", "mean"):
        other = "mean" if f.attr == "sum" else "sum"
        yield f"{other} for {f.attr}", ast.Call(ast.Attribute(f.value, other, ast.Load()), node.args, node.keywords)
    if isinstance(f, ast.Attribute) and f.attr == "copy":
        yield "no copy", f.value
    if isinstance(f, ast.Name) and f.id == "as_writable":
        yield "no copy", node.args[1]
    for i in range(len(node.args) - 1):
        if all(isinstance(a, ast.Name) for a in node.args[i : i + 2]):
            swapped = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
            yield f"swap arguments {i} and {i + 1}", ast.Call(f, swapped, node.keywords)


def edit_tuple(node):
    if len(node.elts) == 3 and all(isinstance(e, ast.Constant) for e in node.elts):
        for i in range(3):
            yield f"without axis {i}", ast.Tuple([e for k, e in enumerate(node.elts) if k != i], ast.Load())
    if len(node.elts) == 2 and isinstance(node.ctx, ast.Load) and ast.dump(node.elts[0]) != ast.dump(node.elts[1]):
        yield "swapped", ast.Tuple(node.elts[::-1], ast.Load())


def edit_compare(node):
    if type(node.ops[0]) in OTHER:
        yield "other side", ast.Compare(node.left, [OTHER[type(node.ops[0])]()], node.comparators)


def edit_test(node):
    new = copy.copy(node)
    new.test = ast.UnaryOp(ast.Not(), node.test)
    yield "not", new


def edit_boolop(node):
    yield "and for or, or for and", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)


def edit_unary(node):
    yield "drop sign or not", node.operand


def edit_slice(node):
    for part in ("lower", "upper", "step"):
        if getattr(node, part) is not None:
            new = copy.copy(node)
            setattr(new, part, None)
            yield f"no {part}", new


def edit_augassign(node):
    yield "= for +=", ast.Assign([node.target], node.value)
    yield "-= for +=", ast.AugAssign(node.target, ast.Sub(), node.value)
    yield "dropped", None
    for factor in (1.01, 1.0001):
        yield (
            f"times {factor}",
            ast.AugAssign(node.target, node.op, ast.BinOp(ast.Constant(factor), ast.Mult(), node.value)),
        )


def edit_return(node):
    value = node.value
    if isinstance(value, (ast.BinOp, ast.Name, ast.Call, ast.Tuple)):
        first = value.elts[0] if isinstance(value, ast.Tuple) else value
        for factor in (1.01, 1.0001, -1):
            scaled = ast.BinOp(ast.Constant(factor), ast.Mult(), first)
            if isinstance(value, ast.Tuple):
                scaled = ast.Tuple([scaled, *value.elts[1:]], ast.Load())
            yield f"times {factor}", ast.Return(scaled)


def edit_assign(node):
    target = node.targets[0]
    numeric = isinstance(node.value, (ast.BinOp, ast.Call)) and isinstance(target, ast.Name)
    if numeric and ast.unparse(node.value).startswith(("zeros", "empty", "array_module(x).full")):
        return
    if numeric and target.id in (
        "dx",
        "dy",
        "df",
        "dh",
        "g",
        "xhat",
        "dbeta",
        "padded",
        "share",
        "r",
        "s",
        "dcolumns",
        "e",
    ):
        for factor in (1.01, 1.0001):
            yield f"times {factor}", ast.Assign([target], ast.BinOp(ast.Constant(factor), ast.Mult(), node.value))


def edit_expression(node):
    if isinstance(node.value, ast.Call):
        yield "dropped", None


EDITS = {
    ast.BinOp: edit_binop,
    ast.Constant: edit_constant,
    ast.Name: edit_name,
    ast.Attribute: edit_attribute,
    ast.Call: edit_call,
    ast.Tuple: edit_tuple,
    ast.Compare: edit_compare,
    ast.If: edit_test,
    ast.IfExp: edit_test,
    ast.BoolOp: edit_boolop,
    ast.UnaryOp: edit_unary,
    ast.Slice: edit_slice,
    ast.AugAssign: edit_augassign,
    ast.Return: edit_return,
    ast.Assign: edit_assign,
    ast.Expr: edit_expression,
}


def inside(function):
    """The nodes of a function's body that are mutated: no docstring, no raise, no way to compiled kernels."""

    def visit(node):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "check_dy",
            "check_unused",
            "check_shape",
            "check_x",
            "check_floating",
            "check_weights",
        ):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not list(visit(node.value)):
            return
        if isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id in ELSEWHERE for n in ast.walk(node.test)):
            return
        if isinstance(node, ast.keyword) and node.arg == "strict":
            return
        if isinstance(node, ast.ExceptHandler):
            for statement in node.body:
                yield from visit(statement)
            return
        yield node
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    for statement in function.body:
        yield from visit(statement)


def find(body, qualname):
    """The class bodies on the way to a function, and the function."""
    name, _, rest = qualname.partition(".")
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return find(node.body, rest) if rest else node
    raise LookupError(f"no function {qualname}; bring TARGETS up to date")


def places(function):
    """{node: (parent, field, position or None)} of everything below a function."""
    found = {}
    for parent in ast.walk(function):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, list):
                found |= {child: (parent, field, i) for i, child in enumerate(value) if isinstance(child, ast.AST)}
            elif isinstance(value, ast.AST):
                found[value] = (parent, field, None)
    return found


def put(place, node):
    parent, field, i = place
    if i is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[i] = node


def compiled(function, qualname, file):
    """The code object of a function's tree; a method's is made inside a class, so that super() works."""
    body = [function]
    for name in qualname.split(".")[-2::-1]:
        body = [ast.ClassDef(name=name, bases=[], keywords=[], body=body, decorator_list=[], type_params=[])]
    code = compile(ast.fix_missing_locations(ast.Module(body, [])), file, "exec")
    for name in qualname.split("."):
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)
    return code


def mutants_of(file):
    """All mutants of one file, in the order of its lines."""
    source = (PACKAGE / file).read_text()
    lines = source.splitlines()
    tree = ast.parse(source)
    for qualname in TARGETS[file][0]:
        function = find(tree.body, qualname)
        free = compiled(function, qualname, file).co_freevars
        where, seen, bound = places(function), Counter(), wild_operators.names(function)
        for node in list(inside(function)):
            for what, new in [*edits(node), *wild_operators.edits(node, where[node][0], bound)]:
                text = f"{lines[node.lineno - 1].strip()} => {ast.unparse(node).splitlines()[0]}: {what}"
                seen[text] += 1
                name = f"{file}::{qualname}: {text}" + (f" ({seen[text]})" if seen[text] > 1 else "")
                put(where[node], ast.copy_location(ast.Pass() if new is None else new, node))
                try:
                    code = compiled(function, qualname, file)
                except (SyntaxError, ValueError, TypeError):
                    continue
                finally:
                    put(where[node], node)
                if code.co_freevars != free:  # super() gone, say: no code for this function
                    continue
                yield Mutant(file, qualname, name, code)


def all_mutants(files=TARGETS):
    return [m for file in files for m in mutants_of(file)]


@contextlib.contextmanager
def planted(mutant):
    """The mutant's code in place of the right one, and the plain kernels in use for every dtype."""
    target = mutant.target
    right, compiled_kernels = target.__code__, device.PLAIN
    target.__code__, device.PLAIN = mutant.code, True
    try:
        yield
    finally:
        target.__code__, device.PLAIN = right, compiled_kernels


# -- judging them --------------------------------------------------------------------------------------------------


class Hangs(Exception):
    pass


@contextlib.contextmanager
def time_limit(seconds):
    def stop(*_):
        raise Hangs

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def drawn(strategy, count):
    """The same `count` examples at every run."""
    found = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(case):
        found.append(case)

    collect()
    return list(dict.fromkeys(found))


PROMISES = [
    "gradients",
    "accumulates",
    "nothing_modified",
    "out",
    "into",
    "any_memory",
    "same_bits",
    "without_x",
    "shape",
    "dtype",
]


@cache
def judges(layer):
    """Functions without arguments that fail where a layer is wrong, the quickest first."""
    special = {"loss": loss_judges, "adaptive": adaptive_judges, "heads": heads_judges, "user": user_judges}
    if layer in special:
        return special[layer]()
    cases = drawn(networks() if layer == "networks" else LAYERS[layer], CASES)
    if layer == "Conv2D":  # the shortcut of 1x1 kernels, and "same", which few of the drawn cases take with strides
        text = "Conv2D(4, 2, 1, stride={}, pad='valid', dilation=(2, 3), groups={}, rng=rng)"
        rare = [Case(text.format(s, g), (2, 5, 7, 4), 1) for s in ((1, 2), (2, 1), (2, 3), (3, 2)) for g in (1, 2)]
        rare += [Case("Conv2D(2, 2, (2, 3), stride=(1, 2), pad='same', rng=rng)", (1, 5, 6, 2), 1)]
        cases = rare + cases
    if layer == "AvgPool2D":  # a last window over the end of the wider axis
        rare = Case("AvgPool2D((1, 3), stride=(1, 2), pad=((0, 0), (1, 1)), ceil=True)", (2, 3, 6, 1), 1)
        cases = [rare, *cases]
    found = [bind(one_direction, case) for case in cases]
    found += [bind(test_layers.promise_gradients, case) for case in cases[: CASES // 2]]
    found += [bind(report_ok, case) for case in cases[: CASES // 4]]
    if layer == "networks":
        promises = [p for p in PROMISES[1:] if p != "into"]
        found += [bind(into_of_a_tree, case) for case in cases[: CASES // 2]]
    else:
        promises = PROMISES[1:]
        definition = {
            "ConvBNReLU": "test_conv_bn_relu_is_its_three_layers",
            "ConvReLU": "test_conv_relu_is_its_two_layers",
            "SeparableConv2D": "test_separable_conv2d_is_its_layers",
            "Conv2D": "test_conv2d_is_the_definition",
            "DepthwiseConv2D": "test_depthwise_conv2d_is_the_definition",
            "MaxPool2D": "test_max_pool_is_the_definition",
            "AvgPool2D": "test_avg_pool_is_the_definition",
            "LRN": "test_lrn_is_the_definition_with_alpha_over_the_size_or_not",
            "BatchNorm": "test_batch_norm_is_the_definition_and_its_averages_move_in_backward",
            "Dropout": "test_dropout_keeps_or_drops_by_the_generator_alone",
            "Linear": "test_linear_is_the_definition",
            "Scale": "test_scale_is_the_definition",
            "PatchWhitening": "test_patch_whitening_is_a_convolution_whose_filters_stay",
        }.get(layer)
        if definition:
            test = getattr(test_layers, definition).hypothesis.inner_test
            found += [bind(test, case) for case in cases]
        if layer in ("ReLU", "ELU", "ConvReLU", "ConvBNReLU"):
            promises = [*promises, "recompute_output"]
    found += [bind(out_in_inference, case) for case in cases[: CASES // 2]]
    for promise in promises:
        check = getattr(test_layers, f"promise_{promise}")
        found += [bind(check, case) for case in cases[: CASES // 4]]
    if layer in ("Conv2D", "ConvReLU"):
        found += [bind(in_small_blocks, case) for case in cases[: CASES // 2]]
    if layer == "MaxPool2D":
        found += [test_layers.test_max_pool_ties_go_to_the_first_in_row_major_order]
        found += [test_layers.test_max_pool_of_constants_gives_each_window_one_winner]
        found += [test_layers.test_padding_never_wins_a_maximum]
    if layer == "AvgPool2D":
        found += [test_layers.test_average_pool_divisors]
    if layer in ("ReLU", "ConvReLU"):
        found += [test_layers.test_relu_at_zero, test_layers.test_conv_relu_at_zero]
    if layer == "BatchNorm":
        found += [test_layers.test_batch_norm_couples_the_images_in_training_only, one_value_per_channel]
        found += [the_gradient_is_written_where_it_is_asked_for]
    if layer == "ConvBNReLU":
        found += [one_value_per_channel, units_at_zero_get_nothing]
        found += [test_own_layers.test_a_unit_that_fuses_its_passes_says_so]
        found += [bind(nothing_is_kept_in_inference, case) for case in cases[: CASES // 4]]
    if layer == "Dropout":
        found += [no_rate_needs_no_generator, a_draw_equal_to_the_rate_is_kept]
    if layer == "networks":
        found += [bind(residual_is_its_sum, scale) for scale in (0.0, 0.5, 1.0, 2.0)]
        found += [concat_gives_its_y_back]
    return found


def one_value_per_channel():
    """A variance of one number is none: refused in training, fine in inference; of two it is one."""
    for layer in (BatchNorm(2), ConvBNReLU(2, 3, 1)):
        with pytest.raises(ValueError, match="more than one value"):
            layer.forward(np.ones((1, 1, 1, 2), np.float32), Mode(train=True))
        layer.forward(np.ones((1, 1, 1, 2), np.float32), Mode())
    assert check_gradients(BatchNorm(2), np.random.default_rng(0).standard_normal((1, 2, 1, 2))).ok


def the_gradient_is_written_where_it_is_asked_for():
    x, dy, out = np.random.default_rng(0).standard_normal((3, 2, 3, 2, 4))
    mean, var = batchnorm_kernels.moments(x)
    how = {"gamma": None, "beta": np.zeros(4), "relu": False, "train": True}
    dx, _, _ = batchnorm_kernels.batch_norm_grad(dy, x, mean, var**-0.5, **how)
    assert batchnorm_kernels.batch_norm_grad(dy, x, mean, var**-0.5, **how, out=out)[0] is out
    assert np.array_equal(dx, out)


def nothing_is_kept_in_inference(case):
    assert case.layer().forward(case.x(), case.mode(keep=False))[1] == []


def units_at_zero_get_nothing():
    """ReLU's slope at 0 is 0, in the fused unit too: with gamma = beta = 0 every y is 0 and every gradient as well."""
    layer = cast(ConvBNReLU(2, 3, 3), np.float64)
    layer.bn.gamma.data[...] = 0
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 2))
    y, cache = layer.forward(x, Mode(train=True, keep=True))
    assert not y.any()
    assert not layer.backward(np.ones(y.shape), x, cache).any()
    assert not any(p.grad.any() for p in named_params(layer).values())


def no_rate_needs_no_generator():
    x = np.ones((2, 3))
    assert np.array_equal(Dropout(0.0).forward(x, Mode(train=True))[0], x)
    with pytest.raises(ValueError, match=r"mode\.rng=None"):
        Dropout(0.5).forward(x, Mode(train=True))
    with pytest.raises(TypeError, match="wanted a numpy Generator"):
        Dropout(0.5).forward(x, Mode(train=True, rng=np.random.RandomState(0)))


def a_draw_equal_to_the_rate_is_kept():
    """Numbers are drawn from [0, 1), so `draw >= rate` keeps exactly 1 - rate of them."""
    drawn_at = philox.uniform
    philox.uniform = lambda like, rng, shape: np.full(shape, 0.5, np.float32)
    try:
        y, _ = Dropout(0.5).forward(np.ones((2, 3)), Mode(train=True, rng=np.random.default_rng(0)))
    finally:
        philox.uniform = drawn_at
    assert (y == 2).all()


def concat_gives_its_y_back():
    """Branches that give their y back give the joined one back, for the backward of a layer behind that reads it."""
    rng = np.random.default_rng(0)
    join = Concat(a=ConvReLU(2, 3, 3, rng=rng), b=ReLU(), c=ConvBNReLU(2, 1, (1, 2), rng=rng))
    randomise(cast(join, np.float64), 0)
    x = rng.standard_normal((2, 4, 3, 2))
    y, cache = join.forward(x, Mode(train=True, keep=True))
    assert np.allclose(join.recompute_output(cache), y, rtol=1e-13)
    out = np.full((*y.shape[:3], 8), np.nan)[..., 1:7]
    assert join.recompute_output(cache, out) is out
    assert np.allclose(out, y, rtol=1e-13)
    behind = cast(Conv2D(6, 2, 3, rng=rng), np.float64)
    assert check_gradients(Sequential(join, behind), x).ok


def residual_is_its_sum(scale):
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 2))
    body = cast(Conv2D(2, 2, 3, rng=np.random.default_rng(1)), np.float64)
    for shortcut in (None, cast(Conv2D(2, 2, 1, rng=np.random.default_rng(2)), np.float64)):
        layer = Residual(body, shortcut, scale)
        y, _ = layer.forward(x, Mode())
        cut = shortcut.forward(x, Mode())[0] if shortcut else x
        assert np.allclose(y, cut + scale * body.forward(x, Mode())[0], rtol=1e-13, atol=1e-13)
        assert check_gradients(layer, x).ok


def bind(check, case):
    return lambda: check(case)


def one_direction(case):
    """<g, v> by backward equals the complex step's, along one v through x and every parameter: the quickest judge."""
    layer, x, _, cache, dy = case.forward()
    got = {"x": layer.backward(dy, x, cache)} | {name: p.grad for name, p in named_params(layer).items()}
    v = {name: random_like(g, [case.seed, i]) for i, (name, g) in enumerate(got.items())}
    twin = cast(case.layer(), np.complex128)
    for name, p in named_params(twin).items():
        p.data += 1j * H * v[name]
    y, _ = twin.forward(x + 1j * H * v["x"], case.mode(keep=False))
    terms = [got[name] * v[name] for name in got]
    size = sum(np.abs(t).sum() for t in terms) + np.abs(dy).sum()
    assert abs((dy * y.imag).sum() / H - sum(t.sum() for t in terms)) <= 1e-11 * size


def report_ok(case):
    mode = Mode(train=case.train, keep=True, rng=np.random.default_rng(case.seed))
    report = check_gradients(case.layer(), case.x(), mode=mode, seed=case.seed)
    assert report.ok, report


def in_small_blocks(case):
    """The same gradients where the columns are made one image at a time."""
    whole = conv_kernels.COLUMN_BYTES
    conv_kernels.COLUMN_BYTES = 300
    try:
        test_layers.promise_gradients(case)
    finally:
        conv_kernels.COLUMN_BYTES = whole


def out_in_inference(case):
    """out= where nothing is kept: the same y, in the array that was given."""
    layer, x, y, _, _ = case.forward()
    out = np.full(y.shape, np.nan)
    got, _ = layer.forward(x, case.mode(keep=False), out=out)
    assert got is out
    assert np.array_equal(out, y)


def into_of_a_tree(case):
    """promise_into, for trees: need_dx=False leaves the parameters' gradients as they are without it."""
    layer, x, _, cache, dy = case.forward()
    dx = layer.backward(dy, x, cache)
    for into in (np.ones_like(x), None):
        twin = case.layer()
        _, cache = twin.forward(x, case.mode())
        got = twin.backward(dy, x, cache, into=into, need_dx=into is not None)
        assert got is into
        if into is not None:
            assert np.abs(into - 1 - dx).max(initial=0) <= 1e-12 * (1 + np.abs(dx).max(initial=0))
        for a, b in zip(named_params(twin).values(), named_params(layer).values(), strict=True):
            assert np.allclose(a.grad, b.grad, rtol=1e-12, atol=1e-12)


class Loss(Layer):
    def __init__(self, classes, smoothing):
        self.classes, self.smoothing = classes, smoothing

    def forward(self, x, mode):
        labels = np.arange(len(x)) * 7 % self.classes
        loss, dlogits = cross_entropy(x, labels, smoothing=self.smoothing)
        return np.asarray(loss).reshape(1), dlogits

    def backward(self, dy, x, dlogits):
        return dy[0] * dlogits


def loss_judges():
    def definition(n, k, smoothing):
        import reference.loss

        x, labels = np.random.default_rng(n).standard_normal((n, k)) * 5, np.arange(n) * 7 % k
        loss, dx = cross_entropy(x, labels, smoothing=smoothing)
        wanted, wanted_dx = reference.loss.softmax_cross_entropy(x, labels, smoothing)
        assert abs(loss - wanted) <= 1e-13 * abs(wanted)
        assert np.abs(dx - wanted_dx).max() <= 1e-13

    def report(n, k, smoothing):
        x = np.random.default_rng(n).standard_normal((n, k)) * 3
        assert check_gradients(Loss(k, smoothing), x).ok

    def large():
        loss, dx = cross_entropy(np.array([[1000.0, 0.0], [0.0, -1000.0]]), np.array([0, 1]))
        assert np.isfinite(loss) and np.isfinite(dx).all()
        far = np.array([[3e38, -3e38, 0], [-3e38, -3e38, -3e38]], np.float32)  # whose difference float32 does not have
        loss, dx = cross_entropy(far, np.array([0, 2]), smoothing=0.1)
        assert np.isclose(loss, (0.1 / 3 * 9e38 + np.log(3)) / 2) and np.isfinite(dx).all()

    sizes = [(1, 2, 0.0), (3, 5, 0.1), (4, 2, 0.3), (5, 7, 0.0), (2, 10, 0.1)]
    return [lambda a=a, f=f: f(*a) for a in sizes for f in (report, definition)] + [large]


def adaptive_judges():
    def report(shape, size):
        x = np.random.default_rng(0).standard_normal(shape)
        layer = AdaptiveAvgPool2D(size)
        assert check_gradients(layer, x).ok
        y, cache = layer.forward(x, Mode(keep=True))
        (H, W), (h, w) = shape[1:3], layer.size
        for p in range(h):
            for q in range(w):
                window = x[:, p * H // h : -(-(p + 1) * H // h), q * W // w : -(-(q + 1) * W // w)]
                assert np.allclose(y[:, p, q], window.mean((1, 2)), rtol=1e-13)
        dx = layer.backward(np.ones(y.shape), x, cache)
        assert np.isclose(dx.sum(), y.size)

    return [lambda a=a: report(*a) for a in [((2, 7, 5, 2), 3), ((1, 4, 6, 1), (2, 3)), ((2, 3, 8, 3), (3, 5))]]


def heads_network(names=("a", "c")):
    rng = np.random.default_rng(0)
    stages = {
        "a": ConvReLU(2, 3, 3, rng=rng),
        "b": Conv2D(3, 4, (2, 1), rng=rng),
        "c": ConvReLU(4, 3, 1, stride=2, rng=rng),
        "d": Sequential(GlobalAvgPool2D(), Linear(3, 4, rng=rng)),
    }
    heads = {
        "a": Sequential(Dropout(0.3), Flatten(), Linear(4 * 5 * 3, 4, rng=rng)),
        "c": Sequential(GlobalAvgPool2D(), Linear(3, 4, rng=rng)),
    }
    network = Network(Sequential(**stages), {name: heads[name] for name in names})
    network.image = (4, 5, 2)
    return randomise(cast(network, np.float64), 1)


def heads_judges():
    def report(train, names=("a", "c")):
        x = np.random.default_rng(3).standard_normal((2, 4, 5, 2))
        assert check_gradients(heads_network(names), x, mode=Mode(train=train, keep=True)).ok

    def into():
        x = np.random.default_rng(3).standard_normal((2, 4, 5, 2))
        net, mode = heads_network(), Mode(train=True, keep=True, rng=np.random.default_rng(0))
        results = []
        for into, need_dx in ((None, True), (np.ones_like(x), True), (None, False)):
            y, cache = net.forward(x, Mode(True, True, copy.deepcopy(mode.rng)))
            results.append(net.backward(random_like(y, 5), x, cache, into=into, need_dx=need_dx))
        assert np.allclose(results[1] - 1, results[0], rtol=1e-12, atol=1e-12)
        assert results[2] is None

    def errors():
        x = np.random.default_rng(3).standard_normal((2, 4, 5, 2))
        net = heads_network()
        y, cache = net.forward(x, Mode(True, True, np.random.default_rng(0)))
        net.backward(random_like(y, 5), x, cache)
        with pytest.raises(ValueError, match="empty cache"):
            net.backward(random_like(y, 5), x, cache)
        y, cache = net.forward(x, Mode(True, True, np.random.default_rng(0)))
        good, short = random_like(y, 1), random_like(y[0], 1)[:1]
        before = [p.grad.copy() for p in named_params(net).values()]
        for where, bad in (
            (r"Network\.aux_a", (good[0], {"a": short, "c": good[1]["c"]})),
            (r"Network\.aux_c", (good[0], {"a": good[1]["a"], "c": short})),
            ("Network", (short, good[1])),
        ):
            with pytest.raises(ValueError, match=rf"^{where}: got dy of shape \(1, 4\), wanted y's \(2, 4\)"):
                net.backward(bad, x, cache)
        for p, grad in zip(named_params(net).values(), before, strict=True):
            assert np.array_equal(p.grad, grad)  # a call that fails changes nothing
        net.backward(good, x, cache)

    return [
        lambda: report(True),
        lambda: report(False),
        lambda: report(True, "a"),
        lambda: report(True, "c"),
        into,
        errors,
    ]


def user_judges():
    """Layers of a user's own in the combinators: they take no out= and no into=, and may hand back dy itself."""
    import test_compose

    found = [lambda: test_compose.test_layers_of_a_users_own_work_in_every_combinator(np.float64)]
    found += [
        test_compose.test_a_wrong_dy_leaves_the_cache_to_be_used,
        test_compose.test_a_layer_used_several_times_gets_the_sum_of_its_gradients,
    ]
    laws = [law for name, law in vars(test_compose).items() if name.startswith("law_")]
    found += [bind(law, case) for case in drawn(networks(), 20) for law in laws]
    return found


def verdict(mutant):
    """ "wrong number", "error" or "hangs" for a mutant that was found, "" for one that survived."""
    layers = TARGETS[mutant.file][1]
    for layer in layers:
        judges(layer)  # made with the right code
    with planted(mutant):
        try:
            with time_limit(SECONDS), np.errstate(all="ignore"):
                for layer in layers:
                    for judge in judges(layer):
                        judge()
        except Hangs:
            return "hangs"
        except (AssertionError, pytest.fail.Exception):
            return "wrong number"
        except Exception:
            return "error"
    return ""


# -- the list of equivalents, proven again -------------------------------------------------------------------------


def listed():
    """{name: reason} from mutation_equivalents.txt: two lines per entry, a name and an indented reason."""
    lines = [line for line in EQUIVALENTS.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) % 2 == 0 and all(b.startswith("    ") for b in lines[1::2])
    return {a: b.strip() for a, b in zip(lines[::2], lines[1::2], strict=True)}


def entry_of(name, equivalents):
    """The entry that a survivor falls under: its own name, or one that ends in * and begins like it."""
    if name in equivalents:
        return name
    return next((e for e in equivalents if e.endswith("*") and name.startswith(e[:-1])), None)


def everything(layer):
    """All arrays that a layer gives over its cases: y, dx, gradients, running averages, outputs."""
    if layer in ("loss", "adaptive", "heads", "user"):
        return everything_special(layer)
    found = []
    for case in drawn(networks() if layer == "networks" else LAYERS[layer], CASES):
        for how in ("plain", "into", "no dx"):
            module, x, y, cache, dy = case.forward()
            if module.recompute_output is not None and how == "plain":
                found.append(module.recompute_output(cache))
            options = {"plain": {}, "into": {"into": np.ones_like(x)}, "no dx": {"need_dx": False}}[how]
            dx = module.backward(dy, x, cache, **options)
            found += [a.copy() for a in arrays((y, dx))]
            found += [p.grad.copy() for p in named_params(module).values()]
            found += [b.data.copy() for b in named_buffers(module).values()]
    return found


@cache
def right_arrays(layer):
    """What the right code gives, computed once."""
    return everything(layer)


def everything_special(layer):
    rng = np.random.default_rng(0)
    if layer == "loss":
        return [
            np.asarray(a)
            for k in (2, 5)
            for a in cross_entropy(rng.standard_normal((4, k)), np.arange(4) % k, smoothing=0.1)
        ]
    if layer == "user":
        return everything("networks")
    found = []
    for train in (True, False):
        module = heads_network() if layer == "heads" else AdaptiveAvgPool2D((3, 2))
        x = rng.standard_normal((2, 4, 5, 2))
        y, cache = module.forward(x, Mode(train, True, np.random.default_rng(1)))
        found += arrays((y, module.backward(random_like(y, 2), x, cache)))
        found += [p.grad for p in named_params(module).values()]
    return found


def proof(mutant, reason):
    """What is wrong with calling a survivor equivalent; "" where its arrays are the right code's, bit for bit."""
    for layer in TARGETS[mutant.file][1]:
        with planted(mutant):
            got = everything(layer)
        for a, b in zip(right_arrays(layer), got, strict=True):
            if reason.startswith("rounding"):
                if np.abs(a - b).max(initial=0) > 1e-13 * (1 + np.abs(a).max(initial=0)):
                    return "gives other numbers"
            elif not np.array_equal(a, b, equal_nan=True):
                return "gives other bits"
    return ""


# -- the whole run -------------------------------------------------------------------------------------------------


@dataclass
class Score:
    """What became of the mutants of a run."""

    verdicts: dict  # name: "wrong number" | "error" | "hangs" | "equivalent" | "" for survived
    problems: list
    used: set  # entries of the list of equivalents

    @property
    def survivors(self):
        return [name for name, v in self.verdicts.items() if not v]

    def table(self):
        kinds = ("wrong number", "error", "hangs", "equivalent", "")
        rows = {}
        for name, v in self.verdicts.items():
            rows.setdefault(name.partition("::")[0], Counter())[v] += 1
        lines = [f"{'':<26}{'mutants':>9}{'by a number':>13}{'by an error':>13}{'equivalent':>12}{'survived':>10}"]
        for file, c in [*rows.items(), ("total", sum(rows.values(), Counter()))]:
            n, number, error, hangs, same, left = (sum(c.values()), *(c[k] for k in kinds))
            lines.append(f"{file:<26}{n:>9}{number:>13}{error + hangs:>13}{same:>12}{left:>10}")
        total = sum(rows.values(), Counter())
        live = sum(total.values()) - total["equivalent"]
        lines.append(f"score: {live - total['']} of {live} killed ({100 * (live - total['']) / max(1, live):.1f} %)")
        return "\n".join(lines)


def score(mutants):
    """Judge mutants; survivors on the list of equivalents are proven to belong there."""
    equivalents = listed()
    verdicts, problems, used = {}, [], set()
    for m in mutants:
        verdicts[m.name] = verdict(m)
        entry = entry_of(m.name, equivalents)
        if verdicts[m.name] == "" and entry:
            verdicts[m.name] = "equivalent"
            used.add(entry)
            wrong = proof(m, equivalents[entry])
            if wrong:
                problems.append(f"{m.name}: listed as equivalent, but {wrong}")
    return Score(verdicts, problems, used)


def run(files=(), report=lambda text: None):
    """The score of all mutants, or of some files'. An entry of the list that proves nothing any more is a problem."""
    start = time.perf_counter()
    whole = Score({}, [], set())
    for file in files or TARGETS:
        part = score(list(mutants_of(file)))
        report(f"{file}: {len(part.verdicts)} mutants, {time.perf_counter() - start:.0f} s")
        whole = Score(whole.verdicts | part.verdicts, whole.problems + part.problems, whole.used | part.used)
    for entry in listed():
        if entry not in whole.used and (not files or entry.partition("::")[0] in files):
            whole.problems.append(f"{entry}: listed as equivalent, but found by the tests or no mutant any more")
    return whole


def main(files):
    result = run(files, lambda text: print(text, file=sys.stderr, flush=True))
    for name in result.survivors:
        print("survived:", name)
    for text in result.problems:
        print("problem:", text)
    print(result.table())
    return 1 if result.survivors or result.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
