# What the convolution drivers share: axes, scratch memory, and the copy that gives an image its border of zeros.
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastconv._kernels.kernels cimport fc_index

cdef struct Axis:                     # fastconv.geometry.Sweep
    fc_index count, origin, step, extent, taps, place, place_step
    fc_index *tap                     # [taps] index into the filter
    fc_index *offset                  # [taps]


cdef inline fc_index ceil_div(fc_index a, fc_index b) noexcept nogil:
    return (a + b - 1) // b


cdef inline fc_index whole_lines(fc_index n_bytes) noexcept nogil:
    """Rounded up to cache lines."""
    return ceil_div(n_bytes, 64) * 64


cdef inline int read_axis(Axis *a, object sweep) except -1:
    a.count, a.origin, a.step, a.extent = sweep.count, sweep.origin, sweep.step, sweep.extent
    a.taps, a.place, a.place_step = len(sweep.taps), sweep.place, sweep.place_step
    a.tap = <fc_index *>malloc((2 * a.taps + 1) * sizeof(fc_index))
    if a.tap == NULL:
        raise MemoryError("fastconv: no memory for the table of taps")
    a.offset = a.tap + a.taps
    for i, (index, offset) in enumerate(sweep.taps):
        a.tap[i] = index
        a.offset[i] = offset
    return 0


cdef inline char *allocate(fc_index n_bytes) except NULL nogil:
    """64-byte aligned scratch; release() it."""
    cdef char *raw = <char *>malloc(n_bytes + 128)
    cdef char *aligned
    if raw == NULL:
        with gil:
            raise MemoryError(f"fastconv: no memory for {n_bytes} bytes of scratch")
    aligned = raw + 64 + (64 - <fc_index>raw % 64) % 64
    (<char **>(aligned - sizeof(char *)))[0] = raw
    return aligned


cdef inline void release(char *aligned) noexcept nogil:
    if aligned != NULL:
        free((<char **>(aligned - sizeof(char *)))[0])


cdef inline void copy_window(char *out, const char *image, fc_index h, fc_index w, fc_index pixel_bytes, fc_index top,
                             fc_index left, fc_index height, fc_index width) noexcept nogil:
    """out[height][width] = the pixels from (top, left) on of image[h][w], zeros where there is no image."""
    cdef fc_index line_bytes = width * pixel_bytes
    cdef fc_index first = min(max(0, -left), width), last = max(first, min(width, w - left))
    cdef fc_index r, y
    cdef char *line
    for r in range(height):
        y = top + r
        line = out + r * line_bytes
        if y < 0 or y >= h or first == last:
            memset(line, 0, line_bytes)
            continue
        memset(line, 0, first * pixel_bytes)
        memcpy(line + first * pixel_bytes, image + (y * w + left + first) * pixel_bytes, (last - first) * pixel_bytes)
        memset(line + last * pixel_bytes, 0, (width - last) * pixel_bytes)
