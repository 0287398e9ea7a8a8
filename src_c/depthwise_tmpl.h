/* Depthwise convolution, channels in the lanes.  The contract stands in fastconv.h.
 *
 * Every number is used once for each tap, so the kernels live on what they load: up to 8 neighbours share a filter's vector (or,
 * in its gradient, their sums), and all channels of these few pixels are done before the next, which keeps what they see in the
 * first-level cache.
 */
#define PIXELS 8 /* of which a filter gradient sums up in registers */

/* M pixels. Full: n >= VL, and the last vector is moved back to end at n: it computes some channels twice. */
FC_INLINE void FN(depthwise_tile)(T *y, fc_index y_step, const T *x, fc_index x_step, fc_index at, const fc_taps *taps, const T *w,
                                  fc_index n, const T *bias, int flags, const int M, const int full)
{
    for (fc_index start = 0; start < n; start += VL) {
        const fc_index j = full && start + VL > n ? n - VL : start;
        vec acc[8];
#pragma GCC unroll 8
        for (int i = 0; i < M; i++)
            acc[i] = (vec){0};
        for (fc_index a = 0; a < taps->rows; a++)
            for (fc_index b = 0; b < taps->columns; b++) {
                const T *w_tap = w + (taps->w_row[a] + taps->w_column[b] + j);
                const T *x_tap = x + (at + taps->x_row[a] + taps->x_column[b] + j);
                const vec filter = full ? FN(load)(w_tap) : FN(load_part)(w_tap, n);
#pragma GCC unroll 8
                for (int i = 0; i < M; i++)
                    acc[i] += (full ? FN(load)(x_tap + i * x_step) : FN(load_part)(x_tap + i * x_step, n)) * filter;
            }
        T bias_part[VL] = {0};
        if (flags & FC_BIAS)
            FN(store)(bias_part, full ? FN(load)(bias + j) : FN(load_part)(bias, n));
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) {
            const vec r = FN(finish)(acc[i], NULL, bias_part, flags);
            if (full)
                FN(store)(y + i * y_step + j, r);
            else
                FN(store_part)(y + i * y_step, r, n);
        }
    }
}

FC_INLINE void FN(depthwise_run)(T *y, fc_index y_step, const T *x, fc_index x_step, fc_index m, const fc_taps *taps, const T *w,
                                 fc_index n, const T *bias, int flags, const int full)
{
    fc_index i = 0;
#define TILES(M)                                                                                                             \
    for (; i + M <= m; i += M)                                                                                               \
        FN(depthwise_tile)(y + i * y_step, y_step, x, x_step, taps->first + i * x_step, taps, w, n, bias, flags, M, full);
    TILES(8)
    TILES(4)
    TILES(2)
    TILES(1)
#undef TILES
}

static void FN(depthwise)(void *y, fc_index y_step, const void *x, fc_index x_step, fc_index m, const fc_taps *taps,
                          const void *w, fc_index n, const void *bias, int flags)
{
    if (n >= VL)
        FN(depthwise_run)(y, y_step, x, x_step, m, taps, w, n, bias, flags, 1);
    else
        FN(depthwise_run)(y, y_step, x, x_step, m, taps, w, n, bias, flags, 0);
}

/* The sums of some pixels for COUNT taps, whose addresses are given. */
FC_INLINE void FN(depthwise_sums)(T *const *dw, const T *const *x, fc_index x_step, const T *dy, fc_index dy_step, fc_index m,
                                  fc_index n, const int COUNT)
{
    for (fc_index j = 0; j < n; j += VL) {
        const fc_index lanes = n - j;
        vec acc[9];
#pragma GCC unroll 9
        for (int t = 0; t < COUNT; t++)
            acc[t] = (vec){0};
        if (lanes >= VL)
            for (fc_index i = 0; i < m; i++) {
                const vec gradient = FN(load)(dy + i * dy_step + j);
#pragma GCC unroll 9
                for (int t = 0; t < COUNT; t++)
                    acc[t] += FN(load)(x[t] + i * x_step + j) * gradient;
            }
        else
            for (fc_index i = 0; i < m; i++) {
                const vec gradient = FN(load_part)(dy + i * dy_step + j, lanes);
#pragma GCC unroll 9
                for (int t = 0; t < COUNT; t++)
                    acc[t] += FN(load_part)(x[t] + i * x_step + j, lanes) * gradient;
            }
#pragma GCC unroll 9
        for (int t = 0; t < COUNT; t++)
            FN(store_lanes)(dw[t] + j, FN(load_lanes)(dw[t] + j, lanes) + acc[t], lanes);
    }
}

static void FN(depthwise_filter)(void *dw_, const void *x_, fc_index x_step, const void *dy_, fc_index dy_step, fc_index m,
                                 const fc_taps *taps, fc_index n)
{
    for (fc_index i0 = 0; i0 < m; i0 += PIXELS) {
        const fc_index pixels = m - i0 < PIXELS ? m - i0 : PIXELS;
        const T *x = x_, *dy = (const T *)dy_ + i0 * dy_step;
        const fc_index count = taps->rows * taps->columns;
        fc_index a = 0, b = 0;
        for (fc_index t = 0; t < count;) {
            const fc_index left = count - t;
            const int some = left >= 9 ? 9 : left >= 5 ? 5 : left >= 3 ? 3 : 1; /* 3x3 taps inside, 2x3 and 2x2 at borders */
            const T *x_tap[9];
            T *dw[9];
            for (int k = 0; k < some; k++) {
                x_tap[k] = x + (taps->first + i0 * x_step + taps->x_row[a] + taps->x_column[b]);
                dw[k] = (T *)dw_ + (taps->w_row[a] + taps->w_column[b]);
                if (++b == taps->columns)
                    a++, b = 0;
            }
            if (some == 9)
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, 9);
            else if (some == 5)
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, 5);
            else if (some == 3)
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, 3);
            else
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, 1);
            t += some;
        }
    }
}
#undef PIXELS

static void FN(repeat)(void *y_, const void *x_, fc_index n, fc_index times)
{
    T *restrict y = y_;
    const T *restrict x = x_;
    for (fc_index i = 0; i < n; i++)
        for (fc_index q = 0; q < times; q++)
            y[i * times + q] = x[i];
}

static void FN(fold)(void *y_, const void *x_, fc_index n, fc_index times)
{
    T *restrict y = y_;
    const T *restrict x = x_;
    for (fc_index i = 0; i < n; i++) {
        T sum = x[i * times];
        for (fc_index q = 1; q < times; q++)
            sum += x[i * times + q];
        y[i] = sum;
    }
}
