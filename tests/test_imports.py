"""Imports point one way, heavy modules wait until they are used, and nothing in the package runs code from a file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "inception_np"

# A module imports only from its own floor or from lower ones. Whatever is not named (gradcheck, weights, testing) lives
# above the models and below training. A command (command.py) stands beside what it runs, on the floor of `__main__`.
FLOORS = (
    ("backend",),
    ("data", "parallel"),
    ("kernels",),
    ("layer",),
    ("layers", "compose"),
    ("models",),
    (),
    ("runtime", "training"),
    ("look",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
IN_BETWEEN = FLOORS.index(())

HEAVY = {
    "numba",
    "matplotlib",
    "rich",
    "pooch",
    "PIL",
    "safetensors",
    "cupy",
    "torch",
    "scipy",
    "llvmlite",
    "onnx",
    "marimo",
    "pygments",
    "mpi4py",
}
CUPY = {"backend/device.py", "kernels/cuda/launch.py", "runtime/graph.py"}  # the only files that may import it
RUNS_CODE = {"pickle", "cPickle", "dill", "marshal", "shelve", "importlib", "runpy"}
ALLOWED = {
    ("__init__.py", "importlib"): "public names are looked up in a table of our own modules",
    ("__main__.py", "importlib"): "commands are looked up in a table of our own modules",
    ("backend/user_file.py", "importlib"): "runs a file that the user names on the command line: a layer, a data set",
    ("kernels/dispatch.py", "importlib"): "a kernel's twins are files of our own, of the same name",
    ("testing.py", "eval"): "makes the layer that a strategy of its own wrote down",
    ("learn/exercise.py", "exec"): "runs what the reader types into a page",
    ("kernels/cpu/simd.py", "exec"): "writes out functions of a given number of arguments",
}


def imported(tree):
    """(level, module, names) of every import anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def upward(path, source):
    """The imports of a file at `path` (relative to the package) that point to a higher floor."""
    top, command = Path(path).parts[0].removesuffix(".py"), "command" in Path(path).name
    here = FLOOR["__main__"] if command else FLOOR.get(top, IN_BETWEEN)
    for level, module, names in imported(ast.parse(source)):
        parents = Path(path).parts[:-1]
        base = parents[: len(parents) - level + 1] if level else ()
        absolute = (*base, *module.split(".")) if module else base
        if level == 0 and absolute[0] != "inception_np":
            continue
        tops = [absolute[level == 0]] if len(absolute) > (level == 0) else names
        yield from (top for top in tops if not top.startswith("__version") and FLOOR.get(top, IN_BETWEEN) > here)


def module_name(path):
    """ "layers.conv" of "layers/conv.py", "layers" of "layers/__init__.py"."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circle(sources):
    """Modules that import each other in a circle, anywhere in their files; [] where there are none."""
    modules = {module_name(path): path for path in sources}
    edges = {}
    for module, path in modules.items():
        found = set()
        for level, name, names in imported(ast.parse(sources[path])):
            base = Path(path).parts[:-1][: len(Path(path).parts) - level] if level else ()
            if level == 0 and name.partition(".")[0] != "inception_np":
                continue
            start = ".".join([*base, *([name] if level else [name.partition(".")[2]])]).strip(".")
            found |= {f"{start}.{n}".strip(".") for n in names if f"{start}.{n}".strip(".") in modules} or {start}
        edges[module] = found & modules.keys() - {module}
    done, way = set(), []

    def visit(module):
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        way.append(module)
        for other in sorted(edges[module]):
            if found := visit(other):
                return found
        done.add(way.pop())
        return []

    return next((found for module in sorted(modules) if (found := visit(module))), [])


def code_runners(path, source):
    """Calls and imports by which a file's contents could become running code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            yield node.func.id
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield "allow_pickle"
    yield from (m.partition(".")[0] for level, m, _ in imported(ast.parse(source)) if level == 0)


def files():
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        if path != "__init__.py":
            yield path, file.read_text()


def test_imports_point_one_way():
    wrong = {path: bad for path, source in files() if (bad := sorted(set(upward(path, source))))}
    assert not wrong


@pytest.mark.parametrize(
    "path, source",
    [
        ("kernels/conv.py", "from ..layer import Param"),
        ("kernels/conv.py", "def f():\n    from ..layers.conv import Conv2D"),
        ("kernels/cpu/conv.py", "from ... import compose"),
        ("layers/conv.py", "import inception_np.models"),
        ("layers/conv.py", "from inception_np.training.loop import train"),
        ("backend/arrays.py", "from ..kernels import conv"),
        ("models/blocks.py", "from ..training.optim import SGD"),
        ("weights/convert.py", "from ..training import loop"),
        ("training/loop.py", "from ..__main__ import main"),
        ("training/loop.py", "from ..look.features import features"),
    ],
)
def test_an_import_that_points_up_is_caught(path, source):
    assert list(upward(path, source))
    assert not list(upward("__main__.py", source.replace("...", ".").replace("..", ".")))


def test_no_modules_import_each_other_in_a_circle():
    sources = dict(files())
    assert circle(sources) == []
    sources["kernels/window.py"] += "\ndef f():\n    from .cpu import pool\n"
    assert circle(sources)[0] == circle(sources)[-1] == "kernels.window"


def test_only_three_files_import_cupy():
    found = {path for path, source in files() if "cupy" in code_runners(path, source)}
    assert found <= CUPY


def test_nothing_unpickles_or_evaluates():
    sources = [*files(), ("__init__.py", (PACKAGE / "__init__.py").read_text())]
    runners = RUNS_CODE | {"eval", "exec", "allow_pickle"}
    found = {(path, what) for path, source in sources for what in code_runners(path, source) if what in runners}
    assert found <= set(ALLOWED), found - set(ALLOWED)


@pytest.mark.parametrize(
    "source, what",
    [
        ("import pickle", "pickle"),
        ("def f():\n    from pickle import load", "pickle"),
        ("x = [eval(t) for t in s]", "eval"),
        ("exec(open(p).read())", "exec"),
        ("np.load(p, allow_pickle=True)", "allow_pickle"),
        ("np.load(p, allow_pickle=flag)", "allow_pickle"),
        ("import importlib.util", "importlib"),
    ],
)
def test_a_way_to_run_code_is_caught(source, what):
    assert what in set(code_runners("weights/readers.py", source))
    assert "allow_pickle" not in set(code_runners("weights/readers.py", "np.load(p, allow_pickle=False)"))


def loaded_after(statement):
    code = f"{statement}\nimport sys\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return set(run.stdout.split())


def test_importing_loads_nothing_heavy():
    """Every module but compiled kernels, the plans made of them, and PyTorch's side of the benchmark."""
    others = ("__main__.py", "runtime/bench/peers.py", "runtime/inference/plan.py")
    modules = [
        "inception_np." + path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for path, _ in files()
        if not path.startswith(("kernels/cpu", "kernels/cuda/")) and not path.endswith(others)
    ]
    assert len(modules) > 20
    assert not loaded_after(f"import {', '.join(modules)}") & HEAVY


def test_a_heavy_import_is_caught():
    assert loaded_after("import PIL.Image") & HEAVY
