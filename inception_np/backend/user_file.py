"""Python files of the user's own, which the command line names: a layer to check, a function that makes a data set."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .errors import UsageError


def module_of(file: str, where: str) -> ModuleType:
    """The module in a file, which is run. where: how errors begin. Raises UsageError where there is no such file."""
    if not Path(file).is_file():
        raise UsageError(f"{where}: {file}: no such file; give a path such as mine.py:NAME")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module
