/* Normalization of rows of c channels.  The contracts stand in fastconv.h.
 *
 * Over the rows: Ioffe and Szegedy, "Batch normalization", ICML 2015.  The sums over a block of rows are taken in T and go on in
 * double, those of squares around the block's own mean: no difference of large numbers is ever rounded to T.
 */
#define SUM_VECTORS 4 /* of channels at a time: as many chains of additions as their latency needs */

/* moments for `vectors` vectors of channels; lanes: of the only one, or VL. */
FC_INLINE void FN(moments_of)(double *mean, double *squares, fc_index before, const T *total, const T *x, fc_index rows,
                              fc_index c, int vectors, fc_index lanes)
{
    vec centre[SUM_VECTORS] = {0}, sum[SUM_VECTORS] = {0}, square[SUM_VECTORS] = {0};
    for (int v = 0; v < vectors; v++)
        centre[v] = FN(load_lanes)(total + v * VL, lanes) / (T)rows;
    for (fc_index r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            const vec d = FN(load_lanes)(x + r * c + v * VL, lanes) - centre[v];
            sum[v] += d;
            square[v] += d * d;
        }
    /* The centre is a rounded mean; the sum of the deviations from it corrects both.  Then the block joins the rows before it.
     * (Chan, Golub and LeVeque, "Algorithms for computing the sample variance: analysis and recommendations", The American
     * Statistician, 1983: the corrected two-pass and the pairwise algorithm.) */
    const double share = (double)rows / (double)(before + rows);
    for (int v = 0; v < vectors; v++) {
        T centres[VL], sums[VL], square_sums[VL];
        FN(store)(centres, centre[v]);
        FN(store)(sums, sum[v]);
        FN(store)(square_sums, square[v]);
        for (fc_index e = 0; e < VL && e < lanes; e++) {
            const double off = (double)sums[e] / (double)rows, around = (double)square_sums[e] - (double)sums[e] * off;
            const double delta = (double)centres[e] + off - mean[v * VL + e];
            mean[v * VL + e] += delta * share;
            squares[v * VL + e] += (around < 0 ? 0 : around) + delta * delta * share * (double)before;
        }
    }
}

static void FN(moments)(double *sums, fc_index before, const void *total_, const void *x_, fc_index rows, fc_index c)
{
    const T *total = total_, *x = x_;
    fc_index ch = 0;
    for (; ch + SUM_VECTORS * VL <= c; ch += SUM_VECTORS * VL)
        FN(moments_of)(sums + ch, sums + c + ch, before, total + ch, x + ch, rows, c, SUM_VECTORS, VL);
    for (; ch < c; ch += VL)
        FN(moments_of)(sums + ch, sums + c + ch, before, total + ch, x + ch, rows, c, 1, c - ch);
}

/* What relu sees, in one text for the forward pass and for the gradients, which ask its sign again. */
#define NORMAL(x, mean, gain, offset) (((x) - (mean)) * (gain) + (offset))

/* Whole vectors and the rest are compiled apart, in this and in the gradient: where they meet, what becomes an FMA depends on more
 * than the expression, and a fused pass would not have the bits of its parts. */
FC_INLINE void FN(normalize_vector)(T *restrict y, const T *restrict x, const T *restrict mean, const T *restrict gain,
                                    const T *restrict offset, const T *restrict side, fc_index lanes, int relu)
{
    vec v = NORMAL(FN(load_lanes)(x, lanes), FN(load_lanes)(mean, lanes), FN(load_lanes)(gain, lanes),
                   FN(load_lanes)(offset, lanes));
    if (side)
        v += FN(load_lanes)(side, lanes);
    FN(claim)(y);
    FN(store_lanes)(y, relu ? FN(positive)(v) : v, lanes);
}

FC_INLINE void FN(normalize_rows)(T *restrict y, const T *restrict x, const T *restrict mean, const T *restrict gain,
                                  const T *restrict offset, const T *restrict side, fc_index rows, fc_index c, int relu)
{
    for (fc_index r = 0, at = 0; r < rows; r++) {
        fc_index ch = 0;
        for (; ch + VL <= c; ch += VL, at += VL)
            FN(normalize_vector)(y + at, x + at, mean + ch, gain + ch, offset + ch, side ? side + at : NULL, VL, relu);
        if (ch < c)
            FN(normalize_vector)(y + at, x + at, mean + ch, gain + ch, offset + ch, side ? side + at : NULL, c - ch, relu);
        at += c - ch;
    }
}

static void FN(normalize)(void *y, const void *x, const void *mean, const void *gain, const void *offset, const void *side,
                          int relu, fc_index rows, fc_index c)
{
    if (side && relu)
        FN(normalize_rows)(y, x, mean, gain, offset, side, rows, c, 1);
    else if (side)
        FN(normalize_rows)(y, x, mean, gain, offset, side, rows, c, 0);
    else if (relu)
        FN(normalize_rows)(y, x, mean, gain, offset, NULL, rows, c, 1);
    else
        FN(normalize_rows)(y, x, mean, gain, offset, NULL, rows, c, 0);
}

FC_INLINE void FN(normalize_sums_of)(double *sums, double *products, const T *dy, const T *x, const T *mean_, const T *gain_,
                                     const T *offset_, fc_index rows, fc_index c, int vectors, fc_index lanes)
{
    vec mean[SUM_VECTORS] = {0}, gain[SUM_VECTORS] = {0}, offset[SUM_VECTORS] = {0};
    vec sum[SUM_VECTORS] = {0}, product[SUM_VECTORS] = {0};
    for (int v = 0; v < vectors; v++) {
        mean[v] = FN(load_lanes)(mean_ + v * VL, lanes);
        if (offset_) {
            gain[v] = FN(load_lanes)(gain_ + v * VL, lanes);
            offset[v] = FN(load_lanes)(offset_ + v * VL, lanes);
        }
    }
    for (fc_index r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            const fc_index at = r * c + v * VL;
            const vec value = FN(load_lanes)(x + at, lanes);
            vec gradient = FN(load_lanes)(dy + at, lanes);
            if (offset_)
                gradient = (vec)((ivec)gradient & (NORMAL(value, mean[v], gain[v], offset[v]) > (vec){0}));
            sum[v] += gradient;
            product[v] += gradient * (value - mean[v]);
        }
    for (int v = 0; v < vectors; v++) {
        T part[VL], product_part[VL];
        FN(store)(part, sum[v]);
        FN(store)(product_part, product[v]);
        for (fc_index e = 0; e < VL && e < lanes; e++) {
            sums[v * VL + e] += (double)part[e];
            products[v * VL + e] += (double)product_part[e];
        }
    }
}

FC_INLINE void FN(normalize_sums_rows)(double *sums, const T *dy, const T *x, const T *mean, const T *gain, const T *offset,
                                       fc_index rows, fc_index c)
{
    fc_index ch = 0;
    for (; ch + SUM_VECTORS * VL <= c; ch += SUM_VECTORS * VL)
        FN(normalize_sums_of)(sums + ch, sums + c + ch, dy + ch, x + ch, mean + ch, gain + ch, offset ? offset + ch : NULL, rows,
                              c, SUM_VECTORS, VL);
    for (; ch < c; ch += VL)
        FN(normalize_sums_of)(sums + ch, sums + c + ch, dy + ch, x + ch, mean + ch, gain + ch, offset ? offset + ch : NULL, rows,
                              c, 1, c - ch);
}

static void FN(normalize_sums)(double *sums, const void *dy, const void *x, const void *mean, const void *gain,
                               const void *offset, fc_index rows, fc_index c)
{
    if (offset)
        FN(normalize_sums_rows)(sums, dy, x, mean, gain, offset, rows, c);
    else
        FN(normalize_sums_rows)(sums, dy, x, mean, gain, NULL, rows, c);
}
#undef SUM_VECTORS

FC_INLINE void FN(normalize_grad_vector)(T *restrict dx, const T *restrict dy, const T *restrict x, const T *restrict mean,
                                         const T *restrict gain, const T *restrict offset, const T *restrict level,
                                         const T *restrict tilt, fc_index lanes)
{
    const vec value = FN(load_lanes)(x, lanes), centre = FN(load_lanes)(mean, lanes), factor = FN(load_lanes)(gain, lanes);
    vec g = FN(load_lanes)(dy, lanes);
    if (offset)
        g = (vec)((ivec)g & (NORMAL(value, centre, factor, FN(load_lanes)(offset, lanes)) > (vec){0}));
    if (level)
        g = g - FN(load_lanes)(level, lanes) - (value - centre) * FN(load_lanes)(tilt, lanes);
    FN(claim)(dx);
    FN(store_lanes)(dx, g * factor, lanes);
}

FC_INLINE void FN(normalize_grad_rows)(T *restrict dx, const T *restrict dy, const T *restrict x, const T *restrict mean,
                                       const T *restrict gain, const T *restrict offset, const T *restrict level,
                                       const T *restrict tilt, fc_index rows, fc_index c)
{
    for (fc_index r = 0, at = 0; r < rows; r++) {
        fc_index ch = 0;
        for (; ch + VL <= c; ch += VL, at += VL)
            FN(normalize_grad_vector)(dx + at, dy + at, x + at, mean + ch, gain + ch, offset ? offset + ch : NULL,
                                      level ? level + ch : NULL, level ? tilt + ch : NULL, VL);
        if (ch < c)
            FN(normalize_grad_vector)(dx + at, dy + at, x + at, mean + ch, gain + ch, offset ? offset + ch : NULL,
                                      level ? level + ch : NULL, level ? tilt + ch : NULL, c - ch);
        at += c - ch;
    }
}

static void FN(normalize_grad)(void *dx, const void *dy, const void *x, const void *mean, const void *gain, const void *offset,
                               const void *level, const void *tilt, fc_index rows, fc_index c)
{
    if (offset && level)
        FN(normalize_grad_rows)(dx, dy, x, mean, gain, offset, level, tilt, rows, c);
    else if (offset)
        FN(normalize_grad_rows)(dx, dy, x, mean, gain, offset, NULL, NULL, rows, c);
    else if (level)
        FN(normalize_grad_rows)(dx, dy, x, mean, gain, NULL, level, tilt, rows, c);
    else
        FN(normalize_grad_rows)(dx, dy, x, mean, gain, NULL, NULL, NULL, rows, c);
}
#undef NORMAL

/* Over neighbouring channels: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks",
 * NIPS 2012, section 3.3.  The scratch array holds the rows with `radius` zeros between them and at both ends, so that the
 * window of channel ch is elements ch .. ch + 2 * radius from its row's start on:
 *
 *     0 0 | c values | 0 0 | c values | 0 0        radius 2; a row starts every c + radius elements
 */
FC_INLINE vec FN(channel_window)(const T *from, fc_index radius)
{
    vec sum = FN(load)(from);
    for (fc_index k = 1; k <= 2 * radius; k++)
        sum += FN(load)(from + k);
    return sum;
}

static void FN(clear_borders)(T *padded, fc_index rows, fc_index c, fc_index radius)
{
    for (fc_index r = 0; r <= rows; r++)
        for (fc_index k = 0; k < radius; k++)
            padded[r * (c + radius) + k] = 0;
}

/* scale[rows][c] = bias + alpha * the sum over the window of x * x. */
static void FN(lrn_scale)(T *restrict scale, T *restrict padded, const T *restrict x, fc_index rows, fc_index c, fc_index radius,
                          T bias, T alpha)
{
    for (fc_index r = 0; r < rows; r++) {
        T *square = padded + r * (c + radius) + radius;
        for (fc_index ch = 0; ch < c; ch++)
            square[ch] = x[r * c + ch] * x[r * c + ch];
    }
    for (fc_index r = 0; r < rows; r++)
        for (fc_index ch = 0; ch < c; ch += VL)
            FN(store_lanes)(scale + r * c + ch, FN(channel_window)(padded + r * (c + radius) + ch, radius) * alpha + bias, c - ch);
}

/* y[n] = x[n] / scale[n] ** beta; y may be scale.  Square roots are vector instructions, pow is a call for each element. */
static void FN(damp)(T *y, const T *x, const T *scale, fc_index n, double beta)
{
    if (beta == 0.5)
        for (fc_index i = 0; i < n; i++)
            y[i] = x[i] / SQRT(scale[i]);
    else if (beta == 0.75)
        for (fc_index i = 0; i < n; i++) {
            const T root = SQRT(scale[i]);
            y[i] = x[i] / (root * SQRT(root));
        }
    else
        for (fc_index i = 0; i < n; i++)
            y[i] = x[i] * POW(scale[i], (T)-beta);
}

static void FN(lrn)(void *y_, void *padded_, const void *x_, fc_index rows, fc_index c, fc_index radius, double bias, double alpha,
                    double beta)
{
    T *y = y_, *padded = padded_;
    const T *x = x_;
    FN(clear_borders)(padded, rows, c, radius);
    FN(lrn_scale)(y, padded, x, rows, c, radius, (T)bias, (T)alpha);
    FN(damp)(y, x, y, rows * c, beta);
}

static void FN(lrn_grad)(void *dx_, void *padded_, const void *dy_, const void *x_, const void *y_, fc_index rows, fc_index c,
                         fc_index radius, double bias, double alpha, double beta)
{
    T *dx = dx_, *padded = padded_;
    const T *dy = dy_, *x = x_, *y = y_;
    const vec factor = FN(splat)((T)(2 * alpha * beta));
    FN(clear_borders)(padded, rows, c, radius);
    FN(lrn_scale)(dx, padded, x, rows, c, radius, (T)bias, (T)alpha);
    for (fc_index r = 0; r < rows; r++) {
        T *restrict ratio = padded + r * (c + radius) + radius;
        for (fc_index ch = 0; ch < c; ch++)
            ratio[ch] = dy[r * c + ch] * y[r * c + ch] / dx[r * c + ch];
    }
    FN(damp)(dx, dy, dx, rows * c, beta);
    for (fc_index r = 0; r < rows; r++)
        for (fc_index ch = 0; ch < c; ch += VL) {
            const fc_index at = r * c + ch, lanes = c - ch;
            const vec others = FN(channel_window)(padded + r * (c + radius) + ch, radius) * factor;
            FN(store_lanes)(dx + at, FN(load_lanes)(dx + at, lanes) - others * FN(load_lanes)(x + at, lanes), lanes);
        }
}
