"""Depthwise convolution's drivers: bands of result rows of one image, shared out among the threads.

Each channel has filters of its own, so nothing is packed and nothing copied: every number passes from memory through a few
multiplications and back.  At the border the taps that see no pixel are left out.  A row is cut into *runs* of pixels that see the
same columns of taps, mostly all of them:

    run      0 | 1                           | 2            3 columns of taps, SAME
    taps     - b c | a b c  a b c  ..  a b c | a b -

Where an input channel has several filters, a band's source is first repeated as often into scratch memory (forward, filter
gradient), or its result summed up from there (input gradient).

The filter's gradient is summed up by chunks of bands, whose number depends on the shape alone, and these are added in order.
"""
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastconv._kernels.blocks cimport Axis, ceil_div, read_axis, whole_lines
from fastconv._kernels.dispatch cimport kernels_for
from fastconv._kernels.kernels cimport FC_BIAS, FC_RELU, fc_index, fc_kernels, fc_taps
from fastconv._kernels.memory cimport Block, scratch
from fastconv._kernels.team cimport share, share_phases

ctypedef fused real:
    float
    double

# Result rows of a task: neighbours share source rows, which repeating would otherwise repeat for each of them.
cdef fc_index ROWS = 4
# Chunks of a filter gradient, and the memory of them all.
cdef fc_index CHUNKS = 16
cdef fc_index PARTIAL_BYTES = 1 << 22

cdef struct Run:                      # of pixels of a result row
    fc_index pixel, count             # the first, how many
    fc_index tap, taps                # the columns of taps they see

cdef struct Job:
    const fc_kernels *fc
    fc_index size                     # bytes of an element
    fc_index n, h, w, k               # of the source; k: result channels of the forward pass
    fc_index times                    # filters of an input channel
    bint repeats, folds               # the source, the result
    const char *x                     # source [n][h][w][k, or k / times if it repeats]
    char *y                           # result [n][yh][yw][k, or k / times if it folds]; filter gradient: dy
    fc_index yh, yw
    const char *filters               # [taps][k]
    const char *bias
    int flags
    Axis v, u                         # vertical, horizontal
    Run *run                          # [runs]
    fc_index runs
    fc_index *x_row                   # [v.taps] of fc_taps
    fc_index *w_row
    fc_index *x_column                # [u.taps]
    fc_index *w_column
    fc_index bands, tasks             # bands of an image, of all
    char *scratch                     # [threads][thread_bytes]
    fc_index thread_bytes
    # filter gradient
    fc_index chunks, count            # elements of the gradient
    char *dw
    char *partial                     # [chunks - 1][count]


cdef void see(const Axis *a, fc_index i, fc_index size, fc_index *tap, fc_index *taps) noexcept nogil:
    """The taps, whose offsets rise, that see one of `size` source pixels from result pixel i."""
    cdef fc_index at = a.origin + i * a.step, first = 0, last = a.taps
    while first < last and at + a.offset[first] < 0:
        first += 1
    while first < last and at + a.offset[last - 1] >= size:
        last -= 1
    tap[0], taps[0] = first, last - first


cdef void find_runs(Job *job) noexcept nogil:
    cdef fc_index i, tap = 0, taps = 0
    for i in range(job.u.count):
        see(&job.u, i, job.w, &tap, &taps)
        if job.runs == 0 or tap != job.run[job.runs - 1].tap or taps != job.run[job.runs - 1].taps:
            job.run[job.runs] = Run(i, 0, tap, taps)
            job.runs += 1
        job.run[job.runs - 1].count += 1


cdef int plan(Job *job, fc_index size, bytes vertical, bytes horizontal, fc_index filter_w) except -1:
    cdef fc_index i
    job.fc, job.size = kernels_for(size), size
    job.v, job.u = read_axis(vertical), read_axis(horizontal)
    # From pixel to pixel both ends of the taps seen only fall: each run but the first has lost or won a tap.
    job.run = <Run *>malloc((2 * job.u.taps + 1) * sizeof(Run))
    job.x_row = <fc_index *>malloc((2 * (job.v.taps + job.u.taps) + 1) * sizeof(fc_index))
    if job.run == NULL or job.x_row == NULL:
        raise MemoryError("fastconv: no memory for the tables of a convolution")
    job.w_row = job.x_row + job.v.taps
    job.x_column = job.w_row + job.v.taps
    job.w_column = job.x_column + job.u.taps
    for i in range(job.v.taps):
        job.x_row[i] = job.v.offset[i] * job.w * job.k
        job.w_row[i] = job.v.tap[i] * filter_w * job.k
    for i in range(job.u.taps):
        job.x_column[i] = job.u.offset[i] * job.k
        job.w_column[i] = job.u.tap[i] * job.k
    find_runs(job)
    job.bands = ceil_div(job.v.count, ROWS)
    job.tasks = job.n * job.bands
    if job.repeats:
        job.thread_bytes = whole_lines(min(job.h, (ROWS - 1) * job.v.step + job.v.extent) * job.w * job.k * job.size)
    elif job.folds:
        job.thread_bytes = whole_lines(job.u.count * job.k * job.size)
    return 0


cdef void free_job(Job *job) noexcept nogil:
    free(job.run)
    free(job.x_row)


cdef const char *open_band(const Job *job, fc_index image, fc_index first_row, fc_index rows, char *buffer,
                           fc_index *origin) noexcept nogil:
    """The source that these result rows see, and the row of the image that it starts with."""
    cdef fc_index c = job.k // job.times, top, bottom
    cdef const char *x = job.x + image * job.h * job.w * (c if job.repeats else job.k) * job.size
    origin[0] = 0
    if not job.repeats:
        return x
    top = job.v.origin + first_row * job.v.step
    bottom = min(job.h, top + (rows - 1) * job.v.step + job.v.extent)
    top = max(top, 0)
    if top < bottom:
        job.fc.repeat(buffer, x + top * job.w * c * job.size, (bottom - top) * job.w * c, job.times)
    origin[0] = top
    return buffer


cdef fc_taps run_taps(const Job *job, fc_index row, fc_index origin, const Run *run) noexcept nogil:
    """The taps of a run of pixels of one result row, counted from the source's row `origin`."""
    cdef fc_taps taps
    cdef fc_index tap = 0
    see(&job.v, row, job.h, &tap, &taps.rows)
    taps.columns = run.taps
    taps.x_row, taps.w_row = job.x_row + tap, job.w_row + tap
    taps.x_column, taps.w_column = job.x_column + run.tap, job.w_column + run.tap
    taps.first = ((job.v.origin + row * job.v.step - origin) * job.w + job.u.origin + run.pixel * job.u.step) * job.k
    return taps


# ------------------------------------------------------------------------------------------------ correlate

cdef void correlate_row(const Job *job, const char *x, fc_index image, fc_index row, fc_index origin,
                        char *buffer) noexcept nogil:
    cdef fc_index c = job.k // job.times if job.folds else job.k, i, step = job.u.place_step * c
    cdef char *y = job.y + ((image * job.yh + job.v.place + row * job.v.place_step) * job.yw + job.u.place) * c * job.size
    cdef char *out = y
    cdef fc_taps taps
    if job.folds:
        out, step = buffer, job.k
    for i in range(job.runs):
        taps = run_taps(job, row, origin, &job.run[i])
        job.fc.depthwise(out + job.run[i].pixel * step * job.size, step, x, job.u.step * job.k, job.run[i].count, &taps,
                         job.filters, job.k, job.bias, job.flags)
    if job.folds:
        for i in range(job.u.count):
            job.fc.fold(y + i * job.u.place_step * c * job.size, buffer + i * job.k * job.size, c, job.times)


cdef void correlate_band(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef char *buffer = job.scratch + thread * job.thread_bytes
    cdef fc_index image = task // job.bands, first = task % job.bands * ROWS, rows = min(ROWS, job.v.count - first), i, origin = 0
    cdef const char *x = open_band(job, image, first, rows, buffer, &origin)
    for i in range(first, first + rows):
        correlate_row(job, x, image, i, origin, buffer)


cdef int run_correlate(Job *job, int num_threads) except -1:
    cdef Block block = scratch(num_threads * job.thread_bytes)
    job.scratch = block.data
    share(job, correlate_band, job.tasks, num_threads)
    return 0


def correlate(real[:, :, :, ::1] y, const real[:, :, :, ::1] x, const real[:, :, :, ::1] filters, const real[::1] bias,
              bint relu, list sweeps, bint transposed, int num_threads):
    """As conv2d.correlate, of as many groups as there are input channels: filters [h, w, 1, K]."""
    cdef Job job, whole
    memset(&whole, 0, sizeof(Job))
    whole.x, whole.n, whole.h, whole.w = <const char *>&x[0, 0, 0, 0], x.shape[0], x.shape[1], x.shape[2]
    whole.y, whole.yh, whole.yw = <char *>&y[0, 0, 0, 0], y.shape[1], y.shape[2]
    whole.filters, whole.k = <const char *>&filters[0, 0, 0, 0], filters.shape[3]
    whole.times = whole.k // (y.shape[3] if transposed else x.shape[3])
    whole.repeats, whole.folds = whole.times > 1 and not transposed, whole.times > 1 and transposed
    whole.flags = FC_RELU if relu else 0
    if bias is not None:
        whole.bias = <const char *>&bias[0]
        whole.flags |= FC_BIAS
    for vertical, horizontal in sweeps:
        job = whole
        try:
            plan(&job, sizeof(real), vertical, horizontal, filters.shape[1])
            run_correlate(&job, num_threads)
        finally:
            free_job(&job)


# ------------------------------------------------------------------------------------------------ filter gradient

cdef void filter_gradient_band(const Job *job, fc_index task, char *dw, char *buffer) noexcept nogil:
    cdef fc_index image = task // job.bands, first = task % job.bands * ROWS, rows = min(ROWS, job.v.count - first)
    cdef fc_index i, r, origin = 0
    cdef const char *x = open_band(job, image, first, rows, buffer, &origin)
    cdef const char *dy
    cdef fc_taps taps
    for r in range(first, first + rows):
        dy = job.y + (image * job.yh + r) * job.yw * job.k * job.size
        for i in range(job.runs):
            taps = run_taps(job, r, origin, &job.run[i])
            job.fc.depthwise_filter(dw, x, job.u.step * job.k, dy + job.run[i].pixel * job.k * job.size, job.k,
                                    job.run[i].count, &taps, job.k)


cdef void filter_gradient_chunk(const void *any_job, fc_index chunk, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef char *dw = job.dw if chunk == 0 else job.partial + (chunk - 1) * job.count * job.size
    cdef fc_index task
    memset(dw, 0, job.count * job.size)
    for task in range(chunk * job.tasks // job.chunks, (chunk + 1) * job.tasks // job.chunks):
        filter_gradient_band(job, task, dw, job.scratch + thread * job.thread_bytes)


cdef void add_chunks(const void *any_job, fc_index piece, int thread) noexcept nogil:
    """One of CHUNKS pieces of the gradient: the chunks' sums, in order."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index first = piece * job.count // CHUNKS, last = (piece + 1) * job.count // CHUNKS, chunk
    for chunk in range(1, job.chunks):
        job.fc.add(job.dw + first * job.size, job.partial + ((chunk - 1) * job.count + first) * job.size, last - first)


cdef int run_filter_gradient(Job *job, int num_threads) except -1:
    cdef fc_index partial_bytes
    cdef Block block
    job.chunks = min(min(job.tasks, CHUNKS), 1 + PARTIAL_BYTES // (job.count * job.size))
    partial_bytes = whole_lines((job.chunks - 1) * job.count * job.size)
    block = scratch(partial_bytes + num_threads * job.thread_bytes)
    job.partial, job.scratch = block.data, block.data + partial_bytes
    share_phases(job, filter_gradient_chunk, job.chunks, add_chunks, CHUNKS if job.chunks > 1 else 0, num_threads)
    return 0


def filter_gradient(real[:, :, :, ::1] dw, const real[:, :, :, ::1] x, const real[:, :, :, ::1] dy, bytes vertical,
                    bytes horizontal, int num_threads):
    """As conv2d.filter_gradient, of as many groups as there are input channels: dw [h, w, 1, K]."""
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.x, job.n, job.h, job.w = <const char *>&x[0, 0, 0, 0], x.shape[0], x.shape[1], x.shape[2]
    job.y, job.yh, job.yw, job.k = <char *>&dy[0, 0, 0, 0], dy.shape[1], dy.shape[2], dy.shape[3]
    job.dw, job.count = <char *>&dw[0, 0, 0, 0], dw.shape[0] * dw.shape[1] * job.k
    job.times = job.k // x.shape[3]
    job.repeats = job.times > 1
    try:
        plan(&job, sizeof(real), vertical, horizontal, dw.shape[1])
        run_filter_gradient(&job, num_threads)
    finally:
        free_job(&job)
