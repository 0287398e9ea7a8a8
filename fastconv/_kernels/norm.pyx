"""Drivers of the normalizations, and of softmax's loss: rows of channels (pixels) shared out among the threads.

Sums over the rows are taken in runs, whose number depends on the shape alone; each goes from its first row to its last in
double, and the runs are joined in order.  So the bits do not depend on the number of threads.
"""
from libc.math cimport INFINITY, exp, log, sqrt
from libc.string cimport memset

from fastconv._kernels.blocks cimport (
    PIECE, Rows, at_element, ceil_div, cut_rows, piece_place, piece_rows, pieces, row_place, run_start, whole_lines,
)
from fastconv._kernels.dispatch cimport kernels_for
from fastconv._kernels.kernels cimport fc_index, fc_kernels
from fastconv._kernels.memory cimport Block, scratch
from fastconv._kernels.team cimport share

ctypedef fused real:
    float
    double

cdef fc_index RUNS = 16
# Rows that the kernels sum up in the array's own dtype: few enough for the rounding, and still in the cache when moments reads
# them for the second time.  Measured: 16 to 64 are equal.
cdef fc_index BLOCK = 32
# Elements of a piece of lrn, whose arrays and scratch memory are read again and again: they lie in the first-level cache.
cdef fc_index LRN_PIECE = 1 << 11


cdef struct Job:
    const fc_kernels *fc
    Rows rows
    fc_index runs                     # of rows that are summed
    char *y
    const char *x
    const char *dy
    const char *mean                  # [c], and so are
    const char *gain
    const char *offset                # or NULL
    const char *level                 # or NULL, and so is
    const char *tilt
    const char *side                  # as y, or NULL
    bint relu
    double *sums                      # [runs][2][c]
    double *totals                    # [runs][c] scratch memory
    # lrn
    const char *normalized            # its result
    char *padded                      # [threads][padded_bytes]
    fc_index radius, padded_bytes
    double bias, alpha, beta
    # cross_entropy, of logits x
    const char *labels


cdef Job passing(fc_index size, fc_index rows, fc_index c, fc_index elements) noexcept:
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.fc, job.rows, job.runs = kernels_for(size), cut_rows(rows, c, size, elements), min(RUNS, ceil_div(rows, BLOCK))
    return job


cdef void moments_of_run(const void *any_job, fc_index run, int thread) noexcept nogil:
    """sums: the mean of the run's rows, and the sum of the squared deviations from it."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index first = run_start(&job.rows, run, job.runs), last = run_start(&job.rows, run + 1, job.runs), row = first, n
    cdef double *sums = job.sums + 2 * run * job.rows.c
    cdef double *total = job.totals + run * job.rows.c
    memset(sums, 0, 2 * job.rows.c * sizeof(double))
    while row < last:
        n = min(BLOCK, last - row)
        job.fc.column_sum(total, job.x + row_place(&job.rows, row), n, job.rows.c)
        job.fc.moments(sums, row - first, total, job.x + row_place(&job.rows, row), n, job.rows.c)
        row += BLOCK


cdef void gradient_sums_of_run(const void *any_job, fc_index run, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index row = run_start(&job.rows, run, job.runs), last = run_start(&job.rows, run + 1, job.runs), at
    cdef double *sums = job.sums + 2 * run * job.rows.c
    memset(sums, 0, 2 * job.rows.c * sizeof(double))
    while row < last:
        at = row_place(&job.rows, row)
        job.fc.normalize_sums(sums, job.dy + at, job.x + at, job.mean, job.gain, job.offset, min(BLOCK, last - row), job.rows.c)
        row += BLOCK


cdef void join_moments(double *sums, const double *others, fc_index before, fc_index rows, fc_index c) noexcept nogil:
    """Join the moments of other `rows` rows to those of `before` rows (the sources: src_c/norm_tmpl.h)."""
    cdef fc_index ch
    cdef double delta, part = <double>rows / <double>(before + rows)
    for ch in range(c):
        delta = others[ch] - sums[ch]
        sums[ch] += delta * part
        sums[c + ch] += others[c + ch] + delta * delta * part * before


def moments(real[::1] mean, real[::1] variance, const real[:, ::1] x, int num_threads):
    """Of each column of x."""
    cdef Job job = passing(sizeof(real), x.shape[0], x.shape[1], PIECE)
    cdef fc_index i, first, last
    cdef Block block = scratch(job.runs * 3 * job.rows.c * sizeof(double))
    job.x, job.sums = <const char *>&x[0, 0], <double *>block.data
    job.totals = job.sums + 2 * job.runs * job.rows.c
    share(&job, moments_of_run, job.runs, num_threads)
    with nogil:
        for i in range(1, job.runs):
            first, last = run_start(&job.rows, i, job.runs), run_start(&job.rows, i + 1, job.runs)
            join_moments(job.sums, job.sums + 2 * i * job.rows.c, first, last - first, job.rows.c)
        for i in range(job.rows.c):
            mean[i], variance[i] = <real>job.sums[i], <real>(job.sums[job.rows.c + i] / job.rows.count)


cdef void read_channels(Job *job, real *memory, double *r, const real[::1] mean, const real[::1] variance, const real[::1] offset,
                        const real[::1] scale, double epsilon) noexcept:
    """mean, gain = scale / sqrt(variance + epsilon), offset, the last two in memory [2][c] where they are not there yet; None:
    ones, zeros.  r (or NULL) = 1 / sqrt(variance + epsilon)."""
    cdef fc_index i, c = job.rows.c
    cdef double factor
    for i in range(c):
        factor = 1 / sqrt(variance[i] + epsilon)
        memory[i] = <real>(factor * scale[i] if scale is not None else factor)
        if r != NULL:
            r[i] = factor
    memset(memory + c, 0, c * sizeof(real))
    job.mean, job.gain = <const char *>&mean[0], <const char *>memory
    job.offset = <const char *>&offset[0] if offset is not None else <const char *>(memory + c)


def line(real[::1] gain, real[::1] offset, double epsilon, const real[::1] scale, const real[::1] mean,
         const real[::1] variance, const real[::1] shift, const real[::1] before=None):
    """x * gain + offset = (x + before - mean) / sqrt(variance + epsilon) * scale + shift; before: a bias, or None."""
    cdef fc_index i
    cdef double factor, summand
    for i in range(gain.shape[0]):
        factor = scale[i] / sqrt(<double>variance[i] + epsilon)
        summand = <double>before[i] if before is not None else 0.0
        gain[i], offset[i] = <real>factor, <real>(shift[i] + (summand - mean[i]) * factor)


cdef void normalize_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.normalize(job.y + at, job.x + at, job.mean, job.gain, job.offset, at_element(job.side, at, 1), job.relu,
                     piece_rows(&job.rows, task), job.rows.c)


def normalize(real[::1] y, const real[::1] x, const real[::1] mean, const real[::1] variance, const real[::1] offset,
              const real[::1] scale, double epsilon, const real[::1] side, bint relu, int num_threads):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + offset of rows of channels, + side, relu; offset, scale and side may be
    None."""
    cdef Job job = passing(sizeof(real), x.shape[0] // mean.shape[0], mean.shape[0], PIECE)
    cdef Block block = scratch(2 * job.rows.c * sizeof(real))
    read_channels(&job, <real *>block.data, NULL, mean, variance, offset, scale, epsilon)
    job.y, job.x, job.relu = <char *>&y[0], <const char *>&x[0], relu
    if side is not None:
        job.side = <const char *>&side[0]
    share(&job, normalize_piece, pieces(&job.rows), num_threads)


cdef void gradient_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.normalize_grad(job.y + at, job.dy + at, job.x + at, job.mean, job.gain, job.offset, job.level, job.tilt,
                          piece_rows(&job.rows, task), job.rows.c)


def normalize_grad(real[::1] dx, real[::1] dscale, real[::1] doffset, const real[::1] dy, const real[::1] x,
                   const real[::1] mean, const real[::1] variance, const real[::1] offset, const real[::1] scale, double epsilon,
                   bint of_batch, bint relu, int num_threads):
    """The gradients of normalize without a side; of_batch: mean and variance are those of x, and change with it."""
    cdef Job job = passing(sizeof(real), x.shape[0] // mean.shape[0], mean.shape[0], PIECE)
    cdef fc_index c = job.rows.c, i, run
    cdef Block block = scratch((2 * job.runs + 1) * c * sizeof(double) + 4 * c * sizeof(real))
    cdef double *sums = <double *>block.data
    cdef double *r = sums + 2 * job.runs * c
    cdef real *level = <real *>(r + c)
    cdef real *tilt = level + c
    read_channels(&job, tilt + c, r, mean, variance, offset, scale, epsilon)
    job.y, job.dy, job.x, job.sums = <char *>&dx[0], <const char *>&dy[0], <const char *>&x[0], sums
    if not relu:
        job.offset = NULL
    share(&job, gradient_sums_of_run, job.runs, num_threads)
    with nogil:
        for run in range(1, job.runs):
            for i in range(2 * c):
                sums[i] += sums[2 * run * c + i]
        for i in range(c):
            doffset[i], dscale[i] = <real>sums[i], <real>(sums[c + i] * r[i])
            level[i], tilt[i] = <real>(sums[i] / job.rows.count), <real>(sums[c + i] / job.rows.count * r[i] * r[i])
    if of_batch:
        job.level, job.tilt = <const char *>level, <const char *>tilt
    share(&job, gradient_piece, pieces(&job.rows), num_threads)


cdef void lrn_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.lrn(job.y + at, job.padded + thread * job.padded_bytes, job.x + at, piece_rows(&job.rows, task), job.rows.c,
               job.radius, job.bias, job.alpha, job.beta)


cdef void lrn_gradient_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index at = piece_place(&job.rows, task)
    job.fc.lrn_grad(job.y + at, job.padded + thread * job.padded_bytes, job.dy + at, job.x + at, job.normalized + at,
                    piece_rows(&job.rows, task), job.rows.c, job.radius, job.bias, job.alpha, job.beta)


cdef fc_index pad(Job *job, fc_index radius) noexcept:
    """A thread's scratch memory for lrn, in whole cache lines."""
    cdef fc_index rows = min(job.rows.piece, job.rows.count)
    job.radius, job.padded_bytes = radius, whole_lines((rows * (job.rows.c + radius) + radius + job.fc.vl) * job.rows.size)
    return job.padded_bytes


def lrn(real[:, ::1] y, const real[:, ::1] x, fc_index radius, double bias, double alpha, double beta, int num_threads):
    """Local response normalization of rows of channels."""
    cdef Job job = passing(sizeof(real), x.shape[0], x.shape[1], LRN_PIECE)
    cdef Block block = scratch(num_threads * pad(&job, radius))
    job.y, job.x, job.padded = <char *>&y[0, 0], <const char *>&x[0, 0], block.data
    job.bias, job.alpha, job.beta = bias, alpha, beta
    share(&job, lrn_piece, pieces(&job.rows), num_threads)


def lrn_grad(real[:, ::1] dx, const real[:, ::1] dy, const real[:, ::1] x, const real[:, ::1] y, fc_index radius, double bias,
             double alpha, double beta, int num_threads):
    cdef Job job = passing(sizeof(real), x.shape[0], x.shape[1], LRN_PIECE)
    cdef Block block = scratch(num_threads * pad(&job, radius))
    job.y, job.dy, job.x = <char *>&dx[0, 0], <const char *>&dy[0, 0], <const char *>&x[0, 0]
    job.normalized, job.padded = <const char *>&y[0, 0], block.data
    job.bias, job.alpha, job.beta = bias, alpha, beta
    share(&job, lrn_gradient_piece, pieces(&job.rows), num_threads)


cdef double cross_entropy_of(const real *logits, const real *labels, fc_index classes) noexcept nogil:
    """-sum of labels * log(softmax(logits)).  A class of probability 0 costs nothing, even at logit -inf."""
    cdef double largest = -INFINITY, total = 0, log_total, cost = 0
    cdef fc_index i
    for i in range(classes):
        largest = max(largest, logits[i])
    for i in range(classes):
        total += exp(logits[i] - largest)
    log_total = log(total)
    for i in range(classes):
        if labels[i] != 0:
            cost += labels[i] * (log_total - (logits[i] - largest))
    return cost


cdef void cross_entropy_piece(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index first = task * job.rows.piece, row
    cdef const char *x
    cdef const char *labels
    for row in range(first, first + piece_rows(&job.rows, task)):
        x, labels = job.x + row_place(&job.rows, row), job.labels + row_place(&job.rows, row)
        if job.rows.size == sizeof(float):
            (<float *>job.y)[row] = <float>cross_entropy_of(<const float *>x, <const float *>labels, job.rows.c)
        else:
            (<double *>job.y)[row] = cross_entropy_of(<const double *>x, <const double *>labels, job.rows.c)


def cross_entropy(real[::1] loss, const real[:, ::1] labels, const real[:, ::1] logits, int num_threads):
    """Of softmax, of each row."""
    cdef Job job = passing(sizeof(real), logits.shape[0], logits.shape[1], PIECE)
    job.y, job.x, job.labels = <char *>&loss[0], <const char *>&logits[0, 0], <const char *>&labels[0, 0]
    share(&job, cross_entropy_piece, pieces(&job.rows), num_threads)
