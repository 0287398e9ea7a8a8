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
