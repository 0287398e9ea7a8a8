/* Types and memory access for one element type.  Parameters: T (float, double), INT (int32_t, int64_t), FN(name). */
#define VL ((fc_index)(FC_VECTOR_BYTES / sizeof(T)))
#define vec FN(vec)
#define uvec FN(uvec)
#define ivec FN(ivec)

typedef T vec __attribute__((vector_size(FC_VECTOR_BYTES)));
typedef T uvec __attribute__((vector_size(FC_VECTOR_BYTES), aligned(sizeof(T)), may_alias)); /* in memory, any alignment */
typedef INT ivec __attribute__((vector_size(FC_VECTOR_BYTES)));

FC_INLINE vec FN(load)(const T *p) { return *(const uvec *)p; }
FC_INLINE void FN(store)(T *p, vec v) { *(uvec *)p = v; }
FC_INLINE vec FN(splat)(T x) { return x - (vec){0}; }
FC_INLINE vec FN(select)(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

/* The first n < VL elements; the others read as 0 and are not written. */
FC_INLINE vec FN(load_part)(const T *p, fc_index n)
{
#if defined(__AVX512F__)
    const __mmask16 lanes = (__mmask16)((1u << n) - 1);
    return sizeof(T) == 4 ? (vec)_mm512_maskz_loadu_ps(lanes, p) : (vec)_mm512_maskz_loadu_pd((__mmask8)lanes, p);
#else
    vec v = {0};
    for (fc_index i = 0; i < n; i++)
        v[i] = p[i];
    return v;
#endif
}

FC_INLINE void FN(store_part)(T *p, vec v, fc_index n)
{
#if defined(__AVX512F__)
    const __mmask16 lanes = (__mmask16)((1u << n) - 1);
    if (sizeof(T) == 4)
        _mm512_mask_storeu_ps(p, lanes, (__m512)v);
    else
        _mm512_mask_storeu_pd(p, (__mmask8)lanes, (__m512d)v);
#else
    for (fc_index i = 0; i < n; i++)
        p[i] = v[i];
#endif
}

/* All of a vector, or its first lanes < VL. */
FC_INLINE vec FN(load_lanes)(const T *p, fc_index lanes) { return lanes < VL ? FN(load_part)(p, lanes) : FN(load)(p); }
FC_INLINE void FN(store_lanes)(T *p, vec v, fc_index lanes)
{
    if (lanes < VL)
        FN(store_part)(p, v, lanes);
    else
        FN(store)(p, v);
}

/* b[j * b_row + i] = a[i * a_row + j] for i, j < QUAD: squares of 16 bytes each way. */
#define QUAD ((fc_index)(16 / sizeof(T)))
FC_INLINE void FN(transpose_quad)(T *b, fc_index b_row, const T *a, fc_index a_row)
{
#if defined(__SSE2__)
    if (sizeof(T) == 4) {
        __m128 r[4];
        for (int i = 0; i < 4; i++)
            r[i] = _mm_loadu_ps((const float *)a + i * a_row);
        _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
        for (int i = 0; i < 4; i++)
            _mm_storeu_ps((float *)b + i * b_row, r[i]);
        return;
    }
#endif
    for (fc_index i = 0; i < QUAD; i++)
        for (fc_index j = 0; j < QUAD; j++)
            b[j * b_row + i] = a[i * a_row + j];
}

/* VL bytes in memory <-> integers 0 .. 255 in lanes; of the last vector only n < VL. */
FC_INLINE ivec FN(load_bytes)(const uint8_t *p, fc_index n)
{
    uint8_t part[VL] = {0};
    if (n < VL) {
        for (fc_index i = 0; i < n; i++)
            part[i] = p[i];
        p = part;
    }
#if defined(__AVX512F__)
    return sizeof(T) == 4 ? (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))
                          : (ivec)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)p));
#elif defined(__AVX2__)
    if (sizeof(T) == 4)
        return (ivec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#endif
    ivec v = {0};
    for (fc_index i = 0; i < VL; i++)
        v[i] = p[i];
    return v;
}

FC_INLINE void FN(store_bytes)(uint8_t *p, ivec v, fc_index n)
{
#if defined(__AVX512F__)
    const __mmask16 lanes = (__mmask16)(n < VL ? (1u << n) - 1 : 0xffff);
    if (sizeof(T) == 4)
        _mm512_mask_cvtepi32_storeu_epi8(p, lanes, (__m512i)v);
    else
        _mm512_mask_cvtepi64_storeu_epi8(p, (__mmask8)lanes, (__m512i)v);
#else
    for (fc_index i = 0; i < VL && i < n; i++)
        p[i] = (uint8_t)v[i];
#endif
}
