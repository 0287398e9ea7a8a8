# What the drivers share: rows cut into pieces; axes, panels of channels, images that may exist only as their pools' gradients,
# and the copy that gives an image its border of zeros.
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memcpy, memset

from fastconv._kernels.kernels cimport fc_index, fc_kernels, fc_next

cdef enum:
    AXIS_NUMBERS = 7  # of a Sweep's table, before its taps
    PIECE = 1 << 13   # elements: a multiple of Philox' four, of which the second-level cache holds four arrays of doubles


cdef struct Rows:                     # of c elements each (a flat array's of one), that tasks take by pieces
    fc_index count, c, size           # size: bytes of an element
    fc_index piece                    # rows


cdef struct Axis:                     # fastconv.geometry.Sweep
    fc_index count, origin, step, extent, taps, place, place_step
    const fc_index *tap               # [taps] index into the filter
    const fc_index *offset            # [taps]


cdef struct Images:
    const char *data                  # [n][h][w][c], or with `where` the gradient of the 2x2 pool's results, [n][gh][gw][c]
    const uint8_t *where              # [n][gh][gw][c] bytes of pool_windows, or NULL
    double scale                      # of that gradient
    fc_index n, h, w, c, size         # size: bytes of an element
    fc_index end_h, end_w             # pixels from there on count as border
    fc_index pixel                    # elements from one pixel to the next: c, or the channels of all groups
    fc_index gh, gw


cdef struct Panels:                   # result channels, cut into panels of whole vectors, at most as wide as gemm takes
    fc_index k, lanes, vectors, count


cdef inline fc_index ceil_div(fc_index a, fc_index b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Rows cut_rows(fc_index count, fc_index c, fc_index size, fc_index elements) noexcept nogil:
    """elements: of a piece."""
    return Rows(count, c, size, max(1, elements // c))


cdef inline fc_index pieces(const Rows *rows) noexcept nogil:
    return ceil_div(rows.count, rows.piece)


cdef inline fc_index piece_rows(const Rows *rows, fc_index piece) noexcept nogil:
    return min(rows.piece, rows.count - piece * rows.piece)


cdef inline fc_index row_place(const Rows *rows, fc_index row) noexcept nogil:
    """Where a row begins, in bytes."""
    return row * rows.c * rows.size


cdef inline fc_index piece_place(const Rows *rows, fc_index piece) noexcept nogil:
    return row_place(rows, piece * rows.piece)


cdef inline fc_index run_start(const Rows *rows, fc_index run, fc_index runs) noexcept nogil:
    """The first row of one of so many runs, whose sums are joined in order: their number depends on the shape alone."""
    return run * rows.count // runs


cdef inline fc_index whole_lines(fc_index n_bytes) noexcept nogil:
    """Rounded up to cache lines."""
    return ceil_div(n_bytes, 64) * 64


cdef inline fc_next next_rows(const char *rows, fc_index step, fc_index n_bytes) noexcept nogil:
    """What gemm asks for: so many bytes of rows `step` elements apart; 0 for nothing."""
    cdef fc_next next
    next.rows, next.step, next.lines = rows, step, ceil_div(n_bytes, 64)
    return next


cdef inline Panels cut_panels(const fc_kernels *fc, fc_index k) noexcept nogil:
    cdef fc_index vectors = ceil_div(k, fc.vl)
    return Panels(k, fc.vl, vectors, ceil_div(vectors, fc.max_vectors))


cdef inline fc_index panel_start(const Panels *p, fc_index panel) noexcept nogil:
    """Its first channel: panels share the vectors out evenly, so none is much narrower than the others."""
    return panel * p.vectors // p.count * p.lanes


cdef inline fc_index panel_channels(const Panels *p, fc_index first, fc_index last) noexcept nogil:
    """How many of the channels first .. last - 1 there are: the last vector may hang over."""
    return min(last, p.k) - first


cdef inline const char *at_element(const char *numbers, fc_index first, fc_index size) noexcept nogil:
    """From element `first` on; NULL stays NULL."""
    return numbers + first * size if numbers != NULL else NULL


cdef inline Axis read_axis(bytes table) noexcept:
    """A geometry.Sweep's table, whose taps stay where they are: the caller holds it until he is done."""
    cdef const fc_index *number = <const fc_index *>PyBytes_AS_STRING(table)
    return Axis(number[0], number[1], number[2], number[3], number[4], number[5], number[6],
                number + AXIS_NUMBERS, number + AXIS_NUMBERS + number[4])


cdef inline void read_images(Images *x, const char *data, fc_index size, object unpool, fc_index n, fc_index h, fc_index w,
                             fc_index pixel, fc_index group, fc_index groups) except *:
    """One group of the channels of an array [n, h, w, pixel]; unpool: None, or (where, scale, h, w) if it is the gradient of a
    pool of h x w pixels."""
    cdef const uint8_t[:, :, :, ::1] where
    cdef fc_index c = pixel // groups, first = group * c
    x.data, x.size, x.n, x.h, x.w, x.c, x.pixel = data + first * size, size, n, h, w, c, pixel
    if unpool is not None:
        where, x.scale, x.h, x.w = unpool
        x.where, x.gh, x.gw = &where[0, 0, 0, 0] + first, h, w
    x.end_h, x.end_w = x.h, x.w


cdef inline void copy_window(const fc_kernels *fc, char *out, const Images *x, fc_index image, fc_index top, fc_index left,
                             fc_index height, fc_index width, fc_index first, fc_index c, fc_index pitch) noexcept nogil:
    """out[height][width][pitch] = channels first .. first + c - 1 of the pixels from (top, left) on, zeros outside the image."""
    cdef fc_index from_left = min(max(0, -left), width), to_right = max(from_left, min(width, x.end_w - left))
    cdef fc_index pixel_bytes = pitch * x.size, line_bytes = width * pixel_bytes, r, q, at
    cdef char *line
    cdef const char *pixel
    if x.where != NULL:
        at = image * x.gh * x.gw * x.pixel + first
        fc.unpool(out, width * pitch, pitch, x.data + at * x.size, x.where + at, x.gh, x.gw, x.pixel, top, left, height, width, c,
                  x.scale)
        return
    for r in range(height):
        line = out + r * line_bytes
        if top + r < 0 or top + r >= x.end_h or from_left == to_right:
            memset(line, 0, line_bytes)
            continue
        memset(line, 0, from_left * pixel_bytes)
        pixel = x.data + (((image * x.h + top + r) * x.w + left + from_left) * x.pixel + first) * x.size
        if c == x.pixel == pitch:
            memcpy(line + from_left * pixel_bytes, pixel, (to_right - from_left) * pixel_bytes)
        else:
            for q in range(to_right - from_left):
                memcpy(line + (from_left + q) * pixel_bytes, pixel + q * x.pixel * x.size, c * x.size)
        memset(line + to_right * pixel_bytes, 0, (width - to_right) * pixel_bytes)


cdef inline void window_pixels(const void **pixel, const char *zeros, const Images *x, fc_index image, fc_index top,
                               fc_index left, fc_index height, fc_index width, fc_index down, fc_index right,
                               fc_index first) noexcept nogil:
    """pixel[height][width] = where pixels, `down` and `right` of each other, have their channels from `first` on; `zeros` where
    there is no image.  Selected without a branch: where the border lies changes from window to window, and each wrong guess costs
    as much as ten pixels."""
    cdef uintptr_t at, outside = <uintptr_t>zeros, is_row, is_inside
    cdef fc_index _i, _j, r = top, q, end_w = x.end_w, step = right * x.pixel * x.size  # (x might change with what is written)
    for _i in range(height):
        q = left
        at = <uintptr_t>x.data + (((image * x.h + r) * x.w + left) * x.pixel + first) * x.size
        is_row = <size_t>r < <size_t>x.end_h  # a negative number is larger than all others
        for _j in range(width):
            is_inside = is_row & (<size_t>q < <size_t>end_w)
            pixel[0] = <const void *>(outside ^ ((outside ^ at) & -is_inside))
            pixel += 1
            at += step
            q += right
        r += down
