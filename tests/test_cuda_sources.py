"""Every CUDA source compiles for every architecture we name, within a budget of registers and without spilling any;
the inner loop of convolution within a budget of instructions; and its tiles are not made of padding."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import strict_cupy
from host_cuda import nvrtc, sass

from inception_np.kernels.cuda import elementwise, launch

SOURCES = sorted(path.name for path in launch.FOLDER.glob("*.cu"))
ARCHITECTURES = (75, 80, 89, 90)
TENSOR_CORES = {"conv.cu"}  # TF32 came with 80
WINDOWS = [*launch.KNOWN, ((5, 5), (3, 3))]
VARIANTS = [launch.variant(vec, *window) for vec in (1, 2, 4) for window in WINDOWS]
TILES = [(128, bn, 1) for bn in (16, 32, 48, 64, 96)] + [(64, bn, 2) for bn in (16, 32, 48, 64)]
SHAPES = [(f"-DBM={bm}", f"-DBN={bn}", f"-DSHARES={shares}") for bm, bn, shares in TILES]
OPTIONS = {
    "conv.cu": [(f"-DVEC={vec}", *shape) for vec in (1, 2, 4) for shape in SHAPES],
    "depthwise.cu": VARIANTS,
    "pool.cu": VARIANTS,
}
OPTIONS |= {source: [launch.variant(vec) for vec in (1, 2, 4)] for source in ("batchnorm.cu", "elementwise.cu")}
# The 65536 registers of a multiprocessor are its resident warps': 32 leave each thread 64, 24 leave 80 (what pools take
# with compute capability 7.5; with 9.0 they make do with 64), 16 leave 128, 12 leave 168, 8 leave 255.
BUDGET = {"depthwise.cu": 128, "pool.cu": 80}
USUAL_BUDGET = 64
STORING = {source for source in SOURCES if any("Real*" in types for types in launch.declarations(source).values())}


def variants(source, sm):
    """The options to compile a source with; for bfloat16, since 80, all of the widest and one of single numbers."""
    options = OPTIONS.get(source, [()])
    if sm < 80 or source not in STORING:
        return options
    widest, single = [o for o in options if o[:1] in (("-DVEC=4",), ())], [o for o in options if "-DVEC=1" in o]
    return [*options, *((*o, "-DBF16") for o in [*widest, *single[-1:]])]


# The loop of conv.cu: at most so many instructions for 16 tensor core instructions on compute capability 8.0, where
# rounding takes four, and on 9.0, where it takes one. They are 4 % over what `python tests/host_cuda/sass.py` counts.
# Narrow tiles cost more: what is done for a step's left factor serves few columns.
INSTRUCTIONS = {
    ("-DBM=128", "-DBN=16", "-DSHARES=1"): (372, 250),
    ("-DBM=128", "-DBN=32", "-DSHARES=1"): (202, 134),
    ("-DBM=128", "-DBN=48", "-DSHARES=1"): (144, 102),
    ("-DBM=128", "-DBN=64", "-DSHARES=1"): (151, 104),
    ("-DBM=128", "-DBN=96", "-DSHARES=1"): (110, 77),
    ("-DBM=64", "-DBN=16", "-DSHARES=2"): (393, 250),
    ("-DBM=64", "-DBN=32", "-DSHARES=2"): (198, 123),
    ("-DBM=64", "-DBN=48", "-DSHARES=2"): (180, 119),
    ("-DBM=64", "-DBN=64", "-DSHARES=2"): (139, 96),
    # in bfloat16, where one does twice the work
    ("-DBM=128", "-DBN=16", "-DSHARES=1", "-DBF16"): (304, 306),
    ("-DBM=128", "-DBN=32", "-DSHARES=1", "-DBF16"): (162, 163),
    ("-DBM=128", "-DBN=48", "-DSHARES=1", "-DBF16"): (114, 123),
    ("-DBM=128", "-DBN=64", "-DSHARES=1", "-DBF16"): (127, 127),
    ("-DBM=128", "-DBN=96", "-DSHARES=1", "-DBF16"): (92, 95),
    ("-DBM=64", "-DBN=16", "-DSHARES=2", "-DBF16"): (308, 306),
    ("-DBM=64", "-DBN=32", "-DSHARES=2", "-DBF16"): (156, 156),
    ("-DBM=64", "-DBN=48", "-DSHARES=2", "-DBF16"): (149, 148),
    ("-DBM=64", "-DBN=64", "-DSHARES=2", "-DBF16"): (122, 122),
}


def budget(source, options):
    if source != "conv.cu":
        return BUDGET.get(source, USUAL_BUDGET)
    vec, *shape = options
    large = (shape[:2] == ["-DBM=64", "-DBN=48"]) + (vec != "-DVEC=4")
    return (128, 168, 255)[large]


try:
    nvrtc.library()
    missing = ""
except Exception as error:  # the wheel's loader has errors of its own
    missing = f"needs the wheels nvidia-cuda-nvrtc and cuda-pathfinder: {type(error).__name__}"
needs_nvrtc = pytest.mark.skipif(bool(missing), reason=missing or "NVRTC is here")
try:
    sass.disassembler()
except Exception as error:
    missing = missing or f"needs the wheel nvidia-cuda-nvdisasm: {type(error).__name__}"
needs_nvdisasm = pytest.mark.skipif(bool(missing), reason=missing or "nvdisasm is here")


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("sm", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_source_compiles_within_its_registers(source, sm):
    if source in TENSOR_CORES and sm < 80:
        pytest.skip("TF32 needs compute capability 8.0")
    for options in variants(source, sm):
        errors, used, _ = nvrtc.compile_cubin(launch.text(source), sm, options)
        assert not errors, errors
        assert used.keys() == launch.declarations(source).keys()
        for kernel, (registers, spilled) in used.items():
            assert spilled == 0, f"{kernel} spills {spilled} bytes"
            assert registers <= budget(source, options), f"{kernel} takes {registers} registers"


@pytest.mark.slow
@needs_nvrtc
def test_faults_that_only_the_assembler_sees_are_caught():
    errors, *_ = nvrtc.compile_cubin(launch.text("conv.cu"), 75, ("-DVEC=4", *SHAPES[3]))
    assert "sm_80" in errors
    errors, *_ = nvrtc.compile_cubin(launch.text("lrn.cu").replace("float s", "flaot s", 1), 90)
    assert "flaot" in errors
    greedy = 'extern "C" __global__ void __launch_bounds__(1024) greedy(float* x) { float a[200];'
    greedy += "for (int i = 0; i < 200; i++) a[i] = x[i * i]; for (int i = 0; i < 200; i++) x[i] = a[199 - i] * a[i]; }"
    _, used, _ = nvrtc.compile_cubin(greedy, 90)
    assert used["greedy"][1] > 0, "spills are not seen"


def instructions(text, sm, shape):
    """{kernel: instructions for 16 HMMA} of conv.cu's text."""
    errors, _, cubin = nvrtc.compile_cubin(text, sm, ("-DVEC=4", *shape))
    assert not errors, errors
    return {kernel: count / hmma * 16 for kernel, (count, hmma) in sass.counts(cubin).items()}


@pytest.mark.slow
@needs_nvdisasm
@pytest.mark.parametrize("sm", (80, 90))
def test_convolutions_loop_keeps_to_its_instructions(sm):
    assert all(shape in INSTRUCTIONS for shape in SHAPES)
    for shape, most in INSTRUCTIONS.items():
        found = instructions(launch.text("conv.cu"), sm, shape)
        assert found.keys() == {"conv2d", "conv2d_dx", "conv2d_dw"}
        assert max(found.values()) <= most[sm == 90], (shape, found)


MMA = "mma_16x8(sum[i][j], fa[i], fb[j / 2] + j % 2 * 2);"
LATE = "unsigned u[6];\nfor (int q = 0; q < 6; q++) "
LATE += "u[q] = tf32(__uint_as_float(q < 4 ? fa[i][q] : fb[j / 2][j % 2 * 2 + q - 4]));\n"


@pytest.mark.slow
@needs_nvdisasm
@pytest.mark.parametrize(
    "sound, slow",
    [
        pytest.param("% TERMS |", "% (TERMS + (int)lines[0][0].hidden) |", id="a remainder by a number of run time"),
        pytest.param(MMA, f"{{ {LATE} mma_16x8(sum[i][j], u, u + 4); }}", id="rounded at each use"),
    ],
)
def test_a_loop_that_does_more_is_over_its_instructions(sound, slow):
    text = launch.text("conv.cu")
    assert sound in text
    for shape in (("-DBM=128", "-DBN=64", "-DSHARES=1"), ("-DBM=64", "-DBN=64", "-DSHARES=2")):
        found = instructions(text.replace(sound, slow), 90, shape)
        assert min(found.values()) > INSTRUCTIONS[shape][1], (shape, found)


@needs_nvdisasm
def test_a_rounds_instructions_are_told_from_those_of_few_rounds(monkeypatch):
    def line(text):
        return f"        /*0000*/                   {text} ;\n"

    rare = line("@P1 BRA `(.L_x_3)") + line("FADD R0, R0, R0") * 5 + line("BAR.SYNC.DEFER_BLOCKING 0x0") + ".L_x_3:\n"
    some = line("@P0 BRA `(.L_x_2)") + line("LDS R4, [R5]") * 2 + ".L_x_2:\n"
    idle = line("NOP") + line("@!UPT UIADD3 URZ, URZ, URZ, URZ")
    wait, mma = line("BAR.SYNC.DEFER_BLOCKING 0x0"), line("HMMA.16816.F32.BF16 R4, R8, R10, R4")
    loop = ".L_x_1:\n" + wait + some + rare + mma * 2 + idle + line("@!P2 BRA `(.L_x_1)")
    code = '\t.section\t.text.multiply,"ax",@progbits\n' + line("MOV R1, R2") + loop + line("EXIT")
    listings = [code, code.replace("HMMA", "FFMA"), code.replace(".L_x_1:\n" + wait, ".L_x_1:\n")]
    listings.append(code.replace(mma, line("CALL.REL.NOINC `($remainder)") + mma))
    done = iter([sass.subprocess.CompletedProcess((), 0, listing) for listing in listings])
    monkeypatch.setattr(sass.subprocess, "run", lambda *a, **k: next(done))
    # a barrier, a jump over two loads, the jump over what is rare, two HMMA, the jump back
    assert sass.counts(b"") == {"multiply": (8, 2)}
    with pytest.raises(LookupError, match="multiply has no loop around HMMA"):
        sass.counts(b"")
    with pytest.raises(LookupError, match="no barrier in each round"):
        sass.counts(b"")
    with pytest.raises(LookupError, match="calls a function"):
        sass.counts(b"")


@pytest.mark.parametrize("source", SOURCES)
def test_the_only_atomic_is_the_ticket_of_the_last_block(source):
    """It counts blocks in an integer: their order says which of them adds, not in which order it does."""
    text = launch.text(source)
    join = (launch.FOLDER / "join.cuh").read_text()
    assert text.lower().count("atomic") == ('#include "join.cuh"' in (launch.FOLDER / source).read_text())
    assert join.lower().count("atomic") == 1 and "atomicInc(ticket, count - 1) == count - 1;" in join
    assert launch.declarations(source), "no kernel was found in it"


@pytest.mark.parametrize("source", SOURCES)
def test_what_other_blocks_wrote_is_read_past_the_caches_that_may_be_stale(source):
    """In a kernel whose last block reads them, parts are no `const __restrict__`, and are read by __ldcg alone."""
    for kernel in launch.text(source).split('extern "C" __global__')[1:]:
        if "last_block(" in kernel:
            assert re.search(r"[ (]float\* part,", kernel), "part may be read through another cache"
    join = (launch.FOLDER / "join.cuh").read_text()
    assert join.count("pixel(part") == join.count("__ldcg(pixel(part") == 1 and "part[" not in join


def test_declarations_are_read():
    assert launch.declarations("update.cu")["sgd_step"] == ["float*"] * 4 + ["float", "float", "int", "int"]
    assert launch.struct("conv.cu", "Window").names[:4] == ("N", "H", "W", "C")
    assert launch.struct("conv.cu", "Window").itemsize == 16 * 4
    job, jobs = (launch.struct("elementwise.cu", name) for name in ("Job", "Jobs"))
    assert job.names == ("part", "into", "parts", "count", "first", "slots") and job.itemsize == 32
    assert job["into"] == np.uint64 and job["parts"] == np.int32
    assert jobs["at"].shape == (elementwise.JOBS,) and jobs.itemsize <= 4096 - 4, "what a kernel takes by value"
    assert launch.declarations("conv.cu")["conv2d_dw"][3] == "Window"


def test_launch_converts_what_it_passes(monkeypatch):
    passed = []
    monkeypatch.setattr(launch, "function", lambda *kernel: lambda *given: passed.append((*kernel, *given)))
    x, window = np.zeros((1, 3, 3, 2), np.float32), launch.window((1, 3, 3, 2), (3, 3), (3, 3), (1, 1), ((1, 1),) * 2)
    for _ in range(2):
        launch.launch("depthwise.cu", "depthwise2d", ((1,), (2,)), x, x, None, x, window, 1, 2, True, options=("-DA",))
    first, second = passed
    assert first[:5] == ("depthwise.cu", "depthwise2d", ("-DA",), (1,), (2,))
    assert first[5][0] is x and first[5][2] is None, "CuPy makes a null pointer of None"
    assert [type(v) for v in first[5][5:]] == [np.int32] * 3 and first[5][5:] == (1, 2, 1)
    assert (
        tuple(first[5][4].item()) == window and first[5][4].dtype.names == launch.struct("depthwise.cu", "Window").names
    )
    assert first[5][4] is second[5][4], "the struct was made anew"
    half = x.astype(pytest.importorskip("ml_dtypes").bfloat16)
    launch.launch(
        "depthwise.cu", "depthwise2d", ((1,), (2,)), half, x, None, half, window, 1, 2, True, options=("-DA",)
    )
    assert passed.pop()[2] == ("-DA", "-DBF16")
    with pytest.raises(TypeError, match="depthwise2d: got arrays of bfloat16 and float32, wanted one dtype"):
        launch.launch("depthwise.cu", "depthwise2d", ((1,), (2,)), half, x, None, x, window, 1, 2, True)
    with pytest.raises(TypeError, match="depthwise2d: got an array of bfloat16, wanted float32"):
        launch.launch("depthwise.cu", "depthwise2d", ((1,), (2,)), x, half, None, x, window, 1, 2, True)
    with pytest.raises(TypeError, match="global_avg_pool: got an array of float64, wanted float32"):
        launch.launch("pool.cu", "global_avg_pool", ((1,), (1,)), x, x.astype(np.float64), 1, 1, 1, 1, 1)
    with pytest.raises(TypeError, match="global_avg_pool: got 1 arguments, wanted 7"):
        launch.launch("pool.cu", "global_avg_pool", ((1,), (1,)), x)
    with pytest.raises(TypeError, match=r"elementwise.cu: got \(2,\) of .*, wanted one struct Jobs"):
        jobs = np.zeros(2, launch.struct("elementwise.cu", "Jobs"))
        launch.launch("elementwise.cu", "sum_parts", ((1,), (1,)), jobs, 1)
    launch.launch("pool.cu", "global_avg_pool", launch.elements(0), x, x, 0, 1, 1, 1, 1)
    assert len(passed) == 2, "an empty grid was launched"


@pytest.mark.parametrize(
    "channels, offset, pitch, wanted", [(8, 0, 8, 4), (8, 4, 20, 4), (8, 3, 20, 1), (12, 2, 20, 2)]
)
def test_width_is_what_channels_addresses_and_pitches_allow(channels, offset, pitch, wanted, monkeypatch):
    monkeypatch.setattr(launch, "address", lambda x: offset * x.itemsize)
    for x in (np.zeros(1, np.float32), np.zeros(1, np.uint8)):
        assert launch.width((x,), (channels, pitch)) == wanted
        assert launch.width((x,), (channels + 2, pitch)) == min(2, wanted)
        assert launch.width((x,), (channels, pitch + 1)) == 1


def test_elements_beyond_an_int_are_refused():
    assert launch.elements(256 * 4 * 3, 4) == ((3,), (256,)) and launch.elements(256 * 4 * 3 + 4, 4)[0] == (4,)
    for vec in (1, 4):
        assert launch.elements(2**31 - 2**20 - 1, vec)
        with pytest.raises(ValueError, match="wanted fewer than 2"):
            launch.elements(2**31 - 2**20, vec)


def test_every_stream_of_every_thread_has_tickets_of_its_own(monkeypatch):
    """Launches of two streams may run at once; those of one stream follow each other, and count from 0 again."""
    monkeypatch.setattr(launch, "_tickets", {})
    cupy = strict_cupy.pretend(monkeypatch)
    like, stream = cupy.zeros(1, np.float32), cupy.cuda.Stream(non_blocking=True)

    def where():
        return launch.address(launch.tickets(launch.TICKETS, like))

    with ThreadPoolExecutor(1) as thread:
        found = [where(), thread.submit(where).result()]
        with stream:
            found.append(where())
        assert [where(), thread.submit(where).result()] == found[:2] and len(set(found)) == 3
    assert (launch.tickets(1, like).get() == 0).all() and launch.tickets(1, like).shape == (launch.TICKETS,)
    with pytest.raises(ValueError, match="got a launch of 65537 tiles"):
        launch.tickets(launch.TICKETS + 1, like)
    with cupy.cuda.Stream(non_blocking=True) as other:
        other.begin_capture(2)
        try:
            with pytest.raises(RuntimeError, match="wanted one before the capture"):
                where()
        finally:
            other.end_capture()
