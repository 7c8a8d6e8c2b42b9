"""Every CUDA source compiles for every architecture we name, within a budget of registers and without spilling any."""

import pytest
from host_cuda import nvrtc

from inception_np.kernels.cuda import launch

SOURCES = sorted(path.name for path in launch.FOLDER.glob("*.cu"))
ARCHITECTURES = (75, 80, 89, 90)
TENSOR_CORES = {"conv.cu"}  # TF32 came with 80
SHAPES = [
    (f"-DBM={bm}", f"-DBN={bn}", f"-DTEAMS={teams}")
    for bm, teams in ((64, 1), (64, 2), (128, 1))
    for bn in (16, 32, 48, 64, 96)
]
OPTIONS = {"conv.cu": [(f"-DVEC={vec}", *shape) for vec in (1, 2, 4) for shape in SHAPES]}
# The 65536 registers of a multiprocessor are its resident warps': 32 leave each thread 64, 16 leave 128, 11 leave 176.
USUAL_BUDGET = 64


def budget(source, options):
    if source != "conv.cu":
        return USUAL_BUDGET
    vec, *shape = options
    return 128 if vec == "-DVEC=4" and shape[:2] != ["-DBM=64", "-DBN=48"] else 176


try:
    nvrtc.library()
    missing = ""
except Exception as error:  # the wheel's loader has errors of its own
    missing = f"needs the wheels nvidia-cuda-nvrtc and cuda-pathfinder: {type(error).__name__}"
needs_nvrtc = pytest.mark.skipif(bool(missing), reason=missing or "NVRTC is here")


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("sm", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_source_compiles_within_its_registers(source, sm):
    if source in TENSOR_CORES and sm < 80:
        pytest.skip("TF32 needs compute capability 8.0")
    for options in OPTIONS.get(source, [()]):
        errors, used = nvrtc.compile_cubin(launch.text(source), sm, options)
        assert not errors, errors
        assert used.keys() == launch.declarations(source).keys()
        for kernel, (registers, spilled) in used.items():
            assert spilled == 0, f"{kernel} spills {spilled} bytes"
            assert registers <= budget(source, options), f"{kernel} takes {registers} registers"


@pytest.mark.slow
@needs_nvrtc
def test_faults_that_only_the_assembler_sees_are_caught():
    errors, _ = nvrtc.compile_cubin(launch.text("conv.cu"), 75, ("-DVEC=4", *SHAPES[0]))
    assert "sm_80" in errors
    errors, _ = nvrtc.compile_cubin(launch.text("pool.cu").replace("float sum = 0", "flaot sum = 0", 1), 90)
    assert "flaot" in errors
    greedy = 'extern "C" __global__ void __launch_bounds__(1024) greedy(float* x) { float a[200];'
    greedy += "for (int i = 0; i < 200; i++) a[i] = x[i * i]; for (int i = 0; i < 200; i++) x[i] = a[199 - i] * a[i]; }"
    _, used = nvrtc.compile_cubin(greedy, 90)
    assert used["greedy"][1] > 0, "spills are not seen"


@pytest.mark.parametrize("source", SOURCES)
def test_no_source_has_atomics(source):
    text = launch.text(source)
    assert "atomic" not in text.replace("No atomics", "")
    assert launch.declarations(source), "no kernel was found in it"


def test_declarations_are_read():
    assert launch.declarations("update.cu")["sgd_step"] == ["float*"] * 4 + ["float", "float", "int", "int"]
    assert launch.structs()["Window"][:4] == ["N", "H", "W", "C"]
    assert launch.declarations("conv.cu")["conv2d_dw"][3] == "Window"
