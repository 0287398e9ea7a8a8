"""Drivers of the passes over flat arrays: each cut into pieces of a few cache blocks, shared out among the threads."""
from cython.parallel cimport parallel, prange
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastconv._kernels.dispatch cimport kernels_for
from fastconv._kernels.kernels cimport fc_index, fc_kernels

ctypedef fused real:
    float
    double

# Elements of a piece: a multiple of Philox' four, small enough for the second-level cache with four arrays of doubles.
cdef fc_index PIECE = 1 << 13
# column_sum adds up in so many runs of rows at most, whatever the number of threads, so that its bits do not depend on it.
cdef fc_index RUNS = 16
# So many rows are summed in their own dtype, and these sums in doubles: equal numbers in one long sum would round the same way
# again and again (0.1 a million times: by 1e-3 of the result).
cdef fc_index BLOCK = 128


cdef inline fc_index pieces(fc_index n) noexcept nogil:
    return (n + PIECE - 1) // PIECE


cdef inline fc_index length(fc_index n, fc_index piece) noexcept nogil:
    return min(PIECE, n - piece * PIECE)


def relu(real[::1] y, const real[::1] x, int num_threads):
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, n = x.shape[0]
    cdef real *py = &y[0]
    cdef const real *px = &x[0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange(pieces(n), schedule="static"):
            fc.relu(py + i * PIECE, px + i * PIECE, length(n, i))


ctypedef void (*of_two)(void *, const void *, const void *, fc_index) noexcept nogil


cdef void run(of_two kernel, real[::1] y, const real[::1] a, const real[::1] b, int num_threads) noexcept:
    cdef fc_index i, n = y.shape[0]
    cdef real *py = &y[0]
    cdef const real *pa = &a[0]
    cdef const real *pb = &b[0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange(pieces(n), schedule="static"):
            kernel(py + i * PIECE, pa + i * PIECE, pb + i * PIECE, length(n, i))


def add(real[::1] y, const real[::1] a, const real[::1] b, int num_threads):
    run(kernels_for(sizeof(real)).sum, y, a, b, num_threads)


def relu_grad(real[::1] dx, const real[::1] dy, const real[::1] y, int num_threads):
    run(kernels_for(sizeof(real)).relu_grad, dx, dy, y, num_threads)


def sigmoid_grad(real[::1] dx, const real[::1] y, const real[::1] dy, int num_threads):
    run(kernels_for(sizeof(real)).sigmoid_grad, dx, y, dy, num_threads)


def tanh_grad(real[::1] dx, const real[::1] y, const real[::1] dy, int num_threads):
    run(kernels_for(sizeof(real)).tanh_grad, dx, y, dy, num_threads)


def dropout(real[::1] y, const real[::1] x, uint64_t seed, uint32_t threshold, double scale, int num_threads,
            uint8_t[::1] where=None):
    """where: a pool's bytes of the same elements, which become FC_DEAD where an element is dropped."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, n = x.shape[0]
    cdef real *py = &y[0]
    cdef const real *px = &x[0]
    cdef uint8_t *bytes = NULL if where is None else &where[0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange(pieces(n), schedule="static"):
            fc.dropout(py + i * PIECE, bytes + i * PIECE if bytes != NULL else NULL, px + i * PIECE, length(n, i),
                       i * PIECE // 4, seed, threshold, scale)


def bias_add(real[:, ::1] y, const real[:, ::1] x, const real[::1] bias, int num_threads):
    """Rows of channels."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, c = x.shape[1], rows = x.shape[0]
    cdef fc_index step = max(1, PIECE // c)
    cdef real *py = &y[0, 0]
    cdef const real *px = &x[0, 0]
    cdef const real *pb = &bias[0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange((rows + step - 1) // step, schedule="static"):
            fc.bias_add(py + i * step * c, px + i * step * c, pb, min(step, rows - i * step), c)


cdef void copy_rows(char *to, fc_index to_step, const char *source, fc_index source_step, fc_index rows, fc_index size,
                    int num_threads) noexcept:
    """Rows of `size` bytes, so many bytes apart."""
    cdef fc_index i, r, step = max(1, 4 * PIECE // size)
    with nogil, parallel(num_threads=num_threads):
        for i in prange((rows + step - 1) // step, schedule="static"):
            for r in range(i * step, min(rows, (i + 1) * step)):
                memcpy(to + r * to_step, source + r * source_step, size)


def join(real[:, ::1] whole, const real[:, ::1] part, fc_index first, int num_threads):
    """Channels first .. of rows of channels become those of the part."""
    copy_rows(<char *>(&whole[0, 0] + first), whole.shape[1] * sizeof(real), <const char *>&part[0, 0],
              part.shape[1] * sizeof(real), part.shape[0], part.shape[1] * sizeof(real), num_threads)


def split(const real[:, ::1] whole, real[:, ::1] part, fc_index first, int num_threads):
    """The reverse of join."""
    copy_rows(<char *>&part[0, 0], part.shape[1] * sizeof(real), <const char *>(&whole[0, 0] + first),
              whole.shape[1] * sizeof(real), part.shape[0], part.shape[1] * sizeof(real), num_threads)


cdef void add_run(const fc_kernels *fc, double *sum, real *block, const real *x, fc_index rows, fc_index c) noexcept nogil:
    """sum[c] += the sum of so many rows of x; block[c]: scratch memory."""
    cdef fc_index first, channel, i
    for i in range((rows + BLOCK - 1) // BLOCK):
        first = i * BLOCK
        fc.column_sum(block, x + first * c, min(BLOCK, rows - first), c)
        for channel in range(c):
            sum[channel] += block[channel]


def column_sum(real[::1] total, const real[:, ::1] x, int num_threads):
    """total[c] = the sum of x's rows: partial sums, added in order."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, run, c = x.shape[1], rows = x.shape[0], runs = min(RUNS, (rows + BLOCK - 1) // BLOCK)
    cdef const real *px = &x[0, 0]
    cdef double *partial = <double *>calloc(2 * runs * c, sizeof(double))  # and behind each a block's sum
    if partial == NULL:
        raise MemoryError("fastconv: no memory for the partial sums of a bias gradient")
    with nogil:
        with parallel(num_threads=num_threads):
            for run in prange(runs, schedule="static"):
                add_run(fc, partial + 2 * run * c, <real *>(partial + (2 * run + 1) * c), px + run * rows // runs * c,
                        (run + 1) * rows // runs - run * rows // runs, c)
        for run in range(1, runs):
            for i in range(c):
                partial[i] += partial[2 * run * c + i]
        for i in range(c):
            total[i] = <real>partial[i]
        free(partial)


def adam(real[::1] parameters, const real[::1] gradients, real[::1] m, real[::1] v, double rate, double beta_1, double beta_2,
         double epsilon, int num_threads):
    """One step of Adam, in place; `rate` holds the bias correction."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, n = parameters.shape[0]
    cdef real *pp = &parameters[0]
    cdef const real *pg = &gradients[0]
    cdef real *pm = &m[0]
    cdef real *pv = &v[0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange(pieces(n), schedule="static"):
            fc.adam(pp + i * PIECE, pg + i * PIECE, pm + i * PIECE, pv + i * PIECE, length(n, i), rate, beta_1, beta_2, epsilon)


def sgd(real[::1] parameters, const real[::1] gradients, real[::1] velocity, double rate, double momentum, int num_threads):
    """One step of SGD with momentum, in place."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, n = parameters.shape[0]
    cdef real *pp = &parameters[0]
    cdef const real *pg = &gradients[0]
    cdef real *pv = &velocity[0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange(pieces(n), schedule="static"):
            fc.sgd(pp + i * PIECE, pg + i * PIECE, pv + i * PIECE, length(n, i), rate, momentum)
