/* Pooling, channels in the lanes.  The contract stands in fastconv.h.
 *
 * Order and NaN: pixels of a window are visited row by row, and a later one replaces the maximum only if it is greater, or if it
 * is the first NaN.  So ties go to the first pixel and a NaN always comes out.
 */
/* Maxima and their taps where some are NaN. */
static void FN(pool_nans)(T *y, uint8_t *where, const T *x, fc_index x_row, fc_index x_pixel, fc_index h, fc_index w,
                          fc_index tap, fc_index tap_row, fc_index lanes)
{
    for (fc_index ch = 0; ch < lanes; ch++) {
        T best = x[ch];
        fc_index number = tap;
        for (fc_index r = 0; r < h; r++)
            for (fc_index q = 0; q < w && best == best; q++) {
                const T here = x[r * x_row + q * x_pixel + ch];
                if (!(here <= best)) {
                    best = here;
                    number = tap + r * tap_row + q;
                }
            }
        y[ch] = best == best ? best : (T)NAN;
        where[ch] = (uint8_t)number;
    }
}

/* One vector of a window's maxima and, where they are `wanted`, their taps.  A NaN is never greater, so it is looked for apart, two
 * pixels a comparison: where they are not `ordered` there is one, and neither maximum nor tap counts. */
FC_INLINE vec FN(window_max)(truth *ordered, tags *number, int wanted, const T *x, fc_index x_row, fc_index x_pixel, fc_index h,
                             fc_index w, fc_index tap, fc_index tap_row, fc_index lanes)
{
    vec best = lanes < VL ? FN(load_part)(x, lanes) : FN(load)(x), before = best;
    *ordered = FN(always)();
    *number = FN(splat_tags)(tap);
#pragma GCC unroll 3
    for (fc_index r = 0; r < h; r++)
#pragma GCC unroll 3
        for (fc_index q = 0; q < w; q++) {
            if (r == 0 && q == 0)
                continue;
            const T *at = x + r * x_row + q * x_pixel;
            const vec here = lanes < VL ? FN(load_part)(at, lanes) : FN(load)(at);
            if ((r * w + q) % 2 || r * w + q == h * w - 1)
                *ordered = FN(and_ordered)(*ordered, before, here);
            if (wanted)
                *number = FN(choose_tags)(FN(greater)(here, best), FN(splat_tags)(tap + r * tap_row + q), *number);
            best = FN(max)(here, best);
            before = here;
        }
    if (h * w == 1)
        *ordered = FN(and_ordered)(*ordered, best, best);
    return best;
}

FC_INLINE void FN(pool_vector)(T *y, uint8_t *where, const T *x, fc_index x_row, fc_index x_pixel, fc_index h, fc_index w,
                               fc_index tap, fc_index tap_row, fc_index lanes)
{
    truth ordered;
    tags number;
    vec best = FN(window_max)(&ordered, &number, where != NULL, x, x_row, x_pixel, h, w, tap, tap_row, lanes);
    if (where && !FN(all)(ordered)) {
        FN(pool_nans)(y, where, x, x_row, x_pixel, h, w, tap, tap_row, lanes < VL ? lanes : VL);
        return;
    }
    best = FN(choose)(ordered, best, FN(splat)((T)NAN));
    FN(claim)(y);
    if (lanes < VL)
        FN(store_part)(y, best, lanes);
    else
        FN(store)(y, best);
    if (where)
        FN(store_tags)(where, number, lanes);
}

/* Asks for the line of x + ch in `ahead` rows below the window, of the pixels that the next window does not share. */
FC_INLINE void FN(ask)(const T *x, fc_index x_row, fc_index x_pixel, fc_index h, fc_index step, fc_index ahead)
{
    for (fc_index r = 0; r < ahead; r++)
        for (fc_index q = 0; q < step; q += x_pixel)
            __builtin_prefetch(x + (h + r) * x_row + q, 0, 2);
}

/* m windows, `step` elements apart, of n channels each.  The last vector overlaps the one before it. */
FC_INLINE void FN(pool_windows_of)(fc_index h, fc_index w, T *y, uint8_t *where, const T *x, fc_index x_row, fc_index x_pixel,
                                   fc_index step, fc_index m, fc_index n, fc_index tap, fc_index tap_row, fc_index ahead)
{
    for (fc_index i = 0; i < m; i++, y += n, x += step, where += where ? n : 0) {
        fc_index ch = 0;
        for (; ch + VL <= n; ch += VL) {
            if (ch * (fc_index)sizeof(T) % 64 == 0)
                FN(ask)(x + ch, x_row, x_pixel, h, step, ahead);
            FN(pool_vector)(y + ch, where ? where + ch : where, x + ch, x_row, x_pixel, h, w, tap, tap_row, VL);
        }
        if (ch == n)
            continue;
        ch = n < VL ? 0 : n - VL;
        FN(pool_vector)(y + ch, where ? where + ch : where, x + ch, x_row, x_pixel, h, w, tap, tap_row, n);
    }
}

/* Functions of their own, so that each loop has the registers to itself: windows of 2x2 and 3x3, and what borders leave. */
#define FC_WINDOWS(X) X(1, 2) X(2, 1) X(2, 2) X(2, 3) X(3, 2) X(3, 3)
#define FC_POOL(h, w)                                                                                                        \
    static void __attribute__((noinline)) FN(pool_##h##x##w)(T *y, const T *x, fc_index x_row, fc_index x_pixel,             \
                                                             fc_index step, fc_index m, fc_index n, fc_index ahead)          \
    {                                                                                                                        \
        FN(pool_windows_of)(h, w, y, NULL, x, x_row, x_pixel, step, m, n, 0, 0, ahead);                                      \
    }                                                                                                                        \
    static void __attribute__((noinline)) FN(pool_where_##h##x##w)(T *y, uint8_t *where, const T *x, fc_index x_row,         \
                                                                   fc_index x_pixel, fc_index step, fc_index m, fc_index n,  \
                                                                   fc_index tap, fc_index tap_row, fc_index ahead)           \
    {                                                                                                                        \
        FN(pool_windows_of)(h, w, y, where, x, x_row, x_pixel, step, m, n, tap, tap_row, ahead);                             \
    }
FC_WINDOWS(FC_POOL)
#undef FC_POOL

static void FN(max_pool)(void *y, uint8_t *where, const void *x, fc_index x_row, fc_index h, fc_index w, fc_index step,
                         fc_index m, fc_index c, fc_index tap, fc_index tap_row, fc_index ahead)
{
    const int flat = step == 1; /* then the windows are like so many more channels */
    const fc_index n = flat ? m * c : c;
    m = flat ? 1 : m;
#define FC_CASE(rows, columns)                                                                                               \
    if (h == rows && w == columns) {                                                                                         \
        if (where)                                                                                                           \
            FN(pool_where_##rows##x##columns)(y, where, x, x_row, c, step * c, m, n, tap, tap_row, ahead);                   \
        else                                                                                                                 \
            FN(pool_##rows##x##columns)(y, x, x_row, c, step * c, m, n, ahead);                                              \
        return;                                                                                                              \
    }
    FC_WINDOWS(FC_CASE)
#undef FC_CASE
#undef FC_WINDOWS
    FN(pool_windows_of)(h, w, y, where, x, x_row, c, step * c, m, n, tap, tap_row, ahead);
}

/* One vector of gradients, of pixels that h x w windows see.  fresh: one window alone, whose -0 stays what it is. */
FC_INLINE void FN(gather_vector)(fc_index h, fc_index w, int fresh, T *dx, const T *dy, const uint8_t *where, fc_index y_row,
                                 fc_index y_pixel, fc_index tap, fc_index tap_row, fc_index tap_pixel, int stream,
                                 fc_index lanes)
{
    vec sum = {0};
#pragma GCC unroll 3
    for (fc_index r = 0; r < h; r++)
#pragma GCC unroll 3
        for (fc_index q = 0; q < w; q++) {
            const fc_index at = r * y_row + q * y_pixel;
            const tags here = FN(splat_tags)(tap - r * tap_row - q * tap_pixel);
            const truth hit = FN(equal_tags)(FN(load_tags)(where + at, lanes), here);
            const vec gradient = lanes < VL ? FN(load_part)(dy + at, lanes) : FN(load)(dy + at);
            sum = fresh ? FN(choose)(hit, gradient, sum) : FN(add_where)(hit, sum, gradient);
        }
    if (lanes < VL)
        FN(store_part)(dx, sum, lanes);
    else if (stream)
        FN(stream)(dx, sum);
    else {
        FN(claim)(dx);
        FN(store)(dx, sum);
    }
}

/* m pixels, `step` elements apart, of n channels each. */
FC_INLINE void FN(gather_pixels)(fc_index h, fc_index w, int fresh, T *dx, fc_index step, const T *dy, const uint8_t *where,
                                 fc_index y_row, fc_index y_pixel, fc_index m, fc_index n, fc_index tap, fc_index tap_row,
                                 fc_index tap_pixel, int stream)
{
    stream = stream && ((uintptr_t)dx | step * sizeof(T) | n * sizeof(T)) % FC_VECTOR_BYTES == 0;
    for (fc_index i = 0; i < m; i++, dx += step, dy += n, where += n) {
        fc_index ch = 0;
        for (; ch + VL <= n; ch += VL)
            FN(gather_vector)(h, w, fresh, dx + ch, dy + ch, where + ch, y_row, y_pixel, tap, tap_row, tap_pixel, stream, VL);
        if (ch == n)
            continue;
        ch = n < VL ? 0 : n - VL;
        FN(gather_vector)(h, w, fresh, dx + ch, dy + ch, where + ch, y_row, y_pixel, tap, tap_row, tap_pixel, 0, n);
    }
    if (stream)
        FN(end_of_stream)();
}

/* What 2x2 and 3x3 windows need in steps of 1 and 2. */
#define FC_GATHERS(X) X(1, 1, 1) X(1, 1, 0) X(1, 2, 0) X(2, 1, 0) X(2, 2, 0) X(2, 3, 0) X(3, 2, 0) X(3, 3, 0)
#define FC_GATHER(h, w, fresh)                                                                                               \
    static void __attribute__((noinline)) FN(gather_##h##x##w##_##fresh)(T *dx, fc_index step, const T *dy,                  \
                                                                         const uint8_t *where, fc_index y_row,               \
                                                                         fc_index y_pixel, fc_index m, fc_index n,           \
                                                                         fc_index tap, fc_index tap_row,                     \
                                                                         fc_index tap_pixel, int stream)                     \
    {                                                                                                                        \
        FN(gather_pixels)(h, w, fresh, dx, step, dy, where, y_row, y_pixel, m, n, tap, tap_row, tap_pixel, stream);          \
    }
FC_GATHERS(FC_GATHER)
#undef FC_GATHER

static void FN(max_pool_gather)(void *dx, fc_index step, const void *dy, const uint8_t *where, fc_index y_row, fc_index h,
                                fc_index w, fc_index m, fc_index c, fc_index tap, fc_index tap_row, fc_index tap_pixel,
                                int fresh, int stream)
{
    const int flat = step == 1; /* then the pixels are like so many more channels */
    const fc_index n = flat ? m * c : c;
    m = flat ? 1 : m;
    fresh = fresh && h == 1 && w == 1;
#define FC_CASE(rows, columns, alone)                                                                                        \
    if (h == rows && w == columns && fresh == alone) {                                                                       \
        FN(gather_##rows##x##columns##_##alone)(dx, step * c, dy, where, y_row, c, m, n, tap, tap_row, tap_pixel, stream);   \
        return;                                                                                                              \
    }
    FC_GATHERS(FC_CASE)
#undef FC_CASE
#undef FC_GATHERS
    FN(gather_pixels)(h, w, 0, dx, step * c, dy, where, y_row, c, m, n, tap, tap_row, tap_pixel, stream);
}

/* One vector of a window's gradient, into all of its pixels. */
FC_INLINE void FN(spread_vector)(T *dx, const T *x, const T *dy, fc_index x_row, fc_index x_pixel, fc_index h, fc_index w,
                                 int stream, fc_index lanes)
{
    truth ordered;
    tags number;
    FN(window_max)(&ordered, &number, 1, x, x_row, x_pixel, h, w, 0, w, lanes);
    if (!FN(all)(ordered)) {
        T maxima[VL];
        uint8_t where[VL] = {0};
        FN(pool_nans)(maxima, where, x, x_row, x_pixel, h, w, 0, w, lanes < VL ? lanes : VL);
        number = FN(load_tags)(where, VL);
    }
    const vec gradient = FN(load_lanes)(dy, lanes);
#pragma GCC unroll 2
    for (fc_index r = 0; r < h; r++)
#pragma GCC unroll 2
        for (fc_index q = 0; q < w; q++) {
            const vec v = FN(choose)(FN(equal_tags)(number, FN(splat_tags)(r * w + q)), gradient, (vec){0});
            T *to = dx + r * x_row + q * x_pixel;
            if (stream)
                FN(stream)(to, v);
            else {
                if (lanes >= VL)
                    FN(claim)(to);
                FN(store_lanes)(to, v, lanes);
            }
        }
}

FC_INLINE void FN(spread_windows)(T *dx, const T *x, const T *dy, fc_index x_row, fc_index h, fc_index w, fc_index m, fc_index c,
                                  fc_index ahead, int stream)
{
    stream = stream && ((uintptr_t)dx | x_row * sizeof(T) | c * sizeof(T)) % FC_VECTOR_BYTES == 0;
    for (fc_index i = 0; i < m; i++, dx += w * c, x += w * c, dy += c) {
        fc_index ch = 0;
        for (; ch + VL <= c; ch += VL) {
            if (ch * (fc_index)sizeof(T) % 64 == 0)
                FN(ask)(x + ch, x_row, c, h, w * c, ahead);
            FN(spread_vector)(dx + ch, x + ch, dy + ch, x_row, c, h, w, stream, VL);
        }
        if (ch == c)
            continue;
        ch = c < VL ? 0 : c - VL;
        FN(spread_vector)(dx + ch, x + ch, dy + ch, x_row, c, h, w, 0, c);
    }
    if (stream)
        FN(end_of_stream)();
}

/* Functions of their own, as above: windows of 2x2, and what borders leave of them. */
#define FC_SPREADS(X) X(1, 2) X(2, 1) X(2, 2)
#define FC_SPREAD(h, w)                                                                                                      \
    static FC_NOINLINE void FN(spread_##h##x##w)(T *dx, const T *x, const T *dy, fc_index x_row, fc_index m, fc_index c,     \
                                                 fc_index ahead, int stream)                                                 \
    {                                                                                                                        \
        FN(spread_windows)(dx, x, dy, x_row, h, w, m, c, ahead, stream);                                                     \
    }
FC_SPREADS(FC_SPREAD)
#undef FC_SPREAD

static void FN(max_pool_spread)(void *dx, const void *x, const void *dy, fc_index x_row, fc_index h, fc_index w, fc_index m,
                                fc_index c, fc_index ahead, int stream)
{
#define FC_CASE(rows, columns)                                                                                               \
    if (h == rows && w == columns) {                                                                                         \
        FN(spread_##rows##x##columns)(dx, x, dy, x_row, m, c, ahead, stream);                                                \
        return;                                                                                                              \
    }
    FC_SPREADS(FC_CASE)
#undef FC_CASE
#undef FC_SPREADS
    FN(spread_windows)(dx, x, dy, x_row, h, w, m, c, ahead, stream);
}

static void FN(max_pool_argmax_row)(void *y_, int64_t *argmax, const void *x_, fc_index x_row, fc_index h, fc_index w,
                                    const fc_index *lo, const fc_index *hi, fc_index ow, fc_index c)
{
    T *y = y_;
    const T *x = x_;
    for (fc_index i = 0; i < ow; i++) {
        T *y_i = y + i * c;
        int64_t *argmax_i = argmax + i * c;
        for (fc_index ch = 0; ch < c; ch++) {
            y_i[ch] = x[lo[i] * c + ch];
            argmax_i[ch] = lo[i];
        }
        for (fc_index r = 0; r < h; r++)
            for (fc_index column = lo[i]; column < hi[i]; column++) {
                const T *at = x + r * x_row + column * c;
                for (fc_index ch = 0; ch < c; ch++) {
                    const int replace = (at[ch] > y_i[ch]) | ((at[ch] != at[ch]) & (y_i[ch] == y_i[ch]));
                    y_i[ch] = replace ? at[ch] : y_i[ch];
                    argmax_i[ch] = replace ? r * w + column : argmax_i[ch];
                }
            }
    }
}

/* Means and their gradients take so many vectors of a pixel before the next pixel.  One at a time, the pixels of a window share a few
 * sets of the cache where channels are a power of two: ResNet's last pool took 1.4 times as long, 3x3 windows of 256 twice (Zen 3). */
#define WIDE_MEAN 8

FC_INLINE void FN(mean_vectors)(T *y, const T *x, fc_index x_row, fc_index h, fc_index first, fc_index last, fc_index c,
                                fc_index lanes, const int NV)
{
    const vec area = FN(splat)((T)(h * (last - first)));
    vec sum[WIDE_MEAN];
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++)
        sum[v] = (vec){0};
    for (fc_index r = 0; r < h; r++)
        for (fc_index column = first; column < last; column++)
#pragma GCC unroll 8
            for (int v = 0; v < NV; v++)
                sum[v] += FN(load_lanes)(x + r * x_row + column * c + v * VL, lanes);
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++)
        FN(store_lanes)(y + v * VL, sum[v] / area, lanes);
}

static void FN(avg_pool_row)(void *y_, const void *x_, fc_index x_row, fc_index h, const fc_index *lo, const fc_index *hi,
                             fc_index ow, fc_index c)
{
    for (fc_index i = 0; i < ow; i++) {
        T *y = (T *)y_ + i * c;
        const T *x = x_;
        fc_index ch = 0;
        for (; ch + WIDE_MEAN * VL <= c; ch += WIDE_MEAN * VL)
            FN(mean_vectors)(y + ch, x + ch, x_row, h, lo[i], hi[i], c, VL, WIDE_MEAN);
        for (; ch < c; ch += VL)
            FN(mean_vectors)(y + ch, x + ch, x_row, h, lo[i], hi[i], c, c - ch, 1);
    }
}

FC_INLINE void FN(mean_grad_vectors)(T *dx, const T *dy, fc_index x_row, fc_index h, fc_index first, fc_index last, fc_index c,
                                     fc_index lanes, int fresh, const int NV)
{
    const vec area = FN(splat)((T)(h * (last - first)));
    vec share[WIDE_MEAN];
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++)
        share[v] = FN(load_lanes)(dy + v * VL, lanes) / area;
    for (fc_index r = 0; r < h; r++)
        for (fc_index column = first; column < last; column++) {
            T *at = dx + r * x_row + column * c;
#pragma GCC unroll 8
            for (int v = 0; v < NV; v++)
                FN(store_lanes)(at + v * VL, fresh ? share[v] : share[v] + FN(load_lanes)(at + v * VL, lanes), lanes);
        }
}

static void FN(avg_pool_grad_row)(void *dx_, const void *dy_, fc_index x_row, fc_index h, const fc_index *lo,
                                  const fc_index *hi, fc_index ow, fc_index c, fc_index count, int fresh)
{
    for (fc_index i = 0; i < ow; i++) {
        T *dx = dx_;
        const T *dy = (const T *)dy_ + i * c;
        fc_index ch = 0;
        for (; ch + WIDE_MEAN * VL <= count; ch += WIDE_MEAN * VL)
            FN(mean_grad_vectors)(dx + ch, dy + ch, x_row, h, lo[i], hi[i], c, VL, fresh, WIDE_MEAN);
        for (; ch < count; ch += VL)
            FN(mean_grad_vectors)(dx + ch, dy + ch, x_row, h, lo[i], hi[i], c, count - ch, fresh, 1);
    }
}
#undef WIDE_MEAN

/* One window of h x w pixels, 1 or 2 each way; a NaN's gradient goes nowhere, as relu's. */
FC_INLINE void FN(pool_window)(T *y, uint8_t *where, const T *x, fc_index x_row, fc_index x_pixel, fc_index h, fc_index w, fc_index n)
{
    for (fc_index ch = 0; ch < n; ch += VL) {
        truth ordered;
        tags number;
        vec best = FN(window_max)(&ordered, &number, where != NULL, x + ch, x_row, x_pixel, h, w, 0, 2, n - ch);
        best = FN(choose)(ordered, best, FN(splat)((T)NAN));
        FN(store_lanes)(y + ch, best, n - ch);
        if (where)
            FN(store_tags)(where + ch, FN(choose_tags)(FN(greater)(best, (vec){0}), number, FN(splat_tags)(FC_DEAD)), n - ch);
    }
}

static void FN(pool_windows)(void *y_, uint8_t *where, fc_index y_row, fc_index y_pixel, const void *x_, fc_index x_row,
                             fc_index x_pixel, fc_index rows, fc_index columns, fc_index n)
{
    for (fc_index r = 0; r < rows; r += 2)
        for (fc_index q = 0; q < columns; q += 2) {
            const fc_index to = r / 2 * y_row + q / 2 * y_pixel;
            const T *x = (const T *)x_ + r * x_row + q * x_pixel;
            uint8_t *where_to = where ? where + to : where;
            if (r + 2 <= rows && q + 2 <= columns)
                FN(pool_window)((T *)y_ + to, where_to, x, x_row, x_pixel, 2, 2, n);
            else
                FN(pool_window)((T *)y_ + to, where_to, x, x_row, x_pixel, rows - r < 2 ? 1 : 2, columns - q < 2 ? 1 : 2, n);
        }
}

/* What one window gives to its pixels first_r .. last_r - 1 x first_q .. last_q - 1, which are some of (0, 1) x (0, 1);
 * g NULL: a window outside the image. */
FC_INLINE void FN(unpool_window)(T *dy, fc_index dy_row, fc_index dy_pixel, const T *g, const uint8_t *where, fc_index first_r,
                                 fc_index last_r, fc_index first_q, fc_index last_q, fc_index n, vec factor)
{
    for (fc_index ch = 0; ch < n; ch += VL) {
        const fc_index lanes = n - ch;
        vec gradient = {0};
        ivec number = {0};
        if (g) {
            gradient = (lanes < VL ? FN(load_part)(g + ch, lanes) : FN(load)(g + ch)) * factor;
            number = FN(load_bytes)(where + ch, lanes);
        }
        for (fc_index r = first_r; r < last_r; r++)
            for (fc_index q = first_q; q < last_q; q++) {
                const vec part = (vec)((number == (INT)(2 * r + q)) & (ivec)gradient);
                T *out = dy + r * dy_row + q * dy_pixel + ch;
                if (lanes < VL)
                    FN(store_part)(out, part, lanes);
                else
                    FN(store)(out, part);
            }
    }
}

/* The same, each kind of window with loops of its own, which the compiler unrolls. */
FC_INLINE void FN(unpool_columns)(T *dy, fc_index dy_row, fc_index dy_pixel, const T *g, const uint8_t *where,
                                  const fc_index first_r, const fc_index last_r, fc_index first_q, fc_index last_q, fc_index n,
                                  vec factor)
{
    if (first_q == 1)
        FN(unpool_window)(dy, dy_row, dy_pixel, g, where, first_r, last_r, 1, 2, n, factor);
    else if (last_q == 1)
        FN(unpool_window)(dy, dy_row, dy_pixel, g, where, first_r, last_r, 0, 1, n, factor);
    else
        FN(unpool_window)(dy, dy_row, dy_pixel, g, where, first_r, last_r, 0, 2, n, factor);
}

static void FN(unpool)(void *dy_, fc_index dy_row, fc_index dy_pixel, const void *g_, const uint8_t *where_, fc_index gh,
                       fc_index gw, fc_index c, fc_index top, fc_index left, fc_index rows, fc_index columns, fc_index n,
                       double scale)
{
    const vec factor = FN(splat)((T)scale);
    /* From the window's first pixel on, which may lie before the rectangle: (r, q) are even. */
    for (fc_index r = top - (top & 1); r < top + rows; r += 2)
        for (fc_index q = left - (left & 1); q < left + columns; q += 2) {
            const int inside = r >= 0 && q >= 0 && r < 2 * gh && q < 2 * gw;
            const fc_index window = inside ? (r / 2 * gw + q / 2) * c : 0;
            const fc_index first_q = q < left, last_q = q + 2 > left + columns ? 1 : 2;
            T *dy = (T *)dy_ + (r - top) * dy_row + (q - left) * dy_pixel;
            const T *g = inside ? (const T *)g_ + window : 0;
            if (r < top)
                FN(unpool_columns)(dy, dy_row, dy_pixel, g, where_ + window, 1, 2, first_q, last_q, n, factor);
            else if (r + 2 > top + rows)
                FN(unpool_columns)(dy, dy_row, dy_pixel, g, where_ + window, 0, 1, first_q, last_q, n, factor);
            else
                FN(unpool_columns)(dy, dy_row, dy_pixel, g, where_ + window, 0, 2, first_q, last_q, n, factor);
        }
}
