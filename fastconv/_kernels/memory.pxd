from fastconv._kernels.kernels cimport fc_index

cdef struct Chunk:                    # of memory: what malloc gave
    char *raw
    fc_index size

cdef class Arena:
    cdef fc_index keep, in_use, peak, free_bytes
    cdef int count
    cdef Chunk free[256]              # oldest first
    cdef Block take(self, fc_index n_bytes)
    cdef void give_back(self, Chunk chunk) noexcept
    cdef void drop_oldest(self) noexcept
    cdef void forget(self, int i) noexcept

cdef class Block:
    cdef Arena arena
    cdef Chunk chunk
    cdef char *data                   # 64-byte aligned
    cdef fc_index n_bytes

cdef Block scratch(fc_index n_bytes)
