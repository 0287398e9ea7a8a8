"""Pooling's drivers: rows shared out among the threads, of the result or of the gradient that gathers; an average's gradient by
images and channels.

A max pool's gradient finds the windows' maxima anew if nobody has kept their taps: a byte for each, which the gathering reads. Of
windows side by side each writes its own pixels at once.

An average's adds window by window and meets the same pixel from several rows, so a thread owns a whole image, or some of its
channels: no two threads meet, and the order of the sums does not depend on their number.
"""
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastconv._kernels.blocks cimport whole_lines
from fastconv._kernels.dispatch cimport kernels_for
from fastconv._kernels.kernels cimport fc_index, fc_kernels
from fastconv._kernels.memory cimport Block, scratch
from fastconv._kernels.team cimport compute_task, share, share_phases

ctypedef fused real:
    float
    double

MOST_TAPS = 255  # of a window whose taps a byte tells apart

# With fewer images than this the gradient's channels are shared out too, so many at a time: some whole cache lines.
cdef fc_index FEW_IMAGES = 16
cdef fc_index CHANNELS = 64

# A max pool's gradient larger than this goes past the caches, which could not keep it for its reader.  Measured on Zen 4 with
# 32 MB of last-level cache, gradient and a copy of it after: 5 MB take 1.5 times as long so, 10 MB the same, 19 and 26 MB 0.7.
cdef fc_index STREAM_BYTES = 16 << 20

cdef struct Job:
    const fc_kernels *fc
    fc_index size                    # bytes of an element
    bint average                     # not the maximum
    const char *x                    # [n][h][w][c]
    char *y                          # [n][oh][ow][c]
    int64_t *argmax                  # [n][oh][ow][c] or NULL
    uint8_t *where                   # [n][oh][ow][c] or NULL
    char *row                        # [threads][row_bytes] a row of results that nobody asks for
    fc_index row_bytes
    const char *dy                   # [n][oh][ow][c]
    char *dx                         # [n][h][w][c]
    fc_index n, h, w, c, oh, ow
    fc_index kh, kw, sh, sw          # windows and their steps
    fc_index above, beside           # padding before the image
    fc_index channels, blocks        # the gradient's share of channels
    bint fresh                       # windows lie side by side: the gradient writes each pixel once
    fc_index *top                    # [oh] first row of a window, clipped to the image
    fc_index *bottom                 # [oh] one past the last
    fc_index *left                   # [ow]
    fc_index *right


cdef void clip(fc_index *first, fc_index *last, axis) except *:
    """The pixels of each window of a geometry.Axis that lie in the image."""
    cdef fc_index i, start
    cdef fc_index size = axis.size, kernel = axis.kernel, stride = axis.stride, before = axis.before
    for i in range(axis.out):
        start = i * stride - before
        first[i] = max(start, 0)
        last[i] = min(start + kernel, size)


cdef bint side_by_side(const fc_index *first, const fc_index *last, fc_index count, fc_index size) noexcept nogil:
    """Whether the windows cover 0 .. size - 1 without overlap or gap."""
    cdef fc_index i
    for i in range(count - 1):
        if last[i] != first[i + 1]:
            return False
    return first[0] == 0 and last[count - 1] == size


cdef int plan(Job *job, fc_index size, vertical, horizontal) except -1:
    job.fc, job.size = kernels_for(size), size
    job.h, job.w, job.oh, job.ow = vertical.size, horizontal.size, vertical.out, horizontal.out
    job.kh, job.kw, job.sh, job.sw = vertical.kernel, horizontal.kernel, vertical.stride, horizontal.stride
    job.above, job.beside = vertical.before, horizontal.before
    job.top = <fc_index *>malloc((2 * (job.oh + job.ow) + 1) * sizeof(fc_index))
    if job.top == NULL:
        raise MemoryError("fastconv: no memory for the tables of a pooling")
    job.bottom = job.top + job.oh
    job.left = job.bottom + job.oh
    job.right = job.left + job.ow
    clip(job.top, job.bottom, vertical)
    clip(job.left, job.right, horizontal)
    job.fresh = (side_by_side(job.top, job.bottom, job.oh, job.bottom[job.oh - 1])
                 and side_by_side(job.left, job.right, job.ow, job.w))
    return 0


cdef inline const char *window_row(const Job *job, fc_index task) noexcept nogil:
    """The first row that the windows of one row of results see."""
    return job.x + (task // job.oh * job.h + job.top[task % job.oh]) * job.w * job.c * job.size


cdef void pool_row(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index oh = task % job.oh, h = job.bottom[oh] - job.top[oh], row = job.w * job.c
    cdef const char *x = window_row(job, task)
    cdef char *y = job.y + task * job.ow * job.c * job.size
    if job.average:
        job.fc.avg_pool_row(y, x, row, h, job.left, job.right, job.ow, job.c)
    elif job.argmax != NULL:
        argmax_row(job, y, job.argmax + task * job.ow * job.c, x, oh)
    else:
        max_row(job, y, job.where + task * job.ow * job.c if job.where != NULL else NULL, x, oh)


cdef fc_index run_of_windows(const Job *job, fc_index ow) noexcept nogil:
    """How many from this one on lie within the image's width; those that it clips are taken one by one."""
    cdef fc_index whole = min((job.w + job.beside - job.kw) // job.sw + 1, job.ow)
    return max(whole - ow, 1) if ow * job.sw >= job.beside else 1


cdef void max_row(const Job *job, char *y, uint8_t *where, const char *x, fc_index oh) noexcept nogil:
    cdef fc_index ow = 0, m, left
    cdef fc_index first = (job.top[oh] - oh * job.sh + job.above) * job.kw  # tap of the row's first one
    while ow < job.ow:
        left = ow * job.sw - job.beside
        m = run_of_windows(job, ow)
        job.fc.max_pool(y + ow * job.c * job.size, where + ow * job.c if where != NULL else NULL,
                        x + job.left[ow] * job.c * job.size, job.w * job.c, job.bottom[oh] - job.top[oh],
                        job.right[ow] - job.left[ow], job.sw, m, job.c, first + job.left[ow] - left, job.kw,
                        job.sh if job.sh <= job.kh else 0)
        ow += m


cdef void find_row(const void *any_job, fc_index task, int thread) noexcept nogil:
    """The bytes of one row of results."""
    cdef const Job *job = <const Job *>any_job
    max_row(job, job.row + thread * job.row_bytes, job.where + task * job.ow * job.c, window_row(job, task), task % job.oh)


cdef inline bint streams(const Job *job) noexcept nogil:
    return job.n * job.h * job.w * job.c * job.size > STREAM_BYTES


cdef void spread_row(const void *any_job, fc_index task, int thread) noexcept nogil:
    """The rows of dx under one row of windows; behind the last one also those below."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index oh = task % job.oh, ow = 0, m, row = job.w * job.c
    cdef char *dx = job.dx + (task // job.oh * job.h + job.top[oh]) * row * job.size
    cdef const char *x = window_row(job, task)
    while ow < job.ow:
        m = run_of_windows(job, ow)
        job.fc.max_pool_spread(dx + job.left[ow] * job.c * job.size, x + job.left[ow] * job.c * job.size,
                               job.dy + (task * job.ow + ow) * job.c * job.size, row, job.bottom[oh] - job.top[oh],
                               job.right[ow] - job.left[ow], m, job.c, job.sh, streams(job))
        ow += m
    if oh == job.oh - 1:
        memset(dx + (job.bottom[oh] - job.top[oh]) * row * job.size, 0, (job.h - job.bottom[oh]) * row * job.size)


cdef void argmax_row(const Job *job, char *y, int64_t *argmax, const char *x, fc_index oh) noexcept nogil:
    cdef fc_index i
    job.fc.max_pool_argmax_row(y, argmax, x, job.w * job.c, job.bottom[oh] - job.top[oh], job.w, job.left, job.right, job.ow,
                               job.c)
    for i in range(job.ow * job.c):  # from pixels below the window's first row to TensorFlow's (h * W + w) * C + c
        argmax[i] = (job.top[oh] * job.w + argmax[i]) * job.c + i % job.c


cdef fc_index first_window(fc_index at, fc_index kernel, fc_index stride) noexcept nogil:
    """Of those that see pixel `at` of the padded image."""
    return 0 if at < kernel else (at - kernel) // stride + 1


cdef void gather_row(const void *any_job, fc_index task, int thread) noexcept nogil:
    """One row of dx: pixels a stride apart lie alike in their windows, and are a run."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index n = task // job.h, at = task % job.h + job.above, row = job.ow * job.c, phase, q
    cdef fc_index top = first_window(at, job.kh, job.sh), rows = max(min(at // job.sh + 1, job.oh) - top, 0)
    cdef const char *dy = job.dy + (n * job.oh + top) * row * job.size
    cdef const uint8_t *where = job.where + (n * job.oh + top) * row
    cdef char *dx = job.dx + task * job.w * job.c * job.size
    for phase in range(min(job.sw, job.w)):
        q = phase
        while q < job.w:
            q += job.sw * gather_pixels(job, dx + q * job.c * job.size, dy, where, rows, (at - top * job.sh) * job.kw, q)


cdef fc_index gather_pixels(const Job *job, char *dx, const char *dy, const uint8_t *where, fc_index rows, fc_index tap,
                            fc_index q) noexcept nogil:
    """From pixel q on as many as have all their windows, or q alone; returns their number."""
    cdef fc_index at = q + job.beside, left = first_window(at, job.kw, job.sw), last = at // job.sw, m = 1
    if at >= job.kw - 1 and last < job.ow:
        m = min(job.ow - last, (job.w - 1 - q) // job.sw + 1)
    job.fc.max_pool_gather(dx, job.sw, dy + left * job.c * job.size, where + left * job.c, job.ow * job.c, rows,
                           max(min(last + 1, job.ow) - left, 0), m, job.c, tap + at - left * job.sw, job.sh * job.kw, job.sw,
                           job.fresh, streams(job))
    return m


cdef void clear_rows(const Job *job, char *dx, fc_index first_row, fc_index last_row, fc_index count) noexcept nogil:
    """Zeros into `count` channels of these rows."""
    cdef fc_index pixel
    if count == job.c:
        memset(dx + first_row * job.w * job.c * job.size, 0, (last_row - first_row) * job.w * job.c * job.size)
    else:
        for pixel in range(first_row * job.w, last_row * job.w):
            memset(dx + pixel * job.c * job.size, 0, count * job.size)


cdef void average_grad(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index n = task // job.blocks, first = task % job.blocks * job.channels, oh, row = job.w * job.c, x_at, y_at
    cdef fc_index count = min(job.channels, job.c - first), cleared = 0
    cdef char *dx = job.dx + (n * job.h * row + first) * job.size
    for oh in range(job.oh):
        # Just before the first window reaches them: they are still in the cache when it adds.
        if not job.fresh:
            clear_rows(job, dx, cleared, job.bottom[oh], count)
        cleared = job.bottom[oh]
        x_at = ((n * job.h + job.top[oh]) * row + first) * job.size
        y_at = ((n * job.oh + oh) * job.ow * job.c + first) * job.size
        job.fc.avg_pool_grad_row(job.dx + x_at, job.dy + y_at, row, job.bottom[oh] - job.top[oh], job.left, job.right, job.ow,
                                 job.c, count, job.fresh)
    clear_rows(job, dx, cleared, job.h, count)


cdef int run(Job *job, compute_task compute, fc_index count, fc_index size, vertical, horizontal, int num_threads) except -1:
    try:
        plan(job, size, vertical, horizontal)
        share(job, compute, count, num_threads)
    finally:
        free(job.top)
    return 0


cdef int run_max_grad(Job *job, fc_index size, vertical, horizontal, int num_threads) except -1:
    """Where windows overlap, their maxima's bytes first.  Nobody asks for the maxima themselves: a thread writes each row of them
    over the one before."""
    cdef fc_index row
    cdef Block block
    try:
        plan(job, size, vertical, horizontal)
        if job.fresh:
            share(job, spread_row, job.n * job.oh, num_threads)
            return 0
        row = job.ow * job.c
        job.row_bytes = whole_lines(row * size)
        block = scratch(num_threads * job.row_bytes + job.n * job.oh * row)
        job.row = block.data
        job.where = <uint8_t *>block.data + num_threads * job.row_bytes
        share_phases(job, find_row, job.n * job.oh, gather_row, job.n * job.h, num_threads)
    finally:
        free(job.top)
    return 0


def max_pool(real[:, :, :, ::1] y, int64_t[:, :, :, ::1] argmax, uint8_t[:, :, :, ::1] where, const real[:, :, :, ::1] x,
             vertical, horizontal, int num_threads):
    """y, argmax (or None) within each image, and else `where` (or None): the tap of each maximum in its window, row by row.

    The windows are those of two geometry.Axis.
    """
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.n, job.c = x.shape[0], x.shape[3]
    job.x, job.y = <const char *>&x[0, 0, 0, 0], <char *>&y[0, 0, 0, 0]
    if argmax is not None:
        job.argmax = &argmax[0, 0, 0, 0]
    elif where is not None:
        job.where = &where[0, 0, 0, 0]
    run(&job, pool_row, job.n * y.shape[1], sizeof(real), vertical, horizontal, num_threads)


def avg_pool(real[:, :, :, ::1] y, const real[:, :, :, ::1] x, vertical, horizontal, int num_threads):
    """y: the mean of the image's pixels in each window."""
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.average, job.n, job.c = True, x.shape[0], x.shape[3]
    job.x, job.y = <const char *>&x[0, 0, 0, 0], <char *>&y[0, 0, 0, 0]
    run(&job, pool_row, job.n * y.shape[1], sizeof(real), vertical, horizontal, num_threads)


def max_pool_grad(real[:, :, :, ::1] dx, const real[:, :, :, ::1] x, const real[:, :, :, ::1] dy, vertical, horizontal,
                  int num_threads):
    """dx of max_pool, whose windows have at most MOST_TAPS pixels: the whole of dy to the first maximum of the window."""
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.n, job.c = x.shape[0], x.shape[3]
    job.x, job.dy, job.dx = <const char *>&x[0, 0, 0, 0], <const char *>&dy[0, 0, 0, 0], <char *>&dx[0, 0, 0, 0]
    run_max_grad(&job, sizeof(real), vertical, horizontal, num_threads)


def max_pool_gather(real[:, :, :, ::1] dx, const real[:, :, :, ::1] dy, const uint8_t[:, :, :, ::1] where, vertical, horizontal,
                    int num_threads):
    """dx of max_pool: dy to the tap that `where` has for it."""
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.n, job.c = dx.shape[0], dx.shape[3]
    job.dy, job.where, job.dx = <const char *>&dy[0, 0, 0, 0], <uint8_t *>&where[0, 0, 0, 0], <char *>&dx[0, 0, 0, 0]
    run(&job, gather_row, job.n * dx.shape[1], sizeof(real), vertical, horizontal, num_threads)


def avg_pool_grad(real[:, :, :, ::1] dx, const real[:, :, :, ::1] dy, vertical, horizontal, int num_threads):
    """dx of avg_pool: dy shared out evenly among the image's pixels in the window."""
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.average, job.n, job.c = True, dx.shape[0], dx.shape[3]
    job.dy, job.dx = <const char *>&dy[0, 0, 0, 0], <char *>&dx[0, 0, 0, 0]
    job.channels = job.c if job.n >= FEW_IMAGES else min(job.c, CHANNELS)
    job.blocks = (job.c + job.channels - 1) // job.channels
    run(&job, average_grad, job.n * job.blocks, sizeof(real), vertical, horizontal, num_threads)
