"""Builds the extensions of fastconv._kernels.  Everything else about the package stands in pyproject.toml.

The C kernels (src_c/kernels.c) are compiled once per instruction set, each with that set's flags, and linked
into one extension, `dispatch`; the drivers are compiled with the platform's baseline flags and get the
kernels' tables from it at import.

FASTCONV_NO_OPENMP=1 builds without threads.
"""

import os
import platform
import runpy
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# gnu11 and fp-contract: a * b + c becomes one FMA.  Not -ffast-math, which would change the floating-point
# mode of the process.
CFLAGS = [
    "-O3",
    "-std=gnu11",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-g0",  # Python's own flags ask for debug information, which is most of the size of the result
]
# A processor with AVX2 that lacks prfchw (Haswell) takes the instruction for none.
ISA_FLAGS = {
    "x86_64": {
        "avx512": [
            "-mavx512f",
            "-mavx512dq",
            "-mavx512bw",
            "-mavx512vl",
            "-mfma",
            "-mprfchw",
            "-mprefer-vector-width=512",
        ],
        "avx2": ["-mavx2", "-mfma", "-mprfchw"],
    },
    "aarch64": {"neon": []},
}
CORES = os.cpu_count() or 1
HEADERS = sorted(glob("src_c/*.h"))
ALL_SOURCES = ["fastconv/_build.py", *sorted(glob("src_c/*.[ch]") + glob("fastconv/_kernels/*.p[yx][xd]"))]
SOURCES = runpy.run_path("fastconv/_build.py")["digest"](os.getcwd())


def compiles(code, flags):
    """Whether the C compiler builds and links `code` with `flags`."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(code)
        command = [*compiler, str(source), "-o", str(Path(folder, "probe")), *flags]
        return subprocess.run(command, capture_output=True).returncode == 0


def contraction_flags():
    """GCC 13 and later, tuned for x86-64 in general, make no FMA of a loop's `sum += a * b` unless another
    FMA stands beside it: the bits of a sum would depend on what else its loop does.  Not a flag of Clang."""
    flags = ["--param=avoid-fma-max-bits=0"]
    return flags if compiles("int main(void) {}\n", [*flags, "-Werror"]) else []


def openmp_flags():
    if os.environ.get("FASTCONV_NO_OPENMP", "0") not in ("", "0"):
        return []
    if compiles("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n", ["-fopenmp"]):
        return ["-fopenmp"]
    print("fastconv: WARNING: the C compiler has no OpenMP; building for one thread", file=sys.stderr)
    return []


def isa_flags():
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    sets = {
        isa: flags
        for isa, flags in ISA_FLAGS.get(machine, {}).items()
        if compiles("int main(void) {}\n", flags)
    }
    return {**sets, "generic": []}


class BuildExt(build_ext):
    """build_ext that also compiles kernels.c once per instruction set and links the results into
    `dispatch`; on all cores."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or CORES

    def build_extension(self, ext):
        if ext.name.endswith(".dispatch"):
            sets = isa_flags()
            with ThreadPoolExecutor(CORES) as pool:
                ext.extra_objects = list(pool.map(self.compile_kernels, sets.keys(), sets.values()))
        super().build_extension(ext)

    def compile_kernels(self, isa, flags):
        [built] = self.compiler.compile(
            ["src_c/kernels.c"],
            output_dir=os.path.join(self.build_temp, isa),
            macros=[("FC_ISA", isa)],
            extra_postargs=CFLAGS + contraction_flags() + flags,
            depends=HEADERS,
        )
        return built


def extension(name, sources=(), macros=(), depends=HEADERS, libraries=(), openmp=()):
    return Extension(
        f"fastconv._kernels.{name}",
        [f"fastconv/_kernels/{name}.pyx", *sources],
        include_dirs=["src_c"],
        depends=depends,
        define_macros=list(macros),
        # A driver's inner loops are the kernels.  (-O1, or the code that Cython's modules can share, would
        # save a fifth of the time to build, and cost each small operation 0.3 of 11 microseconds.)
        extra_compile_args=[*CFLAGS, "-O2", *openmp],
        extra_link_args=list(openmp),
        libraries=list(libraries),
    )


if __name__ == "__main__":  # cythonize starts processes, which may import this file
    # dispatch carries the digest of all sources, so it is built again whenever one of them changes.
    have = [(f"FC_HAVE_{isa.upper()}", "1") for isa in isa_flags() if isa != "generic"]
    setup(
        ext_modules=cythonize(
            [
                extension(
                    "dispatch",
                    ["src_c/dispatch.c"],
                    [*have, ("FC_SOURCES", f'"{SOURCES}"')],
                    ALL_SOURCES,
                    libraries=["m"],  # pow
                ),
                extension("team", openmp=openmp_flags()),
                extension("memory"),
                extension("conv2d"),
                extension("winograd"),
                extension("depthwise"),
                extension("pool"),
                extension("elementwise"),
                extension("norm"),
            ],
            build_dir="build/cython",
            nthreads=CORES,
            compiler_directives={
                "language_level": 3,
                "boundscheck": False,
                "wraparound": False,
                "cdivision": True,
                "initializedcheck": False,
                "freethreading_compatible": True,
            },
        ),
        cmdclass={"build_ext": BuildExt},
    )
