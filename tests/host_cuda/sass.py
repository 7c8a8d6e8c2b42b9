"""What a kernel's inner loop costs: its machine instructions, counted in what NVRTC makes of a source.

    python tests/host_cuda/sass.py conv.cu 90 -DVEC=4 -DBM=128 -DBN=64 -DSHARES=1

prints, for each kernel, the instructions of a round of the loop that holds the tensor core instructions (HMMA, of any
shape), and how many of them are HMMA. Counted is what warps run in nearly every round:

- the loop is the shortest stretch of code, from the target of a backward jump to the jump, that holds an HMMA;
- code that a forward jump skips, and that holds a barrier, is left out: so are lists of terms written anew, every
  PERIOD steps. (A warp may only pass by a barrier if its whole block does, so this is no thread's private way.) What is
  skipped without a barrier in it counts, though half of the warps have no part in it: the others wait for those who do;
- an inner loop counts as one round of it;
- instructions that do nothing (NOP, or never carried out: @!PT, @!UPT) do not count.

pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm cuda-pathfinder: it needs neither a GPU nor a driver.
"""

import functools
import re
import subprocess
import sys
import tempfile

LINE = re.compile(r"^[ \t]*(?:\.section\s+\.text\.(\w+),|(\.L_\w+):|/\*[0-9a-f]+\*/\s+(.+?)\s*;)", re.M)
JUMP = re.compile(r"\bBRA\b.*`\((\.L\w+)\)")
IDLE = re.compile(r"NOP\b|@!U?PT ")


@functools.cache
def disassembler() -> str:
    """The path of nvdisasm. Raises ImportError or FileNotFoundError where a wheel is missing."""
    from cuda.pathfinder import find_nvidia_binary_utility

    found = find_nvidia_binary_utility("nvdisasm")
    if found is None:
        raise FileNotFoundError("nvdisasm")
    return found


def kernels(cubin: bytes) -> dict[str, tuple[list[str], dict[str, int]]]:
    """Each kernel's instructions, in order, and which of them each label stands before."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([disassembler(), "-c", file.name], text=True, capture_output=True, check=True)
    found: dict[str, tuple[list[str], dict[str, int]]] = {}
    code: list[str] = []
    labels: dict[str, int] = {}
    for kernel, label, instruction in LINE.findall(done.stdout):
        if kernel:
            code, labels = found[kernel] = [], {}
        elif label:
            labels[label] = len(code)
        else:
            code.append(instruction)
    return found


def inner_loops(cubin: bytes) -> dict[str, list[str]]:
    """The instructions of a round of each kernel's loop around HMMA, as the file's head says.

    Raises LookupError for a kernel that has no such loop, for a loop with no barrier in each round, and for one that
    calls a function, whose instructions would not be seen. (A CALL of a label is a jump out of the loop.)
    """
    found = {}
    for kernel, (code, labels) in kernels(cubin).items():
        jumps = [(i, labels[jump[1]]) for i, line in enumerate(code) if (jump := JUMP.search(line))]
        loops = [(at, to) for at, to in jumps if to <= at and any("HMMA" in line for line in code[to:at])]
        if not loops:
            raise LookupError(f"{kernel} has no loop around HMMA")
        end, begin = min(loops, key=lambda loop: loop[0] - loop[1])
        skipped = {
            i
            for at, to in jumps
            if begin <= at < to <= end and any("BAR." in line for line in code[at + 1 : to])
            for i in range(at + 1, to)
        }
        found[kernel] = [code[i] for i in range(begin, end + 1) if i not in skipped and not IDLE.match(code[i])]
        if not any("BAR." in line for line in found[kernel]):
            raise LookupError(f"{kernel}'s loop around HMMA has no barrier in each round")
        if any("CALL" in line and "`($" in line for line in found[kernel]):
            raise LookupError(f"{kernel}'s loop around HMMA calls a function")
    return found


def counts(cubin: bytes) -> dict[str, tuple[int, int]]:
    """{kernel: (instructions in a round of its loop around HMMA, of which HMMA)}."""
    return {kernel: (len(lines), sum("HMMA" in line for line in lines)) for kernel, lines in inner_loops(cubin).items()}


if __name__ == "__main__":
    import nvrtc

    from inception_np.kernels.cuda import launch

    errors, _, cubin = nvrtc.compile_cubin(launch.text(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]))
    if errors:
        raise SystemExit(errors)
    for kernel, (all_of_them, hmma) in counts(cubin).items():
        print(f"{kernel:10} {all_of_them:4} instructions, {hmma:2} HMMA: {all_of_them / hmma * 16:5.1f} for 16")
