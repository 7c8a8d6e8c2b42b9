"""How kernels are compiled: all functions that a kernel calls are optimised with it, once.

Numba takes each function for one that may be called from Python or C: it writes a wrapper for either, optimises the
function and makes machine code of it. A kernel that calls it links a copy of its code and optimises that once more. And
a function that is called with the number 16 here and a variable there is compiled for both. What kernels call (`helper`
in this file) is called by nothing else. So its code is only linked, and compiled for types, not for numbers: LLVM sees
the 16 where it puts the function into its caller. With that a network's kernels compile in three quarters of the time.

The methods replaced below belong to Numba and are not documented. A Numba without them compiles as it always does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher, cpu_target

config: Any = numba.config  # (its settings come from the environment, unseen by type checkers)
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
KERNEL = types.void(types.int64, types.int64, types.int64)


class KernelLibrary(JITCodeLibrary):
    """A kernel and its helpers. Numba would optimise it twice: first cheaply, to find counts of references it can drop.

    Kernels hold no Python objects, so they count no references.
    """

    def _optimize_final_module(self) -> None:
        made = self._codegen._module_pass_manager()
        if not isinstance(made, tuple):  # Numba before 0.62
            super()._optimize_final_module()
        else:
            passes, builder = made
            passes.run(self._final_module, builder)


class HelperLibrary(JITCodeLibrary):
    """A helper and those that it calls: what kernels link."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        """Keep the code for kernels. LLVM makes no machine code of a function that is "available externally"."""
        self._finalized = True
        self._shared_module = self._get_module_for_linking().clone()
        for function in self._final_module.functions:
            if not function.is_declaration:
                function.linkage = "available_externally"
        super()._finalize_final_module()


class KernelCompiler(Compiler):
    library: type[JITCodeLibrary] = KernelLibrary

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        self.state.library = self.library(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)


class HelperCompiler(KernelCompiler):
    library = HelperLibrary


class Helper(CPUDispatcher):
    def get_call_template(self, args: Any, kws: Any) -> Any:
        return super().get_call_template(tuple(types.unliteral(a) for a in args), kws)


def helper(function: Callable[..., Any]) -> Any:
    """Mark a function that kernels call. It is compiled into each of them."""
    options = {"nopython": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **OPTIONS}
    return Helper(function, targetoptions=options, pipeline_class=HelperCompiler)


def compile_kernel(function: Callable[..., Any], keep: bool) -> Any:
    """A function (part, parts, arguments) compiled, with its address. keep: in Numba's cache."""
    return numba.cfunc(KERNEL, cache=keep, pipeline_class=KernelCompiler, **OPTIONS)(function)


def compile_written(name: str, write: Callable[..., None], keep: bool) -> Any:
    """The library with the function of this name, of three int64, whose LLVM code `write(builder, *arguments)` makes.

    Nothing of it is Python to be typed: it takes some hundredths of a second. keep: as two files in Numba's cache.
    """
    codegen = cpu_target.target_context.codegen()
    files = [Path(config.CACHE_DIR) / which for which in ("code", "bitcode")]
    with global_compiler_lock:
        if keep and all(file.exists() for file in files):
            return codegen.unserialize_library((name, "object", tuple(file.read_bytes() for file in files)))
        module = ir.Module(name)
        integer = ir.IntType(64)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [integer] * 3), name)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        write(builder, *function.args)
        builder.ret_void()
        library = KernelLibrary(codegen, name)
        library.enable_object_caching()
        library.add_ir_module(module)
        library.finalize()
        if keep:
            for file, content in zip(files, library.serialize_using_object_code()[2], strict=True):
                file.write_bytes(content)
    return library
