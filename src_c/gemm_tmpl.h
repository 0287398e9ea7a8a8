/* Matrix product through index tables, and its packing.  The contract stands in fastconv.h.
 *
 * A tile of MR rows by NV vectors of y stays in registers while p runs over k: per p, NV loads of b and one broadcast of x per
 * row feed MR * NV multiply-adds.  The rows' addresses are kept in registers, the table col moves them all at once.
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
        v = FN(positive)(v);
    return v;
}

/* A tile's results from its sums, where the last vector may be a part of one.  A single function for all tiles: in each of them it
 * would be most of the code. */
FC_NOINLINE static void FN(finish_tile)(T *y, const fc_index *yrow, const vec *sums, fc_index rows, fc_index vectors, fc_index n,
                                        const T *gain, const T *bias, const T *side, int flags)
{
    for (fc_index v = 0, at = 0; v < vectors; v++, at += VL) {
        const fc_index lanes = n - at < VL ? n - at : VL;
        T gains[VL] = {0}, biases[VL] = {0}; /* so that no load passes bias[n] */
        if (flags & FC_GAIN)
            FN(store)(gains, FN(load_lanes)(gain + at, lanes));
        if (flags & FC_BIAS)
            FN(store)(biases, FN(load_lanes)(bias + at, lanes));
        for (fc_index i = 0; i < rows; i++) {
            T *out = y + yrow[i] + at;
            vec r = sums[i * vectors + v];
            if (flags & FC_ACCUMULATE)
                r += FN(load_lanes)(out, lanes);
            FN(store_lanes)(out, FN(finish)(r, gains, biases, side + yrow[i] + at, lanes, flags), lanes);
        }
    }
}

/* Rows whose addresses the processor's registers hold.  Of more rows those at even distances need one address for five: 14 rows of
 * two vectors run at 95 to 100% of the peak then, else at 74%, and 13 at 85% (AVX-512, GCC 12, Cascade Lake). */
#define ADDRESSES 8
#define MOST_UNEVEN 13

/* acc += x b.  AHEAD: the rows after these are asked for one after the other (FC_AHEAD), or a line of each row of what is read next
 * (NEXT), some bytes each time: all at once would be waited for. */
#define NEXT 1
FC_INLINE void FN(products)(vec acc[14][4], const T *x, const fc_index *row, const fc_index *col, fc_index k, const T *b,
                            fc_index ldb, const T *next, fc_index next_step, const int MR, const int NV, const int EVEN,
                            const int AHEAD)
{
    const fc_index step = EVEN ? row[1] - row[0] : 0;
    const T *xi[14];
#pragma GCC unroll 14
    for (int i = 0; i < MR; i++)
        xi[i] = x + row[i];
#pragma GCC unroll 2
    for (fc_index p = 0; p < k; p++) {
        const fc_index at = col[p];
        if (AHEAD == FC_AHEAD)
            __builtin_prefetch(x + row[MR] + p * MR);
        if (AHEAD == NEXT)
            __builtin_prefetch(next + p * next_step, 0, 2);
        vec bv[4];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)
            bv[v] = FN(load)(b + v * VL);
#pragma GCC unroll 14
        for (int i = 0; i < MR; i++) {
            const vec a = FN(splat)(EVEN ? xi[i - i % 5][at + i % 5 * step] : xi[i][at]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++)
                acc[i][v] += a * bv[v];
        }
        b += ldb;
    }
}

/* What all tiles of a product share. */
typedef struct {
    T *y;
    const T *x, *b, *gain, *bias, *side, *next;
    const fc_index *col;
    fc_index k, ldb, next_step, n;
    int flags;
} FN(product);

FC_INLINE void FN(tile)(const FN(product) *of, const fc_index *yrow, const fc_index *row, int even, const int MR, const int NV,
                        const int AHEAD)
{
    T *y = of->y;
    const int flags = of->flags;
    vec acc[14][4];
#pragma GCC unroll 14
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)
            acc[i][v] = (vec){0};
    /* What comes from memory does so meanwhile.  Of 64 products each result of a 1x1 convolution took 3 to 12% longer without, and
     * a side input cost twice as much (Zen 4; Cascade Lake 10%); sums that lie in the second-level cache took 3 to 5% longer with. */
    if (flags & (FC_FAR | FC_SIDE))
        for (int i = 0; i < MR; i++)
            for (int v = 0; v < NV; v++) {
                if (flags & FC_FAR)
                    __builtin_prefetch(y + yrow[i] + v * VL, 1);
                if (flags & FC_SIDE)
                    __builtin_prefetch(of->side + yrow[i] + v * VL);
            }
    if (MR > ADDRESSES && even)
        FN(products)(acc, of->x, row, of->col, of->k, of->b, of->ldb, of->next, of->next_step, MR, NV, 1, AHEAD);
    else
        FN(products)(acc, of->x, row, of->col, of->k, of->b, of->ldb, of->next, of->next_step, MR, NV, 0, AHEAD);

    /* Whole vectors are finished in registers. */
    if (of->n >= NV * VL) {
        if (flags & FC_ACCUMULATE)
#pragma GCC unroll 14
            for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
                for (int v = 0; v < NV; v++)
                    acc[i][v] += FN(load)(y + yrow[i] + v * VL);
        if (flags & FC_GAIN)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) {
                const vec gains = FN(load)(of->gain + v * VL);
#pragma GCC unroll 14
                for (int i = 0; i < MR; i++)
                    acc[i][v] *= gains;
            }
        if (flags & FC_BIAS)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) {
                const vec biases = FN(load)(of->bias + v * VL);
#pragma GCC unroll 14
                for (int i = 0; i < MR; i++)
                    acc[i][v] += biases;
            }
        if (flags & FC_SIDE)
#pragma GCC unroll 14
            for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
                for (int v = 0; v < NV; v++)
                    acc[i][v] += FN(load)(of->side + yrow[i] + v * VL);
        if (flags & FC_RELU)
#pragma GCC unroll 14
            for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
                for (int v = 0; v < NV; v++)
                    acc[i][v] = FN(positive)(acc[i][v]);
#pragma GCC unroll 14
        for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++)
                FN(store)(y + yrow[i] + v * VL, acc[i][v]);
        return;
    }
    vec sums[14 * 4];
#pragma GCC unroll 14
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)
            sums[i * NV + v] = acc[i][v];
    FN(finish_tile)(y, yrow, sums, MR, NV, of->n, of->gain, of->bias, of->side, flags);
}

typedef void FN(tile_fn)(const FN(product) *, const fc_index *, const fc_index *, int);

#define X(MR, NV)                                                                                                            \
    static void FN(tile_##MR##x##NV)(const FN(product) * of, const fc_index *yrow, const fc_index *row, int even)            \
    {                                                                                                                        \
        FN(tile)(of, yrow, row, even, MR, NV, 0);                                                                            \
    }
FC_TILES(X)
#undef X

#define X(MR, NV) [NV][MR] = FN(tile_##MR##x##NV),
static FN(tile_fn) *const FN(tiles)[FC_MAX_VECTORS + 1][15] = {FC_TILES(X)};
#undef X

#define X(AHEAD)                                                                                                             \
    static void FN(tile_##AHEAD)(const FN(product) * of, const fc_index *yrow, const fc_index *row, int even)                \
    {                                                                                                                        \
        FN(tile)(of, yrow, row, even, FC_WIDE_ROWS, FC_MAX_VECTORS, AHEAD);                                                  \
    }
X(FC_AHEAD) X(NEXT)
#undef X

/* How many of the first rows are at even distances. */
static fc_index FN(even_rows)(const fc_index *row, fc_index m)
{
    fc_index run = m < 2 ? m : 2;
    while (run < m && row[run] - row[run - 1] == row[1] - row[0])
        run++;
    return run;
}

static void FN(gemm)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                     fc_index k, const void *b, fc_index ldb, fc_index vectors, fc_index n, const void *gain, const void *bias,
                     const void *side, const fc_next *next, int flags)
{
    FN(product) of = {y, x, b, gain, bias, side, NULL, col, k, ldb, 0, n, flags};
    fc_index lines = 0; /* of the next rows that no tile has asked for yet */
    if (next != NULL)
        of.next = next->rows, of.next_step = next->step, lines = next->lines;
    const fc_index max_rows = fc_max_rows[vectors];
    fc_index run = 0; /* of rows at even distances, from i on */
    for (fc_index i = 0, rows; i < m; i += rows, run -= rows) {
        if (run <= 0 && max_rows > ADDRESSES)
            run = FN(even_rows)(row + i, m - i);
        const int even = run > ADDRESSES;
        const fc_index left = even ? run : m - i, most = even || max_rows < MOST_UNEVEN ? max_rows : MOST_UNEVEN;
        rows = left <= most ? left : left < 2 * most ? (left + 1) / 2 : most;
        FN(tile_fn) *tile = FN(tiles)[vectors][rows];
        if (vectors == FC_MAX_VECTORS && rows == FC_WIDE_ROWS) {
            if ((flags & FC_AHEAD) && i + rows < m)
                tile = FN(tile_FC_AHEAD);
            if (lines > 0)
                tile = FN(tile_NEXT);
        }
        tile(&of, yrow + i, row + i, even);
        if (lines-- > 0)
            of.next += FC_LINE_BYTES / sizeof(T);
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
#undef ADDRESSES
#undef MOST_UNEVEN
#undef NEXT

static void FN(pack)(void *b_, const void *w_, fc_index k, fc_index n, fc_index width, fc_index w_row, fc_index w_col)
{
    T *b = b_;
    const T *w = w_;
    /* Transposing, in squares where that can be; n is 1 where w_row is not. */
    const fc_index whole_k = w_row == 1 ? k / QUAD * QUAD : 0, whole_n = w_row == 1 ? n / QUAD * QUAD : 0;
    for (fc_index p = 0; p < whole_k; p += QUAD)
        for (fc_index j = 0; j < whole_n; j += QUAD)
            FN(transpose_quad)(b + p * width + j, width, w + p + j * w_col, w_col);
    for (fc_index p = 0; p < k; p++) {
        const fc_index done = p < whole_k ? whole_n : 0;
        for (fc_index j = done; j < n; j++)
            b[p * width + j] = w[p * w_row + j * w_col];
        for (fc_index j = n; j < width; j++)
            b[p * width + j] = 0;
    }
}

/* Rows of few bytes, each in another page of memory: the processor does not foresee the next one.  Two rows ahead, a dense layer of
 * 9216 to 4096 took 16 ms, four 19, without 21 (16 images; a task's rows are 2 KB); of shorter rows as many bytes ahead save
 * another 1 to 7% of a convolution of one image (Zen 3). */
static void FN(pack_panels)(void *b, const fc_index *place, const fc_index *step, fc_index first, const void *w, fc_index k,
                            fc_index n, fc_index w_row)
{
    const fc_index rows = 2048 / (n * (fc_index)sizeof(T)), ahead = (rows < 2 ? 2 : rows) * w_row;
    for (fc_index p = 0; p < k; p++) {
        const T *from = (const T *)w + p * w_row;
        for (fc_index v = 0, j = 0; j < n; v++, j += VL) {
            __builtin_prefetch(from + ahead + j);
            FN(store)((T *)b + place[v] + (first + p) * step[v], FN(load_lanes)(from + j, n - j));
        }
    }
}

/* Some rows of y (+)= count values of each row of x times as many rows of b. */
FC_INLINE void FN(few_rows_step)(T *y, const fc_index *yrow, const T *x, const fc_index *row, const fc_index *col, const T *b,
                                 fc_index ldb, fc_index n, int fresh, const int rows, const int count)
{
    vec a[4][8];
    for (int i = 0; i < rows; i++)
        for (int p = 0; p < count; p++)
            a[i][p] = FN(splat)(x[row[i] + col[p]]);
    for (fc_index j = 0; j < n; j += VL) {
        vec bv[8];
        for (int p = 0; p < count; p++)
            bv[p] = n - j < VL ? FN(load_part)(b + p * ldb + j, n - j) : FN(load)(b + p * ldb + j);
        for (int i = 0; i < rows; i++) {
            T *out = y + yrow[i] + j;
            vec acc = fresh ? (vec){0} : FN(load_lanes)(out, n - j);
            for (int p = 0; p < count; p++)
                acc += a[i][p] * bv[p];
            FN(store_lanes)(out, acc, n - j);
        }
    }
}

FC_INLINE void FN(few_rows_block)(T *y, const fc_index *yrow, const T *x, const fc_index *row, const fc_index *col, fc_index k,
                                  const T *b, fc_index ldb, fc_index n, const int rows, const int at_once)
{
    fc_index p = 0;
    for (; p + at_once <= k; p += at_once)
        FN(few_rows_step)(y, yrow, x, row, col + p, b + p * ldb, ldb, n, p == 0, rows, at_once);
    for (; p < k; p++)
        FN(few_rows_step)(y, yrow, x, row, col + p, b + p * ldb, ldb, n, p == 0, rows, 1);
}

static void FN(few_rows)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                         fc_index k, const void *b, fc_index ldb, fc_index n)
{
    switch (m) {
    case 1: FN(few_rows_block)(y, yrow, x, row, col, k, b, ldb, n, 1, 8); break;
    case 2: FN(few_rows_block)(y, yrow, x, row, col, k, b, ldb, n, 2, 4); break;
    case 3: FN(few_rows_block)(y, yrow, x, row, col, k, b, ldb, n, 3, 4); break;
    case 4: FN(few_rows_block)(y, yrow, x, row, col, k, b, ldb, n, 4, 4); break;
    }
}
