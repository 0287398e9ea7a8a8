/* Max pooling, channels in the lanes.  The contract stands in fastconv.h.
 *
 * Order and NaN: pixels of a window are visited row by row, and a later one replaces the maximum only if it is greater, or if it
 * is the first NaN.  So ties go to the first pixel and a NaN always comes out.
 */
FC_INLINE vec FN(later_max)(vec best, vec x) { return FN(select)((x > best) | ((x != x) & (best == best)), x, best); }

static void FN(max_pool_row)(void *y_, const void *x_, fc_index x_row, fc_index h, const fc_index *lo, const fc_index *hi,
                             fc_index ow, fc_index c)
{
    T *y = y_;
    const T *x = x_;
    for (fc_index i = 0; i < ow; i++) {
        fc_index ch = 0;
        for (; ch < c; ch += VL) {
            const fc_index lanes = c - ch;
            const T *at = x + lo[i] * c + ch;
            vec best = lanes < VL ? FN(load_part)(at, lanes) : FN(load)(at);
            for (fc_index r = 0; r < h; r++) {
                const T *x_r = x + r * x_row + ch;
                for (fc_index column = lo[i]; column < hi[i]; column++) {
                    at = x_r + column * c;
                    best = FN(later_max)(best, lanes < VL ? FN(load_part)(at, lanes) : FN(load)(at));
                }
            }
            if (lanes < VL)
                FN(store_part)(y + i * c + ch, best, lanes);
            else
                FN(store)(y + i * c + ch, best);
        }
    }
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

static void FN(max_pool_grad_row)(void *dx_, const void *x_, const void *y_, const void *dy_, fc_index x_row, fc_index h,
                                  const fc_index *lo, const fc_index *hi, fc_index ow, fc_index c, fc_index count)
{
    T *dx = dx_;
    const T *x = x_, *y = y_, *dy = dy_;
    for (fc_index i = 0; i < ow; i++)
        for (fc_index ch = 0; ch < count; ch += VL) {
            const fc_index lanes = count - ch;
            const int partial = lanes < VL;
            const fc_index out = i * c + ch;
            const vec top = partial ? FN(load_part)(y + out, lanes) : FN(load)(y + out);
            const vec grad = partial ? FN(load_part)(dy + out, lanes) : FN(load)(dy + out);
            const ivec top_is_nan = top != top;
            ivec waiting = ~(ivec){0}; /* lanes whose maximum has not been met yet */
            for (fc_index r = 0; r < h; r++)
                for (fc_index column = lo[i]; column < hi[i]; column++) {
                    const fc_index at = r * x_row + column * c + ch;
                    const vec here = partial ? FN(load_part)(x + at, lanes) : FN(load)(x + at);
                    const ivec hit = waiting & ((here == top) | (top_is_nan & (here != here)));
                    const vec part = (vec)(hit & (ivec)grad);
                    waiting &= ~hit;
                    if (partial)
                        FN(store_part)(dx + at, FN(load_part)(dx + at, lanes) + part, lanes);
                    else
                        FN(store)(dx + at, FN(load)(dx + at) + part);
                }
        }
}

/* One window of h x w pixels, 1 or 2 each way. */
FC_INLINE void FN(pool_window)(T *y, uint8_t *where, const T *x, fc_index x_row, fc_index x_pixel, fc_index h, fc_index w, fc_index n)
{
    for (fc_index ch = 0; ch < n; ch += VL) {
        const fc_index lanes = n - ch;
        vec best = lanes < VL ? FN(load_part)(x + ch, lanes) : FN(load)(x + ch);
        ivec number = {0};
        for (fc_index r = 0; r < h; r++)
            for (fc_index q = r == 0; q < w; q++) {
                const T *at = x + r * x_row + q * x_pixel + ch;
                const vec here = lanes < VL ? FN(load_part)(at, lanes) : FN(load)(at);
                const ivec later = (here > best) | ((here != here) & (best == best));
                best = FN(select)(later, here, best);
                number = (later & ((INT)(2 * r + q) - (ivec){0})) | (~later & number);
            }
        if (lanes < VL)
            FN(store_part)(y + ch, best, lanes);
        else
            FN(store)(y + ch, best);
        if (where)
            FN(store_bytes)(where + ch, number | (~(best > 0) & ((INT)FC_DEAD - (ivec){0})), lanes);
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

static void FN(unpool)(void *dy_, fc_index dy_row, fc_index dy_pixel, const void *g_, const uint8_t *where, fc_index gh,
                       fc_index gw, fc_index c, fc_index top, fc_index left, fc_index rows, fc_index columns, fc_index n,
                       double scale)
{
    const T *g = g_;
    const vec factor = FN(splat)((T)scale);
    for (fc_index r = 0; r < rows; r++)
        for (fc_index q = 0; q < columns; q++) {
            T *dy = (T *)dy_ + r * dy_row + q * dy_pixel;
            const fc_index v = top + r, u = left + q;
            if (v < 0 || u < 0 || v >= 2 * gh || u >= 2 * gw) {
                memset(dy, 0, (size_t)n * sizeof(T));
                continue;
            }
            const fc_index window = (v / 2 * gw + u / 2) * c;
            const ivec number = (INT)(v % 2 * 2 + u % 2) - (ivec){0};
            for (fc_index ch = 0; ch < n; ch += VL) {
                const fc_index lanes = n - ch, at = window + ch;
                const ivec mine = FN(load_bytes)(where + at, lanes) == number;
                const vec gradient = (lanes < VL ? FN(load_part)(g + at, lanes) : FN(load)(g + at)) * factor;
                const vec part = (vec)(mine & (ivec)gradient);
                if (lanes < VL)
                    FN(store_part)(dy + ch, part, lanes);
                else
                    FN(store)(dy + ch, part);
            }
        }
}
