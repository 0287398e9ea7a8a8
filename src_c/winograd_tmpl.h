/* Winograd's minimal filtering on a 6-point transform.  The contracts stand in fastconv.h.
 *
 * One dimension, m results of an r-tap filter with m + r - 1 = 6:
 *
 *     y = A^T [ (G g) o (B^T d) ]          d[6] data, g[r] filter, y[m] results, o elementwise
 *
 * and in two dimensions every transform is applied to columns and then to rows; with the channels summed, the elementwise
 * products are one matrix product per point.  Points +-a, +-b, 0, infinity with a = 5/8, b = 3/2: exact in binary, and of the
 * common choices nearly the smallest error (see Barabasz et al., Error analysis and improving the accuracy of Winograd
 * convolution, ACM TOMS 2020).  With N(p) = the product of p - q over the other finite points q:
 *
 *     B^T row p: the coefficients of the product of x - q;  G row p: 1, p, p^2, .. / N(p), infinity: 0 .. 0 1
 *     A^T column p: 1, p, p^2, ..,                           infinity: 0 .. 0 1
 *
 * B^T does not depend on m and r, so one text serves 3x3 filters (m = 4), 5x5 (m = 2), and their filter gradients, where
 * the roles of filter and result are exchanged (Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016,
 * section 4).
 *
 * A tile at the border may want fewer results (or have fewer taps: a filter gradient's).  Then it needs as many fewer points,
 * for data that no result wanted depends on may be chosen at will.  Without the last result d[5] concerns infinity alone: that
 * point is left out.  Without the last two d[4] is chosen so that the data are 0 at the point 0, without the last three d[3]
 * so that they are 0 at -b.  So n points suffice for n - r + 1 results, n = 3 .. 6, and G and A^T stay what they are.
 */
#define A1 ((T)0.625)
#define A2 ((T)0.390625)
#define A3 ((T)0.244140625)
#define A4 ((T)0.152587890625)
#define B1 ((T)1.5)
#define B2 ((T)2.25)
#define B3 ((T)3.375)
#define B4 ((T)5.0625)

/* B^T d; of its values those at the first n points count.  In halves of three values that share their terms: one at the points
 * 0, 1 and 4 (+-a and 0), one at 2, 3 and 5 (+-b and infinity).  A tile with fewer points than all rounds the product that sum
 * and difference share by itself, others leave that to the compiler: so it was when the accuracies in README.md were measured,
 * and these are the same bits. */
FC_INLINE void FN(data_half)(vec *restrict out, const vec *restrict d, const int step, const int n, const int half,
                             const int at_border)
{
    const vec d0 = d[0], d1 = d[step], d2 = d[2 * step];
    const vec d4 = n > 4 ? d[4 * step] : (A2 + B2) * d2 - (A2 * B2) * d0;
    const vec d3 = n > 3 ? d[3 * step] : A2 * d1 + B1 * (d2 - A2 * d0);
    const vec even = d4 - (half == 0 ? B2 : A2) * d2, odd = d3 - (half == 0 ? B2 : A2) * d1;
    vec product = (half == 0 ? A1 : B1) * odd;
    if (at_border)
        FC_ROUNDED(product);
    out[0] = even + product;
    out[1] = even - product;
    if (half == 0)
        out[2] = d4 - (A2 + B2) * d2 + (A2 * B2) * d0;
    else if (n > 5)
        out[2] = d[5 * step] - (A2 + B2) * d3 + (A2 * B2) * d1;
}

/* The three points of a half: 0 FC_INNER, 1 FC_OUTER. */
static const int FN(points_of)[2][3] = {{0, 1, 4}, {2, 3, 5}};

FC_INLINE void FN(data_points)(vec *restrict out, const vec *restrict d, const int step, const int n, const int at_border)
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        vec three[3];
        FN(data_half)(three, d, step, n, half, at_border);
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++)
            if (FN(points_of)[half][i] < n)
                out[FN(points_of)[half][i]] = three[i];
    }
}

/* G g for r = 2 .. 5 taps, in the same halves. */
FC_INLINE void FN(filter_half)(vec *restrict out, const vec *restrict g, const int step, const int r, const int half)
{
    const T norm = half == 0 ? 1 / (2 * A2 * (A2 - B2)) : 1 / (2 * B2 * (B2 - A2));
    const T p1 = half == 0 ? A1 : B1, p2 = half == 0 ? A2 : B2, p3 = half == 0 ? A3 : B3, p4 = half == 0 ? A4 : B4;
    vec even = g[0], odd = p1 * g[step];
    if (r > 2)
        even += p2 * g[2 * step];
    if (r > 3)
        odd += p3 * g[3 * step];
    if (r > 4)
        even += p4 * g[4 * step];
    out[0] = norm * (even + odd);
    out[1] = norm * (even - odd);
    out[2] = half == 0 ? (T)(1 / (A2 * B2)) * g[0] : g[(r - 1) * step];
}

FC_INLINE void FN(filter_points)(vec *restrict out, const vec *restrict g, const int step, const int r)
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        vec three[3];
        FN(filter_half)(three, g, step, r, half);
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++)
            out[FN(points_of)[half][i]] = three[i];
    }
}

/* A^T s for m = 2 .. 5 results. */
FC_INLINE void FN(results)(vec *restrict out, const vec *restrict s, const int step, const int m)
{
    const vec sum_a = s[0] + s[step], difference_a = s[0] - s[step];
    const vec sum_b = s[2 * step] + s[3 * step], difference_b = s[2 * step] - s[3 * step];
    out[0] = sum_a + sum_b + s[4 * step];
    out[1] = A1 * difference_a + B1 * difference_b;
    if (m > 2)
        out[2] = A2 * sum_a + B2 * sum_b;
    if (m > 3)
        out[3] = A3 * difference_a + B3 * difference_b;
    if (m > 4)
        out[4] = A4 * sum_a + B4 * sum_b;
    out[m - 1] += s[5 * step];
}

/* Each transform is one text for a vector of a tile's channels, which constants unroll: the data's for each number of points, for
 * with branches tiles of fewer points than all took 1.7 to 3.4 times as long (Zen 3), half as long again as a whole one; the
 * results' for all points and for fewer, the filters' for each number of taps, where no more was gained.  They are functions of
 * their own: where two such cases meet in one function, GCC 12 computes what they have in common before the branch and spills it.
 * Channels left over are first copied into whole vectors.
 *
 * FC_OPAQUE hides how a pointer came about: GCC would keep the addresses of all 36 planes, most of them on the stack. */
#define FC_OPAQUE(pointer) __asm__("" : "+r"(pointer))

/* The last channels, fewer than a vector, of `count` pixels or taps. */
FC_NOINLINE static void FN(copy_rest)(T (*rest)[VL], const void **copies, const void *const *from, int count, fc_index ch,
                                      fc_index lanes)
{
    for (int i = 0; i < count; i++) {
        FN(store)(rest[i], FN(load_part)((const T *)from[i] + ch, lanes));
        copies[i] = rest[i];
    }
}

/* A row of points, `plane` elements from one to the next. */
FC_INLINE void FN(store_points)(T *to, fc_index plane, const vec *point, const int columns)
{
    FC_OPAQUE(to);
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++)
        if (j < columns)
            FN(store)(to + j * plane, point[j]);
}

/* Half of the rows at a time: eighteen vectors between the two directions stay in registers, thirty-six do not. */
FC_INLINE void FN(data_vector)(fc_index ch, const int rows, const int columns, const int half, T *v, fc_index plane,
                               const void *const *pixel)
{
    const int at_border = rows * columns < 36;
    vec t[6][3], line[6], out[6];
#pragma GCC unroll 6
    for (int j = 0; j < columns; j++) {
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++)
            line[i] = FN(load)((const T *)pixel[i * 6 + j] + ch);
        FN(data_half)(t[j], line, 1, rows, half, at_border);
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        const int row = FN(points_of)[half][i];
        if (row >= rows)
            continue;
        FN(data_points)(out, &t[0][i], 3, columns, at_border);
        FN(store_points)(v + row * 6 * plane + ch, plane, out, columns);
    }
}

/* For channels ch .. c - 1, rows x columns points, one half of them. */
typedef void FN(data_function)(T *v, fc_index plane, const void *const *pixel, fc_index ch, fc_index c);

#define FC_FOR_POINTS(X)                                                                                                     \
    X(3, 3) X(3, 4) X(3, 5) X(3, 6) X(4, 3) X(4, 4) X(4, 5) X(4, 6) X(5, 3) X(5, 4) X(5, 5) X(5, 6) X(6, 3) X(6, 4) X(6, 5)  \
    X(6, 6)
#define X(ROWS, COLUMNS)                                                                                                     \
    static FC_NOINLINE void FN(data_##ROWS##COLUMNS##_inner)(T * v, fc_index plane, const void *const *pixel, fc_index ch,   \
                                                             fc_index c)                                                     \
    {                                                                                                                        \
        for (; ch < c; ch += VL)                                                                                             \
            FN(data_vector)(ch, ROWS, COLUMNS, 0, v, plane, pixel);                                                          \
    }                                                                                                                        \
    static FC_NOINLINE void FN(data_##ROWS##COLUMNS##_outer)(T * v, fc_index plane, const void *const *pixel, fc_index ch,   \
                                                             fc_index c)                                                     \
    {                                                                                                                        \
        for (; ch < c; ch += VL)                                                                                             \
            FN(data_vector)(ch, ROWS, COLUMNS, 1, v, plane, pixel);                                                          \
    }
FC_FOR_POINTS(X)
#undef X
#define X(ROWS, COLUMNS) [ROWS - 3][COLUMNS - 3] = {FN(data_##ROWS##COLUMNS##_inner), FN(data_##ROWS##COLUMNS##_outer)},
static FN(data_function) *const FN(data_of)[4][4][2] = {FC_FOR_POINTS(X)};
#undef X
#undef FC_FOR_POINTS

FC_INLINE void FN(data_line)(T *v, fc_index plane, const void *const *pixel, fc_index c, const int n)
{
    for (fc_index ch = 0; ch < c; ch += VL) {
        vec line[6], out[6];
        for (int j = 0; j < 6; j++)
            line[j] = FN(load)((const T *)pixel[j] + ch);
        FN(data_points)(out, line, 1, n, 0);
        for (int j = 0; j < n; j++)
            FN(store)(v + j * plane + ch, out[j]);
    }
}

/* Of whole vectors; both halves while the pixels of so many channels are in the first-level cache. */
static void FN(data_vectors)(T *v, fc_index plane, const void *const *pixel, fc_index c, int rows, int columns, int halves)
{
    const fc_index together = 256 / (fc_index)sizeof(T);
    if (rows == 1 || columns == 1) {
        FN(data_line)(v, plane, pixel, c, rows * columns);
        return;
    }
    FN(data_function) *const *of_half = FN(data_of)[rows - 3][columns - 3];
    for (fc_index ch = 0; ch < c; ch += together)
        for (int half = 0; half < 2; half++)
            if (halves & (half == 0 ? FC_INNER : FC_OUTER))
                of_half[half](v, plane, pixel, ch, c < ch + together ? c : ch + together);
}

static void FN(winograd_data)(void *v, fc_index plane, const void *const *pixel, fc_index c, int rows, int columns, int halves)
{
    const fc_index whole = c / VL * VL;
    FN(data_vectors)(v, plane, pixel, whole, rows, columns, halves);
    if (whole < c) {
        T rest[36][VL];
        const void *copies[36];
        FN(copy_rest)(rest, copies, pixel, rows == 1 || columns == 1 ? 6 : 36, whole, c - whole);
        FN(data_vectors)((T *)v + whole, plane, copies, VL, rows, columns, halves);
    }
}

FC_INLINE void FN(filter_vector)(fc_index ch, const int rows, const int columns, const int half, T *u, fc_index plane,
                                 const void *const *tap, const int R)
{
    vec t[5][3], line[5], out[6];
#pragma GCC unroll 5
    for (int j = 0; j < R; j++) {
#pragma GCC unroll 5
        for (int i = 0; i < R; i++)
            line[i] = FN(load)((const T *)tap[i * R + j] + ch);
        FN(filter_half)(t[j], line, 1, R, half);
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        const int row = FN(points_of)[half][i];
        if (row >= rows)
            continue;
        FN(filter_points)(out, &t[0][i], 3, R);
        T *to = u + row * 6 * plane + ch;
        FC_OPAQUE(to);
        /* Without this branch, which does nothing, the compiler (GCC 12, vectors shorter than a line) computes points in the
         * branches that store them, contracts fewer products and sums, and the bits are others. */
        if ((uintptr_t)to % FC_LINE_BYTES < FC_VECTOR_BYTES)
            __asm__("");
        FN(store_points)(to, plane, out, columns);
    }
}

FC_INLINE void FN(filter_line)(T *u, fc_index plane, const void *const *tap, fc_index c, const int R, const int n)
{
    for (fc_index ch = 0; ch < c; ch += VL) {
        vec line[5], out[6];
        for (int j = 0; j < R; j++)
            line[j] = FN(load)((const T *)tap[j] + ch);
        FN(filter_points)(out, line, 1, R);
        for (int j = 0; j < n; j++)
            FN(store)(u + j * plane + ch, out[j]);
    }
}

#define X(R, HALF)                                                                                                           \
    static FC_NOINLINE void FN(filter_##R##_##HALF)(T * u, fc_index plane, const void *const *tap, fc_index c, int rows,     \
                                                    int columns)                                                             \
    {                                                                                                                        \
        for (fc_index ch = 0; ch < c; ch += VL)                                                                              \
            FN(filter_vector)(ch, rows, columns, HALF == FC_OUTER, u, plane, tap, R);                                        \
    }
X(2, FC_INNER) X(3, FC_INNER) X(4, FC_INNER) X(5, FC_INNER)
X(2, FC_OUTER) X(3, FC_OUTER) X(4, FC_OUTER) X(5, FC_OUTER)
#undef X

#define X(R)                                                                                                                 \
    FC_INLINE void FN(filter_##R)(T *u, fc_index plane, const void *const *tap, fc_index c, int rows, int columns,           \
                                  int halves)                                                                                \
    {                                                                                                                        \
        if (rows == 1 || columns == 1) {                                                                                     \
            FN(filter_line)(u, plane, tap, c, R, rows * columns);                                                            \
            return;                                                                                                          \
        }                                                                                                                    \
        if (halves & FC_INNER)                                                                                               \
            FN(filter_##R##_FC_INNER)(u, plane, tap, c, rows, columns);                                                      \
        if (halves & FC_OUTER)                                                                                               \
            FN(filter_##R##_FC_OUTER)(u, plane, tap, c, rows, columns);                                                      \
    }
X(2) X(3) X(4) X(5)
#undef X

static void FN(filter_vectors)(T *u, fc_index plane, const void *const *tap, fc_index c, int taps, int rows, int columns,
                               int halves)
{
    switch (taps) {
    case 2: FN(filter_2)(u, plane, tap, c, rows, columns, halves); break;
    case 3: FN(filter_3)(u, plane, tap, c, rows, columns, halves); break;
    case 4: FN(filter_4)(u, plane, tap, c, rows, columns, halves); break;
    case 5: FN(filter_5)(u, plane, tap, c, rows, columns, halves); break;
    }
}

static void FN(winograd_filter)(void *u, fc_index plane, const void *const *tap, fc_index c, int taps, int rows, int columns,
                                int halves)
{
    const fc_index whole = c / VL * VL;
    FN(filter_vectors)(u, plane, tap, whole, taps, rows, columns, halves);
    if (whole < c) {
        T rest[25][VL];
        const void *copies[25];
        FN(copy_rest)(rest, copies, tap, rows == 1 || columns == 1 ? taps : taps * taps, whole, c - whole);
        FN(filter_vectors)((T *)u + whole, plane, copies, VL, taps, rows, columns, halves);
    }
}

/* Where the results of a tile go, and what becomes of them. */
typedef struct {
    T *y;
    fc_index y_row, y_pixel, height, width; /* at most so many rows and columns are written */
    const T *gain, *bias, *side;            /* side is laid out as y */
    int flags;
} FN(target);

/* Row i of a tile's results; flag by flag, not result by result, so that few branches remain. */
FC_INLINE void FN(store_results)(vec *row, int i, const FN(target) *to, fc_index ch, const int M)
{
    const fc_index at = i * to->y_row + ch;
    const int flags = to->flags;
    T *y = to->y + at;
#pragma GCC unroll 4
    for (int flag = FC_GAIN; flag <= FC_RELU; flag *= 2)
        if (flags & flag)
#pragma GCC unroll 5
            for (int j = 0; j < M; j++)
                if (flag != FC_SIDE || j < to->width)
                    row[j] = FN(finish)(row[j], to->gain + ch, to->bias + ch, to->side + at + j * to->y_pixel, VL, flag);
#pragma GCC unroll 5
    for (int j = 0; j < M; j++)
        if (j < to->width)
            FN(store)(y + j * to->y_pixel, row[j]);
}

/* The M results along a row of points; of two rows' sum (sign 1) or difference (-1), or of the first alone (0). */
FC_INLINE void FN(result_row)(vec *restrict out, const T *s, fc_index plane, const int columns, const int sign, const int M)
{
    const T *next = s + 6 * plane;
    vec line[6];
    FC_OPAQUE(s);
    FC_OPAQUE(next);
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        line[j] = j < columns ? FN(load)(s + j * plane) : (vec){0};
        if (sign > 0 && j < columns)
            line[j] += FN(load)(next + j * plane);
        if (sign < 0 && j < columns)
            line[j] -= FN(load)(next + j * plane);
    }
    FN(results)(out, line, 1, M);
}

FC_INLINE void FN(add_row)(vec *restrict out, const T *s, fc_index plane, const int columns, const int M)
{
    vec row[5];
    FN(result_row)(row, s, plane, columns, 0, M);
#pragma GCC unroll 5
    for (int j = 0; j < M; j++)
        out[j] += row[j];
}

/* The even rows of results, then the odd ones: the points a and -a enter them as a sum, or as a difference.  So what lies
 * between the two directions is a few rows, which stay in registers. */
FC_INLINE void FN(result_vector)(fc_index ch, const int rows, const int columns, const FN(target) *to, const T *s,
                                 fc_index plane, const int M)
{
    const T power_a[5] = {1, A1, A2, A3, A4}, power_b[5] = {1, B1, B2, B3, B4};
    s += ch;
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
        vec a[5], b[5], out[5];
        FN(result_row)(a, s, plane, columns, odd ? -1 : 1, M);
        if (rows > 3)
            FN(result_row)(b, s + 12 * plane, plane, columns, odd ? -1 : 1, M);
        else
            FN(result_row)(b, s + 12 * plane, plane, columns, 0, M);
#pragma GCC unroll 3
        for (int i = odd; i < M; i += 2) {
            if (i >= to->height)
                break;
#pragma GCC unroll 5
            for (int j = 0; j < M; j++)
                out[j] = power_a[i] * a[j] + power_b[i] * b[j];
            if (i == 0 && rows > 4)
                FN(add_row)(out, s + 24 * plane, plane, columns, M);
            if (i == M - 1 && rows > 5)
                FN(add_row)(out, s + 30 * plane, plane, columns, M);
            FN(store_results)(out, i, to, ch, M);
        }
    }
}

FC_INLINE void FN(result_line)(const FN(target) *to, const T *s, fc_index plane, fc_index n, const int M, int columns)
{
    for (fc_index ch = 0; ch < n; ch += VL) {
        vec out[5];
        FN(result_row)(out, s + ch, plane, columns, 0, M);
        FN(store_results)(out, 0, to, ch, M);
    }
}

#define X(M)                                                                                                                 \
    static FC_NOINLINE void FN(result_all_##M)(const FN(target) * to, const T *s, fc_index plane, fc_index n)                \
    {                                                                                                                        \
        for (fc_index ch = 0; ch < n; ch += VL)                                                                              \
            FN(result_vector)(ch, 6, 6, to, s, plane, M);                                                                    \
    }                                                                                                                        \
    static FC_NOINLINE void FN(result_some_##M)(const FN(target) * to, const T *s, fc_index plane, fc_index n, int rows,     \
                                                int columns)                                                                 \
    {                                                                                                                        \
        for (fc_index ch = 0; ch < n; ch += VL)                                                                              \
            FN(result_vector)(ch, rows, columns, to, s, plane, M);                                                           \
    }                                                                                                                        \
    FC_INLINE void FN(result_##M)(const FN(target) * to, const T *s, fc_index plane, fc_index n, int rows, int columns)      \
    {                                                                                                                        \
        if (rows == 1)                                                                                                       \
            FN(result_line)(to, s, plane, n, M, columns);                                                                    \
        else if (rows == 6 && columns == 6)                                                                                  \
            FN(result_all_##M)(to, s, plane, n);                                                                             \
        else                                                                                                                 \
            FN(result_some_##M)(to, s, plane, n, rows, columns);                                                             \
    }
X(2) X(3) X(4) X(5)
#undef X

/* Of whole vectors. */
static void FN(result_vectors)(const FN(target) *to, const T *s, fc_index plane, fc_index n, int m, int rows, int columns)
{
    switch (m) {
    case 2: FN(result_2)(to, s, plane, n, rows, columns); break;
    case 3: FN(result_3)(to, s, plane, n, rows, columns); break;
    case 4: FN(result_4)(to, s, plane, n, rows, columns); break;
    case 5: FN(result_5)(to, s, plane, n, rows, columns); break;
    }
}

/* Of the channels from ch on, fewer than a vector: into vectors of our own, and from there to y. */
FC_NOINLINE static void FN(result_rest)(const FN(target) *to, const T *s, fc_index plane, fc_index ch, fc_index lanes, int m,
                                        int rows, int columns)
{
    T y[25][VL], side[25][VL], gain[VL], bias[VL];
    const FN(target) ours = {y[0], 5 * VL, VL, to->height, to->width, gain, bias, side[0], to->flags};
    if (to->flags & FC_GAIN)
        FN(store)(gain, FN(load_part)(to->gain + ch, lanes));
    if (to->flags & FC_BIAS)
        FN(store)(bias, FN(load_part)(to->bias + ch, lanes));
    if (to->flags & FC_SIDE)
        for (fc_index i = 0; i < to->height; i++)
            for (fc_index j = 0; j < to->width; j++)
                FN(store)(side[i * 5 + j], FN(load_part)(to->side + i * to->y_row + j * to->y_pixel + ch, lanes));
    FN(result_vectors)(&ours, s + ch, plane, VL, m, rows, columns);
    for (fc_index i = 0; i < to->height; i++)
        for (fc_index j = 0; j < to->width; j++)
            FN(store_part)(to->y + i * to->y_row + j * to->y_pixel + ch, FN(load)(y[i * 5 + j]), lanes);
}

static void FN(winograd_result)(void *y, fc_index y_row, fc_index y_pixel, fc_index height, fc_index width, const void *s,
                                fc_index plane, fc_index n, const void *gain, const void *bias, const void *side, int flags,
                                int m, int rows, int columns)
{
    const fc_index whole = n / VL * VL;
    FN(target) to = {y, y_row, y_pixel, height, width, gain, bias, side, flags};
    if (columns == 1) { /* a line lies down */
        to = (FN(target)){y, y_pixel, y_row, width, height, gain, bias, side, flags};
        columns = rows;
        rows = 1;
    }
    if (flags & FC_FAR)
        for (fc_index i = 0; i < to.height; i++)
            for (fc_index j = 0; j < to.width; j++)
                for (fc_index ch = 0; ch < n; ch += FC_LINE_BYTES / (fc_index)sizeof(T))
                    __builtin_prefetch(to.y + i * to.y_row + j * to.y_pixel + ch, 1);
    FN(result_vectors)(&to, s, plane, whole, m, rows, columns);
    if (whole < n)
        FN(result_rest)(&to, s, plane, whole, n - whole, m, rows, columns);
}
#undef FC_OPAQUE
#undef A1
#undef A2
#undef A3
#undef A4
#undef B1
#undef B2
#undef B3
#undef B4
