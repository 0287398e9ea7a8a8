from fastconv._kernels.kernels cimport fc_index

# Computes one of a job's tasks in one of its threads, 0, 1, .. num_threads - 1: so each has scratch memory of its own.
ctypedef void (*compute_task)(const void *job, fc_index task, int thread) noexcept nogil

# All tasks of a job, 0, 1, .. count - 1, each once, in any order and by any thread, without the GIL; returns when they are done.
cdef void share(const void *job, compute_task compute, fc_index count, int num_threads) noexcept
# The same of a job's two phases, of which the second begins when the first is done.
cdef void share_phases(const void *job, compute_task first, fc_index first_count, compute_task second, fc_index second_count,
                       int num_threads) noexcept
