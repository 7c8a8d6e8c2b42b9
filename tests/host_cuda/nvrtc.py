"""NVIDIA's run-time compiler from its wheel: it needs neither a GPU nor a driver.

pip install nvidia-cuda-nvrtc cuda-pathfinder
"""

import ctypes
import functools
import re


@functools.cache
def library() -> ctypes.CDLL:
    """Raises ImportError or an error of cuda-pathfinder where the wheel is missing."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("nvrtc").abs_path)


@functools.cache
def compile_cubin(text: str, sm: int, options: tuple[str, ...] = ()) -> tuple[str, dict[str, tuple[int, int]], bytes]:
    """Compile for one architecture. Returns errors ("" if none), {kernel: (registers, bytes spilled)}, the cubin."""
    nvrtc = library()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"source.cu", 0, None, None)
    given = [f"--gpu-architecture=sm_{sm}", "--std=c++17", "--ptxas-options=-v", "--device-as-default-execution-space"]
    given += options  # (without that one, NVRTC 13.0 takes a lambda for the host's)
    array = (ctypes.c_char_p * len(given))(*(o.encode() for o in given))
    failed = nvrtc.nvrtcCompileProgram(program, len(given), array)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    cubin = ctypes.create_string_buffer(0)
    if not failed:
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    report = log.value.decode()
    used = {}
    for part in report.split("Compiling entry function '")[1:]:
        registers, spilled = re.search(r"Used (\d+) registers", part), re.search(r"(\d+) bytes spill stores", part)
        if registers and spilled:
            used[part.split("'")[0]] = (int(registers[1]), int(spilled[1]))
    return (report if failed else ""), used, cubin.raw
