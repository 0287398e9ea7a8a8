/* Depthwise convolution, channels in the lanes.  The contract stands in fastconv.h.
 *
 * Every number is used once for each tap, so the kernels live on what they load: a few neighbours share a filter's vector (or,
 * in its gradient, their sums), and all channels of these pixels are done before the next, which keeps what they see in the
 * first-level cache.  The processor does not see that they lie side by side in memory, so the next pixels are asked for ahead:
 * measured on Zen 4 with 56x56x128, a third of the time forward and half of the gradient's.  4 pixels beat 8 by a tenth then.
 */
#define PIXELS 8 /* that a filter gradient sums up in registers; 16 are equal */

FC_INLINE vec FN(load_some)(const T *p, fc_index n, const int full) { return full ? FN(load)(p) : FN(load_part)(p, n); }

/* One row of taps of M pixels, COLUMNS side by side (stride and dilation 1): a pixel is loaded once for all of them. */
FC_INLINE void FN(adjacent_taps)(vec *acc, const T *x, fc_index x_step, const T *w, const fc_index *w_column, fc_index n,
                                 const int M, const int COLUMNS, const int full)
{
    vec filter[5];
#pragma GCC unroll 5
    for (int b = 0; b < COLUMNS; b++)
        filter[b] = FN(load_some)(w + w_column[b], n, full);
#pragma GCC unroll 8
    for (int at = 0; at < M + COLUMNS - 1; at++) {
        const vec pixel = FN(load_some)(x + at * x_step, n, full);
#pragma GCC unroll 5
        for (int b = 0; b < COLUMNS; b++)
            if (at - b >= 0 && at - b < M)
                acc[at - b] += pixel * filter[b];
    }
}

/* Whether the taps of a row lie a step apart. */
FC_INLINE int FN(adjacent)(const fc_taps *taps, fc_index x_step)
{
    for (fc_index b = 1; b < taps->columns; b++)
        if (taps->x_column[b] - taps->x_column[b - 1] != x_step)
            return 0;
    return 1;
}

/* M pixels, up to 4; more: as many again follow.  ADJACENT: so many columns of taps lie a step apart; 0: any.
 * full: n >= VL, and the last vector is moved back to end at n, so that it computes some channels twice. */
FC_INLINE void FN(depthwise_tile)(T *y, fc_index y_step, const T *x, fc_index x_step, fc_index at, const fc_taps *taps,
                                  const T *w, fc_index n, const T *bias, int flags, int more, const int M, const int ADJACENT,
                                  const int full)
{
    for (fc_index start = 0; start < n; start += VL) {
        const fc_index j = full && start + VL > n ? n - VL : start;
        vec acc[4];
#pragma GCC unroll 4
        for (int i = 0; i < M; i++)
            acc[i] = (vec){0};
        if (more && taps->rows * taps->columns > 0) {
            const fc_index corner = at + taps->x_row[taps->rows - 1] + taps->x_column[taps->columns - 1] + j;
#pragma GCC unroll 4
            for (int i = M; i < 2 * M; i++) {
                __builtin_prefetch(x + (corner + i * x_step));
                __builtin_prefetch(y + (i * y_step + j), 1);
            }
        }
        for (fc_index a = 0; a < taps->rows; a++) {
            if (ADJACENT) {
                FN(adjacent_taps)(acc, x + (at + taps->x_row[a] + taps->x_column[0] + j), x_step, w + (taps->w_row[a] + j),
                                  taps->w_column, n, M, ADJACENT, full);
                continue;
            }
            for (fc_index b = 0; b < taps->columns; b++) {
                const vec filter = FN(load_some)(w + (taps->w_row[a] + taps->w_column[b] + j), n, full);
                const T *x_tap = x + (at + taps->x_row[a] + taps->x_column[b] + j);
#pragma GCC unroll 4
                for (int i = 0; i < M; i++)
                    acc[i] += FN(load_some)(x_tap + i * x_step, n, full) * filter;
            }
        }
        T bias_part[VL] = {0};
        if (flags & FC_BIAS)
            FN(store)(bias_part, FN(load_some)(bias + j, n, full));
#pragma GCC unroll 4
        for (int i = 0; i < M; i++) {
            const vec r = FN(finish)(acc[i], NULL, bias_part, NULL, VL, flags);
            if (full)
                FN(store)(y + i * y_step + j, r);
            else
                FN(store_part)(y + i * y_step, r, n);
        }
    }
}

FC_INLINE void FN(depthwise_run)(T *y, fc_index y_step, const T *x, fc_index x_step, fc_index m, const fc_taps *taps,
                                 const T *w, fc_index n, const T *bias, int flags, const int ADJACENT, const int full)
{
    fc_index i = 0;
#define TILES(M)                                                                                                             \
    for (; i + M <= m; i += M)                                                                                               \
        FN(depthwise_tile)(y + i * y_step, y_step, x, x_step, taps->first + i * x_step, taps, w, n, bias, flags,             \
                           i + 2 * M <= m, M, ADJACENT, full);
    TILES(4)
    TILES(2)
    TILES(1)
#undef TILES
}

static void FN(depthwise)(void *y, fc_index y_step, const void *x, fc_index x_step, fc_index m, const fc_taps *taps,
                          const void *w, fc_index n, const void *bias, int flags)
{
    const int adjacent = FN(adjacent)(taps, x_step);
    if (n < VL)
        FN(depthwise_run)(y, y_step, x, x_step, m, taps, w, n, bias, flags, 0, 0);
    else if (adjacent && taps->columns == 3)
        FN(depthwise_run)(y, y_step, x, x_step, m, taps, w, n, bias, flags, 3, 1);
    else if (adjacent && taps->columns == 5)
        FN(depthwise_run)(y, y_step, x, x_step, m, taps, w, n, bias, flags, 5, 1);
    else
        FN(depthwise_run)(y, y_step, x, x_step, m, taps, w, n, bias, flags, 0, 1);
}

/* The sums of some pixels for COUNT taps, whose addresses are given. */
FC_INLINE void FN(depthwise_sums)(T *const *dw, const T *const *x, fc_index x_step, const T *dy, fc_index dy_step, fc_index m,
                                  fc_index n, int more, const int COUNT)
{
    for (fc_index j = 0; j < n; j += VL) {
        const fc_index lanes = n - j;
        vec acc[9];
#pragma GCC unroll 9
        for (int t = 0; t < COUNT; t++)
            acc[t] = (vec){0};
        for (fc_index i = m; more && i < 2 * m; i++) {
            __builtin_prefetch(x[COUNT - 1] + (i * x_step + j));
            __builtin_prefetch(dy + (i * dy_step + j));
        }
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
        const int more = i0 + 2 * pixels <= m;
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
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, more, 9);
            else if (some == 5)
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, more, 5);
            else if (some == 3)
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, more, 3);
            else
                FN(depthwise_sums)(dw, x_tap, x_step, dy, dy_step, pixels, n, more, 1);
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
        const T *x_i = x + i * times;
        vec lanes = {0};
        fc_index q = 0;
        for (; q + VL <= times; q += VL)
            lanes += FN(load)(x_i + q);
        T sum = q ? FN(lane_sum)(lanes) : 0;
        for (; q < times; q++)
            sum += x_i[q];
        y[i] = sum;
    }
}
