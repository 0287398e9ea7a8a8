/* Types and memory access for one element type.  Parameters: T (float, double), INT (int32_t, int64_t), FN(name). */
#define VL ((fc_index)(FC_VECTOR_BYTES / sizeof(T)))
#define vec FN(vec)
#define uvec FN(uvec)
#define ivec FN(ivec)
#define truth FN(truth)
#define tags FN(tags)

typedef T vec __attribute__((vector_size(FC_VECTOR_BYTES)));
typedef T uvec __attribute__((vector_size(FC_VECTOR_BYTES), aligned(sizeof(T)), may_alias)); /* in memory, any alignment */
typedef INT ivec __attribute__((vector_size(FC_VECTOR_BYTES)));

FC_INLINE vec FN(load)(const T *p) { return *(const uvec *)p; }
FC_INLINE void FN(store)(T *p, vec v) { *(uvec *)p = v; }
/* Past the caches, p being aligned to the vector; and what has to follow before another thread may read it. */
FC_INLINE void FN(stream)(T *p, vec v)
{
#if defined(__AVX512F__)
    _mm512_stream_ps((void *)p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps((void *)p, (__m256)v);
#elif defined(__SSE2__)
    _mm_stream_ps((void *)p, (__m128)v);
#else
    FN(store)(p, v);
#endif
}

FC_INLINE void FN(end_of_stream)(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

FC_INLINE vec FN(splat)(T x) { return x - (vec){0}; }
FC_INLINE vec FN(select)(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

/* The first n < VL elements; the others read as 0 and are not written. */
FC_INLINE vec FN(load_part)(const T *p, fc_index n)
{
#if defined(__AVX512F__)
    const __mmask16 lanes = (__mmask16)((1u << n) - 1);
    return sizeof(T) == 4 ? (vec)_mm512_maskz_loadu_ps(lanes, p) : (vec)_mm512_maskz_loadu_pd((__mmask8)lanes, p);
#elif defined(__AVX2__)
    if (sizeof(T) == 4)
        return (vec)_mm256_maskload_ps((const float *)p,
                                       _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
    return (vec)_mm256_maskload_pd((const double *)p,
                                   _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)));
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
#elif defined(__AVX2__) /* whose masked stores take longer than these */
    if (sizeof(T) == 8) {
        __m128d left = _mm256_castpd256_pd128((__m256d)v);
        if (n & 2) {
            _mm_storeu_pd((double *)p, left);
            left = _mm256_extractf128_pd((__m256d)v, 1);
            p += 2;
        }
        if (n & 1)
            _mm_store_sd((double *)p, left);
        return;
    }
    __m128 left = _mm256_castps256_ps128((__m256)v);
    if (n & 4) {
        _mm_storeu_ps((float *)p, left);
        left = _mm256_extractf128_ps((__m256)v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, left);
        left = _mm_movehl_ps(left, left);
        p += 2;
    }
    if (n & 1)
        _mm_store_ss((float *)p, left);
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

/* Asks for the line, to write into it, that a pass over y will come to soon: processors foresee what a loop reads, but each
 * write waits for its line.  A pass over arrays that the second-level cache cannot hold is 1.1 to 1.3 times as fast (Cascade Lake;
 * half of the distance or a quarter are nearly as good). */
FC_INLINE void FN(claim)(T *y)
{
    if ((uintptr_t)y % FC_LINE_BYTES < FC_VECTOR_BYTES) /* once a line */
        __builtin_prefetch((char *)y + 32 * FC_LINE_BYTES, 1);
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
#elif defined(__SSE2__)
    if (sizeof(T) == 4) {
        int four;
        memcpy(&four, p, 4);
        const __m128i zero = _mm_setzero_si128();
        return (ivec)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero), zero);
    }
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
#if defined(__SSE2__)
    if (sizeof(T) == 4 && n >= VL) {
        __m128i part[VL / 4]; /* of four integers each */
        memcpy(part, &v, sizeof(v));
        const __m128i words = _mm_packs_epi32(part[0], part[VL / 4 - 1]);
        const __m128i bytes = _mm_packus_epi16(words, words);
        memcpy(p, &bytes, VL);
        return;
    }
#endif
    for (fc_index i = 0; i < VL && i < n; i++)
        p[i] = (uint8_t)v[i];
#endif
}

/* A truth value per lane, and a number 0 .. 255 per lane.  AVX-512 has masks for the former, and sixteen bytes compare and
 * blend in a quarter of the time that the same numbers take in vectors.  |, & and ~ of truths are C's. */
#if defined(__AVX512F__)
typedef __mmask16 truth; /* of doubles the lower eight bits count */
typedef __m128i tags;
#else
typedef ivec truth;
typedef ivec tags;
#endif

FC_INLINE truth FN(always)(void)
{
#if defined(__AVX512F__)
    return (__mmask16)((1u << VL) - 1);
#else
    return ~(ivec){0};
#endif
}

FC_INLINE truth FN(greater)(vec a, vec b)
{
#if defined(__AVX512F__)
    return sizeof(T) == 4 ? _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ)
                          : _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#else
    return a > b;
#endif
}

/* Where so, and neither a nor b is NaN. */
FC_INLINE truth FN(and_ordered)(truth so, vec a, vec b)
{
#if defined(__AVX512F__)
    return sizeof(T) == 4 ? _mm512_mask_cmp_ps_mask(so, (__m512)a, (__m512)b, _CMP_ORD_Q)
                          : _mm512_mask_cmp_pd_mask((__mmask8)so, (__m512d)a, (__m512d)b, _CMP_ORD_Q);
#elif defined(__AVX2__)
    return so & (sizeof(T) == 4 ? (ivec)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_ORD_Q)
                                : (ivec)_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_ORD_Q));
#elif defined(__SSE2__)
    return so & (sizeof(T) == 4 ? (ivec)_mm_cmpord_ps((__m128)a, (__m128)b) : (ivec)_mm_cmpord_pd((__m128d)a, (__m128d)b));
#else
    return so & (a == a) & (b == b);
#endif
}

/* In all lanes. */
FC_INLINE int FN(all)(truth so)
{
#if defined(__AVX512F__)
    return so == (__mmask16)((1u << VL) - 1);
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)so) == -1;
#elif defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)so) == 0xffff;
#else
    INT all = -1;
    for (fc_index i = 0; i < VL; i++)
        all &= so[i];
    return all != 0;
#endif
}

/* The greater of a and b; b if they are equal or one is NaN, as x86's instruction has it. */
FC_INLINE vec FN(max)(vec a, vec b)
{
#if defined(__AVX512F__)
    return sizeof(T) == 4 ? (vec)_mm512_max_ps((__m512)a, (__m512)b) : (vec)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
    return sizeof(T) == 4 ? (vec)_mm256_max_ps((__m256)a, (__m256)b) : (vec)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__)
    return sizeof(T) == 4 ? (vec)_mm_max_ps((__m128)a, (__m128)b) : (vec)_mm_max_pd((__m128d)a, (__m128d)b);
#else
    return FN(select)(a > b, a, b);
#endif
}

/* relu: a NaN passes, and a -0 stays. */
FC_INLINE vec FN(positive)(vec v) { return FN(max)((vec){0}, v); }

FC_INLINE vec FN(choose)(truth which, vec a, vec b)
{
#if defined(__AVX512F__)
    return sizeof(T) == 4 ? (vec)_mm512_mask_blend_ps(which, (__m512)b, (__m512)a)
                          : (vec)_mm512_mask_blend_pd((__mmask8)which, (__m512d)b, (__m512d)a);
#else
    return FN(select)(which, a, b);
#endif
}

/* sum, and a added to it where so. */
FC_INLINE vec FN(add_where)(truth which, vec sum, vec a)
{
#if defined(__AVX512F__)
    return sizeof(T) == 4 ? (vec)_mm512_mask_add_ps((__m512)sum, which, (__m512)sum, (__m512)a)
                          : (vec)_mm512_mask_add_pd((__m512d)sum, (__mmask8)which, (__m512d)sum, (__m512d)a);
#else
    return sum + (vec)(which & (ivec)a);
#endif
}

FC_INLINE tags FN(splat_tags)(fc_index number)
{
#if defined(__AVX512F__)
    return _mm_set1_epi8((char)number);
#else
    return (INT)number - (ivec){0};
#endif
}

FC_INLINE tags FN(choose_tags)(truth which, tags a, tags b)
{
#if defined(__AVX512F__)
    return _mm_mask_blend_epi8(which, b, a);
#else
    return (which & a) | (~which & b);
#endif
}

FC_INLINE truth FN(equal_tags)(tags a, tags b)
{
#if defined(__AVX512F__)
    return _mm_cmpeq_epi8_mask(a, b);
#else
    return a == b;
#endif
}

/* As load_bytes and store_bytes. */
FC_INLINE tags FN(load_tags)(const uint8_t *p, fc_index n)
{
#if defined(__AVX512F__)
    if (n < VL)
        return _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p);
    return sizeof(T) == 4 ? _mm_loadu_si128((const __m128i *)p) : _mm_loadl_epi64((const __m128i *)p);
#else
    return FN(load_bytes)(p, n);
#endif
}

FC_INLINE void FN(store_tags)(uint8_t *p, tags v, fc_index n)
{
#if defined(__AVX512F__)
    if (n < VL)
        _mm_mask_storeu_epi8(p, (__mmask16)((1u << n) - 1), v);
    else if (sizeof(T) == 4)
        _mm_storeu_si128((__m128i *)p, v);
    else
        _mm_storel_epi64((__m128i *)p, v);
#else
    FN(store_bytes)(p, v, n);
#endif
}
