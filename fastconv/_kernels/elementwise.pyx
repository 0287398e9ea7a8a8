"""Drivers of the passes over arrays: each cut into pieces of a few cache blocks, shared out among the threads."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastconv._kernels.blocks cimport PIECE, Rows, ceil_div, cut_rows, piece_place, piece_rows, pieces, row_place, run_start
from fastconv._kernels.dispatch cimport kernels_for
from fastconv._kernels.kernels cimport fc_index, fc_kernels
from fastconv._kernels.team cimport share

ctypedef fused real:
    float
    double

# column_sum adds up in so many runs of rows at most, whatever the number of threads, so that its bits do not depend on it.
cdef fc_index RUNS = 16
# So many rows are summed in their own dtype, and these sums in doubles: equal numbers in one long sum would round the same way
# again and again (0.1 a million times: by 1e-3 of the result).
cdef fc_index BLOCK = 128


ctypedef void (*of_two)(void *, const void *, const void *, fc_index) noexcept nogil

cdef struct Job:
    const fc_kernels *fc
    Rows rows
    char *y
    const char *x
    const char *other                 # as x, or of one row
    of_two kernel
    # dropout
    uint8_t *where                    # as x, or NULL
    uint64_t seed
    uint32_t threshold
    double scale
    # copy
    fc_index y_step, x_step, row_bytes
    # column_sum
    fc_index runs
    double *partial                   # [runs][2][c] a run's sum, and memory for a block's
    # adam, sgd
    char *m
    char *v
    double rate, beta_1, beta_2, epsilon, momentum


cdef Job passing(fc_index size, fc_index rows, fc_index c) noexcept:
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.fc, job.rows = kernels_for(size), cut_rows(rows, c, size, PIECE)
    return job


cdef void relu_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.relu(job.y + at, job.x + at, piece_rows(&job.rows, task))


def relu(real[::1] y, const real[::1] x, int num_threads):
    cdef Job job = passing(sizeof(real), x.shape[0], 1)
    job.y, job.x = <char *>&y[0], <const char *>&x[0]
    share(&job, relu_piece, pieces(&job.rows), num_threads)


cdef void piece_of_two(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.kernel(job.y + at, job.x + at, job.other + at, piece_rows(&job.rows, task))


cdef void run(of_two kernel, real[::1] y, const real[::1] a, const real[::1] b, int num_threads) noexcept:
    cdef Job job = passing(sizeof(real), y.shape[0], 1)
    job.kernel, job.y, job.x, job.other = kernel, <char *>&y[0], <const char *>&a[0], <const char *>&b[0]
    share(&job, piece_of_two, pieces(&job.rows), num_threads)


def add(real[::1] y, const real[::1] a, const real[::1] b, int num_threads):
    run(kernels_for(sizeof(real)).sum, y, a, b, num_threads)


def relu_grad(real[::1] dx, const real[::1] dy, const real[::1] y, int num_threads):
    run(kernels_for(sizeof(real)).relu_grad, dx, dy, y, num_threads)


def sigmoid_grad(real[::1] dx, const real[::1] y, const real[::1] dy, int num_threads):
    run(kernels_for(sizeof(real)).sigmoid_grad, dx, y, dy, num_threads)


def tanh_grad(real[::1] dx, const real[::1] y, const real[::1] dy, int num_threads):
    run(kernels_for(sizeof(real)).tanh_grad, dx, y, dy, num_threads)


cdef void dropout_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task), first = task * job.rows.piece
    job.fc.dropout(job.y + at, job.where + first if job.where != NULL else NULL, job.x + at, piece_rows(&job.rows, task),
                   first // 4, job.seed, job.threshold, job.scale)


def dropout(real[::1] y, const real[::1] x, uint64_t seed, uint32_t threshold, double scale, int num_threads,
            uint8_t[::1] where=None):
    """where: a pool's bytes of the same elements, which become FC_DEAD where an element is dropped."""
    cdef Job job = passing(sizeof(real), x.shape[0], 1)
    job.y, job.x, job.where = <char *>&y[0], <const char *>&x[0], NULL if where is None else &where[0]
    job.seed, job.threshold, job.scale = seed, threshold, scale
    share(&job, dropout_piece, pieces(&job.rows), num_threads)


cdef void bias_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.bias_add(job.y + at, job.x + at, job.other, piece_rows(&job.rows, task), job.rows.c)


def bias_add(real[:, ::1] y, const real[:, ::1] x, const real[::1] bias, int num_threads):
    """Rows of channels."""
    cdef Job job = passing(sizeof(real), x.shape[0], x.shape[1])
    job.y, job.x, job.other = <char *>&y[0, 0], <const char *>&x[0, 0], <const char *>&bias[0]
    share(&job, bias_piece, pieces(&job.rows), num_threads)


cdef void copy_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index first = task * job.rows.piece, r
    for r in range(first, first + piece_rows(&job.rows, task)):
        memcpy(job.y + r * job.y_step, job.x + r * job.x_step, job.row_bytes)


cdef void copy(real[:, ::1] y, fc_index y_first, const real[:, ::1] x, fc_index x_first, fc_index c, int num_threads) noexcept:
    """Channels x_first .. x_first + c - 1 of rows of channels become those from y_first on."""
    cdef Job job = passing(sizeof(real), x.shape[0], c)
    job.y, job.x = <char *>(&y[0, 0] + y_first), <const char *>(&x[0, 0] + x_first)
    job.y_step, job.x_step, job.row_bytes = y.shape[1] * sizeof(real), x.shape[1] * sizeof(real), c * sizeof(real)
    share(&job, copy_piece, pieces(&job.rows), num_threads)


def join(real[:, ::1] whole, const real[:, ::1] part, fc_index first, int num_threads):
    """Channels first .. of rows of channels become those of the part."""
    copy(whole, first, part, 0, part.shape[1], num_threads)


def split(const real[:, ::1] whole, real[:, ::1] part, fc_index first, int num_threads):
    """The reverse of join."""
    copy(part, 0, whole, first, part.shape[1], num_threads)


cdef inline void add_block(double *sum, const real *block, fc_index c) noexcept nogil:
    cdef fc_index i
    for i in range(c):
        sum[i] += block[i]


cdef void sum_run(const void *any_job, fc_index run, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index row = run_start(&job.rows, run, job.runs), last = run_start(&job.rows, run + 1, job.runs)
    cdef double *sum = job.partial + 2 * run * job.rows.c
    cdef void *block = sum + job.rows.c
    while row < last:
        job.fc.column_sum(block, job.x + row_place(&job.rows, row), min(BLOCK, last - row), job.rows.c)
        if job.rows.size == sizeof(float):
            add_block(sum, <const float *>block, job.rows.c)
        else:
            add_block(sum, <const double *>block, job.rows.c)
        row += BLOCK


def column_sum(real[::1] total, const real[:, ::1] x, int num_threads):
    """total[c] = the sum of x's rows: partial sums, added in order."""
    cdef Job job = passing(sizeof(real), x.shape[0], x.shape[1])
    cdef fc_index i, run
    job.x, job.runs = <const char *>&x[0, 0], min(RUNS, ceil_div(job.rows.count, BLOCK))
    job.partial = <double *>calloc(2 * job.runs * job.rows.c, sizeof(double))
    if job.partial == NULL:
        raise MemoryError("fastconv: no memory for the partial sums of a bias gradient")
    share(&job, sum_run, job.runs, num_threads)
    with nogil:
        for run in range(1, job.runs):
            for i in range(job.rows.c):
                job.partial[i] += job.partial[2 * run * job.rows.c + i]
        for i in range(job.rows.c):
            total[i] = <real>job.partial[i]
        free(job.partial)


cdef void adam_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.adam(job.y + at, job.x + at, job.m + at, job.v + at, piece_rows(&job.rows, task), job.rate, job.beta_1, job.beta_2,
                job.epsilon)


def adam(real[::1] parameters, const real[::1] gradients, real[::1] m, real[::1] v, double rate, double beta_1, double beta_2,
         double epsilon, int num_threads):
    """One step of Adam, in place; `rate` holds the bias correction."""
    cdef Job job = passing(sizeof(real), parameters.shape[0], 1)
    job.y, job.x, job.m, job.v = <char *>&parameters[0], <const char *>&gradients[0], <char *>&m[0], <char *>&v[0]
    job.rate, job.beta_1, job.beta_2, job.epsilon = rate, beta_1, beta_2, epsilon
    share(&job, adam_piece, pieces(&job.rows), num_threads)


cdef void sgd_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.sgd(job.y + at, job.x + at, job.v + at, piece_rows(&job.rows, task), job.rate, job.momentum)


def sgd(real[::1] parameters, const real[::1] gradients, real[::1] velocity, double rate, double momentum, int num_threads):
    """One step of SGD with momentum, in place."""
    cdef Job job = passing(sizeof(real), parameters.shape[0], 1)
    job.y, job.x, job.v = <char *>&parameters[0], <const char *>&gradients[0], <char *>&velocity[0]
    job.rate, job.momentum = rate, momentum
    share(&job, sgd_piece, pieces(&job.rows), num_threads)
