"""What objects say they are: a layer's call evaluates to such a layer, trees name every parameter, HTML is well-formed.

Each property has a planted fault beside it, which its check finds.
"""

import html.parser
import json
import re
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_np import (
    LRN,
    AvgPool2D,
    BatchNorm,
    Buffer,
    Concat,
    Conv2D,
    ConvBNReLU,
    Dropout,
    Layer,
    Linear,
    MaxPool2D,
    Param,
    PatchWhitening,
    ReLU,
    Residual,
    SeparableConv2D,
    Sequential,
    check_gradients,
    create_model,
    flatten,
    list_models,
    summary,
)
from inception_np.__main__ import main
from inception_np.backend import describe
from inception_np.backend.html import escape, table
from inception_np.layer import kind_of_class, walk
from inception_np.models.network import Network
from inception_np.models.summary import walk_rows
from inception_np.testing import LAYERS, Names, networks

cached_model = cache(create_model)


# ---- leaf layers


def facts(layer):
    """All that a layer is, but the numbers in its arrays: kinds, options and shapes, of it and of what is in it."""
    found = {}
    for path, part in [("", layer), *walk(layer)]:
        if not isinstance(part, Layer):
            found[path] = type(part), part.data.shape
            continue
        options = {k: v for k, v in vars(part).items() if isinstance(v, (bool, int, float, str, tuple, type(None)))}
        found[path] = type(part), {k: v for k, v in options.items() if k != "_vectors"}
    return found


def evaluates_back(layer):
    return facts(eval(repr(layer), {}, Names())) == facts(layer)


@settings(max_examples=300)
@given(st.sampled_from(sorted(LAYERS)).flatmap(LAYERS.get))
def test_a_layers_repr_makes_such_a_layer(case):
    layer = case.layer()
    assert "\n" not in repr(layer) and str(layer) == repr(layer)
    assert evaluates_back(layer), repr(layer)


@pytest.mark.parametrize("name", ["stride", "pad", "dilation", "bias", "groups"])
def test_a_call_without_one_of_the_options_is_another_layer(name):
    layer = Conv2D(4, 6, (2, 3), stride=(2, 1), pad=((1, 0), (0, 2)), dilation=2, groups=2, bias=False)
    wrong = re.sub(rf", {name}=(\(.*?\)\)|\(.*?\)|\w+)", "", repr(layer))
    assert wrong != repr(layer)
    assert facts(eval(wrong, {}, Names())) != facts(layer)


@pytest.mark.parametrize(
    "text",
    [
        "Conv2D(3, 4, (1, 7), stride=2)",
        "Conv2D(3, 4, 3, pad=((0, 1), (0, 1)), bias=False)",
        "ConvBNReLU(3, 4, 3, stride=(2, 1), pad='valid', eps=0.5, scale=False)",
        "SeparableConv2D(3, 4, 5, pad=(1, 2), between=BatchNorm(3, eps=0.5))",
        "DepthwiseConv2D(3, 5, multiplier=2, bias=True)",
        "Linear(5, 7, bias=False)",
        "BatchNorm(6, decay=0.5)",
        "MaxPool2D(3, stride=2, pad=1, ceil=True)",
        "AvgPool2D((3, 2), stride=1, count_include_pad=True)",
        "LRN(3, alpha=0.5)",
        "LRN()",
        "PatchWhitening(3, kernel=4)",
        "Dropout(0.25)",
        "AdaptiveAvgPool2D((3, 4))",
        "Scale(0.1111111111111111)",
    ],
)
def test_a_repr_is_what_one_would_type(text):
    assert repr(eval(text, {}, Names())) == text


def test_a_decay_that_was_assigned_is_shown():
    unit = ConvBNReLU(3, 4, 1)
    unit.bn.decay = 0.75
    assert repr(unit) == "ConvBNReLU(3, 4, 1, decay=0.75)"


def test_a_unit_with_other_parts_is_shown_by_its_parts():
    unit = ConvBNReLU(3, 4, 1)
    unit.bn = LRN()
    assert str(unit).splitlines()[0].split()[0] == "ConvBNReLU" and "bn    LRN()" in str(unit)
    assert "Sequential" in str(SeparableConv2D(3, 4, 1, between=Sequential(ReLU())))


@pytest.mark.parametrize("kind, base", [(SeparableConv2D, Sequential), (PatchWhitening, Conv2D)])
def test_what_a_layer_tells_of_itself_leaves_it_of_its_kind(kind, base):
    """... so that plans still fuse it: a class that redefines anything of its base's is another kind."""
    assert kind_of_class(kind) is base
    changed = type("Changed", (Conv2D,), {"_arguments": lambda self: {}})
    assert kind_of_class(changed) is changed


def test_arrays_are_shown_by_shape_and_size():
    p = Param(np.full((3, 2), -2.0, np.float32))
    p.grad[0, 0] = np.sqrt(6)
    assert repr(p) == "Param(3x2 float32, rms 2, gradient rms 1)"
    assert repr(Param(np.array(1.5))) == "Param(scalar float64, rms 1.5, gradient rms 0)"
    assert repr(Buffer(np.arange(7))) == "Buffer(7 int64)"
    assert "rms nan" in repr(Buffer(np.array([1, np.nan])))


# ---- trees


def arrays_of(tree):
    """The path of every array that a tree names, with its shape, read off its lines."""
    found, levels = [], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        if depth:
            name, _, line = line.strip().partition(" ")
            levels[depth - 1 :] = [name]
        about = re.sub(r"^ *\w+(\(.*\))?", "", line)  # without the layer's call
        for path, several, one, shape in re.findall(r"([\w.]*\.|)(?:\{(.*?)\}|(\w+)) (scalar|[\dx]+)(?=,|$)", about):
            names = several.split(",") if several else [one]
            found += [(".".join([*levels, path + name]), shape) for name in names]
    return found


def wanted_arrays(net):
    return [(k, describe.shape_text(v.data)) for k, v in walk(net) if not isinstance(v, Layer)]


@pytest.mark.parametrize("name", [n for n in list_models() if n.endswith("_cifar")])
def test_a_networks_tree_has_every_parameter_once(name):
    net = cached_model(name)
    assert sorted(arrays_of(str(net))) == sorted(wanted_arrays(net))
    assert len(arrays_of(str(net))) == len(set(arrays_of(str(net))))
    assert len(repr(net).splitlines()) <= describe.LINES + 1


@settings(max_examples=60)
@given(networks())
def test_a_small_tree_has_every_parameter_once(case):
    net = Sequential(net=case.layer())
    assert sorted(arrays_of(str(net))) == sorted(wanted_arrays(net)), str(net)


@pytest.mark.parametrize("spoil", ["line", "name", "shape"])
def test_a_tree_that_lacks_something_is_found(spoil):
    net = cached_model("inception_v1_cifar")
    lines = str(net).splitlines()
    at = next(i for i, line in enumerate(lines) if "1x1" in line)
    if spoil == "line":
        del lines[at]
    elif spoil == "name":
        lines[at] = lines[at].replace("weight", "bias")
    else:
        lines[at] = lines[at].replace("1x1x", "1x2x")
    assert sorted(arrays_of("\n".join(lines))) != sorted(wanted_arrays(net))


def test_a_long_tree_is_folded_and_says_how_long_it_is():
    net = create_model("inception_resnet_v1_cifar", width=1 / 16)
    middle = Sequential(*[Residual(Conv2D(3, 3, (1, 2))) for _ in range(40)], last=ReLU())
    assert "0 ... 39  40 x Residual" in repr(middle) and "last" in repr(middle)
    assert len(str(middle).splitlines()) == 82 and "..." not in str(middle)
    assert f"the whole tree has {len(str(net).splitlines())} lines" in repr(net)
    different = Sequential(*[Dropout(i / 1000) for i in range(100)])
    assert len(repr(different).splitlines()) == describe.LINES and "has 101 lines" in repr(different)


def test_what_differs_is_not_folded():
    alike = [Residual(Conv2D(3, 3, 1, bias=False)) for _ in range(40)]
    alike[20] = Residual(Conv2D(3, 3, 1))
    assert "0 ... 19" in repr(Sequential(*alike)) and "21 ... 39" in repr(Sequential(*alike))


def test_a_layer_that_occurs_twice_is_told_once_and_counted_once():
    conv = Conv2D(3, 3, 1)
    net = Sequential(a=conv, b=Sequential(c=conv, relu=ReLU()))
    first, *_ = lines = str(flatten(net)).splitlines()
    assert first.endswith("12 parameters") and lines[3].endswith("Conv2D(3, 3, 1)  the same as a")
    tied = Conv2D(3, 3, 1)
    tied.weight = conv.weight
    assert "weight the same as a.weight, bias 3" in str(Sequential(a=conv, b=tied))


# ---- layers of one's own


class Leaky(Layer):
    def __init__(self):
        self.slope, self.mask, self.gain = np.float64(0.25), np.zeros((300, 400)), Param(np.zeros((3, 4)))


class Block(Layer):
    def __init__(self, channels, growth=4, act=None, name="a block"):
        self.growth, self.act, self.scale = growth, act or ReLU(), Param(np.ones(1))
        self.convs = {"first": Conv2D(channels, growth, 3)}

    def children(self):
        return {"act": self.act, "scale": self.scale, **self.convs}


class Named(Layer):
    def __repr__(self):
        return "Named, by its own words"


class Wrong(Layer):
    def __init__(self):
        self.gain = Param(np.ones((5,)))

    def forward(self, x, mode):
        return self.gain.data * x, None

    def backward(self, dy, x, cache):
        self.gain.grad += (dy * x).sum((0, 1, 2))
        return 1.001 * dy * self.gain.data


class Raises(Layer):
    def __repr__(self):
        raise RuntimeError


class Broken(Layer):
    def children(self):
        raise RuntimeError


class Strange(Layer):
    def children(self):
        return {"no layer": 3, 7: ReLU(), "two\nlines": ReLU(), "none": None}


class Itself(Layer):
    def __init__(self):
        self.me = self


def test_a_layer_of_ones_own_is_told_by_what_it_holds():
    assert repr(Leaky()) == "Leaky(slope=0.25, gain=<3x4 float64>)"
    tree = str(Sequential(own=Leaky(), block=Block(3, 5), named=Named()))
    rows = [re.split("  +", line.strip()) for line in tree.splitlines()]
    assert rows[1:] == [
        ["own", "Leaky(slope=0.25)", "gain 3x4"],
        ["block", "Block(growth=5)", "scale 1, 141 parameters in all"],
        ["act", "ReLU()"],
        ["first", "Conv2D(3, 5, 3)", "weight 3x3x3x5, bias 5"],
        ["named", "Named, by its own words"],
    ]


OWN = (ConvBNReLU, BatchNorm, Conv2D, Linear, MaxPool2D, AvgPool2D, Sequential, Concat, Residual, Network)


def deep():
    net = ReLU()
    for _ in range(3000):
        net = Sequential(net)
    return net


class Dropped(Layer):
    def __init__(self, numbers, text, arrays):
        self.numbers, self.text, self.arrays = numbers, text, arrays


ODD = {
    **{f"half a {kind.__name__}": lambda kind=kind: object.__new__(kind) for kind in (*OWN, Block, SeparableConv2D)},
    **{kind.__name__: kind for kind in (Raises, Broken, Strange, Itself)},
    "deep": deep,
    "a huge option": lambda: Dropped([0] * 10**6, "x" * 10**6, {"a": np.zeros(10**6)}),
}


@pytest.mark.parametrize("odd", ODD)
def test_nothing_that_a_layer_may_be_raises_or_floods(odd):
    layer = ODD[odd]()
    for shown in (repr, str, lambda layer: layer._repr_html_()):
        if odd == "Raises" and shown in (repr, str):
            layer = Sequential(Raises())
        text = shown(layer)
        assert type(layer).__name__ in text and len(text) < 20_000
    assert unbalanced(layer._repr_html_()) == []


def test_a_tree_that_is_too_deep_is_told_by_its_class_however_deep_python_may_go():
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as Hypothesis does
    try:
        assert repr(deep()) == str(deep()) == "<Sequential>"
    finally:
        sys.setrecursionlimit(before)


def test_a_layer_that_cannot_be_told_does_not_spoil_the_tree():
    endless = []
    endless.append(endless)
    tree = str(Sequential(a=Conv2D(3, 4, 1), b=Dropped(endless, "", {}), c=Broken(), d=Raises()))
    assert [line.split()[:2] for line in tree.splitlines()[2:]] == [
        ["b", "Dropped(...)"],
        ["c", "Broken()"],
        ["d", "Raises()"],
    ]
    assert "Conv2D(3, 4, 1)" in tree


@pytest.mark.parametrize("kind", [Param, Buffer])
def test_half_an_array_is_shown(kind):
    assert kind.__name__ in repr(object.__new__(kind))
    with pytest.raises(AttributeError):
        Param([1, 2])


# ---- reports and tables


def test_a_report_is_a_line_and_a_screen():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    report = check_gradients(BatchNorm(5), x)
    line = r"<GradReport BatchNorm: ok by complex in training and evaluation, 260 comparisons, worst 0\.\d+ of its tol"
    assert re.match(line, repr(report)) and "\n" not in repr(report)
    assert str(report).startswith("BatchNorm: ok by complex") and len(str(report).splitlines()) > 5
    wrong = check_gradients(Wrong(), x)
    assert re.search(r"Wrong: WRONG by .*, worst x\[[\d, ]+\], [\de+.]+ times its tolerance>", repr(wrong))
    assert max(map(len, repr(wrong.checks).splitlines())) < 200


def test_a_table_is_a_line_and_a_screen():
    table = summary("inception_v1")
    figures = "6,998,552 parameters, 1,582,671,872 multiply-adds"
    assert repr(table) == f"<Table inception_v1 (paper), input 224x224x3: 18 stages, {figures}>"
    assert len(str(table).splitlines()) > 18


# ---- what is within the stages


def disagreements(rows):
    """Where the figures of the rows within a row do not add up to its own."""
    wrong = []
    for _, row in walk_rows(rows):
        for figure, together in (("params", sum), ("macs", sum), ("field", max)) if row.parts else ():
            if together(getattr(part, figure) for part in row.parts) != getattr(row, figure):
                wrong += [(row.name, figure)]
    return wrong


@pytest.mark.parametrize("name", list_models())
def test_the_rows_within_add_up_to_their_stage(name):
    net = create_model(name)  # not cached: the large ones are gigabytes
    plain, deep = summary(net), summary(net, depth=9)
    assert disagreements(deep.rows) == []
    bare = [{**vars(row), "parts": ()} for row in deep.rows]
    assert bare == [vars(row) for row in plain.rows] and not any(row.parts for row in plain.rows)
    assert (plain.params, plain.macs, plain.params_aux) == (deep.params, deep.macs, deep.params_aux)
    names = dict(walk(net))
    for row in deep.rows:
        for part in row.parts:
            assert type(names[f"{row.name}.{part.name}"]).__name__ == part.kind
    assert any(row.parts for row in deep.rows)


@pytest.mark.parametrize("figure", ["params", "macs", "field"])
def test_a_row_within_that_is_wrong_is_found(figure):
    rows = summary("inception_v1_cifar", depth=2).rows
    within = next(row for row in rows if row.name == "3a").parts
    part = max(within, key=lambda row: row.macs if figure != "field" else row.field)
    vars(part)[figure] += 1
    assert ("3a", figure) in disagreements(rows)


def test_a_module_is_shown_layer_by_layer():
    """GoogLeNet's 3a: 1x1; 3x3 (reduce, out); 5x5 (reduce, out); pool, projection (Table 1)."""
    rows = {row.name: row for row in summary("inception_v1", depth=2).rows}
    found = [(part.name, part.output[2], part.field - rows["pool2"].field) for part in rows["3a"].parts]
    wanted = [("b1", 64, 0), ("b3.reduce", 96, 0), ("b3.conv", 128, 16), ("b5.reduce", 16, 0), ("b5.conv", 32, 32)]
    assert found == [*wanted, ("pool.pool", 192, 16), ("pool.proj", 32, 16)]
    shown = str(summary("inception_v1", depth=2)).splitlines()
    assert any(line.startswith("  b3.reduce ") for line in shown)


def test_each_depth_goes_one_level_further():
    depths = []
    for depth in range(6):
        levels = [level for level, _ in walk_rows(summary("inception_resnet_v2_cifar", depth=depth).rows)]
        depths.append(max(levels))
    assert depths == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("depth, error", [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)])
def test_what_is_no_depth_is_refused(depth, error):
    with pytest.raises(error, match="summary: got depth="):
        summary("inception_v1_cifar", depth=depth)


class Tripled(Layer):
    def forward(self, x, mode):
        return 3 * x, None

    def backward(self, dy, x, cache):
        return 3 * dy


def test_rows_without_a_name_say_their_class():
    table = summary(Sequential(Conv2D(3, 4, 3), Tripled(), Sequential(Tripled(), named=Tripled())), (5, 7, 3), depth=2)
    labels = [row.label for _, row in walk_rows(table.rows)]
    assert labels == ["0 Conv2D", "1 Tripled", "2 Sequential", "0 Tripled", "named"]
    assert re.search("^1 Tripled +5x7x4 ", str(table), re.MULTILINE)
    assert [row.label for row in summary(Tripled(), (5, 7, 3)).rows] == ["Tripled"]


def test_a_sequential_with_a_forward_of_its_own_is_one_row():
    class Twice(Sequential):
        def forward(self, x, mode):
            return super().forward(super().forward(x, mode)[0], mode)

    table = summary(Sequential(twice=Twice(conv=Conv2D(3, 3, 1))), (5, 7, 3), depth=4)
    assert table.rows[0].parts == ()


def test_the_command_goes_as_deep_as_it_is_told(capsys):
    def run(*arguments):
        assert main(["summary", "inception_v1_cifar", *arguments]) == 0
        return capsys.readouterr().out

    assert run() == run("--depth", "1") == run("--depth", "0")
    assert run("--json") == run("--json", "--depth", "1")
    plain, nested = json.loads(run("--json")), json.loads(run("--json", "--depth", "2"))
    for stage in nested["stages"]:
        parts = stage.pop("parts")
        assert stage.pop("kind") and sum(part["macs"] for part in parts) in (0, stage["macs"])
    assert plain == nested
    assert len(run("--depth", "2").splitlines()) > len(run().splitlines()) + 60
    assert main(["summary", "inception_v1_cifar", "--depth", "-1"]) == 2


# ---- HTML


class Reader(html.parser.HTMLParser):
    """Collects the text, and what is not closed in the order in which it was opened."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append(tag)
        self.wrong += [name for name, _ in attributes if name.startswith("on")]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def unbalanced(text):
    """What is wrong with the tags of a piece of HTML, [] where nothing is."""
    reader = read(text)
    known = {"div", "style", "details", "summary", "code", "span", "pre", "p", "i"}
    known |= {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"}
    return reader.wrong + reader.open + sorted(set(reader.tags) - known)


def hostile():
    """A layer whose class, name, attribute and parameter are HTML."""
    kind = type("<b>Own</b>", (Wrong,), {})
    layer = kind()
    layer.text = "<script>alert(1)</script>"
    return layer


def shown_in_notebooks():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    return {
        "net": cached_model("inception_v3_cifar"),
        "leaf": Conv2D(3, 4, 3),
        "hostile": Sequential(**{"<i>name</i> & more": hostile()}),
        "hostile leaf": hostile(),
        "table": summary("inception_v1", depth=3),
        "hostile table": summary(Sequential(**{"<i>name</i>": hostile()}), (3, 4, 5), depth=2),
        "good": check_gradients(BatchNorm(5), x),
        "bad": check_gradients(Wrong(), x),
        "hostile report": check_gradients(hostile(), x),
    }


@pytest.fixture(scope="module")
def pages():
    return shown_in_notebooks()


@pytest.mark.parametrize("name", ["net", "leaf", "hostile", "hostile leaf", "table", "hostile table", "good", "bad"])
def test_html_is_well_formed_and_escaped(pages, name):
    text = pages[name]._repr_html_()
    assert unbalanced(text) == []
    assert "script" not in read(text).tags and "b" not in read(text).tags


def test_what_looks_like_html_is_shown_as_text(pages):
    for name in ("hostile", "hostile leaf", "hostile report"):
        assert "<b>Own</b>" in "".join(read(pages[name]._repr_html_()).text)
    assert "<i>name</i> & more" in read(pages["hostile"]._repr_html_()).text
    assert "<i>name</i>" in read(pages["hostile table"]._repr_html_()).text


def test_html_that_is_not_escaped_or_not_closed_is_found(monkeypatch, pages):
    monkeypatch.setattr("inception_np.backend.html.escape", str)
    assert "b" in unbalanced(pages["hostile"]._repr_html_())
    assert unbalanced("<div><p></div>") and unbalanced('<div onclick="x"></div>') and unbalanced("<div>")


def test_a_trees_html_has_every_line_of_the_tree(pages):
    net = pages["net"]
    text = " ".join(read(net._repr_html_()).text)
    for line in str(net).splitlines()[1:]:
        for piece in re.split("  +", line.strip()):
            assert piece in text, piece
    assert net._repr_html_().count("<details open>") == 1  # the others open where they are clicked
    assert Sequential(a=Sequential(b=ReLU()))._repr_html_().count("<details open>") == 2


def test_a_tables_html_has_its_figures(pages):
    text = pages["table"]._repr_html_()
    cells = read(text).text
    for _, row in walk_rows(pages["table"].rows):
        assert all(cell in cells for cell in row.cells() if cell)
    assert "1,582,671,872" in cells and '<td class="long">380K, 304M' in text
    plain = summary("inception_v1_cifar")._repr_html_()
    assert "the paper prints" in text and "the paper prints" not in plain
    assert table("", ["a", "b"], [(0, ["1", "2"])]).count("<td") == 2


def test_a_reports_html_has_its_verdict_and_the_worst(pages):
    good, bad = pages["good"]._repr_html_(), pages["bad"]._repr_html_()
    assert '<span class="good">ok</span>' in good and '<span class="bad">WRONG</span>' in bad
    assert '<i class="over"' in bad and escape(pages["bad"].worst.where) in bad
    assert "vars(layer).update" in bad and pages["bad"].snippet  # the lines that repeat it
