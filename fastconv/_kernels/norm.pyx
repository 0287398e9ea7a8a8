"""Drivers of the normalizations: rows of channels (pixels) shared out among the threads.

Sums over the rows are taken in runs, whose number depends on the shape alone; each goes from its first row to its last in
double, and the runs are joined in order.  So the bits do not depend on the number of threads.
"""
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport sqrt
from libc.string cimport memset

from fastconv._kernels.dispatch cimport kernels_for
from fastconv._kernels.kernels cimport fc_index, fc_kernels
from fastconv._kernels.memory cimport Block, scratch

ctypedef fused real:
    float
    double

cdef fc_index RUNS = 16
# Rows that the kernels sum up in the array's own dtype: few enough for the rounding, and still in the cache when moments reads
# them for the second time.  Measured: 16 to 64 are equal.
cdef fc_index BLOCK = 32
# Elements of a piece of the passes without sums, as in elementwise.pyx.
cdef fc_index PIECE = 1 << 13
# Elements of a piece of lrn, whose arrays and scratch memory are read again and again: they lie in the first-level cache.
cdef fc_index LRN_PIECE = 1 << 11


cdef inline fc_index blocks(fc_index rows) noexcept nogil:
    return (rows + BLOCK - 1) // BLOCK


cdef inline fc_index count_runs(fc_index rows) noexcept nogil:
    return min(RUNS, blocks(rows))


cdef void run_moments(const fc_kernels *fc, double *sums, char *total, const char *x, fc_index rows, fc_index c) noexcept nogil:
    """sums: the mean [c] of so many rows, and the sum [c] of the squared deviations from it; total: scratch memory."""
    cdef fc_index i, row
    memset(sums, 0, 2 * c * sizeof(double))
    for i in range(blocks(rows)):
        row = i * BLOCK
        fc.column_sum(total, x + row * c * fc.itemsize, min(BLOCK, rows - row), c)
        fc.moments(sums, row, total, x + row * c * fc.itemsize, min(BLOCK, rows - row), c)


cdef void run_gradient_sums(const fc_kernels *fc, double *sums, const char *dy, const char *x, const char *mean,
                            const char *gain, const char *offset, fc_index rows, fc_index c) noexcept nogil:
    cdef fc_index i, row, at
    memset(sums, 0, 2 * c * sizeof(double))
    for i in range(blocks(rows)):
        row = i * BLOCK
        at = row * c * fc.itemsize
        fc.normalize_sums(sums, dy + at, x + at, mean, gain, offset, min(BLOCK, rows - row), c)


cdef void join_moments(double *sums, const double *others, fc_index before, fc_index rows, fc_index c) noexcept nogil:
    """Join the moments of other `rows` rows to those of `before` rows (the sources: src_c/norm_tmpl.h)."""
    cdef fc_index ch
    cdef double delta, share = <double>rows / <double>(before + rows)
    for ch in range(c):
        delta = others[ch] - sums[ch]
        sums[ch] += delta * share
        sums[c + ch] += others[c + ch] + delta * delta * share * before


def moments(real[::1] mean, real[::1] variance, const real[:, ::1] x, int num_threads):
    """Of each column of x."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, first, last, rows = x.shape[0], c = x.shape[1], runs = count_runs(rows)
    cdef const char *px = <const char *>&x[0, 0]
    cdef Block block = scratch(runs * 3 * c * sizeof(double))
    cdef double *sums = <double *>block.data
    cdef double *totals = sums + 2 * runs * c
    with nogil:
        with parallel(num_threads=num_threads):
            for i in prange(runs, schedule="static"):
                first, last = i * rows // runs, (i + 1) * rows // runs
                run_moments(fc, sums + 2 * i * c, <char *>(totals + i * c), px + first * c * fc.itemsize, last - first, c)
        for i in range(1, runs):
            first, last = i * rows // runs, (i + 1) * rows // runs
            join_moments(sums, sums + 2 * i * c, first, last - first, c)
        for i in range(c):
            mean[i], variance[i] = <real>sums[i], <real>(sums[c + i] / rows)


def line(real[::1] gain, real[::1] offset, double epsilon, const real[::1] scale, const real[::1] mean,
         const real[::1] variance, const real[::1] shift, const real[::1] before=None):
    """x * gain + offset = (x + before - mean) / sqrt(variance + epsilon) * scale + shift; before: a bias, or None."""
    cdef fc_index i
    cdef double factor, summand
    for i in range(gain.shape[0]):
        factor = scale[i] / sqrt(<double>variance[i] + epsilon)
        summand = <double>before[i] if before is not None else 0.0
        gain[i], offset[i] = <real>factor, <real>(shift[i] + (summand - mean[i]) * factor)


def normalize(real[:, ::1] y, const real[:, ::1] x, const real[::1] mean, const real[::1] gain, const real[::1] offset,
              const real[:, ::1] side, bint relu, int num_threads):
    """y = (x - mean) * gain + offset of rows of channels, + side (or None), relu."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, c = x.shape[1], rows = x.shape[0]
    cdef fc_index step = max(1, PIECE // c)
    cdef real *py = &y[0, 0]
    cdef const real *px = &x[0, 0]
    cdef const real *pm = &mean[0]
    cdef const real *pg = &gain[0]
    cdef const real *po = &offset[0]
    cdef const real *ps = NULL
    if side is not None:
        ps = &side[0, 0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange((rows + step - 1) // step, schedule="static"):
            fc.normalize(py + i * step * c, px + i * step * c, pm, pg, po, ps + i * step * c if ps != NULL else NULL, relu,
                         min(step, rows - i * step), c)


def normalize_sums(double[:, ::1] total, const real[:, ::1] dy, const real[:, ::1] x, const real[::1] mean,
                   const real[::1] gain, const real[::1] offset, int num_threads):
    """total[0] = the sum over the rows of dy, total[1] = that of dy * (x - mean); offset (or None): dy behind a relu."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, first, last, rows = x.shape[0], c = x.shape[1], runs = count_runs(rows)
    cdef const char *pdy = <const char *>&dy[0, 0]
    cdef const char *px = <const char *>&x[0, 0]
    cdef const char *pm = <const char *>&mean[0]
    cdef const char *pg = <const char *>&gain[0]
    cdef const char *po = NULL
    cdef double *out = &total[0, 0]
    cdef Block block = scratch(runs * 2 * c * sizeof(double))
    cdef double *sums = <double *>block.data
    if offset is not None:
        po = <const char *>&offset[0]
    with nogil:
        with parallel(num_threads=num_threads):
            for i in prange(runs, schedule="static"):
                first, last = i * rows // runs, (i + 1) * rows // runs
                run_gradient_sums(fc, sums + 2 * i * c, pdy + first * c * fc.itemsize, px + first * c * fc.itemsize, pm, pg, po,
                                  last - first, c)
        memset(out, 0, 2 * c * sizeof(double))
        for first in range(runs):
            for i in range(2 * c):
                out[i] += sums[2 * first * c + i]


def normalize_grad(real[:, ::1] dx, const real[:, ::1] dy, const real[:, ::1] x, const real[::1] mean, const real[::1] gain,
                   const real[::1] offset, const real[::1] level, const real[::1] tilt, int num_threads):
    """dx = (dy - level - (x - mean) * tilt) * gain of rows of channels; offset (or None): dy behind a relu."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, c = x.shape[1], rows = x.shape[0]
    cdef fc_index step = max(1, PIECE // c)
    cdef real *pdx = &dx[0, 0]
    cdef const real *pdy = &dy[0, 0]
    cdef const real *px = &x[0, 0]
    cdef const real *pm = &mean[0]
    cdef const real *pg = &gain[0]
    cdef const real *po = NULL
    cdef const real *pl = &level[0]
    cdef const real *pt = &tilt[0]
    if offset is not None:
        po = &offset[0]
    with nogil, parallel(num_threads=num_threads):
        for i in prange((rows + step - 1) // step, schedule="static"):
            fc.normalize_grad(pdx + i * step * c, pdy + i * step * c, px + i * step * c, pm, pg, po, pl, pt,
                              min(step, rows - i * step), c)


cdef inline fc_index padded_bytes(const fc_kernels *fc, fc_index rows, fc_index c, fc_index radius) noexcept nogil:
    """Scratch memory of a thread for lrn, in whole cache lines."""
    return ((rows * (c + radius) + radius + fc.vl) * fc.itemsize + 63) // 64 * 64


def lrn(real[:, ::1] y, const real[:, ::1] x, fc_index radius, double bias, double alpha, double beta, int num_threads):
    """Local response normalization of rows of channels."""
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, c = x.shape[1], rows = x.shape[0]
    cdef fc_index step = min(rows, max(1, LRN_PIECE // c)), n_bytes = padded_bytes(fc, step, c, radius)
    cdef real *py = &y[0, 0]
    cdef const real *px = &x[0, 0]
    cdef Block block = scratch(num_threads * n_bytes)
    cdef char *padded = block.data
    with nogil, parallel(num_threads=num_threads):
        for i in prange((rows + step - 1) // step, schedule="static"):
            fc.lrn(py + i * step * c, padded + threadid() * n_bytes, px + i * step * c, min(step, rows - i * step), c, radius,
                   bias, alpha, beta)


def lrn_grad(real[:, ::1] dx, const real[:, ::1] dy, const real[:, ::1] x, const real[:, ::1] y, fc_index radius, double bias,
             double alpha, double beta, int num_threads):
    cdef const fc_kernels *fc = kernels_for(sizeof(real))
    cdef fc_index i, c = x.shape[1], rows = x.shape[0]
    cdef fc_index step = min(rows, max(1, LRN_PIECE // c)), n_bytes = padded_bytes(fc, step, c, radius)
    cdef real *pdx = &dx[0, 0]
    cdef const real *pdy = &dy[0, 0]
    cdef const real *px = &x[0, 0]
    cdef const real *py = &y[0, 0]
    cdef Block block = scratch(num_threads * n_bytes)
    cdef char *padded = block.data
    with nogil, parallel(num_threads=num_threads):
        for i in prange((rows + step - 1) // step, schedule="static"):
            fc.lrn_grad(pdx + i * step * c, padded + threadid() * n_bytes, pdy + i * step * c, px + i * step * c,
                        py + i * step * c, min(step, rows - i * step), c, radius, bias, alpha, beta)
