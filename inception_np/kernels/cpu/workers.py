"""The threads that kernels run on: a free thread takes the next part, and none waits for a part that has not begun.

A network's step is a thousand short pieces of work, each to be shared out and finished before the next begins. OpenMP
and its like give each thread its share and meet at a barrier; when the system gives one thread's core to another
process for a moment, all wait for it, spinning. Here the calling thread publishes a job of a few more parts than
threads; it takes parts from the front, the workers from the back, until they meet. The caller then waits only for
parts that have begun. A worker that sleeps, is late or does not exist (after a fork) costs only its help.

All of it depends on one 64-bit word, the ticket:

        | number of the job (32 bits) | front (16) | back (16) |         parts front .. back - 1 are to be taken

To take a part is to exchange the ticket for one without that part, if it is still the ticket that was read (compare
and swap). The number of the job makes the exchange fail for a worker that read the ticket of an earlier job; and the
caller cannot return while a part is taken and not done, so what the worker reads of the job stays valid.

Workers are Python threads that never return from compiled code, and hold no lock of Python's there. Without work they
read the ticket again for a short while, then sleep in the kernel (a futex) until the caller of the next job wakes them.
"""

import sys
import threading
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .llvm import I32, I64, IS_X86
from .simd import operation

# Where things stand in the shared state, in int64; a cache line apart, for each is written by others.
TICKET, DONE, JOB, SLEEP, OWNER, WORDS = 0, 8, 16, 24, 32, 40
FUNCTION, PARTS, ARGUMENTS, HELPERS = JOB, JOB + 1, JOB + 2, JOB + 3
SLEEPERS, BELL = SLEEP, SLEEP + 1  # how many sleep; the word they sleep on, one higher with each waking
PATIENCE = 200_000  # cycles a worker looks for work before it sleeps: longer than Python takes between two kernels
SPIN = 50_000  # cycles the caller looks for the last part's end before it yields its core

LINUX = sys.platform == "linux"
FUTEX = 202 if IS_X86 else 98  # the number of the system call
FUTEX_WAIT, FUTEX_WAKE = 128, 129  # among the threads of this process


def _pointer(b, place, kind=I64):
    return b.inttoptr(place, kind.as_pointer())


def _compare_and_swap(b, place, old, new):
    pair = b.cmpxchg(_pointer(b, place), old, new, "seq_cst", "seq_cst")
    return b.zext(b.extract_value(pair, 1), I64)


def _atomic_store(b, place, value):
    b.store_atomic(value, _pointer(b, place), "seq_cst", 8)


def _external(b, name, kind):
    found = b.module.globals.get(name)
    return found if found else ir.Function(b.module, kind, name)


def _futex(b, place, what, value):
    """The system call; 0 on systems that have none."""
    if not LINUX:
        return ir.Constant(I64, 0)
    call = _external(b, "syscall", ir.FunctionType(I64, [I64], var_arg=True))
    word, zero = _pointer(b, place, I32), ir.Constant(I64, 0)
    return b.call(call, [ir.Constant(I64, FUTEX), word, what, value, zero, zero, zero])


def _yield_core(b):
    b.call(_external(b, "sched_yield", ir.FunctionType(I32, [])), [])


def _pause(b):
    """Tell the core that this is a loop that waits."""
    if IS_X86:
        b.call(_external(b, "llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])), [])


int64 = types.int64
atomic_load = operation("atomic_load", lambda b, p: b.load_atomic(_pointer(b, p), "seq_cst", 8), int64, int64)
atomic_store = operation("atomic_store", _atomic_store, types.void, int64, int64)
atomic_add = operation(
    "atomic_add", lambda b, p, v: b.atomic_rmw("add", _pointer(b, p), v, "seq_cst"), int64, int64, int64
)
compare_and_swap = operation("compare_and_swap", _compare_and_swap, int64, int64, int64, int64)
futex = operation("futex", _futex, int64, int64, int64, int64)
yield_core = operation("yield_core", _yield_core, types.void)
pause = operation("pause", _pause, types.void)
cycles = operation(
    "cycles", lambda b: b.call(_external(b, "llvm.readcyclecounter", ir.FunctionType(I64, [])), []), int64
)


@intrinsic
def call(context, function, part, parts, arguments):
    """Call the kernel that begins at an address."""

    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(function, part, parts, arguments), generate


def work(state, number):
    """What worker `number` does, forever."""
    begun = cycles()
    while True:
        ticket = atomic_load(state + 8 * TICKET)
        front, back = (ticket >> 16) & 0xFFFF, ticket & 0xFFFF
        if front < back and number < atomic_load(state + 8 * HELPERS):
            if compare_and_swap(state + 8 * TICKET, ticket, ticket - 1):
                job = state + 8 * FUNCTION
                call(atomic_load(job), back - 1, atomic_load(job + 8), atomic_load(job + 16))
                atomic_add(state + 8 * DONE, 1)
            begun = cycles()
        elif cycles() - begun < PATIENCE:
            pause()
        elif LINUX:
            atomic_add(state + 8 * SLEEPERS, 1)
            bell = atomic_load(state + 8 * BELL)
            ticket = atomic_load(state + 8 * TICKET)  # again: the caller may have looked for sleepers just before
            idle = (ticket >> 16) & 0xFFFF >= ticket & 0xFFFF or number >= atomic_load(state + 8 * HELPERS)
            if idle:
                futex(state + 8 * BELL, FUTEX_WAIT, bell & 0xFFFFFFFF)
            atomic_add(state + 8 * SLEEPERS, -1)
            begun = cycles()
        else:
            yield_core()


def run(program, end, state):
    """Do the calls of a program (machine.py) that stands between two addresses."""
    # where another thread's program is running, this one is done without the workers
    mine = compare_and_swap(state + 8 * OWNER, 0, 1)
    while program < end:
        function, parts = atomic_load(program), atomic_load(program + 8)
        threads, count = atomic_load(program + 16), atomic_load(program + 24)
        arguments = program + 32
        if parts == 1 or threads == 1 or not mine:
            for part in range(parts):
                call(function, part, parts, arguments)
        else:
            atomic_store(state + 8 * FUNCTION, function)
            atomic_store(state + 8 * PARTS, parts)
            atomic_store(state + 8 * ARGUMENTS, arguments)
            atomic_store(state + 8 * HELPERS, threads - 1)
            atomic_store(state + 8 * DONE, 0)
            ticket = ((atomic_load(state + 8 * TICKET) >> 32) + 1) << 32 | parts
            atomic_store(state + 8 * TICKET, ticket)
            if atomic_load(state + 8 * SLEEPERS) > 0:
                atomic_add(state + 8 * BELL, 1)
                futex(state + 8 * BELL, FUTEX_WAKE, 1 << 30)
            done = 0
            while True:
                ticket = atomic_load(state + 8 * TICKET)
                front, back = (ticket >> 16) & 0xFFFF, ticket & 0xFFFF
                if front >= back:
                    break
                if compare_and_swap(state + 8 * TICKET, ticket, ticket + (1 << 16)):
                    call(function, front, parts, arguments)
                    done += 1
            begun = cycles()
            while done + atomic_load(state + 8 * DONE) < parts:
                if cycles() - begun < SPIN:
                    pause()
                else:
                    yield_core()
        program = arguments + 8 * count
    if mine:
        atomic_store(state + 8 * OWNER, 0)


RUN_TYPE = "void(int64, int64, int64)"
WORK_TYPE = "void(int64, int64)"


class Workers:
    """The shared state and the threads that have been started."""

    def __init__(self, run: Any, work: Any):
        room = np.zeros(WORDS + 8, np.int64)
        first = -room.ctypes.data % 64 // 8
        self.words = room[first : first + WORDS]
        self.state = self.words.ctypes.data
        self.run, self.work = run, work
        self.started, self.lock = 0, threading.Lock()

    def start(self, count: int) -> None:
        """Have at least `count` workers."""
        with self.lock:
            while self.started < count:
                target = lambda n=self.started: self.work(self.state, n)  # noqa: E731
                threading.Thread(target=target, name="inception-np worker", daemon=True).start()
                self.started += 1


NOGIL: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}


def decorate(function: Any, signature: str, keep: bool) -> Any:
    """Compile run or work."""
    compiled = numba.njit(cache=keep, **NOGIL)(function)
    compiled.compile(signature)
    return compiled
