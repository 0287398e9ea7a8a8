"""Winograd convolution's drivers: 6x6 tiles of the source, m x m tiles of the result (m = 7 - taps: 4 for 3x3, 2 for 5x5).

    correlate         (the convolution, and the gradient of its input)
        phase 1       U = G g G^T: transform the filters      [each few panels][36 points][panel: C rows][width]
                      (large filters: V of many tiles, for U then comes in phase 2, part by part where it is needed)
        phase 2       for each block of tiles, shared out among the threads:
                        V = B^T x B                           [tile][36][C]
                        for each few panels: S = V U, one product a point and panel   [36][tile][their width]
                                             y = A^T S A, * gain, + bias, + side, relu

    filter_gradient
        phase 1       for each (chunk of blocks, group of panels, part of the channels), shared out:
                        for all points, or one half of them after the other: for each block:
                          V = B^T x B, W = G dy G^T   [36][tile][C], [36][tile][width of the group]
                          S += V^T W, one product a point                    [36][channel][width of the group]
                        the chunk's own dw = A^T S A
        phase 2       add up the chunks, in order

Where tasks share U, a block's V and S stay in the second-level cache from one step to the next: written to memory they would cost
more than Winograd saves.  Where they share V, both phases are repeated for each block.
Where the products run along the channels, V is written tile by tile (at 128 channels and more a convolution takes 4 to 7%
less time than point by point, Cascade Lake); where they run along the tiles, that would cost 5 to 10%: each tile lies in other
pages.  The formulas are in src_c/winograd_tmpl.h.  As in conv2d.pyx, shapes alone decide what is summed in which order.

Of 14 results along an axis the last tile of four has two, and takes 4 points instead of 6.  A block's tiles are sorted so that
those that have a point lie together: each of its products takes these alone.

1xn and nx1 filters are the same in one dimension: along an axis of one tap there is one point, one result a tile.

A filter of stride s is s x s filters of stride 1, its phases: each sees every s-th tap and pixel, and all give the same results.
So phases are channels.  Of 3 taps and stride 2 one phase has two, the other one: its last tap is zero, and so are its products
at the point infinity, which are left out: of 12 points a tile has along an axis 11 remain.
"""
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastconv._kernels.blocks cimport (
    Axis, Images, Panels, at_element, ceil_div, copy_window, cut_panels, next_rows, panel_channels, panel_start, read_axis,
    read_images, whole_lines, window_pixels,
)
from fastconv._kernels.dispatch cimport kernels_for
from fastconv._kernels.kernels cimport (
    FC_ACCUMULATE, FC_BIAS, FC_BOTH, FC_FAR, FC_GAIN, FC_INNER, FC_OUTER, FC_RELU, FC_SIDE, fc_half, fc_index,
    fc_kernels, fc_next, fc_prefetch,
)
from fastconv._kernels.memory cimport Block, scratch
from fastconv._kernels.team cimport share_phases

ctypedef fused real:
    float
    double

cdef enum:
    EDGE = 6
    MOST_POINTS = 36
    MOST_TILES = 256  # of a block
    MOST_VECTORS = 16  # of panels whose filters are read together: those of 16 bytes in ROW_BYTES

# Tiles of a block: enough to use a panel of U, few enough for V and S to stay in the second-level cache, and whole register tiles
# of 6 rows.  So are the 12 and 6 of 24 that have an outer point where an image has 2x2 tiles.  (Cascade Lake: 25 tiles 3% slower
# with 64 channels of 7x7 pixels, 36 to 48 2 to 5% with 32 of 14x14.)
cdef fc_index TILES = 24
# Tiles of a filter gradient's block.  Its products run along them: fewer pass S through the caches more often, and more leave
# too little of the cache to S, V and W (48: 3 to 6% slower on Cascade Lake).
cdef fc_index GRADIENT_TILES = 36
# A convolution is cut into at least so many tasks for each of several threads, where the shape allows: enough to even out the
# threads' speeds.  Where a block makes several tasks, each transforms the block's source anew: two threads took 5 to 8% longer
# for 16 tasks, and 40% for the 32 of 7x7 images with 512 channels (Zen 3).
cdef fc_index TASKS = 2
# Panels are taken together until their row of S (of a filter gradient: and W) is so long.  A convolution multiplies a point's V
# with all of them before the next point's: panel by panel V would come from the second-level cache, or the third, as often, and
# results would be written by short pieces (AVX2, whose panels take 64 bytes: 6% slower).  A gradient transforms the source anew
# for each group.
cdef fc_index GROUP_BYTES = 256
# A filter gradient's S for one task and one pass: of the same cache, or little more, for the wider S is, the fewer tasks
# transform the same pixels.  (Zen 3, 512 KB of it: 320K is 3 to 10% slower.)  Where S of all channels takes more than half of
# that, the points are taken in two passes of 18: all else that has to stay beside it is halved as well.
cdef fc_index SUM_BYTES = 512 << 10
# Its tasks, where the shape allows: each chunk of them has a gradient of its own.
cdef fc_index CHUNKS = 8
# All chunks' gradients together.
cdef fc_index PARTIAL_BYTES = 1 << 20
# Channels are summed in runs of so many, whose sums are then added: one run of 512 would round twice as badly.
cdef fc_index CHANNEL_RUN = 128
# A U larger than this is not written as a whole where MOST_TILES or fewer share it: a run of one panel of it stays in the cache.
# V, the same for all panels, is written as a whole instead, and read again for each.  (Zen 4, two threads: 1.2 times as fast for
# 8 x 14x14x256 and one 28x28x128, 1.5 times for 4 x 14x14x512; of 256 tiles 1.05 to 1.15 times.)
cdef fc_index OWN_U_BYTES = 1 << 20
# S of all these tiles, for as many panels as their filters are read together, or fewer, but for one at least.
cdef fc_index OWN_S_BYTES = 1200 << 10
# A U larger than this would come from memory: more tiles, too, do so, MOST_TILES after MOST_TILES (1.01 to 1.14 times as fast).
# So would V: of more than FEW_TILES it is no larger than this, or than U, and fewer tiles do so at once.
cdef fc_index FAR_U_BYTES = 8 << 20
# Where there are fewer panels than tasks are wanted, no more tiles than so many do so; of others, each part of a far U is asked
# for during the products of the part before.
cdef fc_index FEW_TILES = 48
# Filters come from memory by pieces of so many bytes, of several panels: a piece of 64 bytes takes half as long as one of 256.
cdef fc_index ROW_BYTES = 256
# Source channels whose filters are transformed as one task (of transposed ones those of a piece): rows of U, end to end for each
# of the points.  (Zen 4: of 16 the U of 28x28x128 takes 1.15 times as long; of 64, the products of 14x14x256 1.02 to 1.05 times.)
cdef fc_index FILTER_ROWS = 32

cdef struct Tiling:                   # of one axis of the result
    fc_index taps, m                  # of a phase of the filter, of a tile's results
    fc_index tiles, points, last_points
    fc_index phases, whole            # of the filter; those of them that have all the taps, the others have one less


cdef struct Tile:
    fc_index image, top, left         # of its results
    int rows, columns                 # points


cdef struct Part:                     # of a filter gradient: what a task sums
    fc_index first_c, c               # channels
    fc_index panel0, panel1           # panels
    fc_index first_k, k               # filters in them


cdef struct Tiles:                    # of a block
    fc_index count
    Tile tile[MOST_TILES]
    fc_index place[MOST_TILES]        # rows of V, S and W
    fc_index start[5]                 # of those vertically the last; neither; horizontally the last; both; end


cdef struct Job:
    const fc_kernels *fc
    fc_index size                     # bytes of an element
    Images x                          # source
    fc_index c, k                     # channels of all phases of the source, of the result
    Axis v, u                         # vertical, horizontal
    Tiling tv, tu
    fc_index tiles, points
    fc_index block, blocks            # tiles of a block
    Panels panels
    fc_index width                    # of the widest panel
    fc_index groups                   # of panels, each a task of its own
    fc_index group_k                  # filter_gradient: channels of the widest
    fc_index part_c, parts            # filter_gradient: channels of a task (correlate: all, in whole vectors, or more)
    fc_index passes                   # filter_gradient: 2 where a task takes the halves of the points one after the other
    const char *zeros                 # max(c, k) of them, a pixel outside the image
    fc_index plane_v, row_v           # elements of V from one point to the next, from one tile to the next
    fc_index *row                     # [block] a tile's row of V
    fc_index *place                   # [block] a tile's row of S
    fc_index *count                   # [max(c, k)] 0, 1, 2, ..
    char *scratch                     # [threads][thread_bytes]
    fc_index thread_bytes
    fc_index *dw_row                  # [part_c] a channel's row of a gradient's S
    # correlate
    char *y                           # [n][yh][yw][y_pixel], of which k channels
    fc_index y_pixel
    uint8_t *where                    # the same of a pool's bytes
    bint pools                        # y is the 2x2 pool of the result
    fc_index yh, yw
    const char *filters               # HWI[filter_k], of which one group; so is a gradient
    fc_index filter_k
    char *transformed                 # U
    fc_index v_bytes, s_bytes         # of a block: V, and S of the panels abreast
    fc_index plane_u, patch_bytes     # patch_bytes: filter_gradient
    fc_index abreast_c                # of few channels: those of a row of phases, in whole vectors; else 0
    fc_index together, filter_rows    # panels whose filters are read together, channels that are transformed as one task
    fc_index abreast, s_width         # panels whose S is computed together, their row of it
    fc_index bundles                  # of so many panels
    bint far_u                        # U comes from memory
    bint own_u                        # block after block: tasks share V, and each transforms its own panels' filters
    const Tiles *sharing              # the tiles of the block at hand
    char *shared_v                    # and their V
    const char *gain
    const char *bias
    const char *side                  # as y
    int flags
    bint transposed
    # filter_gradient
    Images dy
    char *dw                          # as filters
    fc_index chunks                   # of the blocks, each with a gradient of its own
    char *partial                     # [chunks - 1] as dw, of filter_k = k


cdef inline fc_index plane_size(const Job *job, fc_index rows, fc_index columns) noexcept nogil:
    """Elements from one point's matrix (tile by tile: from one tile's points) to the next: a vector more than it holds, for at a
    power of two between them all would meet in the same few lines of the first-level cache (the transforms then take twice as
    long)."""
    return rows * columns + job.fc.vl


cdef inline fc_index whole_vectors(const Job *job, fc_index n) noexcept nogil:
    return ceil_div(n, job.fc.vl) * job.fc.vl


cdef Tiling cut_tiles(fc_index count, fc_index kernel, fc_index step) noexcept nogil:
    cdef fc_index taps = ceil_div(kernel, step), m = EDGE + 1 - taps if taps > 1 else 1, tiles = ceil_div(count, m)
    if taps == 1:
        return Tiling(1, 1, count, 1, 1, 1, 1)
    return Tiling(taps, m, tiles, EDGE, max(3, EDGE - (tiles * m - count)), step, kernel - (taps - 1) * step)


def cut(fc_index count, fc_index kernel, fc_index step=1):
    """An axis of `count` results: (its tiles, the products that they take instead of count * kernel)."""
    cdef Tiling tiling = cut_tiles(count, kernel, step)
    cdef fc_index of_whole = tiling.points * tiling.phases, of_last = tiling.last_points * tiling.phases
    cdef fc_index lacking = tiling.phases - tiling.whole  # the last tap, and with it the point infinity
    of_whole -= lacking
    of_last -= lacking if tiling.last_points == EDGE else 0
    return tiling.tiles, (tiling.tiles - 1) * of_whole + of_last


cdef void find_tiles(const Job *job, fc_index block, Tiles *tiles) noexcept nogil:
    """One division at the beginning: they take as long as a few rows of a transform."""
    cdef fc_index first = block * job.block, k, t, at = 0
    cdef fc_index column = first % job.tu.tiles, row = first // job.tu.tiles % job.tv.tiles
    cdef fc_index image = first // (job.tu.tiles * job.tv.tiles)
    cdef fc_index kind[MOST_TILES]
    cdef bint is_last_v, is_last_u
    tiles.count = min(job.block, job.tiles - first)
    for t in range(tiles.count):
        is_last_v, is_last_u = row == job.tv.tiles - 1, column == job.tu.tiles - 1
        kind[t] = (3 if is_last_v else 2) if is_last_u else (0 if is_last_v else 1)
        tiles.tile[t] = Tile(image, row * job.tv.m, column * job.tu.m, <int>(job.tv.last_points if is_last_v else job.tv.points),
                             <int>(job.tu.last_points if is_last_u else job.tu.points))
        column += 1
        if is_last_u:
            column = 0
            row = 0 if is_last_v else row + 1
            image += is_last_v
    for k in range(4):
        tiles.start[k] = at
        for t in range(tiles.count):
            if kind[t] == k:
                tiles.place[t] = at
                at += 1
    tiles.start[4] = at


cdef inline fc_index first_with(const Job *job, const Tiles *tiles, fc_index point) noexcept nogil:
    """Where the tiles that have the point begin in V, S and W."""
    return tiles.start[1] if point // job.tu.points >= job.tv.last_points else 0


cdef inline fc_index last_with(const Job *job, const Tiles *tiles, fc_index point) noexcept nogil:
    """Where they end."""
    if point % job.tu.points >= job.tu.last_points:
        return tiles.start[2]
    return tiles.start[3 if point // job.tu.points >= job.tv.last_points else 4]


cdef inline fc_index panels_within(const Job *job, fc_index n_bytes) noexcept nogil:
    return max(1, n_bytes // (job.width * job.size))


cdef fc_index even_groups(fc_index panels, fc_index most, int num_threads) noexcept nogil:
    """Into how many groups panels are cut, so that no thread gets more of them than it must."""
    cdef fc_index groups, share, best = 1, least = panels
    for groups in range(1, min(panels, most) + 1):
        share = ceil_div(panels, groups) * ceil_div(groups, num_threads)
        if share <= least:
            best, least = groups, share
    return best


cdef int plan(Job *job, fc_index size, fc_index k, bytes vertical, bytes horizontal) except -1:
    job.fc, job.size, job.k = kernels_for(size), size, k
    job.v, job.u = read_axis(vertical), read_axis(horizontal)
    job.tv, job.tu = cut_tiles(job.v.count, job.v.taps, job.v.step), cut_tiles(job.u.count, job.u.taps, job.u.step)
    job.c = job.tv.phases * job.tu.phases * job.x.c
    # A tile sees pixels that no window holds.  They cancel out, but for their rounding, and a NaN does not.  (Windows may all lie
    # before the image.)
    job.x.end_h = max(0, min(job.x.h, job.v.origin + (job.v.count - 1) * job.v.step + job.v.extent))
    job.x.end_w = max(0, min(job.x.w, job.u.origin + (job.u.count - 1) * job.u.step + job.u.extent))
    job.tiles, job.points = job.x.n * job.tv.tiles * job.tu.tiles, job.tv.points * job.tu.points
    job.panels = cut_panels(job.fc, job.k)
    job.width = ceil_div(job.panels.vectors, job.panels.count) * job.fc.vl
    return 0


cdef void share_tiles(Job *job, fc_index tasks, fc_index most, int num_threads) noexcept nogil:
    """The plan for tasks that share V, of `most` tiles at a time."""
    job.block = ceil_div(job.tiles, ceil_div(job.tiles, most))
    job.blocks = ceil_div(job.tiles, job.block)
    job.groups = even_groups(job.panels.count, tasks, num_threads)
    job.together = min(job.together, panels_within(job, OWN_S_BYTES // (job.points * job.block)))
    job.abreast = job.together


cdef void share_filters(Job *job, fc_index tasks, int num_threads) noexcept nogil:
    """The plan for tasks that share U.  Panels are shared out before tiles: each block reads all of its panels' U."""
    job.block = min(TILES, ceil_div(job.tiles, ceil_div(tasks, job.panels.count)))
    job.blocks = ceil_div(job.tiles, job.block)
    if job.blocks > num_threads:  # as many for each thread, or nearly
        job.blocks = ceil_div(job.blocks, num_threads) * num_threads
    job.block = ceil_div(job.tiles, job.blocks)
    job.blocks = ceil_div(job.tiles, job.block)
    job.groups = min(job.panels.count, ceil_div(tasks, job.blocks))
    job.abreast = min(panels_within(job, GROUP_BYTES), ceil_div(job.panels.count, job.groups))
    job.bundles = ceil_div(job.panels.count, job.abreast)
    job.groups = min(job.groups, job.bundles)


cdef void plan_correlate(Job *job, int num_threads) noexcept nogil:
    """A tile's sums do not depend on who computes it beside which others: so its block may depend on the number of threads."""
    cdef fc_index tasks = TASKS * num_threads if num_threads > 1 else 1, u_bytes, most
    if job.tu.phases > 1 and job.x.c < job.fc.vl:
        job.abreast_c = whole_vectors(job, job.tu.phases * job.x.c)
    job.part_c, job.parts = job.c + job.fc.vl if job.tu.phases > 1 else whole_vectors(job, job.c), 1
    job.plane_v, job.row_v = job.part_c, plane_size(job, job.points, job.part_c)
    u_bytes = job.points * job.c * whole_vectors(job, job.k) * job.size
    most = max(FEW_TILES, min(MOST_TILES, max(u_bytes, FAR_U_BYTES) // (job.points * job.plane_v * job.size)))
    if job.panels.count < tasks:
        job.own_u = job.tiles <= FEW_TILES and u_bytes > OWN_U_BYTES
    else:
        job.own_u = u_bytes > (OWN_U_BYTES if job.tiles <= most else FAR_U_BYTES)
    job.together, job.filter_rows = panels_within(job, ROW_BYTES), FILTER_ROWS
    if job.transposed:
        job.together, job.filter_rows = 1, ROW_BYTES // job.size
    if job.own_u:
        share_tiles(job, tasks, most, num_threads)
    else:
        share_filters(job, tasks, num_threads)
    job.s_width = job.abreast * job.width


cdef void plan_gradient(Job *job) noexcept nogil:
    """A task's S stays in the cache beside V and W: a few panels and so many channels."""
    cdef fc_index sum_bytes, dw_bytes = job.tv.taps * job.tu.taps * job.c * job.k * job.size
    job.groups = ceil_div(job.panels.count, panels_within(job, GROUP_BYTES))
    job.group_k = ceil_div(job.panels.count, job.groups) * job.width
    sum_bytes = job.points * job.group_k * job.size
    job.passes = 2 if job.points == MOST_POINTS and 2 * job.c * sum_bytes > SUM_BYTES else 1
    job.parts = ceil_div(job.c, max(job.fc.vl, SUM_BYTES * job.passes // sum_bytes))
    job.part_c = whole_vectors(job, ceil_div(job.c, job.parts))
    job.parts = ceil_div(job.c, job.part_c)
    # A power of two, so that 2, 4, 8 threads get the same share.
    job.chunks = 1
    while 2 * job.chunks * job.groups * job.parts <= CHUNKS and 2 * job.chunks <= min(job.tiles, PARTIAL_BYTES // dw_bytes):
        job.chunks *= 2
    job.block = min(GRADIENT_TILES, ceil_div(job.tiles, job.chunks))
    job.blocks = ceil_div(job.tiles, job.block)
    while job.chunks > job.blocks:  # none is left without
        job.chunks //= 2
    job.plane_v, job.row_v = plane_size(job, job.block, job.part_c), job.part_c


cdef int fill_tables(Job *job) except -1:
    cdef fc_index i
    job.row = <fc_index *>malloc((2 * job.block + 2 * max(job.c, job.k)) * sizeof(fc_index))
    if job.row == NULL:
        raise MemoryError("fastconv: no memory for the tables of a convolution")
    job.place = job.row + job.block
    job.count = job.place + job.block
    job.dw_row = job.count + max(job.c, job.k)
    for i in range(job.block):
        job.row[i] = i * job.row_v
        job.place[i] = i * job.s_width
    for i in range(max(job.c, job.k)):
        job.count[i] = i
        job.dw_row[i] = i * job.group_k
    return 0


cdef void free_job(Job *job) noexcept nogil:
    free(job.row)


cdef void find_pixels(const Job *job, const void **pixel, const Images *x, fc_index image, fc_index top, fc_index left,
                      fc_index height, fc_index width, fc_index down, fc_index right, fc_index first, fc_index c,
                      char *patch) noexcept nogil:
    """Where the pixels of a tile lie; what exists only as a pool's gradient, of step 1, is first spread into the patch."""
    cdef fc_index i
    if x.where == NULL:
        window_pixels(pixel, job.zeros, x, image, top, left, height, width, down, right, first)
        return
    copy_window(job.fc, patch, x, image, top, left, height, width, first, c, c)
    for i in range(height * width):
        pixel[i] = patch + i * c * job.size


cdef void transform_source(const Job *job, const Tile *tile, fc_index first_c, fc_index c, int halves, char *v,
                           char *patch) noexcept nogil:
    """Channels first_c .. first_c + c - 1 of one tile's pixels into v, a row of V; phase by phase, if there are some."""
    cdef const void *pixel[MOST_POINTS]
    cdef fc_index a, b, top = job.v.origin + tile.top * job.v.step, left = job.u.origin + tile.left * job.u.step
    if job.abreast_c > 0:
        transform_abreast(job, tile, top, left, v, patch)
        return
    for a in range(job.tv.phases):
        for b in range(job.tu.phases):
            find_pixels(job, pixel, &job.x, tile.image, top + a, left + b, job.tv.points, job.tu.points, job.v.step, job.u.step,
                        first_c, c, patch)
            job.fc.winograd_data(v + (a * job.tu.phases + b) * job.x.c * job.size, job.plane_v, pixel, c, tile.rows,
                                 tile.columns, halves)


cdef void transform_abreast(const Job *job, const Tile *tile, fc_index top, fc_index left, char *v, char *patch) noexcept nogil:
    """The same of phases with less than a vector of channels: pixels side by side, that is, a row's phases, are taken together.
    What their last vector holds beyond them is the next row's to overwrite."""
    cdef const void *pixel[MOST_POINTS]
    cdef fc_index width = job.tu.points * job.tu.phases, pixel_bytes = job.x.c * job.size, a, i, j
    copy_window(job.fc, patch, &job.x, tile.image, top, left, job.tv.points * job.tv.phases, width, 0, job.x.c, job.x.c)
    for a in range(job.tv.phases):
        for i in range(job.tv.points):
            for j in range(job.tu.points):
                pixel[i * job.tu.points + j] = patch + ((a + i * job.tv.phases) * width + j * job.tu.phases) * pixel_bytes
        job.fc.winograd_data(v + a * job.tu.phases * pixel_bytes, job.plane_v, pixel, job.abreast_c, tile.rows, tile.columns,
                             FC_BOTH)


# ------------------------------------------------------------------------------------------------ correlate

cdef inline const char *tap_filters(const Job *job, fc_index a, fc_index phase) noexcept nogil:
    """Tap a of those that a phase of the filter has; NULL if it lacks this one."""
    cdef fc_index i = phase // job.tu.phases + a // job.tu.taps * job.tv.phases
    cdef fc_index j = phase % job.tu.phases + a % job.tu.taps * job.tu.phases, tap
    if i >= job.v.taps or j >= job.u.taps:
        return NULL
    tap = job.v.tap[i] * job.u.taps + job.u.tap[j]
    return job.filters + tap * (job.k if job.transposed else job.x.c) * job.filter_k * job.size


cdef inline fc_index read_size(const Job *job, fc_index rows) noexcept nogil:
    """The elements of one panel that read_filters writes: [tap][rows of the widest panel]."""
    return job.tv.taps * job.tu.taps * rows * job.width


cdef void read_transposed(const Job *job, fc_index panel, fc_index c0, fc_index rows, char *out) noexcept nogil:
    """The same of one panel of transposed filters: there a panel's columns are rows."""
    cdef fc_index first = panel_start(&job.panels, panel), width = panel_start(&job.panels, panel + 1) - first, a, r
    cdef fc_index n = panel_channels(&job.panels, first, first + width)
    cdef const char *w
    for a in range(job.tv.taps * job.tu.taps):
        w = tap_filters(job, a, 0) + (first * job.filter_k + c0) * job.size
        job.fc.pack(out + a * rows * job.width * job.size, w, rows, n, width, 1, job.filter_k)
        for r in range(n):  # each in another page of memory: the processor does not foresee them
            fc_prefetch(w + (r * job.filter_k + rows) * job.size)


cdef void read_filters(const Job *job, fc_index panel0, fc_index panel1, fc_index c0, fc_index rows, char *out) noexcept nogil:
    """Source channels c0 .. c0 + rows - 1 of some panels, tap by tap: out[panel][tap][rows of the widest panel]; the rows may be
    those of several phases.  Where channels are a power of two, so are the distances of a channel's taps, which then share a
    few sets of the cache: a transform that reads them there waits for each (7x7x512: 1.15 times as long, Zen 3)."""
    cdef fc_index first = panel_start(&job.panels, panel0), taps = job.tv.taps * job.tu.taps, panel, start, width, a, v
    cdef fc_index n = panel_channels(&job.panels, first, panel_start(&job.panels, panel1)), tap_size = rows * job.width
    cdef fc_index phase, at = c0, end
    cdef const char *w
    cdef fc_index[MOST_VECTORS] place, step
    if job.transposed:
        read_transposed(job, panel0, c0, rows, out)
        return
    for panel in range(panel0, panel1):
        start = panel_start(&job.panels, panel) - first
        width = panel_start(&job.panels, panel + 1) - first - start
        for v in range(start // job.fc.vl, (start + width) // job.fc.vl):
            place[v], step[v] = (panel - panel0) * read_size(job, rows) + v * job.fc.vl - start, width
    if job.tv.phases * job.tu.phases > 1:
        memset(out, 0, (panel1 - panel0) * read_size(job, rows) * job.size)  # the taps that a phase lacks
    while at < c0 + rows:
        phase = at // job.x.c
        end = min((phase + 1) * job.x.c, c0 + rows)
        for a in range(taps):
            w = tap_filters(job, a, phase)
            if w != NULL:
                job.fc.pack_panels(out + a * tap_size * job.size, place, step, at - c0,
                                   w + ((at - phase * job.x.c) * job.filter_k + first) * job.size, end - at, n, job.filter_k)
        at = end


cdef void transform_filters(const Job *job, fc_index panel, const char *filters, fc_index rows, char *u) noexcept nogil:
    """One panel of what read_filters wrote into u, the panel's part of U."""
    cdef fc_index first = panel_start(&job.panels, panel), width = panel_start(&job.panels, panel + 1) - first, a, r
    cdef fc_index n = panel_channels(&job.panels, first, first + width)
    cdef const void *tap[MOST_POINTS]
    for r in range(rows):
        for a in range(job.tv.taps * job.tu.taps):
            tap[a] = filters + (a * rows * job.width + r * width) * job.size
        job.fc.winograd_filter(u + r * width * job.size, job.plane_u, tap, n, <int>max(job.tv.taps, job.tu.taps),
                               <int>job.tv.points, <int>job.tu.points, FC_BOTH)


cdef char *bundle_filters(const Job *job, fc_index bundle) noexcept nogil:
    """Where the U of some panels abreast begins: in the order in which their products read it."""
    return job.transformed + bundle * job.points * job.plane_u * job.size


cdef void transform_some_filters(const void *any_job, fc_index task, int thread) noexcept nogil:
    """Some source channels of some panels, into the U that all threads share."""
    cdef const Job *job = <const Job *>any_job
    cdef char *buffer = job.scratch + thread * job.thread_bytes
    cdef fc_index pieces = ceil_div(job.c, job.filter_rows), c0 = task % pieces * job.filter_rows
    cdef fc_index rows = min(job.filter_rows, job.c - c0)
    cdef fc_index panel0 = task // pieces * job.together, panel1 = min(panel0 + job.together, job.panels.count)
    cdef fc_index panel, first, width, at
    read_filters(job, panel0, panel1, c0, rows, buffer)
    for panel in range(panel0, panel1):
        first = panel_start(&job.panels, panel)
        width = panel_start(&job.panels, panel + 1) - first
        at = job.c * (first - panel_start(&job.panels, panel // job.abreast * job.abreast)) + c0 * width
        transform_filters(job, panel, buffer + (panel - panel0) * read_size(job, rows) * job.size, rows,
                          bundle_filters(job, panel // job.abreast) + at * job.size)


cdef void finish_tile(const Job *job, const Tile *tile, const char *s, fc_index plane, fc_index first, fc_index n,
                      char *patch) noexcept nogil:
    """From the points of one tile to its results, of n channels from `first` on; or to their pool."""
    cdef int m = <int>max(job.tv.m, job.tu.m)
    cdef fc_index height = min(job.tv.m, job.v.count - tile.top), width = min(job.tu.m, job.u.count - tile.left), at
    cdef const char *gain = at_element(job.gain, first, job.size)
    cdef const char *bias = at_element(job.bias, first, job.size)
    if not job.pools:
        at = ((tile.image * job.yh + tile.top) * job.yw + tile.left) * job.y_pixel + first
        job.fc.winograd_result(job.y + at * job.size, job.yw * job.y_pixel, job.y_pixel, height, width, s, plane, n, gain, bias,
                               at_element(job.side, at, job.size), job.flags | FC_FAR, m, tile.rows, tile.columns)
        return
    at = ((tile.image * job.yh + tile.top // 2) * job.yw + tile.left // 2) * job.y_pixel + first
    job.fc.winograd_result(patch, m * n, n, height, width, s, plane, n, gain, bias, NULL, job.flags, m, tile.rows, tile.columns)
    job.fc.pool_windows(job.y + at * job.size, job.where + at if job.where != NULL else NULL, job.yw * job.y_pixel, job.y_pixel,
                        patch, m * n, n, min(height, 2 * job.yh - tile.top), min(width, 2 * job.yw - tile.left), n)


cdef inline bint is_partial(const Tiling *tiling, fc_index point) noexcept nogil:
    """Whether some phases have no products at the point, infinity, for they lack the last tap."""
    return tiling.whole < tiling.phases and point == EDGE - 1


cdef void find_run(const Job *job, bint down, bint right, fc_index *first, fc_index *end) noexcept nogil:
    """The next channels of phases that have products, vertically (down) or horizontally those with all taps alone: from `first`
    on, or later, to `end`, or earlier.  Without any left, first is end."""
    cdef fc_index row = job.tu.phases * job.x.c, start
    if right:
        start = first[0] // row * row
        if first[0] >= start + job.tu.whole * job.x.c:
            start += row
            first[0] = start
        end[0] = min(end[0], start + job.tu.whole * job.x.c)
    if down:
        end[0] = min(end[0], job.tv.whole * row)
    first[0] = min(first[0], end[0])


cdef void multiply(const Job *job, const Tiles *tiles, char *s, const char *v, const char *u, fc_index panel0, fc_index panel1,
                   fc_index first_c, fc_index last_c) noexcept nogil:
    """S (+)= V U of one block, some panels and some channels, whose rows of U lie at u; point by point."""
    cdef fc_index plane_s = plane_size(job, job.block, job.s_width), start = panel_start(&job.panels, panel0)
    cdef fc_index p, first, count, panel, at, width, c, end
    cdef bint down, right
    cdef const char *b
    cdef fc_next next = next_rows(NULL, 0, 0)
    for p in range(job.points):
        first = first_with(job, tiles, p)
        count = last_with(job, tiles, p) - first
        down, right = is_partial(&job.tv, p // job.tu.points), is_partial(&job.tu, p % job.tu.points)
        for panel in range(panel0, panel1):
            at = panel_start(&job.panels, panel) - start
            width = panel_start(&job.panels, panel + 1) - start - at
            c = first_c
            while c < last_c:
                end = last_c
                if down or right:
                    find_run(job, down, right, &c, &end)
                    if c == end:
                        break
                end = min(end, (c // CHANNEL_RUN + 1) * CHANNEL_RUN)  # where correlate_own cuts
                b = u + (p * job.plane_u + at * job.c + (c - first_c) * width) * job.size
                if job.far_u:  # what lies behind it is the next product's
                    next = next_rows(b + (end - c) * width * job.size, width, width * job.size)
                job.fc.gemm(s + (p * plane_s + first * job.s_width + at) * job.size, job.place,
                            v + (p * job.plane_v + first * job.row_v) * job.size, job.row, count, job.count + c, end - c,
                            b, width, width // job.fc.vl, width, NULL, NULL, NULL, &next, FC_ACCUMULATE if c > 0 else 0)
                c = end


cdef void finish_panels(const Job *job, const Tiles *tiles, const char *s, fc_index panel0, fc_index panel1,
                        char *patch) noexcept nogil:
    cdef fc_index plane_s = plane_size(job, job.block, job.s_width), first = panel_start(&job.panels, panel0), t
    cdef fc_index n = panel_channels(&job.panels, first, panel_start(&job.panels, panel1))
    for t in range(tiles.count):
        finish_tile(job, &tiles.tile[t], s + tiles.place[t] * job.s_width * job.size, plane_s, first, n, patch)


cdef void transform_tile(const Job *job, const Tiles *tiles, fc_index t, char *v, char *patch) noexcept nogil:
    transform_source(job, &tiles.tile[t], 0, job.x.c, FC_BOTH, v + tiles.place[t] * job.row_v * job.size, patch)


cdef void transform_shared(const void *any_job, fc_index task, int thread) noexcept nogil:
    """A tile of the block at hand, into the V that all threads share."""
    cdef const Job *job = <const Job *>any_job
    transform_tile(job, job.sharing, task, job.shared_v, job.scratch + thread * job.thread_bytes)


cdef void correlate_block(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef fc_index group = task % job.groups, bundle, panel0, panel1, t
    cdef char *v = job.scratch + thread * job.thread_bytes
    cdef char *s = v + job.v_bytes
    cdef char *patch = s + job.s_bytes
    cdef Tiles tiles
    find_tiles(job, task // job.groups, &tiles)
    for t in range(tiles.count):
        transform_tile(job, &tiles, t, v, patch)
    for bundle in range(group * job.bundles // job.groups, (group + 1) * job.bundles // job.groups):
        panel0 = bundle * job.abreast
        panel1 = min(panel0 + job.abreast, job.panels.count)
        multiply(job, &tiles, s, v, bundle_filters(job, bundle), panel0, panel1, 0, job.c)
        finish_panels(job, &tiles, s, panel0, panel1, patch)


cdef void correlate_own(const void *any_job, fc_index group, int thread) noexcept nogil:
    """One group of panels of the block at hand, whose V is there; their filters are transformed into the task's own U, a run of
    one panel at a time."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index panel0 = group * job.panels.count // job.groups, last = (group + 1) * job.panels.count // job.groups
    cdef fc_index panel, panel1, run, c, rows, at
    cdef char *s = job.scratch + thread * job.thread_bytes
    cdef char *u = s + job.s_bytes
    cdef char *patch = u + job.points * job.plane_u * job.size
    while panel0 < last:
        panel1 = min(panel0 + job.together, last)
        for run in range(ceil_div(job.c, CHANNEL_RUN)):
            c = run * CHANNEL_RUN
            rows = min(CHANNEL_RUN, job.c - c)
            read_filters(job, panel0, panel1, c, rows, patch)
            for panel in range(panel0, panel1):
                at = panel_start(&job.panels, panel) - panel_start(&job.panels, panel0)
                transform_filters(job, panel, patch + (panel - panel0) * read_size(job, rows) * job.size, rows, u)
                multiply(job, job.sharing, s + at * job.size, job.shared_v, u, panel, panel + 1, c, c + rows)
        finish_panels(job, job.sharing, s, panel0, panel1, patch)
        panel0 = panel1


cdef int run_correlate(Job *job, int num_threads) except -1:
    cdef fc_index u_bytes, shared_bytes, filters, pieces, b
    cdef Block block
    cdef Tiles tiles
    plan_correlate(job, num_threads)
    fill_tables(job)
    job.plane_u = plane_size(job, CHANNEL_RUN, job.width) if job.own_u else plane_size(job, job.c, job.s_width)
    u_bytes = whole_lines((1 if job.own_u else job.bundles) * job.points * job.plane_u * job.size)
    job.far_u = not job.own_u and u_bytes > FAR_U_BYTES
    job.v_bytes = whole_lines(job.block * job.row_v * job.size)
    job.s_bytes = whole_lines(job.points * plane_size(job, job.block, job.s_width) * job.size)
    filters = job.together * read_size(job, min(job.c, CHANNEL_RUN if job.own_u else job.filter_rows))
    job.thread_bytes = whole_lines((max(filters, job.points * max(job.c, job.s_width)) + job.fc.vl) * job.size) + job.s_bytes
    job.thread_bytes += u_bytes if job.own_u else job.v_bytes
    shared_bytes = job.v_bytes if job.own_u else u_bytes
    block = scratch(shared_bytes + num_threads * job.thread_bytes + job.c * job.size)
    job.scratch = block.data + shared_bytes
    job.zeros = <const char *>memset(job.scratch + num_threads * job.thread_bytes, 0, job.c * job.size)
    if job.own_u:
        job.shared_v, job.sharing = block.data, &tiles
        for b in range(job.blocks):
            find_tiles(job, b, &tiles)
            share_phases(job, transform_shared, tiles.count, correlate_own, job.groups, num_threads)
    else:
        job.transformed = block.data
        pieces = ceil_div(job.panels.count, job.together) * ceil_div(job.c, job.filter_rows)
        share_phases(job, transform_some_filters, pieces, correlate_block, job.blocks * job.groups, num_threads)
    return 0


def correlate(real[:, :, :, ::1] y, const real[:, :, :, ::1] x, const real[:, :, :, ::1] filters, const real[::1] bias,
              bint relu, list sweeps, bint transposed, int num_threads, *,
              const real[::1] gain=None, bint pools=False, uint8_t[:, :, :, ::1] where=None, unpool=None, fc_index group=0,
              fc_index groups=1, const real[:, :, :, ::1] side=None):
    """As conv2d.correlate, along a single pair of geometry.Sweeps of equally many adjacent taps, 2 .. 5 steps of them, rounded up
    (for a pool: 3 or 5, of step 1); or, of step 1, one of them of a single tap (no pool)."""
    cdef Job job
    cdef fc_index k = y.shape[3] // groups
    memset(&job, 0, sizeof(Job))
    read_images(&job.x, <const char *>&x[0, 0, 0, 0], sizeof(real), unpool, x.shape[0], x.shape[1], x.shape[2], x.shape[3],
                group, groups)
    job.y, job.yh, job.yw, job.y_pixel = <char *>(&y[0, 0, 0, 0] + group * k), y.shape[1], y.shape[2], y.shape[3]
    job.pools = pools
    if where is not None:
        job.where = &where[0, 0, 0, 0] + group * k
    job.filters = <const char *>(&filters[0, 0, 0, 0] + group * (filters.shape[3] // groups))
    job.filter_k, job.transposed = filters.shape[3], transposed
    job.flags = FC_RELU if relu else 0
    if gain is not None:
        job.gain = <const char *>(&gain[0] + group * k)
        job.flags |= FC_GAIN
    if bias is not None:
        job.bias = <const char *>(&bias[0] + group * k)
        job.flags |= FC_BIAS
    if side is not None:
        job.side = <const char *>(&side[0, 0, 0, 0] + group * k)
        job.flags |= FC_SIDE
    try:
        [(vertical, horizontal)] = sweeps
        plan(&job, sizeof(real), k, vertical, horizontal)
        run_correlate(&job, num_threads)
    finally:
        free_job(&job)


# ------------------------------------------------------------------------------------------------ filter gradient

cdef void transform_gradient(const Job *job, const Tile *tile, fc_index first, fc_index n, int halves, char *w,
                             fc_index plane, char *patch) noexcept nogil:
    """Channels first .. first + n - 1 of one tile's m x m pixels of the output's gradient into w, a row of W."""
    cdef const void *pixel[MOST_POINTS]
    find_pixels(job, pixel, &job.dy, tile.image, tile.top, tile.left, job.tv.m, job.tu.m, 1, 1, first, n, patch)
    job.fc.winograd_filter(w, plane, pixel, n, <int>max(job.tv.m, job.tu.m), tile.rows, tile.columns, halves)


cdef Part find_part(const Job *job, fc_index task) noexcept nogil:
    cdef fc_index group = task // job.parts % job.groups, first_c = task % job.parts * job.part_c
    cdef fc_index panel0 = group * job.panels.count // job.groups, panel1 = (group + 1) * job.panels.count // job.groups
    cdef fc_index first_k = panel_start(&job.panels, panel0), last_k = panel_start(&job.panels, panel1)
    return Part(first_c, min(job.part_c, job.c - first_c), panel0, panel1, first_k, panel_channels(&job.panels, first_k, last_k))


cdef inline char *chunk_gradient(const Job *job, fc_index chunk, fc_index *row) noexcept nogil:
    """The first chunk's is dw itself; `row`: elements from one row of it, a tap and a channel, to the next."""
    row[0] = job.k if chunk > 0 else job.filter_k
    return job.partial + (chunk - 1) * job.tv.taps * job.tu.taps * job.c * job.k * job.size if chunk > 0 else job.dw


cdef void finish_gradient(const Job *job, const Part *part, fc_index chunk, fc_index channel, const char *s) noexcept nogil:
    """From the points of one of the part's input channels to its taps, of the part's filters."""
    cdef fc_index row, pixel, plane = plane_size(job, job.part_c, job.group_k)
    cdef char *dw = chunk_gradient(job, chunk, &row)
    pixel = job.c * row
    job.fc.winograd_result(dw + ((part.first_c + channel) * row + part.first_k) * job.size, job.tu.taps * pixel, pixel,
                           job.tv.taps, job.tu.taps, s + channel * job.group_k * job.size, plane, part.k, NULL, NULL, NULL, 0,
                           <int>max(job.tv.taps, job.tu.taps), <int>job.tv.points, <int>job.tu.points)


cdef void add_products(const Job *job, const Part *part, const Tiles *tiles, char *s, const char *v, const char *w,
                       int halves, int flags) noexcept nogil:
    """S += V^T W of one block, point by point."""
    cdef fc_index plane_s = plane_size(job, job.part_c, job.group_k)
    cdef fc_index plane_w = plane_size(job, job.block, job.group_k)
    cdef fc_index p, t, count, panel, at, width
    for p in range(job.points):
        if not halves & fc_half(p // EDGE):  # (the points of a line, of which all are computed, count as one row)
            continue
        t = first_with(job, tiles, p)
        count = last_with(job, tiles, p) - t
        for panel in range(part.panel0, part.panel1):
            at = panel_start(&job.panels, panel) - part.first_k
            width = panel_start(&job.panels, panel + 1) - part.first_k - at
            job.fc.gemm(s + (p * plane_s + at) * job.size, job.dw_row,
                        v + (p * job.plane_v + t * job.row_v) * job.size, job.count, part.c, job.row, count,
                        w + (p * plane_w + t * job.group_k + at) * job.size, job.group_k,
                        width // job.fc.vl, width, NULL, NULL, NULL, NULL, flags)


cdef void gradient_task(const void *any_job, fc_index task, int thread) noexcept nogil:
    cdef const Job *job = <const Job *>any_job
    cdef Part part = find_part(job, task)
    cdef fc_index chunk = task // (job.parts * job.groups), block, t
    cdef fc_index first_block = chunk * job.blocks // job.chunks, last_block = (chunk + 1) * job.blocks // job.chunks
    cdef fc_index plane_w = plane_size(job, job.block, job.group_k)
    cdef char *v = job.scratch + thread * job.thread_bytes
    cdef char *w = v + job.points * job.plane_v * job.size
    cdef char *patch = w + job.points * plane_w * job.size
    cdef char *s = patch + job.patch_bytes
    cdef Tiles tiles
    cdef int turn, halves
    for turn in range(job.passes):
        halves = FC_BOTH if job.passes == 1 else FC_OUTER if turn == 1 else FC_INNER
        for block in range(first_block, last_block):
            find_tiles(job, block, &tiles)
            for t in range(tiles.count):
                transform_source(job, &tiles.tile[t], part.first_c, part.c, halves,
                                 v + tiles.place[t] * job.row_v * job.size, patch)
            for t in range(tiles.count):
                transform_gradient(job, &tiles.tile[t], part.first_k, part.k, halves,
                                   w + tiles.place[t] * job.group_k * job.size, plane_w, patch)
            add_products(job, &part, &tiles, s, v, w, halves, FC_ACCUMULATE if block > first_block else 0)
    for t in range(part.c):
        finish_gradient(job, &part, chunk, t, s)


cdef void add_chunks(const void *any_job, fc_index row, int thread) noexcept nogil:
    """One row of the gradient, a tap and a channel: the chunks' own, in order."""
    cdef const Job *job = <const Job *>any_job
    cdef fc_index chunk, stride
    cdef char *part
    for chunk in range(1, job.chunks):
        part = chunk_gradient(job, chunk, &stride)
        job.fc.add(job.dw + row * job.filter_k * job.size, part + row * stride * job.size, job.k)


cdef int run_filter_gradient(Job *job, int num_threads) except -1:
    cdef fc_index rows = job.tv.taps * job.tu.taps * job.c, partial_bytes
    cdef Block block
    plan_gradient(job)
    fill_tables(job)
    job.patch_bytes = whole_lines(job.points * max(job.c, job.group_k) * job.size)
    job.thread_bytes = job.patch_bytes + whole_lines(job.points * job.size * (
        job.plane_v + plane_size(job, job.block, job.group_k) + plane_size(job, job.part_c, job.group_k)))
    partial_bytes = whole_lines((job.chunks - 1) * rows * job.k * job.size)
    block = scratch(partial_bytes + num_threads * job.thread_bytes + max(job.c, job.k) * job.size)
    job.partial, job.scratch = block.data, block.data + partial_bytes
    job.zeros = <const char *>memset(job.scratch + num_threads * job.thread_bytes, 0, max(job.c, job.k) * job.size)
    share_phases(job, gradient_task, job.chunks * job.groups * job.parts, add_chunks, rows if job.chunks > 1 else 0,
                 num_threads)
    return 0


def filter_gradient(real[:, :, :, ::1] dw, const real[:, :, :, ::1] x, const real[:, :, :, ::1] dy, bytes vertical,
                    bytes horizontal, int num_threads, *, unpool=None, fc_index group=0, fc_index groups=1):
    """As conv2d.filter_gradient, for the sweeps that correlate takes."""
    cdef Job job
    memset(&job, 0, sizeof(Job))
    read_images(&job.x, <const char *>&x[0, 0, 0, 0], sizeof(real), None, x.shape[0], x.shape[1], x.shape[2], x.shape[3],
                group, groups)
    read_images(&job.dy, <const char *>&dy[0, 0, 0, 0], sizeof(real), unpool, dy.shape[0], dy.shape[1], dy.shape[2], dy.shape[3],
                group, groups)
    job.dw, job.filter_k = <char *>(&dw[0, 0, 0, 0] + group * job.dy.c), dw.shape[3]
    try:
        plan(&job, sizeof(real), job.dy.c, vertical, horizontal)
        run_filter_gradient(&job, num_threads)
    finally:
        free_job(&job)
