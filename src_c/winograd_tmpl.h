/* Winograd's minimal filtering on a 6-point transform.  The contracts stand in fastconv.h.
 *
 * One dimension, m results of an r-tap filter with m + r - 1 = 6:
 *
 *     y = A^T [ (G g) o (B^T d) ]          d[6] data, g[r] filter, y[m] results, o elementwise
 *
 * and in two dimensions every transform is applied to columns and then to rows; with the channels summed, the elementwise
 * products are one matrix product per point.  Points 0, +-a, +-b, infinity with a = 5/8, b = 3/2: exact in binary, and of the
 * common choices nearly the smallest error (see Barabasz et al., Error analysis and improving the accuracy of Winograd
 * convolution, ACM TOMS 2020).  With N(p) = the product of p - q over the other finite points q:
 *
 *     B^T row p: the coefficients of the product of x - q;  G row p: 1, p, p^2, .. / N(p), infinity: 0 .. 0 1
 *     A^T column p: 1, p, p^2, ..,                           infinity: 0 .. 0 1
 *
 * B^T does not depend on m and r, so one text serves 3x3 filters (m = 4), 5x5 (m = 2), and their filter gradients, where
 * the roles of filter and result are exchanged (Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016, section 4).
 */
#define A1 ((T)0.625)
#define A2 ((T)0.390625)
#define A3 ((T)0.244140625)
#define A4 ((T)0.152587890625)
#define B1 ((T)1.5)
#define B2 ((T)2.25)
#define B3 ((T)3.375)
#define B4 ((T)5.0625)

FC_INLINE void FN(data_points)(vec *restrict out, const vec *restrict d, const int step)
{
    const vec even_a = d[4 * step] - B2 * d[2 * step], odd_a = A1 * (d[3 * step] - B2 * d[step]);
    const vec even_b = d[4 * step] - A2 * d[2 * step], odd_b = B1 * (d[3 * step] - A2 * d[step]);
    out[0] = (A2 * B2) * d[0] - (A2 + B2) * d[2 * step] + d[4 * step];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = (A2 * B2) * d[step] - (A2 + B2) * d[3 * step] + d[5 * step];
}

/* G g for r = 2 .. 5 taps. */
FC_INLINE void FN(filter_points)(vec *restrict out, const vec *restrict g, const int step, const int r)
{
    const T na = 1 / (2 * A2 * (A2 - B2)), nb = 1 / (2 * B2 * (B2 - A2)), n0 = 1 / (A2 * B2);
    vec even_a = g[0], odd_a = A1 * g[step], even_b = g[0], odd_b = B1 * g[step];
    if (r > 2) {
        even_a += A2 * g[2 * step];
        even_b += B2 * g[2 * step];
    }
    if (r > 3) {
        odd_a += A3 * g[3 * step];
        odd_b += B3 * g[3 * step];
    }
    if (r > 4) {
        even_a += A4 * g[4 * step];
        even_b += B4 * g[4 * step];
    }
    out[0] = n0 * g[0];
    out[1] = na * (even_a + odd_a);
    out[2] = na * (even_a - odd_a);
    out[3] = nb * (even_b + odd_b);
    out[4] = nb * (even_b - odd_b);
    out[5] = g[(r - 1) * step];
}

/* A^T s for m = 2 .. 5 results. */
FC_INLINE void FN(results)(vec *restrict out, const vec *restrict s, const int step, const int m)
{
    const vec sum_a = s[step] + s[2 * step], difference_a = s[step] - s[2 * step];
    const vec sum_b = s[3 * step] + s[4 * step], difference_b = s[3 * step] - s[4 * step];
    out[0] = s[0] + sum_a + sum_b;
    out[1] = A1 * difference_a + B1 * difference_b;
    if (m > 2)
        out[2] = A2 * sum_a + B2 * sum_b;
    if (m > 3)
        out[3] = A3 * difference_a + B3 * difference_b;
    if (m > 4)
        out[4] = A4 * sum_a + B4 * sum_b;
    out[m - 1] += s[5 * step];
}

static void FN(winograd_data)(void *v_, fc_index plane, const void *const *pixel, fc_index c)
{
    T *v = v_;
    for (fc_index ch = 0; ch < c; ch += VL) {
        const fc_index lanes = c - ch;
        vec t[6][6], column[6], row[6];
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++) {
                const T *at = (const T *)pixel[i * 6 + j] + ch;
                column[i] = lanes < VL ? FN(load_part)(at, lanes) : FN(load)(at);
            }
            FN(data_points)(t[j], column, 1);
        }
        for (int i = 0; i < 6; i++) {
            FN(data_points)(row, &t[0][i], 6);
            for (int j = 0; j < 6; j++)
                FN(store)(v + (i * 6 + j) * plane + ch, row[j]);
        }
    }
}

FC_INLINE void FN(filter_tile)(T *u, fc_index plane, const void *const *tap, fc_index c, const int R)
{
    for (fc_index ch = 0; ch < c; ch += VL) {
        const fc_index lanes = c - ch;
        vec t[5][6], column[5], row[6];
        for (int j = 0; j < R; j++) {
            for (int i = 0; i < R; i++) {
                const T *at = (const T *)tap[i * R + j] + ch;
                column[i] = lanes < VL ? FN(load_part)(at, lanes) : FN(load)(at);
            }
            FN(filter_points)(t[j], column, 1, R);
        }
        for (int i = 0; i < 6; i++) {
            FN(filter_points)(row, &t[0][i], 6, R);
            for (int j = 0; j < 6; j++)
                FN(store)(u + (i * 6 + j) * plane + ch, row[j]);
        }
    }
}

static void FN(winograd_filter)(void *u, fc_index plane, const void *const *tap, fc_index c, int taps)
{
    switch (taps) {
    case 2: FN(filter_tile)(u, plane, tap, c, 2); break;
    case 3: FN(filter_tile)(u, plane, tap, c, 3); break;
    case 4: FN(filter_tile)(u, plane, tap, c, 4); break;
    case 5: FN(filter_tile)(u, plane, tap, c, 5); break;
    }
}

FC_INLINE void FN(result_tile)(T *y, fc_index y_row, fc_index y_pixel, fc_index rows, fc_index columns, const T *s,
                               fc_index plane, fc_index n, const T *gain, const T *bias, int flags, const int M)
{
    for (fc_index ch = 0; ch < n; ch += VL) {
        const fc_index lanes = n - ch;
        vec t[6][5], column[6], row[5];
        T gain_part[VL] = {0}, bias_part[VL] = {0};
        if (flags & FC_GAIN)
            FN(store)(gain_part, lanes < VL ? FN(load_part)(gain + ch, lanes) : FN(load)(gain + ch));
        if (flags & FC_BIAS)
            FN(store)(bias_part, lanes < VL ? FN(load_part)(bias + ch, lanes) : FN(load)(bias + ch));
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++)
                column[i] = FN(load)(s + (i * 6 + j) * plane + ch);
            FN(results)(t[j], column, 1, M);
        }
        for (int i = 0; i < M && i < rows; i++) {
            FN(results)(row, &t[0][i], 5, M);
            for (int j = 0; j < M && j < columns; j++) {
                const vec r = FN(finish)(row[j], gain_part, bias_part, flags);
                T *out = y + i * y_row + j * y_pixel + ch;
                if (lanes < VL)
                    FN(store_part)(out, r, lanes);
                else
                    FN(store)(out, r);
            }
        }
    }
}

static void FN(winograd_result)(void *y, fc_index y_row, fc_index y_pixel, fc_index rows, fc_index columns, const void *s,
                                fc_index plane, fc_index n, const void *gain, const void *bias, int flags, int m)
{
    switch (m) {
    case 2: FN(result_tile)(y, y_row, y_pixel, rows, columns, s, plane, n, gain, bias, flags, 2); break;
    case 3: FN(result_tile)(y, y_row, y_pixel, rows, columns, s, plane, n, gain, bias, flags, 3); break;
    case 4: FN(result_tile)(y, y_row, y_pixel, rows, columns, s, plane, n, gain, bias, flags, 4); break;
    case 5: FN(result_tile)(y, y_row, y_pixel, rows, columns, s, plane, n, gain, bias, flags, 5); break;
    }
}
#undef A1
#undef A2
#undef A3
#undef A4
#undef B1
#undef B2
#undef B3
#undef B4
