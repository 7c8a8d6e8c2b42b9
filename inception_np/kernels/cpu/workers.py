"""The threads that kernels run on: whoever is free takes the next part, and nobody waits for a thread that has none.

A network's step is a thousand short pieces of work, each to be shared out and finished before the next begins. OpenMP
and its like hand each thread its share and meet at a barrier; when the system gives one thread's core to another
process for a moment, all wait for it, spinning. Here the calling thread publishes a job of a few more parts than
threads; it takes parts from the front, the workers from the back, until they meet. The caller then waits only for
parts that somebody has begun. A worker that sleeps, is late or does not exist (after a fork) costs nothing but its
help.

All of it hangs on one 64-bit word, the ticket:

        | number of the job (32 bits) | front (16) | back (16) |         parts front .. back - 1 are to be taken

To take a part is to exchange the ticket for one with that part gone, if it is still the ticket that was read
(compare and swap). The number of the job makes the exchange fail for one who slept through the end of the job he read;
and while a part is taken and not done, the caller cannot return, so what the job says about itself stays true.

Workers are Python threads that never come back from compiled code: they hold no lock of Python's. Without work they
look at the ticket for a short while, then sleep in the kernel (a futex) until the caller of the next job wakes them.
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
SPIN = 50_000  # cycles the caller looks for the last part's end before it lets others have its core

LINUX = sys.platform == "linux"
FUTEX = 202 if IS_X86 else 98  # the number of the system call
FUTEX_WAIT, FUTEX_WAKE = 128, 129  # among the threads of this process


def _pointer(b, place, kind=I64):
    return b.inttoptr(place, kind.as_pointer())


def _exchange(b, place, old, new):
    pair = b.cmpxchg(_pointer(b, place), old, new, "seq_cst", "seq_cst")
    return b.zext(b.extract_value(pair, 1), I64)


def _store(b, place, value):
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


def _step_aside(b):
    b.call(_external(b, "sched_yield", ir.FunctionType(I32, [])), [])


def _breathe(b):
    """Tell the core that this is a loop that waits."""
    if IS_X86:
        b.call(_external(b, "llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])), [])


int64 = types.int64
read = operation("read", lambda b, p: b.load_atomic(_pointer(b, p), "seq_cst", 8), int64, int64)
write = operation("write", _store, types.void, int64, int64)
add = operation("add", lambda b, p, v: b.atomic_rmw("add", _pointer(b, p), v, "seq_cst"), int64, int64, int64)
exchange = operation("exchange", _exchange, int64, int64, int64, int64)
futex = operation("futex", _futex, int64, int64, int64, int64)
step_aside = operation("step_aside", _step_aside, types.void)
breathe = operation("breathe", _breathe, types.void)
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
    """What worker `number` does, for ever."""
    begun = cycles()
    while True:
        ticket = read(state + 8 * TICKET)
        front, back = (ticket >> 16) & 0xFFFF, ticket & 0xFFFF
        if front < back and number < read(state + 8 * HELPERS):
            if exchange(state + 8 * TICKET, ticket, ticket - 1):
                job = state + 8 * FUNCTION
                call(read(job), back - 1, read(job + 8), read(job + 16))
                add(state + 8 * DONE, 1)
            begun = cycles()
        elif cycles() - begun < PATIENCE:
            breathe()
        elif LINUX:
            add(state + 8 * SLEEPERS, 1)
            bell = read(state + 8 * BELL)
            ticket = read(state + 8 * TICKET)  # again: the caller may have looked for sleepers just before
            idle = (ticket >> 16) & 0xFFFF >= ticket & 0xFFFF or number >= read(state + 8 * HELPERS)
            if idle:
                futex(state + 8 * BELL, FUTEX_WAIT, bell & 0xFFFFFFFF)
            add(state + 8 * SLEEPERS, -1)
            begun = cycles()
        else:
            step_aside()


def run(program, end, state):
    """Do the calls of a program (machine.py) that stands between two addresses."""
    mine = exchange(state + 8 * OWNER, 0, 1)  # another thread's program is running: then do all of this one here
    while program < end:
        function, parts = read(program), read(program + 8)
        threads, count = read(program + 16), read(program + 24)
        arguments = program + 32
        if parts == 1 or threads == 1 or not mine:
            for part in range(parts):
                call(function, part, parts, arguments)
        else:
            write(state + 8 * FUNCTION, function)
            write(state + 8 * PARTS, parts)
            write(state + 8 * ARGUMENTS, arguments)
            write(state + 8 * HELPERS, threads - 1)
            write(state + 8 * DONE, 0)
            ticket = ((read(state + 8 * TICKET) >> 32) + 1) << 32 | parts
            write(state + 8 * TICKET, ticket)
            if read(state + 8 * SLEEPERS) > 0:
                add(state + 8 * BELL, 1)
                futex(state + 8 * BELL, FUTEX_WAKE, 1 << 30)
            done = 0
            while True:
                ticket = read(state + 8 * TICKET)
                front, back = (ticket >> 16) & 0xFFFF, ticket & 0xFFFF
                if front >= back:
                    break
                if exchange(state + 8 * TICKET, ticket, ticket + (1 << 16)):
                    call(function, front, parts, arguments)
                    done += 1
            begun = cycles()
            while done + read(state + 8 * DONE) < parts:
                if cycles() - begun < SPIN:
                    breathe()
                else:
                    step_aside()
        program = arguments + 8 * count
    if mine:
        write(state + 8 * OWNER, 0)


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
