"""Memory that is used again: a fresh array costs a page fault for every 4 KB of it, often more than what is computed.

An Arena keeps what was given back and hands it out again.  A block goes back when the array over it, and every view of that, is
gone; so no result is ever overwritten, however long somebody keeps it.
"""
from contextvars import ContextVar

import numpy as np

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

from fastconv._kernels.kernels cimport fc_index

cdef enum:
    MOST_CHUNKS = 256
    LINE = 64
    PAGE = 4096

# Scratch memory outside any model: as much stays with the process.
cdef fc_index PROCESS_BYTES = 8 << 20


cdef class Arena:
    """keep: bytes of free memory that it holds on to; negative: twice as many as were ever in use at once."""

    def __cinit__(self, fc_index keep=-1):
        self.keep = keep

    def __dealloc__(self):
        while self.count:
            self.drop_oldest()

    cdef Block take(self, fc_index n_bytes):
        """The smallest free chunk that fits without wasting more than half of it; else a new one."""
        cdef Block block = Block.__new__(Block)
        cdef fc_index size = (n_bytes + LINE + PAGE - 1) // PAGE * PAGE
        cdef int i, best = -1
        with cython.critical_section(self):
            for i in range(self.count):
                if size <= self.free[i].size <= 2 * size and (best < 0 or self.free[i].size <= self.free[best].size):
                    best = i
            if best >= 0:
                block.chunk = self.free[best]
                self.forget(best)
            else:
                block.chunk = Chunk(<char *>malloc(size), size)
                if block.chunk.raw == NULL:
                    raise MemoryError(f"fastconv: no memory for {n_bytes} bytes")
            self.in_use += block.chunk.size
            self.peak = max(self.peak, self.in_use)
        block.arena, block.n_bytes = self, n_bytes
        block.data = block.chunk.raw + LINE - <fc_index>block.chunk.raw % LINE
        return block

    cdef void give_back(self, Chunk chunk) noexcept:
        cdef fc_index keep = self.keep if self.keep >= 0 else 2 * self.peak
        with cython.critical_section(self):
            self.in_use -= chunk.size
            if chunk.size > keep:
                free(chunk.raw)
                return
            while self.count == MOST_CHUNKS or self.free_bytes + chunk.size > keep:
                self.drop_oldest()
            self.free[self.count] = chunk
            self.count += 1
            self.free_bytes += chunk.size

    cdef void drop_oldest(self) noexcept:
        cdef char *raw = self.free[0].raw
        self.forget(0)
        free(raw)

    cdef void forget(self, int i) noexcept:
        self.free_bytes -= self.free[i].size
        self.count -= 1
        memmove(&self.free[i], &self.free[i + 1], (self.count - i) * sizeof(Chunk))


cdef class Block:
    """Bytes of an Arena, for as long as somebody holds them."""

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.n_bytes, 0, flags)

    def __dealloc__(self):
        if self.chunk.raw != NULL:
            self.arena.give_back(self.chunk)


_process = Arena(PROCESS_BYTES)
_current = ContextVar("fastconv_arena", default=None)


cdef class reusing:
    """`with reusing(arena):` results and scratch memory come from this arena, in this Python thread."""
    cdef Arena arena
    cdef object token

    def __init__(self, Arena arena not None):
        self.arena = arena

    def __enter__(self):
        self.token = _current.set(self.arena)

    def __exit__(self, *error):
        _current.reset(self.token)


def empty(shape, dtype):
    """A new C-contiguous array, as np.empty gives it; from the current arena if there is one."""
    arena = _current.get()
    if arena is None:
        return np.empty(shape, dtype)
    cdef fc_index n_bytes = np.dtype(dtype).itemsize, size  # (of a shape too large np.ndarray raises ValueError)
    for size in shape:
        n_bytes *= size
    return np.ndarray(shape, dtype, (<Arena>arena).take(n_bytes))


cdef Block scratch(fc_index n_bytes):
    arena = _current.get()
    return (<Arena>(_process if arena is None else arena)).take(n_bytes)
