"""Convolution's drivers: threads, cache blocks and borders around one micro-kernel (gemm in src_c/fastconv.h).

The three passes differ only in the tables that they hand to it.  All of them walk the result in *units*: some whole images,
or some rows of one image, or some columns of one row; PIXELS result pixels each, or more if they have few channels.  A unit
whose windows reach over the border first copies what they see of the source into a zero-bordered buffer that stays in the
second-level cache, so no inner loop ever asks where the image ends.  (Where many rows of taps see border alone, correlate leaves
them out, result row by result row.)

    correlate         (the convolution, and the gradient of its input)
        phase 1       pack the filters: panels of up to `max_vectors` vectors of result channels
                        b = panel 0 [taps * C][width 0], panel 1 [taps * C][width 1], ...
                        (few result channels, as in the gradient of a grey image: [K][taps * C])
                      (large ones for one or two units: in phase 2, by each task; few pixels of one unit: not at all, see
                      correlate_few)
        phase 2       for each (unit, group of panels), shared out among the threads:
                        copy the source;  for each panel: for each block of KC bytes: gemm  (few: dots)
                      (filters that a task packs, or reads where they lie: some rows of all its panels before the next ones)

    filter_gradient
        phase 1       for each (chunk of units, group of panels, part of the filter's rows), shared out among the threads:
                        for each unit: copy the source, pack the output's gradient
                                       for some rows: for each panel: gemm adds to the chunk's own partial gradient
        phase 2       add up the chunks, in order

Groups of channels have panels of their own, and read a unit's source, copied once, where their channels lie in it.

What is summed in which order depends on the shapes alone, never on the number of threads: so neither do the bits.
"""
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastconv._kernels.blocks cimport (
    Axis, Images, Panels, at_element, ceil_div, copy_window, cut_panels, next_rows, panel_channels, panel_start, read_axis,
    read_images, whole_lines,
)
from fastconv._kernels.dispatch cimport kernels_for, kernels_for_columns
from fastconv._kernels.kernels cimport (
    FC_ACCUMULATE, FC_AHEAD, FC_BIAS, FC_FAR, FC_GAIN, FC_RELU, FC_SIDE, fc_index, fc_kernels, fc_next,
)
from fastconv._kernels.memory cimport Block, scratch
from fastconv._kernels.team cimport share_phases

ctypedef fused real:
    float
    double

# A unit's pixels: enough to use a packed panel many times (a tile has 4..14 rows), few enough that the unit's sources and
# results stay in the second-level cache beside the panel.  Of few channels as many as have so many bytes, for each unit costs its
# tables and its copy of the border (MNIST's first layer: 12 to 18% of all three passes on Cascade Lake).
cdef fc_index PIXELS = 128
cdef fc_index MOST_PIXELS = 1024
cdef fc_index UNIT_BYTES = 1 << 17
# The source buffer's limit, and of what a filter gradient reads; wide images with many channels get narrower units.
cdef fc_index SOURCE_BYTES = 1 << 19
# The part of a packed panel that stays in the second-level cache while a unit's pixels pass by.
cdef fc_index KC_BYTES = 1 << 17
# Result channels are few if so many times more would fit into one vector.
cdef fc_index FEW = 2
# So few pixels wait for the filters to come from memory: read once, row after row, in runs of at least so many rows, they come
# three times as fast as panel by panel (one image through a dense layer of 2048 to 625, Cascade Lake).  (Of 8 pixels packing them
# is faster, but for transposed ones, below, whose rows of a single tap are what dots reads.)
cdef enum:
    FEW_PIXELS = 4  # as many rows as few_rows takes
cdef fc_index LEAST_PART = 64
cdef fc_index DOTS_PIXELS = 8
# Filters whose rows lie in other pages of memory each take longer to pack: so few pixels read them where they lie, if a panel's
# row is long enough.  All panels of a task then take some rows before the next ones, and a task has many panels.
cdef fc_index PAGE_BYTES = 4096
cdef fc_index PAGED_PIXELS = 48
cdef fc_index LEAST_ROW_BYTES = 256
cdef fc_index IN_PLACE_ROWS = 64
cdef fc_index IN_PLACE_TASKS = 8
# Of so few units each task packs the filters that it reads, block by block, into a buffer of its own, which stays in the cache:
# up to 1.5 times as fast as one packing by all threads, or none (Cascade Lake: a single 7x7x512, a dense layer of 100 images).
# A block holds some rows of all panels of the task, packed row by row: panel after panel, each row's few bytes would be waited
# for alone (16 images, a dense layer of 9216 to 4096, panels of 64 bytes: 2.5 times as long, Zen 3).
cdef fc_index OWN_UNITS = 2
# Smaller filters are packed for all tasks: they are read once, by whole rows, and a cache still holds what was packed (a single
# 14x14x1024 or 7x7x832 to 256: 1.15 to 1.2 times as fast, Zen 3; a dense layer of 12 MB 0.95).  Transposed ones gain nothing.
cdef fc_index OWN_BYTES = 1 << 21
# For so few pixels a task reads no fewer bytes of each row, where that leaves so many tasks: rows come from memory faster by
# larger pieces (a single 7x7x512: 1.12 times as fast as by 128 bytes, Zen 3; a dense layer of 100 images: 0.95).
cdef fc_index OWN_PIXELS = 64
cdef fc_index OWN_ROW_BYTES = 256
cdef fc_index OWN_TASKS = 8
# Rows of all panels that one task packs for the others: some tasks for each thread, and pages read on from row to row.
cdef fc_index PACK_ROWS = 32
# Sums of so few products do not wait for the lines of y any longer than asking for them takes (MNIST's first layer: 1.06 times as
# fast without, Zen 4).
cdef fc_index SHALLOW = 16
# Work is cut into at least this many tasks where the shape allows; more would only repeat the source's copy.
cdef fc_index TASKS = 16
# Few pixels of few panels are cut into this many tasks at least, where windows are so long: others are soon done.
cdef fc_index LEAST_TASKS = 4
cdef fc_index DEEP = 1024
# A filter gradient walks down the pixels of x and dy, a row of memory each.  Rows a multiple of so many bytes apart would meet in
# a few sets of the first-level cache, and rows so far apart lie in more pages of memory than the processor has at hand: x is then
# copied, a line further apart (1x1 with stride 2: 1.2 to 1.4 times as fast, Zen 3).
cdef fc_index ALIASING_BYTES = 1024
cdef fc_index FAR_BYTES = 2048
# The length of a window from which on rows of dy are laid side by side: so many elements read them often enough.
cdef fc_index DEPTH_TO_PACK = 32
# Rows of the gradient that all panels of a task take before the next ones: panel by panel, each row's few bytes would wait for
# their page (16 images, a dense layer of 4096 to 4096: 1.4 times as long, Zen 3).
cdef fc_index GRADIENT_ROWS = 96
# No more parts of a gradient than one for so many rows: each packs dy anew, for less than a tile (8x8x1: 1.3 times as long).
cdef fc_index PART_ROWS = 6
# A gradient that no second-level cache holds comes from memory for each unit: units of twice as many pixels, with twice the
# source, take 0.7 to 0.9 of the time (1024 -> 2048 with stride 2, 512 -> 2048, Zen 3).
cdef fc_index LARGE_GRADIENT = 1 << 21
# All partial filter gradients together.
cdef fc_index PARTIAL_BYTES = 1 << 22
# Rows of taps that see border alone are left out where they are one of so many at least.  Result rows that see different ones are
# then multiplied apart, so their pixels must fill a register tile.  (Zen 4: LeNet-5's second input gradient, where they are two
# of seven, 1.3 times as fast; 3x3 filters of dilation 2 to 8 1.1 to 1.27 times; rows of three pixels would be 0.93 to 0.98.)
cdef fc_index LEAST_BORDER = 8
cdef fc_index LEAST_COLUMNS = 6

cdef struct Job:
    const fc_kernels *fc
    fc_index size                     # bytes of an element
    Images x                          # source
    fc_index yh, yw, k                # of the result (filter_gradient: of the output's gradient)
    Axis v, u                         # vertical, horizontal
    fc_index channel_groups           # each a convolution of its own
    fc_index depth                    # taps * channels of a group: the length of a window
    fc_index stretch                  # of it, which all panels of a task take before the next
    Panels panels
    fc_index packed_rows              # of each panel: a window, or a task's own stretch of it (filter_gradient: a unit's pixels)
    fc_index *vector_place            # [vectors of the panels] where each begins in the packed panels, elements
    fc_index *vector_step             # [the same] from one row of it to the next
    # units
    fc_index images, rows, columns    # of a whole unit
    fc_index units_n, units_v, units_u, units
    int ahead                         # FC_AHEAD if windows lie in memory end to end, each a pixel
    bint copies                       # the source is copied, into [images][buffer_h][buffer_w][pitch]
    bint thins                        # of which a filter of one tap leaves out the pixels that it steps over
    fc_index pitch                    # from one pixel of what a unit reads to the next
    fc_index part_c                   # channels that are copied
    fc_index buffer_h, buffer_w, buffer_bytes
    fc_index *row                     # [images * rows * columns] source offset of a unit's pixel
    fc_index *place                   # [the same] result offset
    fc_index *col                     # [depth] source offset of (tap, channel) from a pixel
    char *scratch                     # [threads][thread_bytes]
    fc_index thread_bytes
    # correlate
    char *y                           # [n][yh][yw][y_pixel], the channels of all groups
    fc_index y_pixel
    uint8_t *where                    # the same of a pool's bytes
    bint pools                        # y is the 2x2 pool of the result
    int far                           # FC_FAR if results are asked for before they are written
    const char *filters               # HWI[filter_k], the output channels of all groups
    fc_index filter_k
    bint in_place                     # whole panels of the filters are not packed
    bint packs_own                    # a task packs its panels itself, stretch by stretch
    fc_index few_parts                # of the window, whose products with few pixels are summed apart
    fc_index dense_bytes              # of what a task pools
    fc_index pack_tasks
    fc_index own_bytes                # of what a task packs
    char *packed                      # panels
    const char *gain
    const char *bias
    const char *side                  # as y
    int flags
    bint transposed                   # filters' output channels are the source's channels
    fc_index filter_w
    fc_index groups                   # of the panels of all channel_groups, each a task of its own
    bint uses_dots                    # for few result channels, or few pixels
    fc_index run                      # window elements that lie side by side in the source
    bint trims                        # rows of a window that see border alone are left out
    # filter_gradient
    Images dy
    fc_index chunks, parts            # of the units, of the window's elements
    bint packs_gradient               # dy is not read where it lies
    char *dw                          # [depth][filter_k]
    char *partial                     # [chunks - 1][depth][filter_k]
    fc_index *dw_row                  # [depth] a row's place in it

cdef struct Unit:
    fc_index n0, r0, q0               # first image, row, column
    fc_index images, rows, columns, pixels
    const char *x                     # row[] and col[] count from here

cdef struct Few:                      # pixels of a single unit, for whom the filters are read where they lie
    const Job *job
    Unit unit
    char *y                           # of the unit's first pixel
    char *sums                        # [few_parts - 1][pixels][k]


# ------------------------------------------------------------------------------------------------ planning

cdef inline bint stays_inside(const Axis *a, fc_index size) noexcept nogil:
    return a.origin >= 0 and a.origin + (a.count - 1) * a.step + a.extent <= size


cdef inline fc_index span(const Axis *a, fc_index count) noexcept nogil:
    return (count - 1) * a.step + a.extent


cdef inline bint must_copy(const Job *job) noexcept nogil:
    """The source exists as a pool's gradient alone, or a window reaches over the border."""
    return job.x.where != NULL or not (stays_inside(&job.v, job.x.h) and stays_inside(&job.u, job.x.w))


cdef inline bint is_large_gradient(const Job *job) noexcept nogil:
    return job.dw != NULL and job.depth * job.filter_k * job.size >= LARGE_GRADIENT


cdef fc_index unit_pixels(const Job *job) noexcept nogil:
    cdef fc_index pixel_bytes = (job.x.pixel + job.k * job.channel_groups) * job.size
    cdef fc_index pixels = job.x.n * job.v.count * job.u.count, share = pixels // TASKS
    cdef fc_index panels = job.panels.count * job.channel_groups
    # Several units, where one of so few panels would leave most threads without a task: a dense layer of 3136 to 10 and 100
    # images takes 0.6 of the time on two threads (Zen 3; of 16 images or 49 pixels nothing was gained).
    if (job.dw == NULL and panels < LEAST_TASKS and PIXELS // 2 <= pixels <= PIXELS and job.depth >= DEEP
            and not must_copy(job)):
        return ceil_div(pixels * panels, LEAST_TASKS)
    # As one unit, if its panels make tasks enough: each panel is packed once (14x14x256, 28x28x512 with stride 2: 1.05).
    if (job.dw == NULL and pixels <= 2 * PIXELS and pixels * job.x.pixel * job.size <= SOURCE_BYTES
            and panels >= TASKS):
        return pixels
    return max(2 * PIXELS if is_large_gradient(job) else PIXELS, min(min(MOST_PIXELS, UNIT_BYTES // pixel_bytes), share))


cdef void plan_units(Job *job) noexcept nogil:
    cdef fc_index columns = job.u.count, rows = job.v.count, per_image = rows * columns, row_bytes = job.x.pixel * job.size
    cdef fc_index pixels = unit_pixels(job), limit = 2 * SOURCE_BYTES if is_large_gradient(job) else SOURCE_BYTES
    if job.dw == NULL and not must_copy(job):
        limit = job.x.n * job.x.h * job.x.w * row_bytes
    job.columns = columns
    job.rows = 1
    if not job.pools:
        job.columns = ceil_div(columns, ceil_div(columns, 4 * PIXELS))
        while job.columns > 1 and span(&job.u, job.columns) * job.v.extent * row_bytes > limit:
            job.columns = ceil_div(job.columns, 2)
    if job.columns == columns:
        job.rows = ceil_div(rows, ceil_div(rows, max(pixels // columns, 1)))
        while job.rows > 1 and span(&job.u, columns) * span(&job.v, job.rows) * row_bytes > limit:
            job.rows = ceil_div(job.rows, 2)
    if job.pools:  # a window's two rows belong to one unit
        job.rows = min(rows, ceil_div(job.rows, 2) * 2)
    job.images = 1
    if job.rows * job.columns == per_image:
        job.images = max(1, min(pixels // per_image, job.x.n))
        job.images = max(1, min(job.images, limit // max(1, span(&job.u, columns) * span(&job.v, rows) * row_bytes)))
    job.units_n = ceil_div(job.x.n, job.images)
    job.units_v = ceil_div(rows, job.rows)
    job.units_u = ceil_div(columns, job.columns)
    job.units = job.units_n * job.units_v * job.units_u


cdef void plan_chunks(Job *job) noexcept nogil:
    """filter_gradient's tasks, how they read the output's gradient, and the pitch of its source: another than the image's if each
    task has several panels that read the copy.  Of a single tap it then copies its own part of the channels alone, and of the
    pixels those that it does not step over."""
    cdef fc_index panels = job.channel_groups * job.panels.count, splits
    cdef fc_index pixel_bytes = job.x.pixel * job.size
    cdef fc_index step_bytes = pixel_bytes * job.u.step
    cdef bint thins = job.v.taps * job.u.taps == 1 < job.v.step * job.u.step and not must_copy(job)
    cdef bint apart = (step_bytes % ALIASING_BYTES == 0 or step_bytes >= FAR_BYTES) and (
        job.v.step == job.u.step == 1 or thins or must_copy(job))
    job.chunks = max(1, min(min(job.units, TASKS), 1 + PARTIAL_BYTES // (job.depth * job.filter_k * job.size)))
    splits = ceil_div(TASKS, job.chunks)
    if apart and job.v.taps * job.u.taps * job.channel_groups == 1:
        # Each group copies the source, each part the gradient's rows: as little as possible of both.
        job.parts, job.groups = 1, splits
        while 2 * job.parts <= splits and job.depth * job.groups > 2 * job.k * job.parts:
            job.parts *= 2
            job.groups = ceil_div(splits, job.parts)
        job.groups = min(panels, job.groups)
        job.part_c = ceil_div(job.depth, job.parts)
    else:
        job.groups = min(panels, splits)
        job.parts = min(ceil_div(splits, job.groups), ceil_div(job.depth, PART_ROWS))
    if apart and panels >= 2 * job.groups:
        job.copies, job.thins, job.pitch = True, thins, job.part_c + 64 // job.size
    # Whole vectors must be readable, and rows that start anywhere in a cache line, or share a few sets of the first-level cache,
    # are slow to read again and again.
    job.packs_gradient = (job.dy.where != NULL or job.k % job.fc.vl != 0 or job.dy.pixel * job.size % 64 != 0
                          or (panels > 1 and job.depth >= DEPTH_TO_PACK))


cdef void plan_buffer(Job *job) noexcept nogil:
    job.buffer_h = job.rows if job.thins else span(&job.v, job.rows)
    job.buffer_w = job.columns if job.thins else span(&job.u, job.columns)
    job.buffer_bytes = whole_lines(job.images * job.buffer_h * job.buffer_w * job.pitch * job.size) if job.copies else 0


cdef int fill_tables(Job *job) except -1:
    """The addresses of a window: pixel by pixel of a unit (row, place) and element by element (col)."""
    cdef fc_index pixels = job.images * job.rows * job.columns, vectors = job.panels.vectors
    cdef fc_index line = job.buffer_w if job.copies else job.x.w
    cdef fc_index lines = job.buffer_h if job.copies else job.x.h
    cdef fc_index step_v = 1 if job.thins else job.v.step, step_u = 1 if job.thins else job.u.step
    cdef fc_index image, r, q, a, b, channel, i = 0
    job.row = <fc_index *>malloc((2 * pixels + job.depth + 2 * vectors + 1) * sizeof(fc_index))
    if job.row == NULL:
        raise MemoryError("fastconv: no memory for the tables of a convolution")
    job.place = job.row + pixels
    job.col = job.place + pixels
    job.vector_place = job.col + job.depth
    job.vector_step = job.vector_place + vectors
    for image in range(job.images):
        for r in range(job.rows):
            for q in range(job.columns):
                job.row[i] = ((image * lines + r * step_v) * line + q * step_u) * job.pitch
                job.place[i] = ((image * job.yh + r * job.v.place_step) * job.yw + q * job.u.place_step) * job.y_pixel
                if job.pools:  # first into scratch memory
                    job.place[i] = i * job.k
                i += 1
    i = 0
    for a in range(job.v.taps):
        for b in range(job.u.taps):
            for channel in range(job.x.c):
                job.col[i] = (job.v.offset[a] * line + job.u.offset[b]) * job.pitch + channel
                i += 1
    return 0


cdef int plan(Job *job, const fc_kernels *fc, fc_index size, fc_index k, bytes vertical, bytes horizontal) except -1:
    job.fc, job.size, job.k = fc, size, k
    job.panels = cut_panels(job.fc, k)
    job.v, job.u = read_axis(vertical), read_axis(horizontal)
    job.depth = job.v.taps * job.u.taps * job.x.c
    plan_units(job)
    job.pitch = job.part_c = job.x.pixel
    job.copies = must_copy(job)
    job.ahead = FC_AHEAD if job.depth == job.x.pixel and job.v.step == job.u.step == 1 and not job.copies else 0
    if job.dw != NULL:
        plan_chunks(job)
    plan_buffer(job)
    return fill_tables(job)


cdef void free_job(Job *job) noexcept nogil:
    free(job.row)


# ------------------------------------------------------------------------------------------------ one unit

cdef void copy_thinned(const Job *job, const Unit *unit, fc_index top, fc_index left, fc_index first_c, fc_index c,
                       char *buffer) noexcept nogil:
    cdef fc_index i, r, q
    for i in range(unit.images):
        for r in range(unit.rows):
            for q in range(unit.columns):
                memcpy(buffer + ((i * job.buffer_h + r) * job.buffer_w + q) * job.pitch * job.size,
                       job.x.data + ((((unit.n0 + i) * job.x.h + top + r * job.v.step) * job.x.w + left + q * job.u.step)
                                     * job.x.pixel + first_c) * job.size, c * job.size)


cdef Unit open_unit(const Job *job, fc_index index, fc_index first_c, char *buffer) noexcept nogil:
    """The unit's addresses; copies its source, part_c channels from the first one on, into the buffer where that is planned."""
    cdef Unit unit
    cdef fc_index i, top, left, pixel_bytes = job.pitch * job.size, c = min(job.part_c, job.x.pixel - first_c)
    unit.q0 = index % job.units_u * job.columns
    unit.r0 = index // job.units_u % job.units_v * job.rows
    unit.n0 = index // (job.units_u * job.units_v) * job.images
    unit.columns = min(job.columns, job.u.count - unit.q0)
    unit.rows = min(job.rows, job.v.count - unit.r0)
    unit.images = min(job.images, job.x.n - unit.n0)
    unit.pixels = unit.images * unit.rows * unit.columns
    top, left = job.v.origin + unit.r0 * job.v.step, job.u.origin + unit.q0 * job.u.step
    if not job.copies:
        unit.x = job.x.data + ((unit.n0 * job.x.h + top) * job.x.w + left) * pixel_bytes
        return unit
    unit.x = buffer - first_c * job.size
    if job.thins:
        copy_thinned(job, &unit, top, left, first_c, c, buffer)
        return unit
    for i in range(unit.images):
        copy_window(job.fc, buffer + i * job.buffer_h * job.buffer_w * pixel_bytes, &job.x, unit.n0 + i, top, left,
                    span(&job.v, unit.rows), job.buffer_w, first_c, c, job.pitch)
    return unit


# ------------------------------------------------------------------------------------------------ correlate

cdef inline const char *group_filters(const Job *job, fc_index group) noexcept nogil:
    return job.filters + group * (job.x.c if job.transposed else job.k) * job.size


cdef inline const char *tap_filters(const Job *job, fc_index group, fc_index t) noexcept nogil:
    cdef fc_index tap = job.v.tap[t // job.u.taps] * job.filter_w + job.u.tap[t % job.u.taps]
    return group_filters(job, group) + tap * (job.k if job.transposed else job.x.c) * job.filter_k * job.size


cdef void pack_transposed(const Job *job, fc_index group, fc_index panel, fc_index p, fc_index rows, char *b) noexcept nogil:
    """Elements p .. p + rows - 1 of the window, of one panel of one group: columns of the filters."""
    cdef fc_index first = panel_start(&job.panels, panel), width = panel_start(&job.panels, panel + 1) - first
    cdef fc_index n = panel_channels(&job.panels, first, first + width), c, count
    while rows > 0:
        c = p % job.x.c
        count = min(rows, job.x.c - c)
        job.fc.pack(b, tap_filters(job, group, p // job.x.c) + (first * job.filter_k + c) * job.size, count, n, width, 1,
                    job.filter_k)
        p += count
        rows -= count
        b += count * width * job.size


cdef void pack_columns(const Job *job, fc_index task) noexcept nogil:
    """For dots: one tap of one group's filters, each result channel's elements side by side."""
    cdef fc_index taps = job.v.taps * job.u.taps, t = task % taps, group = task // taps, j
    cdef const char *w = tap_filters(job, group, t)
    for j in range(job.k):
        job.fc.pack(job.packed + (job.depth * (group * job.k + j) + t * job.x.c) * job.size,
                    w + j * (job.filter_k if job.transposed else 1) * job.size, job.x.c, 1, 1,
                    1 if job.transposed else job.filter_k, 0)


cdef inline fc_index packed_place(const Job *job, fc_index item) noexcept nogil:
    """Where a panel's packed rows begin, in elements.  Panels lie a line further apart than they are long: those of a power of
    two would else meet in a few sets of the first-level cache."""
    cdef fc_index group = item // job.panels.count, panel = item % job.panels.count
    return job.packed_rows * (group * job.panels.vectors * job.fc.vl + panel_start(&job.panels, panel)) + item * (64 // job.size)


cdef void pack_rows(const Job *job, fc_index item, fc_index last_panel, fc_index row, const char *w, fc_index rows,
                    fc_index w_row, char *packed) noexcept nogil:
    """Rows of w, w_row elements apart, into an item's panel and those of its group up to last_panel, from packed row `row` on."""
    cdef fc_index panel = item % job.panels.count, first = panel_start(&job.panels, panel), vector = first // job.fc.vl
    job.fc.pack_panels(packed + packed_place(job, item - panel) * job.size, job.vector_place + vector, job.vector_step + vector,
                       row, w, rows, panel_channels(&job.panels, first, panel_start(&job.panels, last_panel)), w_row)


cdef void pack_stretch(const Job *job, fc_index first_item, fc_index last_item, fc_index p, fc_index row, fc_index rows,
                       char *packed) noexcept nogil:
    """The window's elements p .. p + rows - 1 of some panels, from their packed row `row` on; all panels of a group together."""
    cdef fc_index item = first_item, panel, group, last, first, at, c, count
    while item < last_item:
        group, panel = item // job.panels.count, item % job.panels.count
        last = min(job.panels.count, panel + last_item - item)
        first = panel_start(&job.panels, panel)
        at = 0
        while at < rows:
            c = (p + at) % job.x.c
            count = min(rows - at, job.x.c - c)
            pack_rows(job, item, last, row + at,
                      tap_filters(job, group, (p + at) // job.x.c) + (c * job.filter_k + first) * job.size, count, job.filter_k,
                      packed)
            at += count
        item += last - panel


cdef void pack_for_all(const void *any_job, fc_index task, int thread) noexcept nogil:
    """A part of the filters for all threads: some rows of all panels, or of those that cannot be read where they lie; of
    transposed filters a tap of one panel."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index taps = job.v.taps * job.u.taps, item = task // taps, panel = item % job.panels.count, group
    cdef fc_index p = task * PACK_ROWS, rows = min(PACK_ROWS, job.depth - p)
    if job.uses_dots:
        pack_columns(job, task)
    elif job.transposed:
        p = task % taps * job.x.c
        pack_transposed(job, item // job.panels.count, panel, p, job.x.c, job.packed + job.size * (
            packed_place(job, item) + p * (panel_start(&job.panels, panel + 1) - panel_start(&job.panels, panel))))
    elif job.in_place:
        for group in range(1, job.channel_groups + 1):
            pack_stretch(job, group * job.panels.count - 1, group * job.panels.count, p, p, rows, job.packed)
    else:
        pack_stretch(job, 0, job.channel_groups * job.panels.count, p, p, rows, job.packed)


cdef inline fc_index block_rows(const Job *job, fc_index width) noexcept nogil:
    """How many rows of a panel are multiplied before the next ones."""
    return max(1, KC_BYTES // (width * job.size))


cdef inline bint sees(const Job *job, fc_index r, fc_index a) noexcept nogil:
    """Whether tap row a of result row r lies in the image."""
    return 0 <= job.v.origin + r * job.v.step + job.v.offset[a] < job.x.h


cdef void visible_taps(const Job *job, fc_index r, fc_index *first, fc_index *end) noexcept nogil:
    """The rows of taps of result row r that lie in the image, one behind the other."""
    first[0] = 0
    while first[0] < job.v.taps and not sees(job, r, first[0]):
        first[0] += 1
    end[0] = first[0]
    while end[0] < job.v.taps and sees(job, r, end[0]):
        end[0] += 1


cdef bint has_wide_border(const Job *job) noexcept nogil:
    cdef fc_index r, first = 0, end = 0, visible = 0
    if not job.copies or job.columns < LEAST_COLUMNS:
        return False
    for r in range(job.v.count):
        visible_taps(job, r, &first, &end)
        visible += end - first
    return (job.v.count * job.v.taps - visible) * LEAST_BORDER >= job.v.count * job.v.taps


cdef void multiply_visible(const Job *job, const Unit *unit, char *y, const char *x, const char *b, fc_index width, fc_index n,
                           const char *gain, const char *bias, const char *side) noexcept nogil:
    """All blocks of a packed panel at once: result rows that see the same rows of taps, with these alone."""
    cdef fc_index image, r, last, first = 0, end = 0, next_first = 0, next_end = 0, at, tap_row = job.u.taps * job.x.c
    for image in range(unit.images):
        r = 0
        visible_taps(job, unit.r0, &first, &end)
        while r < unit.rows:
            last = r + 1
            while last < unit.rows:
                visible_taps(job, unit.r0 + last, &next_first, &next_end)
                if next_first != first or next_end != end:
                    break
                last += 1
            at = (image * unit.rows + r) * unit.columns
            job.fc.gemm(y, job.place + at, x, job.row + at, (last - r) * unit.columns, job.col + first * tap_row,
                        (end - first) * tap_row, b + first * tap_row * width * job.size, width, width // job.fc.vl, n, gain,
                        bias, side, NULL, job.far | job.flags)
            r, first, end = last, next_first, next_end


cdef void multiply(const Job *job, const Unit *unit, char *y, fc_index group, fc_index panel, fc_index p,
                   char *own, int ahead) noexcept nogil:
    """One panel of one group of a unit's result: a stretch of the window from p on, block by block; own: what the task has packed
    of it, or packs it into; ahead: FC_AHEAD, or 0 if the pixels are in the cache."""
    cdef fc_index first = panel_start(&job.panels, panel), width = panel_start(&job.panels, panel + 1) - first
    cdef fc_index n = panel_channels(&job.panels, first, first + width), ldb = width, depth, flags
    cdef fc_index end = min(p + job.stretch, job.depth)
    cdef const char *x = unit.x + group * job.x.c * job.size
    cdef const char *b
    cdef const char *block
    cdef const char *gain = at_element(job.gain, group * job.k + first, job.size)
    cdef const char *bias = at_element(job.bias, group * job.k + first, job.size)
    cdef const char *side
    cdef fc_next next = next_rows(NULL, 0, 0)
    if job.packs_own and not job.transposed and end < job.depth:  # the task's next stretch
        next = next_rows(tap_filters(job, group, end // job.x.c) + (end % job.x.c * job.filter_k + first) * job.size,
                         job.filter_k, width * job.size)
    if job.packs_own:
        b = own - p * width * job.size
    elif job.uses_dots:
        b = job.packed + job.depth * (group * job.k + first) * job.size
    elif job.in_place and n == width:
        b, ldb = group_filters(job, group) + first * job.size, job.filter_k
    else:
        b = job.packed + packed_place(job, group * job.panels.count + panel) * job.size
    y += (group * job.k + first) * job.size
    side = at_element(job.side, y - job.y, 1)
    if job.uses_dots:
        job.fc.dots(y, job.place, x, job.row, unit.pixels, job.col, job.depth, job.run, b, n, gain, bias, side, job.flags)
        return
    if job.trims:
        multiply_visible(job, unit, y, x, b, width, n, gain, bias, side)
        return
    while True:
        # The first block overwrites, the last one finishes with gain, bias, side and activation.
        depth = min(block_rows(job, width), end - p)
        flags = ahead | (FC_ACCUMULATE if p > 0 else job.far)
        if p + depth == job.depth:
            flags |= job.flags
        block = b + p * ldb * job.size
        if job.packs_own and job.transposed:
            pack_transposed(job, group, panel, p, depth, own)
            block = own
        job.fc.gemm(y, job.place, x, job.row, unit.pixels, job.col + p, depth, block, ldb, width // job.fc.vl, n, gain, bias,
                    side, &next, flags)
        p += depth
        if p >= end:
            break


cdef void pool_unit(const Job *job, const Unit *unit, const char *dense, fc_index first, fc_index n) noexcept nogil:
    """Channels first .. first + n - 1 of the unit's results, dense[pixels][k], to their pool."""
    cdef fc_index i, at
    for i in range(unit.images):
        at = (((unit.n0 + i) * job.yh + unit.r0 // 2) * job.yw + unit.q0 // 2) * job.k + first
        job.fc.pool_windows(job.y + at * job.size, job.where + at if job.where != NULL else NULL, job.yw * job.k, job.k,
                            dense + (i * unit.rows * unit.columns * job.k + first) * job.size, unit.columns * job.k, job.k,
                            min(unit.rows, 2 * job.yh - unit.r0), min(unit.columns, 2 * job.yw - unit.q0), n)


cdef void correlate_unit(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef char *buffer = job.scratch + thread * job.thread_bytes
    cdef Unit unit = open_unit(job, task // job.groups, 0, buffer)
    cdef fc_index first, group = task % job.groups, all_panels = job.channel_groups * job.panels.count, item
    cdef fc_index first_item = group * all_panels // job.groups, last_item = (group + 1) * all_panels // job.groups
    cdef fc_index p = 0
    cdef char *dense = buffer + job.buffer_bytes
    cdef char *own = dense + job.dense_bytes
    cdef char *y = dense
    if not job.pools:
        y = job.y + (((unit.n0 * job.yh + job.v.place + unit.r0 * job.v.place_step) * job.yw
                      + job.u.place + unit.q0 * job.u.place_step) * job.y_pixel) * job.size
    while True:
        if job.packs_own and not job.transposed:
            pack_stretch(job, first_item, last_item, p, 0, min(job.stretch, job.depth - p),
                         own - packed_place(job, first_item) * job.size)
        for item in range(first_item, last_item):
            multiply(job, &unit, y, item // job.panels.count, item % job.panels.count, p,
                     own + (0 if job.transposed else packed_place(job, item) - packed_place(job, first_item)) * job.size,
                     job.ahead if item == first_item else 0)
        p += job.stretch
        if p >= job.depth:
            break
    if job.pools:  # of one group of channels
        first = panel_start(&job.panels, first_item)
        pool_unit(job, &unit, dense, first, panel_channels(&job.panels, first, panel_start(&job.panels, last_item)))


cdef void few_part(const void *any_few, fc_index part, int thread) noexcept nogil:
    """The products of one part of the window's elements and all filters: the first part's into the result."""
    cdef const Few *few = <const Few *>any_few
    cdef const Job *job = few.job
    cdef const Unit *unit = &few.unit
    cdef fc_index p0 = part * job.depth // job.few_parts, p1 = (part + 1) * job.depth // job.few_parts, i
    cdef fc_index[FEW_PIXELS] row
    for i in range(unit.pixels):
        row[i] = i * job.k
    cdef char *y = few.y if part == 0 else few.sums + (part - 1) * unit.pixels * job.k * job.size
    job.fc.few_rows(y, job.place if part == 0 else row, unit.x, job.row, unit.pixels, job.col + p0, p1 - p0,
                    job.filters + p0 * job.filter_k * job.size, job.filter_k, job.k)


cdef void finish_few(const void *any_few, fc_index panel, int thread) noexcept nogil:
    """Adds one panel of the parts, in order; then what gemm does behind a product, here of no element."""
    cdef const Few *few = <const Few *>any_few
    cdef const Job *job = few.job
    cdef const Unit *unit = &few.unit
    cdef fc_index first = panel_start(&job.panels, panel), width = panel_start(&job.panels, panel + 1) - first, part, i
    cdef fc_index n = panel_channels(&job.panels, first, first + width)
    cdef char *y = few.y + first * job.size
    for part in range(1, job.few_parts):
        for i in range(unit.pixels):
            job.fc.add(y + job.place[i] * job.size, few.sums + (((part - 1) * unit.pixels + i) * job.k + first) * job.size, n)
    if job.flags:
        job.fc.gemm(y, job.place, y, job.place, unit.pixels, job.col, 0, job.filters, 0, width // job.fc.vl, n,
                    at_element(job.gain, first, job.size), at_element(job.bias, first, job.size),
                    at_element(job.side, first, job.size), NULL, FC_ACCUMULATE | job.flags)


cdef int correlate_few(Job *job, int num_threads) except -1:
    """The result for the few pixels of a single unit: the filters are read where they lie."""
    cdef fc_index sum_bytes
    cdef Few few
    cdef Block block
    job.few_parts = max(1, min(TASKS, job.depth // LEAST_PART))
    sum_bytes = whole_lines(FEW_PIXELS * job.k * job.size)
    block = scratch(job.buffer_bytes + job.few_parts * sum_bytes)
    few.job, few.unit = job, open_unit(job, 0, 0, block.data)
    few.y = block.data + job.buffer_bytes if job.pools else job.y
    few.sums = block.data + job.buffer_bytes + sum_bytes
    share_phases(&few, few_part, job.few_parts, finish_few, job.panels.count, num_threads)
    if job.pools:
        pool_unit(job, &few.unit, few.y, 0, job.k)
    return 0


cdef void place_vectors(Job *job) noexcept nogil:
    """The tables for pack_panels, of one group's panels."""
    cdef fc_index panel, first, last, v
    for panel in range(job.panels.count):
        first, last = panel_start(&job.panels, panel), panel_start(&job.panels, panel + 1)
        for v in range(first // job.fc.vl, last // job.fc.vl):
            job.vector_place[v] = packed_place(job, panel) + v * job.fc.vl - first
            job.vector_step[v] = last - first


cdef fc_index plan_packing(Job *job, fc_index pixels) noexcept nogil:
    """How the filters are read; the bytes of those that are packed before anything else."""
    cdef fc_index taps = job.v.taps * job.u.taps, panels = job.channel_groups * job.panels.count, row_bytes
    cdef bint is_large = job.transposed or job.depth * job.channel_groups * job.k * job.size > OWN_BYTES
    cdef bint paged = job.filter_k * job.size >= PAGE_BYTES and job.fc.max_vectors * job.fc.vl * job.size >= LEAST_ROW_BYTES
    job.run = job.x.c * job.u.taps if job.u.extent == job.u.taps and job.x.pixel == job.x.c else job.x.c
    job.uses_dots = FEW * job.k <= job.fc.vl <= job.run
    job.groups = min(panels, ceil_div(TASKS, max(job.units, 1)))
    job.stretch = job.packed_rows = job.depth
    if job.transposed and taps == 1 and pixels <= DOTS_PIXELS and job.filter_k == job.x.c:
        job.uses_dots = True
        job.packed = <char *>job.filters + (job.v.tap[0] * job.filter_w + job.u.tap[0]) * job.k * job.filter_k * job.size
        return 0
    if job.uses_dots:
        job.pack_tasks = taps * job.channel_groups
        return job.depth * job.channel_groups * job.k * job.size
    job.in_place = not job.transposed and paged and pixels <= PAGED_PIXELS
    job.packs_own = not job.in_place and job.units <= OWN_UNITS and is_large
    if job.in_place:
        job.stretch = IN_PLACE_ROWS
        job.groups = min(job.groups, ceil_div(IN_PLACE_TASKS, max(job.units, 1)))
    if job.packs_own and job.transposed:
        job.own_bytes = max(KC_BYTES, job.fc.max_vectors * job.fc.vl * job.size)
    elif job.packs_own:
        if pixels <= OWN_PIXELS:
            job.groups = min(job.groups, max(ceil_div(OWN_TASKS, max(job.units, 1)), job.k * job.size // OWN_ROW_BYTES))
        row_bytes = ceil_div(panels, job.groups) * job.fc.max_vectors * job.fc.vl * job.size
        job.stretch = job.packed_rows = max(1, min(job.depth, KC_BYTES // row_bytes))
        job.own_bytes = row_bytes * job.stretch + ceil_div(panels, job.groups) * 64
    place_vectors(job)
    if job.packs_own or (job.in_place and job.k % job.fc.vl == 0):
        return 0
    job.pack_tasks = taps * panels if job.transposed else ceil_div(job.depth, PACK_ROWS)
    return packed_place(job, panels) * job.size


cdef bint in_blocks(const Job *job) noexcept nogil:
    """Whether a result may be added up in y, block by block, before it is finished."""
    return min(job.stretch, block_rows(job, job.fc.max_vectors * job.fc.vl)) < job.depth


cdef int run_correlate(Job *job, int num_threads) except -1:
    cdef fc_index pixels = job.x.n * job.v.count * job.u.count, packed_bytes, side_bytes
    cdef Block block, copy
    packed_bytes = whole_lines(plan_packing(job, pixels))
    cdef bint few = pixels <= FEW_PIXELS and job.depth and job.units == job.channel_groups == 1
    few = few and not (job.uses_dots or job.transposed)
    if job.side == job.y and (few or in_blocks(job)):
        side_bytes = job.x.n * job.yh * job.yw * job.y_pixel * job.size
        copy = scratch(side_bytes)
        memcpy(copy.data, job.side, side_bytes)
        job.side = copy.data
    if few:
        return correlate_few(job, num_threads)
    job.trims = not (job.uses_dots or job.packs_own or job.in_place or in_blocks(job)) and has_wide_border(job)
    job.far = 0 if job.pools or job.depth <= SHALLOW else FC_FAR
    if job.pools:
        job.dense_bytes = whole_lines(job.images * job.rows * job.columns * job.k * job.size)
    job.thread_bytes = job.buffer_bytes + job.dense_bytes + whole_lines(job.own_bytes)
    block = scratch(packed_bytes + num_threads * job.thread_bytes)
    job.scratch = block.data + packed_bytes
    if job.pack_tasks:
        job.packed = block.data
    share_phases(job, pack_for_all, job.pack_tasks, correlate_unit, job.units * job.groups, num_threads)
    return 0


def correlate(real[:, :, :, ::1] y, const real[:, :, :, ::1] x, const real[:, :, :, ::1] filters, const real[::1] bias,
              bint relu, list sweeps, bint transposed, int num_threads, *,
              const real[::1] gain=None, bint pools=False, uint8_t[:, :, :, ::1] where=None, unpool=None, fc_index groups=1,
              const real[:, :, :, ::1] side=None):
    """y = the correlation of x with HWIO filters along pairs of geometry.Sweeps, * gain, + bias, + side (or None), relu.

    sweeps: their tables, (vertical, horizontal), one pair after the other.  Only the result pixels that they name are written.
    transposed: x has the filters' output channels and y their input channels.  pools: y is the 2x2 max pool of that, and where
    its bytes if they are wanted; the sweeps are a forward pass', a single pair.  unpool: (where, scale, height, width) if x is
    the gradient of such a pool's results.  groups: of the channels of x and of y and of the filters' output channels, in order,
    each correlated by itself; with a pool one.  side: shaped as y, or y itself, whose numbers are then replaced; not with a pool.
    """
    cdef Job job, whole
    cdef fc_index k = y.shape[3] // groups
    cdef const fc_kernels *fc = kernels_for_columns(sizeof(real), k)
    if FEW * k <= fc.vl:  # dots, whose vectors do not lie along the columns
        fc = kernels_for(sizeof(real))
    memset(&whole, 0, sizeof(Job))
    read_images(&whole.x, <const char *>&x[0, 0, 0, 0], sizeof(real), unpool, x.shape[0], x.shape[1], x.shape[2], x.shape[3],
                0, groups)
    whole.y, whole.yh, whole.yw, whole.y_pixel = <char *>&y[0, 0, 0, 0], y.shape[1], y.shape[2], y.shape[3]
    whole.channel_groups, whole.pools = groups, pools
    if where is not None:
        whole.where = &where[0, 0, 0, 0]
    whole.filters = <const char *>&filters[0, 0, 0, 0]
    whole.filter_w, whole.filter_k, whole.transposed = filters.shape[1], filters.shape[3], transposed
    whole.flags = FC_RELU if relu else 0
    if gain is not None:
        whole.gain = <const char *>&gain[0]
        whole.flags |= FC_GAIN
    if bias is not None:
        whole.bias = <const char *>&bias[0]
        whole.flags |= FC_BIAS
    if side is not None:
        whole.side = <const char *>&side[0, 0, 0, 0]
        whole.flags |= FC_SIDE
    for vertical, horizontal in sweeps:
        job = whole
        try:
            plan(&job, fc, sizeof(real), k, vertical, horizontal)
            run_correlate(&job, num_threads)
        finally:
            free_job(&job)


# ------------------------------------------------------------------------------------------------ filter gradient

cdef inline const char *gradient_rows(const Job *job, const Unit *unit, fc_index channel) noexcept nogil:
    return job.dy.data + (((unit.n0 * job.yh + unit.r0) * job.yw + unit.q0) * job.dy.pixel + channel) * job.size


cdef void unpool_panel(const Job *job, const Unit *unit, fc_index group, fc_index panel, char *packed) noexcept nogil:
    cdef fc_index first = panel_start(&job.panels, panel), width = panel_start(&job.panels, panel + 1) - first, i, at
    for i in range(unit.images):
        at = (unit.n0 + i) * job.dy.gh * job.dy.gw * job.dy.pixel + group * job.k + first
        job.fc.unpool(packed + i * unit.rows * unit.columns * width * job.size, unit.columns * width, width,
                      job.dy.data + at * job.size, job.dy.where + at, job.dy.gh, job.dy.gw, job.dy.pixel, unit.r0, unit.q0,
                      unit.rows, unit.columns, panel_channels(&job.panels, first, first + width), job.dy.scale)


cdef void pack_gradient(const Job *job, const Unit *unit, fc_index first_item, fc_index last_item, char *packed) noexcept nogil:
    """The unit's pixels of some panels of dy, as rows that gemm can read; all panels of a group together, pixel by pixel."""
    cdef fc_index item = first_item, panel, group, last
    packed -= packed_place(job, first_item) * job.size
    while item < last_item:
        group, panel = item // job.panels.count, item % job.panels.count
        if job.dy.where != NULL:
            unpool_panel(job, unit, group, panel, packed + packed_place(job, item) * job.size)
            item += 1
            continue
        last = min(job.panels.count, panel + last_item - item)
        pack_rows(job, item, last, 0, gradient_rows(job, unit, group * job.k + panel_start(&job.panels, panel)), unit.pixels,
                  job.dy.pixel, packed)
        item += last - panel


cdef fc_next rows_behind(const Job *job, const Images *of, const Unit *unit, fc_index first, fc_index last) noexcept nogil:
    """Channels first .. last - 1 of the pixels behind a unit, for the next one: of dy, or of an x whose windows are pixels."""
    cdef fc_index pixel = (unit.n0 * job.yh + unit.r0) * job.yw + unit.q0 + unit.pixels
    return next_rows(of.data + (pixel * of.pixel + first) * job.size, of.pixel, (last - first) * job.size)


cdef void filter_gradient_task(const void *any_job, fc_index task, int thread) noexcept nogil:
    """The units of one chunk, for one group of panels and one part of the window's elements."""
    cdef const Job *job = <const Job *>any_job
    cdef char *buffer = job.scratch + thread * job.thread_bytes
    cdef fc_index part = task % job.parts, group = task // job.parts % job.groups, chunk = task // (job.parts * job.groups)
    cdef fc_index p0 = part * job.depth // job.parts, p1 = (part + 1) * job.depth // job.parts
    cdef fc_index first_c = p0 if job.part_c < job.x.pixel else 0
    cdef fc_index p, q, first_unit = chunk * job.units // job.chunks, last_unit = (chunk + 1) * job.units // job.chunks
    cdef char *dw = job.dw if chunk == 0 else job.partial + (chunk - 1) * job.depth * job.filter_k * job.size
    cdef char *packed = buffer + job.buffer_bytes
    cdef const char *b
    cdef fc_index index, item, panel, channels, first, width, ldb, all_panels = job.channel_groups * job.panels.count
    cdef fc_index first_item = group * all_panels // job.groups, last_item = (group + 1) * all_panels // job.groups
    cdef Unit unit
    cdef fc_next next
    for index in range(first_unit, last_unit):
        unit = open_unit(job, index, first_c, buffer)
        if job.packs_gradient:
            pack_gradient(job, &unit, first_item, last_item, packed)
        for p in range(ceil_div(p1 - p0, GRADIENT_ROWS)):
            q = p0 + p * GRADIENT_ROWS
            for item in range(first_item, last_item):
                channels, panel = item // job.panels.count, item % job.panels.count
                first = panel_start(&job.panels, panel)
                width = panel_start(&job.panels, panel + 1) - first
                if job.packs_gradient:
                    b, ldb = packed + (packed_place(job, item) - packed_place(job, first_item)) * job.size, width
                else:
                    b, ldb = gradient_rows(job, &unit, channels * job.k + first), job.dy.pixel
                next = next_rows(NULL, 0, 0)
                if index + 1 == last_unit:
                    pass
                elif p == 0 and job.dy.where == NULL:
                    next = rows_behind(job, &job.dy, &unit, channels * job.k + first, channels * job.k + first + width)
                elif p > 0 and item == last_item - 1 and job.ahead:
                    next = rows_behind(job, &job.x, &unit, p0 if p == 1 else q, min(q + GRADIENT_ROWS, p1))
                job.fc.gemm(dw + (channels * job.k + first) * job.size, job.dw_row + q, unit.x + channels * job.x.c * job.size,
                            job.col + q, min(GRADIENT_ROWS, p1 - q), job.row, unit.pixels, b, ldb, width // job.fc.vl,
                            panel_channels(&job.panels, first, first + width), NULL, NULL, NULL, &next,
                            FC_ACCUMULATE if index > first_unit else FC_FAR)


cdef void add_chunks(const void *any_job, fc_index piece, int thread) noexcept nogil:
    """One of TASKS pieces of the gradient: the chunks' partial results, in order."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index count = job.depth * job.filter_k, chunk
    cdef fc_index first = piece * count // TASKS, last = (piece + 1) * count // TASKS
    for chunk in range(1, job.chunks):
        job.fc.add(job.dw + first * job.size, job.partial + ((chunk - 1) * count + first) * job.size, last - first)


cdef int run_filter_gradient(Job *job, int num_threads) except -1:
    cdef fc_index i, partial_bytes, panels = ceil_div(job.channel_groups * job.panels.count, job.groups)
    cdef Block block
    partial_bytes = whole_lines((job.chunks - 1) * job.depth * job.filter_k * job.size)
    job.thread_bytes = job.buffer_bytes
    if job.packs_gradient:
        job.packed_rows = job.images * job.rows * job.columns
        job.thread_bytes += panels * (whole_lines(job.packed_rows * job.fc.max_vectors * job.fc.vl * job.size) + 64)
        place_vectors(job)
    block = scratch(partial_bytes + num_threads * job.thread_bytes + job.depth * sizeof(fc_index))
    job.partial, job.scratch = block.data, block.data + partial_bytes
    job.dw_row = <fc_index *>(job.scratch + num_threads * job.thread_bytes)
    for i in range(job.depth):
        job.dw_row[i] = i * job.filter_k
    share_phases(job, filter_gradient_task, job.chunks * job.groups * job.parts, add_chunks, TASKS if job.chunks > 1 else 0,
                 num_threads)
    return 0


def filter_gradient(real[:, :, :, ::1] dw, const real[:, :, :, ::1] x, const real[:, :, :, ::1] dy, bytes vertical,
                    bytes horizontal, int num_threads, *, unpool=None, fc_index groups=1):
    """dw (HWIO) of the convolution of x along two geometry.Sweeps with the output gradient dy.

    unpool: (where, scale, height, width) if dy is the gradient of the 2x2 pool of the convolution's height x width results.
    groups: as for correlate.
    """
    cdef Job job
    memset(&job, 0, sizeof(Job))
    read_images(&job.x, <const char *>&x[0, 0, 0, 0], sizeof(real), None, x.shape[0], x.shape[1], x.shape[2], x.shape[3],
                0, groups)
    read_images(&job.dy, <const char *>&dy[0, 0, 0, 0], sizeof(real), unpool, dy.shape[0], dy.shape[1], dy.shape[2], dy.shape[3],
                0, groups)
    job.dw, job.filter_k, job.yh, job.yw = <char *>&dw[0, 0, 0, 0], dw.shape[3], job.dy.h, job.dy.w
    job.channel_groups = groups
    try:
        plan(&job, kernels_for_columns(sizeof(real), job.dy.c), sizeof(real), job.dy.c, vertical, horizontal)
        run_filter_gradient(&job, num_threads)
    finally:
        free_job(&job)
