"""How the tests run: how many examples, what is skipped, and where data is looked for.

HYPOTHESIS_PROFILE   dev (25 examples, the default), ci (100, always the same ones), nightly (2000),
                     visit (5: time on a GPU is short)
INCEPTION_NP_DATA    a folder that holds cifar-10-batches-bin; without it the tests of real CIFAR-10 are skipped
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=25, deadline=None, suppress_health_check=quiet)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, print_blob=True, database=None, suppress_health_check=quiet
)
settings.register_profile("visit", max_examples=5, deadline=None, suppress_health_check=quiet)
settings.register_profile("nightly", max_examples=2000, deadline=None, suppress_health_check=quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def no_gpu() -> str:
    """Why tests of a device cannot run, or nothing where they can."""
    try:
        import cupy

        return "" if cupy.cuda.runtime.getDeviceCount() > 0 else "CuPy finds no CUDA device"
    except Exception as error:
        return f"needs CuPy and a CUDA device: {type(error).__name__}: {error}"[:200]


def pytest_collection_modifyitems(items):
    on_device = [item for item in items if item.get_closest_marker("gpu")]
    why = no_gpu() if on_device else ""
    for item in on_device:
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def cifar10_folder():
    """The folder of the real CIFAR-10, from INCEPTION_NP_DATA; the test is skipped without it."""
    root = os.environ.get("INCEPTION_NP_DATA")
    if not root:
        pytest.skip("INCEPTION_NP_DATA is not set")
    folder = Path(root)
    if not (folder / "cifar-10-batches-bin" / "test_batch.bin").is_file():
        pytest.skip(f"no cifar-10-batches-bin/test_batch.bin in {folder}")
    return folder
