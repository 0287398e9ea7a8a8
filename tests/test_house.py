"""The architecture's rules that can be read off the sources: what may stand where."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sorted((ROOT / "fastconv").rglob("*.py"))
CYTHON = sorted((ROOT / "fastconv/_kernels").glob("*.p[yx][xd]"))
C = sorted((ROOT / "src_c").glob("*.[ch]"))

pytestmark = pytest.mark.skipif(not C, reason="no sources here")


def code(path: Path) -> str:
    """The file without comments and docstrings, which may talk of anything; lines keep their numbers."""

    def blank(match: re.Match) -> str:
        return "\n" * match[0].count("\n")

    text = path.read_text()
    if path.suffix in (".c", ".h"):
        return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.DOTALL)
    text = re.sub(r'^\s*(?:[rf]?""".*?"""|\'\'\'.*?\'\'\')', blank, text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"#[^\n]*", blank, text)


def found(pattern: str, paths: list[Path], read: Callable[[Path], str] = code) -> list[str]:
    """file:line: text of every line with `pattern`."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(read(path).splitlines(), 1)
        if re.search(pattern, line)
    ]


def c_code_without_quotes(path: Path) -> str:
    return re.sub(r'"[^"\n]*"', '""', code(path))


def test_the_rules_below_see_the_code():
    """A rule that finds nothing because it looks at nothing would always hold."""
    assert found(r"parallel\(num_threads=", CYTHON) and found(r"vector_size", C) and found(r'"SAME"', PYTHON)


def test_openmp_stands_in_one_place_and_says_how_many_threads():
    elsewhere = [path for path in CYTHON if path.name != "team.pyx"]
    assert found(r"prange|parallel\(|cython\.parallel|\bomp_|_OPENMP|omp\.h", PYTHON + elsewhere + C) == []
    assert found(r"prange|#\s*pragma\s+omp", PYTHON + CYTHON + C) == []
    assert [line for line in found(r"\bparallel\(", CYTHON) if "num_threads=" not in line] == []


def test_arguments_are_judged_before_the_kernels():
    assert found(r"\b(ValueError|TypeError|IndexError|assert)\b", CYTHON) == []
    assert [line for line in found(r"\braise\b", CYTHON) if "MemoryError" not in line] == []


def test_instruction_sets_stand_in_the_c_sources_alone():
    names = r"(?i)\bavx|\bsse[0-9]?\b|\bneon\b|__m(128|256|512)|_mm(256|512)?_|immintrin"
    assert found(names + "|vector_size|__attribute__|__builtin", PYTHON + CYTHON) == []
    # and among them in three: what a vector is, and which sets there are
    intrinsics = {
        line.split(":")[0]
        for line in found(r"_mm(256|512)?_|__m(128|256|512)|__AVX|__aarch64__|immintrin", C)
    }
    assert intrinsics <= {"src_c/vec.h", "src_c/types_tmpl.h"}


def test_the_c_code_neither_allocates_nor_prints_nor_keeps_state():
    calls = (
        r"\b(malloc|calloc|realloc|free|alloca|printf|fprintf|puts|abort|exit|getenv|pthread_\w+|fork)\s*\("
    )
    assert found(calls, C, c_code_without_quotes) == []
    assert found(r"#\s*include\s*<(stdio|stdlib|pthread|omp|signal|errno|assert)", C) == []
    name = r"(\w+|FN\(\w+\))\s*(\[[^\]]*\]\s*)*(=|;)"
    assert found(r"\bstatic\s+(?!const\b|inline\b)[\w\s\*]*\b" + name, C) == []
    keywords = "const|static|extern|typedef|return|FC_INLINE"
    assert found(rf"^(?!({keywords})\b)\w[\w\s\*]*\b" + name, C) == []  # not indented: in file scope
    assert found(r"\b(thread_local|_Thread_local|__thread|volatile)\b", C) == []


def test_padding_becomes_integers_in_geometry_alone():
    """Others pass the words on; one place checks their spelling, another gives them a meaning."""
    word = r"[\"'](SAME|VALID)[\"']"
    comparing = found(rf"[=!]=\s*{word}|{word}\s*[=!]=|\bin\s*[\(\[\{{]\s*{word}", PYTHON)
    assert {line.split(":")[0] for line in comparing} <= {"fastconv/geometry.py", "fastconv/_arguments.py"}
    assert found(r"(?i)[\"'](same|valid)[\"']", CYTHON) == []


def test_the_build_uses_neither_this_machine_nor_loose_arithmetic():
    build = [ROOT / name for name in ("setup.py", "Makefile", "pyproject.toml")]
    flags = r"-m(arch|tune|cpu)=native|-ffast-math|-Ofast|-funsafe-math|-ffinite-math|-fassociative-math"
    assert found(flags, build) == []
    assert (
        found(r"march|fast-math|#\s*pragma\s+(GCC|STDC|clang)\s+(optimize|target|FP_CONTRACT|FENV)", C) == []
    )


def test_checkpoints_and_data_are_never_pickled():
    assert found(r"\bpickle\b|allow_pickle\s*=\s*True", PYTHON) == []
    loads = found(r"\bnp\.load\(", PYTHON)
    assert [line for line in loads if "allow_pickle=False" not in line] == []


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_c_code_compiles_with_one_bare_command(tmp_path):
    bare = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]
    environment = {**os.environ, "LC_ALL": "C"}
    for source, flags in (("kernels.c", ["-DFC_ISA=generic"]), ("dispatch.c", [])):
        command = [*bare, *flags, "-c", str(ROOT / "src_c" / source), "-o", str(tmp_path / "out.o")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
