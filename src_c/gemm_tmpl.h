/* Matrix product through index tables, and its packing.  The contract stands in fastconv.h.
 *
 * A tile of MR rows by NV vectors of y stays in registers while p runs over k: per p, NV loads of b and one broadcast of x per
 * row feed MR * NV multiply-adds.  The row addresses are kept apart (MR pointers), the table col moves them all at once.
 */
FC_INLINE vec FN(finish)(vec v, const T *gain, const T *bias, const T *side, fc_index side_lanes, int flags)
{
    if (flags & FC_GAIN)
        v *= FN(load)(gain);
    if (flags & FC_BIAS)
        v += FN(load)(bias);
    if (flags & FC_SIDE)
        v += FN(load_lanes)(side, side_lanes);
    if (flags & FC_RELU)
        v = (vec)((ivec)v & ~(v < (vec){0})); /* NaN < 0 is false: a NaN passes */
    return v;
}

FC_INLINE void FN(tile)(T *y, const fc_index *yrow, const T *x, const fc_index *row, const fc_index *col, fc_index k,
                        const T *b, fc_index ldb, fc_index n, const T *gain, const T *bias, const T *side, int flags,
                        const int MR, const int NV)
{
    const T *xi[14];
    vec acc[14][4];
#pragma GCC unroll 14
    for (int i = 0; i < MR; i++) {
        xi[i] = x + row[i];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)
            acc[i][v] = (vec){0};
    }
    /* What comes from memory does so meanwhile.  Of 64 products each result of a 1x1 convolution took 3 to 12% longer without, and
     * a side input cost twice as much (Zen 4; Cascade Lake 10%); sums that lie in the second-level cache took 3 to 5% longer with. */
    if (flags & (FC_FAR | FC_SIDE))
        for (int i = 0; i < MR; i++)
            for (int v = 0; v < NV; v++) {
                if (flags & FC_FAR)
                    __builtin_prefetch(y + yrow[i] + v * VL, 1);
                if (flags & FC_SIDE)
                    __builtin_prefetch(side + yrow[i] + v * VL);
            }
#pragma GCC unroll 2
    for (fc_index p = 0; p < k; p++) {
        const fc_index at = col[p];
        vec bv[4];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)
            bv[v] = FN(load)(b + v * VL);
#pragma GCC unroll 14
        for (int i = 0; i < MR; i++) {
            const vec a = FN(splat)(xi[i][at]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++)
                acc[i][v] += a * bv[v];
        }
        b += ldb;
    }

    if (!(flags & ~(FC_ACCUMULATE | FC_FAR)) && n >= NV * VL) { /* nothing but sums in whole vectors */
#pragma GCC unroll 14
        for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) {
                T *out = y + yrow[i] + v * VL;
                FN(store)(out, flags & FC_ACCUMULATE ? acc[i][v] + FN(load)(out) : acc[i][v]);
            }
        }
        return;
    }
    T gain_part[VL], bias_part[VL]; /* of the last vector, so that no load passes bias[n] */
    const fc_index last = n - (NV - 1) * VL;
    if ((flags & FC_GAIN) && last < VL)
        FN(store)(gain_part, FN(load_part)(gain + (NV - 1) * VL, last));
    if ((flags & FC_BIAS) && last < VL)
        FN(store)(bias_part, FN(load_part)(bias + (NV - 1) * VL, last));
#pragma GCC unroll 14
    for (int i = 0; i < MR; i++) {
        T *yi = y + yrow[i];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
            const int partial = v == NV - 1 && last < VL;
            T *out = yi + v * VL;
            vec r = acc[i][v];
            if (flags & FC_ACCUMULATE)
                r += partial ? FN(load_part)(out, last) : FN(load)(out);
            r = FN(finish)(r, partial ? gain_part : gain + v * VL, partial ? bias_part : bias + v * VL,
                           side + yrow[i] + v * VL, partial ? last : VL, flags);
            if (partial)
                FN(store_part)(out, r, last);
            else
                FN(store)(out, r);
        }
    }
}

typedef void FN(tile_fn)(T *, const fc_index *, const T *, const fc_index *, const fc_index *, fc_index, const T *, fc_index,
                         fc_index, const T *, const T *, const T *, int);

#define X(MR, NV)                                                                                                            \
    static void FN(tile_##MR##x##NV)(T * y, const fc_index *yrow, const T *x, const fc_index *row, const fc_index *col,      \
                                     fc_index k, const T *b, fc_index ldb, fc_index n, const T *gain, const T *bias,         \
                                     const T *side, int flags)                                                               \
    {                                                                                                                        \
        FN(tile)(y, yrow, x, row, col, k, b, ldb, n, gain, bias, side, flags, MR, NV);                                       \
    }
FC_TILES(X)
#undef X

#define X(MR, NV) [NV][MR] = FN(tile_##MR##x##NV),
static FN(tile_fn) *const FN(tiles)[FC_MAX_VECTORS + 1][15] = {FC_TILES(X)};
#undef X

static void FN(gemm)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                     fc_index k, const void *b, fc_index ldb, fc_index vectors, fc_index n, const void *gain, const void *bias,
                     const void *side, int flags)
{
    const fc_index blocks = (m + fc_max_rows[vectors] - 1) / fc_max_rows[vectors];
    const fc_index least = blocks > 0 ? m / blocks : 0, with_one_more = m - least * blocks; /* shared out evenly */
    fc_index i = 0;
    for (fc_index block = 0; block < blocks; block++) {
        const fc_index rows = least + (block < with_one_more);
        FN(tiles)[vectors][rows](y, yrow + i, x, row + i, col, k, b, ldb, n, gain, bias, side, flags);
        i += rows;
    }
}

FC_INLINE T FN(lane_sum)(vec v)
{
    typedef T part __attribute__((vector_size(16)));
    const union {
        vec whole;
        part parts[FC_VECTOR_BYTES / 16];
    } lanes = {v};
    part sum = lanes.parts[0];
    for (int i = 1; i < FC_VECTOR_BYTES / 16; i++)
        sum += lanes.parts[i];
    T total = sum[0];
    for (int i = 1; i < (int)(16 / sizeof(T)); i++)
        total += sum[i];
    return total;
}

#define DOTS 8 /* rows at a time */

static void FN(dots)(void *y_, const fc_index *yrow, const void *x_, const fc_index *row, fc_index m, const fc_index *col,
                     fc_index k, fc_index run, const void *b_, fc_index n, const void *gain_, const void *bias_,
                     const void *side_, int flags)
{
    for (fc_index i0 = 0; i0 < m; i0 += DOTS) {
        /* Fewer rows at the end repeat the last one: another loop for them would be contracted to other FMAs. */
        const fc_index count = m - i0 < DOTS ? m - i0 : DOTS;
        const T *x[DOTS], *side[DOTS];
        for (fc_index i = 0; i < DOTS; i++) {
            const fc_index at = i0 + (i < count ? i : count - 1);
            x[i] = (const T *)x_ + row[at];
            side[i] = (const T *)side_ + yrow[at];
        }
        for (fc_index j = 0; j < n; j++) {
            const T *b = (const T *)b_ + j * k, bias = flags & FC_BIAS ? ((const T *)bias_)[j] : 0;
            const T gain = flags & FC_GAIN ? ((const T *)gain_)[j] : 1;
            vec acc[DOTS];
            for (int i = 0; i < DOTS; i++)
                acc[i] = (vec){0};
            for (fc_index p = 0; p < k; p += run) {
                fc_index at = col[p], e = 0;
                for (; e + VL <= run; e += VL, at += VL) {
                    const vec bv = FN(load)(b + p + e);
                    for (int i = 0; i < DOTS; i++)
                        acc[i] += FN(load)(x[i] + at) * bv;
                }
                if (e < run) {
                    const vec bv = FN(load_part)(b + p + e, run - e);
                    for (int i = 0; i < DOTS; i++)
                        acc[i] += FN(load_part)(x[i] + at, run - e) * bv;
                }
            }
            T sum[DOTS];
            for (int i = 0; i < DOTS; i++) {
                sum[i] = FN(lane_sum)(acc[i]) * gain + bias;
                if (flags & FC_SIDE)
                    sum[i] += side[i][j];
                sum[i] = (flags & FC_RELU) && sum[i] < 0 ? 0 : sum[i];
            }
            for (fc_index i = 0; i < count; i++)
                ((T *)y_)[yrow[i0 + i] + j] = sum[i];
        }
    }
}
#undef DOTS

static void FN(pack)(void *b_, const void *w_, fc_index k, fc_index n, fc_index width, fc_index w_row, fc_index w_col)
{
    T *b = b_;
    const T *w = w_;
    /* Row by row, or transposing in squares: of w_row and w_col one is 1, or n is. */
    const fc_index whole_k = w_row == 1 ? k / QUAD * QUAD : 0, whole_n = w_row == 1 ? n / QUAD * QUAD : 0;
    for (fc_index p = 0; p < whole_k; p += QUAD)
        for (fc_index j = 0; j < whole_n; j += QUAD)
            FN(transpose_quad)(b + p * width + j, width, w + p + j * w_col, w_col);
    for (fc_index p = 0; p < k; p++) {
        const fc_index done = p < whole_k ? whole_n : 0;
        if (w_col == 1)
            memcpy(b + p * width, w + p * w_row, (size_t)n * sizeof(T));
        else
            for (fc_index j = done; j < n; j++)
                b[p * width + j] = w[p * w_row + j * w_col];
        memset(b + p * width + n, 0, (size_t)(width - n) * sizeof(T));
    }
}
