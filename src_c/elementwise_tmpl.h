/* Passes over flat arrays.  What only writes its result claims the lines of it; other loops the compiler vectorizes by itself.
 * The contracts stand in fastconv.h. */
/* for each vector of y[n], from element i on; `left` elements, at least one. */
#define FC_VECTORS(y, n) for (fc_index i = 0, left = (n); left > 0; FN(claim)((y) + i), i += VL, left -= VL)

static void FN(relu)(void *y_, const void *x_, fc_index n)
{
    T *y = y_;
    const T *x = x_;
    FC_VECTORS(y, n)
        FN(store_lanes)(y + i, FN(positive)(FN(load_lanes)(x + i, left)), left);
}

static void FN(relu_grad)(void *dx_, const void *dy_, const void *y_, fc_index n)
{
    T *dx = dx_;
    const T *dy = dy_, *y = y_;
    FC_VECTORS(dx, n) {
        const ivec passes = FN(load_lanes)(y + i, left) > (vec){0};
        FN(store_lanes)(dx + i, (vec)(passes & (ivec)FN(load_lanes)(dy + i, left)), left);
    }
}

static void FN(sigmoid_grad)(void *dx_, const void *y_, const void *dy_, fc_index n)
{
    T *dx = dx_;
    const T *y = y_, *dy = dy_;
    FC_VECTORS(dx, n) {
        const vec here = FN(load_lanes)(y + i, left);
        FN(store_lanes)(dx + i, FN(load_lanes)(dy + i, left) * (here * ((T)1 - here)), left);
    }
}

static void FN(tanh_grad)(void *dx_, const void *y_, const void *dy_, fc_index n)
{
    T *dx = dx_;
    const T *y = y_, *dy = dy_;
    FC_VECTORS(dx, n) {
        const vec here = FN(load_lanes)(y + i, left);
        /* Exact where y is near 1, unlike 1 - y * y. */
        FN(store_lanes)(dx + i, FN(load_lanes)(dy + i, left) * (((T)1 - here) * ((T)1 + here)), left);
    }
}

static void FN(add)(void *y_, const void *x_, fc_index n)
{
    T *restrict y = y_;
    const T *restrict x = x_;
    for (fc_index i = 0; i < n; i++)
        y[i] += x[i];
}

static void FN(sum)(void *y_, const void *a_, const void *b_, fc_index n)
{
    T *y = y_;
    const T *a = a_, *b = b_;
    FC_VECTORS(y, n)
        FN(store_lanes)(y + i, FN(load_lanes)(a + i, left) + FN(load_lanes)(b + i, left), left);
}

static void FN(bias_add)(void *y_, const void *x_, const void *bias_, fc_index rows, fc_index c)
{
    T *y = y_;
    const T *x = x_, *bias = bias_;
    for (fc_index r = 0; r < rows; r++, y += c, x += c)
        FC_VECTORS(y, c)
            FN(store_lanes)(y + i, FN(load_lanes)(x + i, left) + FN(load_lanes)(bias + i, left), left);
}

static void FN(column_sum)(void *sum_, const void *x_, fc_index rows, fc_index c)
{
    T *restrict sum = sum_;
    const T *restrict x = x_;
    for (fc_index ch = 0; ch < c; ch++)
        sum[ch] = 0;
    for (fc_index r = 0; r < rows; r++)
        for (fc_index ch = 0; ch < c; ch++)
            sum[ch] += x[r * c + ch];
}

static void FN(dropout)(void *y_, uint8_t *where, const void *x_, fc_index n, uint64_t block, uint64_t seed, uint32_t threshold,
                        double scale_)
{
    T *y = y_;
    const T *x = x_;
    const T scale = (T)scale_;
    for (fc_index i = 0; i < n; i += 4 * PHILOX_BLOCKS, block += PHILOX_BLOCKS) {
        uint32_t bits[4 * PHILOX_BLOCKS];
        philox(bits, block, seed);
        const fc_index count = n - i < 4 * PHILOX_BLOCKS ? n - i : 4 * PHILOX_BLOCKS;
        for (fc_index e = 0; e < count; e++) {
            const T kept = x[i + e] * scale; /* whether it is or not: so the loop has no branches */
            y[i + e] = bits[e] >= threshold ? kept : 0;
        }
        if (where)
            for (fc_index e = 0; e < count; e++) {
                const uint8_t dead = bits[e] >= threshold ? 0 : FC_DEAD;
                where[i + e] |= dead;
            }
    }
}

static void FN(adam)(void *p_, const void *g_, void *m_, void *v_, fc_index n, double rate_, double b1, double b2,
                     double epsilon_)
{
    T *restrict p = p_, *restrict m = m_, *restrict v = v_;
    const T *restrict g = g_;
    const T rate = (T)rate_, gain1 = (T)(1 - b1), gain2 = (T)(1 - b2), epsilon = (T)epsilon_;
    for (fc_index i = 0; i < n; i++) {
        m[i] += gain1 * (g[i] - m[i]);
        v[i] += gain2 * (g[i] * g[i] - v[i]);
        p[i] -= rate * m[i] / (SQRT(v[i]) + epsilon);
    }
}

static void FN(sgd)(void *p_, const void *g_, void *v_, fc_index n, double rate_, double momentum_)
{
    T *restrict p = p_, *restrict v = v_;
    const T *restrict g = g_;
    const T rate = (T)rate_, momentum = (T)momentum_;
    for (fc_index i = 0; i < n; i++) {
        v[i] = momentum * v[i] - rate * g[i];
        p[i] += v[i];
    }
}
#undef FC_VECTORS
