"""The lines that repeat a failure: run by themselves, they make the same layer and x and give the same report, or there
are none."""

import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import commands
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_np import (
    LRN,
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Buffer,
    Concat,
    Conv2D,
    ConvBNReLU,
    ConvReLU,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    Linear,
    MaxPool2D,
    Mode,
    Param,
    ReLU,
    Residual,
    SeparableConv2D,
    Sequential,
    check_gradients,
    create_model,
)
from inception_np.gradcheck.check import METHODS
from inception_np.gradcheck.snippet import Lines, snippet
from inception_np.layer import flatten
from inception_np.testing import LAYERS, networks, randomise

ROOT = Path(__file__).parents[1]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class Spoiled(Layer):
    """Any layer, its dx wrong by a thousandth in the last entry."""

    def __init__(self, body):
        self.body = body

    def forward(self, x, mode):
        return self.body.forward(x, mode)

    def backward(self, dy, x, cache):
        dx = np.array(self.body.backward(dy, x, cache))
        dx.ravel()[-1] += 1e-3 * (1 + abs(dx).max())
        return dx


class Slope(Layer):
    """y = slope x for x < 0: the argument is kept under another name, the other one not at all. dx is wrong."""

    made = itertools.count()

    def __init__(self, alpha=0.5, *, channels, label="plain"):
        self.number = next(self.made)  # what else a constructor does
        self.slope, self.gain = float(alpha) * 2, Param(np.linspace(1, 2, channels).astype(np.float32))

    def forward(self, x, mode):
        return self.gain.data * x * np.where(x.real < 0, self.slope, 1), None

    def backward(self, dy, x, cache):
        steep = np.where(x < 0, self.slope, 1)
        self.gain.grad += (dy * x * steep).reshape(-1, len(self.gain.data)).sum(0)
        return 1.001 * dy * self.gain.data * steep


# -- what the lines make is what there was -------------------------------------------------------------------------


def equal(a, b):
    """Two layers, or what their attributes hold, to the bit; gradients apart."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (Layer, Param, Buffer)):
        left, right = ({k: v for k, v in vars(t).items() if k not in ("grad", "_vectors")} for t in (a, b))
        return list(left) == list(right) and all(equal(left[k], right[k]) for k in left)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


def rows(report):
    return [(c.tensor, c.index, c.analytic, c.numeric, c.error, c.tolerance) for c in report.checks]


def repeated(text):
    """What the lines make when they run: the printed report, and everything by its name."""
    space = {}
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(text, space)
    return printed.getvalue(), space


def without_time(text):
    return re.sub(r"\d+\.\d\d s$", "", text, flags=re.MULTILINE)


def see_that_it_repeats(layer, x, **options):
    report = check_gradients(layer, x, **options)
    assert not report.ok
    assert report.snippet, report.unwritten
    printed, space = repeated(report.snippet)
    assert without_time(printed) == without_time(f"{report}\n")
    assert equal(space["layer"], layer) and equal(space["x"], x)
    given = space.get("rng") and Mode(train=True, keep=True, rng=space["rng"])
    assert rows(report) == rows(
        check_gradients(space["layer"], space["x"], **(options | ({"mode": given} if given else {})))
    )
    last = report.snippet.splitlines()[-1]
    assert last == f"# {report.worst.where}: backward {report.worst.analytic!r}, numeric {report.worst.numeric!r}"
    return report


@pytest.mark.parametrize("name", [*LAYERS, "networks"])
@given(data=st.data())
@settings(max_examples=6)
def test_every_layer_at_every_configuration_is_made_again(name, data):
    case = data.draw(LAYERS[name] if name in LAYERS else networks())
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    layer = Spoiled(case.layer(dtype))
    report = see_that_it_repeats(layer, case.x(dtype), seed=case.seed)
    assert report.worst.tensor.startswith("x")


OURS = {
    "Conv2D": (Conv2D(4, 6, (3, 2), stride=2, pad=((0, 1), (2, 1)), dilation=(1, 2), groups=2, bias=False), "2644"),
    "DepthwiseConv2D": (DepthwiseConv2D(2, (2, 3), multiplier=2, stride=(1, 2), pad=1, bias=True), "2542"),
    "SeparableConv2D": (SeparableConv2D(2, 3, 3, pad="valid", between=ReLU()), "2542"),
    "Linear": (Linear(3, 2, bias=False), "43"),
    "AvgPool2D": (AvgPool2D(3, stride=2, pad=1, ceil=True, count_include_pad=True), "2652"),
    "MaxPool2D": (MaxPool2D((2, 3), stride=None, pad=(0, 1), ceil=True), "2562"),
    "AdaptiveAvgPool2D": (AdaptiveAvgPool2D((2, 3)), "2652"),
    "LRN": (LRN(3, alpha=0.7, beta=0.6, k=1.5, divide_by_size=False), "2325"),
    "BatchNorm": (BatchNorm(2, eps=0.01, decay=0.8, scale=False), "3432"),
    "ConvReLU": (ConvReLU(2, 3, (1, 2), stride=2, pad=((1, 0), (0, 1))), "2542"),
    "ConvBNReLU": (ConvBNReLU(4, 2, 3, stride=2, groups=2, eps=0.02, decay=0.7, scale=False), "2544"),
    "Sequential": (Sequential(ReLU(), Linear(3, 3), last=Flatten()), "43"),
    "Concat": (Concat(a=Conv2D(2, 1, 1), b=Sequential(LRN(3, alpha=0.5), MaxPool2D(3, stride=1, pad=1))), "2432"),
    "Residual": (Residual(Conv2D(2, 3, 1), shortcut=Conv2D(2, 3, 1, bias=False), scale=0.3), "2432"),
    "all": (Residual(Concat(a=Sequential(ConvBNReLU(3, 2, 1), Dropout(0.25)), b=Conv2D(3, 1, 3)), None, 0.1), "2433"),
    "GlobalAvgPool2D": (GlobalAvgPool2D(), "2432"),
}  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_every_layer_with_other_arguments_than_its_defaults_is_made_again(name):
    layer, shape = OURS[name]
    see_that_it_repeats(Spoiled(randomise(layer, 3)), draw(*map(int, shape), seed=77), seed=11)


@pytest.mark.parametrize("method", [*METHODS, "cs231n", "mygrad"])
def test_the_method_is_kept(method):
    see_that_it_repeats(Spoiled(Linear(3, 2)), draw(2, 3, seed=77), method=method, seed=11)


def test_the_lines_run_by_themselves():
    """All of them, in a process that knows nothing else."""
    texts = [check_gradients(Spoiled(layer), draw(*map(int, shape))).snippet for layer, shape in OURS.values()]
    texts.append(check_gradients(Slope(0.3, channels=3), draw(4, 3)).snippet)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    code = "\n".join([*texts, "import inception_np"])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    verdicts = [line.partition(" by ")[0] for line in done.stdout.splitlines() if re.match(r"\w+: (ok|WRONG) by", line)]
    assert verdicts == ["Spoiled: WRONG"] * len(OURS) + ["Slope: WRONG"]


def test_arguments_under_other_names_are_kept_and_the_constructor_is_not_called():
    layer = Slope(0.3, channels=3)
    before = Slope.made.__reduce__()
    see_that_it_repeats(layer, draw(4, 3))
    see_that_it_repeats(Spoiled(Sequential(layer, Slope(0.7, channels=3))), draw(4, 3))
    assert Slope.made.__reduce__()[1][0] == before[1][0] + 1  # the one that is made here
    assert "slope=0.6" in check_gradients(layer, draw(4, 3)).snippet


MODES = {
    "evaluation": Mode(train=False),
    "training": Mode(train=True, keep=True),
    "low memory": Mode(train=True, low_memory=True),
}


@pytest.mark.parametrize("name", MODES)
def test_the_mode_is_kept(name):
    net = randomise(Sequential(ConvBNReLU(2, 3, 1), Conv2D(3, 2, 1), Dropout(0.5)), 4)
    report = see_that_it_repeats(Spoiled(net), draw(2, 4, 3, 2), mode=MODES[name], seed=5)
    assert report.modes == () and f"train={name != 'evaluation'}" in report.snippet
    both = see_that_it_repeats(Spoiled(net), draw(2, 4, 3, 2), seed=5)
    assert both.modes and "mode=" not in both.snippet


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.Philox, np.random.MT19937, np.random.SFC64])
def test_the_masks_of_dropout_are_kept(bits):
    rng = np.random.Generator(bits(9))
    rng.random(5)
    layer, x = Spoiled(Dropout(0.5)), draw(3, 5)
    report = see_that_it_repeats(layer, x, mode=Mode(train=True, rng=rng), seed=2)
    plain = check_gradients(layer, x, mode=Mode(train=True), seed=2)
    assert not np.array_equal(report.checks[0].maps[1] == 0, plain.checks[0].maps[1] == 0)
    assert "rng=rng" not in see_that_it_repeats(Spoiled(ReLU()), x, mode=Mode(train=True, rng=rng)).snippet


ODD = {
    "shape ()": lambda a: np.array(a.flat[0]),
    "empty": lambda a: a[:0],
    "float16": lambda a: a.astype(np.float16),
    "integers": lambda a: (9 * a).astype(np.int16),
    "flags": lambda a: a > 0,
    "scalar": lambda a: a.flat[0],
    "infinite": lambda a: float("-inf"),
    "not a number": lambda a: float("nan"),
    "nested": lambda a: {"a": [1, (2.5, None)], (3,): b"bytes", "layer": [ReLU(), MaxPool2D(2)]},
    "tuple of one": lambda a: (True,),
    "class": lambda a: BatchNorm,
    "function": lambda a: check_gradients,
    "dtype": lambda a: np.float32,
}


class Holds(Layer):
    """Whatever it is given, and a wrong dx."""

    def __init__(self, held):
        self.held, self.w = held, Param(np.array([1.5, -2], np.float32))

    def forward(self, x, mode):
        return self.w.data * x, None

    def backward(self, dy, x, cache):
        self.w.grad += (dy * x).sum(0)
        return dy * x


@pytest.mark.parametrize("name", ODD)
def test_whatever_an_attribute_holds_is_written_out(name):
    see_that_it_repeats(Holds(ODD[name](draw(2, 3))), draw(3, 2, seed=99))
    see_that_it_repeats(Sequential(Holds(ODD[name](draw(2, 3)))), draw(3, 2, seed=99).astype(np.float32))


def test_what_is_held_twice_is_made_once():
    layer, shared = Holds(None), Linear(2, 2)
    net = Sequential(shared, layer, shared, Holds(None))
    net.layers["3"].w = layer.w  # tied
    report = see_that_it_repeats(net, draw(3, 2))
    again = repeated(report.snippet)[1]["layer"].layers
    assert again["0"] is again["2"] and again["1"].w is again["3"].w


def test_a_layer_whose_parameters_are_views_of_one_vector_is_made_again():
    see_that_it_repeats(flatten(Spoiled(Sequential(Linear(3, 2), Linear(2, 3)))), draw(4, 3))


def test_x_of_any_size_that_comes_from_a_seed_is_drawn_from_it():
    for dtype in (np.float64, np.float32):
        x = np.random.default_rng(7).standard_normal((9, 20, 20, 1)).astype(dtype)
        report = see_that_it_repeats(Spoiled(Conv2D(1, 2, 3)), x)
        assert "x = np.random.default_rng(7).standard_normal((9, 20, 20, 1))" in report.snippet
    x[0, 0, 0, 0] += 1
    report = check_gradients(Spoiled(Conv2D(1, 2, 3)), x)
    assert not report.snippet and "more than 1500 numbers" in report.unwritten


# -- or there are none ---------------------------------------------------------------------------------------------

ELSEWHERE = {}


class Elsewhere(Holds):
    """Keeps its factor outside."""

    def __init__(self):
        super().__init__(None)
        ELSEWHERE[id(self)] = 3.0

    def forward(self, x, mode):
        return ELSEWHERE.get(id(self), 1.0) * self.w.data * x, None

    def __deepcopy__(self, memo):
        twin = object.__new__(Elsewhere)
        vars(twin).update(held=None, w=Param(self.w.data.copy()))
        ELSEWHERE[id(twin)] = ELSEWHERE[id(self)]
        return twin


class Patched(Holds):
    pass


Patched.backward = lambda self, dy, x, cache: 2 * dy


class Slots(Layer):
    __slots__ = ("factor",)

    def __init__(self):
        self.factor = 2.0

    def forward(self, x, mode):
        return self.factor * x, None

    def backward(self, dy, x, cache):
        return dy


def inside():
    class Inside(Holds):
        pass

    return Inside(None)


def itself():
    layer = Holds(None)
    layer.held = [layer]
    return layer


def twice():
    layer = Holds(None)
    layer.held = [layer.w, layer.w]
    return layer


NONE = {
    "a class inside a function": (inside, "Inside is defined inside a function, and cannot be imported"),
    "state elsewhere": (Elsewhere, "a layer made of the same attributes gives other numbers"),
    "slots": (Slots, "a layer made of the same attributes gives other numbers"),
    "a method put in later": (lambda: Patched(None), "Patched.backward is a function from elsewhere"),
    "a lambda": (lambda: Holds(lambda x: x), "cannot be imported"),
    "a bound method": (lambda: Holds(ReLU().forward), "layer.held is a method, which is not written out"),
    "a ufunc": (lambda: Holds(np.tanh), "layer.held is a ufunc, which is not written out"),
    "a generator": (lambda: Holds(np.random.default_rng(0)), "layer.held is a Generator, which is not written out"),
    "deep inside": (lambda: Sequential(a=Holds([0, {"k": open}])), "layer.layers['a'].held[1]['k'] is a builtin"),
    "NaN in an array": (lambda: Holds(np.array([np.nan])), "layer.held is an array of float64 that is not"),
    "long doubles": (lambda: Holds(np.zeros(2, np.longdouble)), "that is not written out"),
    "another byte order": (lambda: Holds(np.zeros(2, ">f4")), "that is not written out"),
    "another layout": (lambda: Holds(np.asfortranarray(np.ones((2, 3)))), "that is not written out"),
    "too much": (lambda: Holds(np.zeros(1501)), "more than 1500 numbers"),
    "itself": (itself, "layer.held[0] is a layer that holds itself"),
    "a Param twice": (twice, "layer.held[1] is held twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_cannot_be_written_out_gets_a_sentence_and_no_code(name):
    make, why = NONE[name]
    report = check_gradients(make(), draw(3, 2), mode=Mode(train=True))
    assert not report.ok and report.snippet == "" and why in report.unwritten
    text = str(report)
    assert f"  no lines repeat it: {report.unwritten}" in text
    assert "np." not in text and "import " not in text and f"worst: {report.worst.where}" in text


@pytest.mark.parametrize("dtype", [">f8", np.longdouble])
def test_an_x_of_a_dtype_that_is_not_written_out_gets_no_code(dtype):
    report = check_gradients(Holds(None), draw(3, 2, seed=99).astype(dtype), mode=Mode(train=True))
    assert report.snippet == "" and "x is an array of" in report.unwritten


def test_a_layer_that_comes_out_different_gets_no_code(monkeypatch):
    """The lines are compared with the layer: a writer that loses a digit is found."""
    right = Lines.value

    def loses(self, value, path):
        return right(self, round(value, 2) if path.endswith(".eps") else value, path)

    layer = Spoiled(BatchNorm(2, eps=0.123))
    assert check_gradients(layer, draw(3, 4, 3, 2)).snippet
    monkeypatch.setattr(Lines, "value", loses)
    report = check_gradients(layer, draw(3, 4, 3, 2))
    assert report.snippet == "" and "gives other numbers" in report.unwritten


def test_a_network_is_not_written_out():
    net = create_model("inception_v1_cifar")
    _, why = _lines_of(Spoiled(net), draw(2, 32, 32, 3))
    assert "more than 1500 numbers" in why


def _lines_of(layer, x):
    check = check_gradients(Spoiled(ReLU()), draw(2, 2)).worst
    return snippet(layer, x, None, "complex", 0, check, [])


def test_a_class_of_the_program_itself_gets_no_code(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(OWN + "\nprint(check_gradients(Half(), np.random.default_rng(0).standard_normal((3, 2))))\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=env, check=True)
    assert "no lines repeat it: Half is defined in the program itself, and cannot be imported" in done.stdout
    assert "np." not in done.stdout


def test_a_module_that_an_import_would_not_find_gets_no_code(tmp_path, monkeypatch):
    (tmp_path / "own_halves.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    import own_halves

    x = draw(3, 2)
    assert "from own_halves import Half\n" in check_gradients(own_halves.Half(), x).snippet
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    report = check_gradients(own_halves.Half(), x)
    assert report.snippet == "" and "cannot be imported from own_halves" in report.unwritten
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "own_halves.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "shadow"), str(tmp_path), *sys.path])
    assert check_gradients(own_halves.Half(), x).snippet == ""


def test_a_right_layer_has_no_lines_and_its_report_speaks_of_none():
    report = check_gradients(BatchNorm(3), draw(2, 4, 3, 3))
    assert report.ok and report.snippet == "" and report.unwritten == "" and "repeat" not in str(report)


def test_lines_that_fill_a_screen_stay_in_the_report():
    report = check_gradients(Spoiled(Sequential(*(Linear(3, 3) for _ in range(5)))), draw(2, 3))
    count = len(report.snippet.splitlines())
    assert count > 8 and f"  to repeat it: the {count} lines of report.snippet" in str(report).splitlines()
    assert len(str(report).splitlines()) <= 24


# -- the command ---------------------------------------------------------------------------------------------------

OWN = """
import numpy as np
from inception_np import Layer, Param, check_gradients


class Half(Layer):
    def __init__(self, factor=0.5):
        self.kept = factor + 1
        self.w = Param(np.random.default_rng(4).standard_normal(2))

    def forward(self, x, mode):
        return self.kept * self.w.data * x, mode.train

    def backward(self, dy, x, train):
        self.w.grad += (self.kept * dy * x).reshape(-1, 2).sum(0)
        return self.kept * self.w.data * dy * (1 if train else 1.01)
"""


def command(*words):
    return commands.command("gradcheck", *words)


COMMANDS = [
    ("{}:Half", "--input", "3x2"),
    ("{}:Half(factor=0.25)", "--input", "2x900x2", "--seed", "3"),
    ("{}:Sequential(ReLU(), Half(0.75))", "--input", "3x2", "--eval", "--method", "central"),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_the_command_prints_itself(words, tmp_path):
    (tmp_path / "own layers.py").write_text(OWN)
    words = [words[0].format(tmp_path / "own layers.py"), *words[1:]]
    code, text = command(*words)
    assert code == 1
    line = text.splitlines()[-1].strip()
    assert text.splitlines()[-2] == "  to repeat it:" and shlex.split(line)[:2] == ["inception-np", "gradcheck"]
    assert set(shlex.split(line)[2:]) == set(words)
    assert "np." not in text and "Param(" not in text
    code, again = command(*shlex.split(line)[2:])
    assert code == 1 and without_time(again) == without_time(text)


def test_the_printed_command_runs_in_a_shell(tmp_path):
    (tmp_path / "own layers.py").write_text(OWN)
    _, text = command(f"{tmp_path / 'own layers.py'}:Half", "--input", "3x2", "--seed", "5")
    line = text.splitlines()[-1].strip().replace("inception-np", shlex.join([sys.executable, "-m", "inception_np"]), 1)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, shell=True, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1 and without_time(done.stdout) == without_time(text)


def test_a_command_whose_layer_draws_from_elsewhere_is_not_printed(tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("default_rng(4)", "default_rng()"))
    code, text = command(f"{tmp_path / 'own.py'}:Half", "--input", "3x2")
    assert code == 1 and "inception-np" not in text
    assert text.splitlines()[-1] == "  no lines repeat it: the same command does not give the same numbers again"


def test_a_network_part_and_its_options_are_in_the_command(monkeypatch):
    right = ConvReLU.backward

    def wrong(self, dy, x, y, into=None):
        self.bias.grad += 1e-3
        return right(self, dy, x, y, into)

    monkeypatch.setattr(ConvReLU, "backward", wrong)
    words = ("inception_v1_cifar:3a.b3.conv", "--batch", "3", "--seed", "2", "--train")
    code, text = command(*words)
    assert code == 1 and shlex.split(text.splitlines()[-1])[2:] == list(words)
