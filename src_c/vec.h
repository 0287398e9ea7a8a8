/* The vector type, and how wide it is: the only text that knows an instruction set.
 *
 * Compiled with  FC_ISA  (a name: generic, avx2, avx512, neon)  and  T  (float or double).  Arithmetic on `vec` is the C
 * operators of GCC's and Clang's vector extensions; a * b + c contracts to an FMA under -ffp-contract=fast.
 */
#if defined(__AVX512F__)
#define FC_VECTOR_BYTES 64
#include <immintrin.h>
#elif defined(__AVX2__)
#define FC_VECTOR_BYTES 32
#include <immintrin.h>
#else
#define FC_VECTOR_BYTES 16 /* SSE2, NEON, or whatever the compiler makes of it */
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#endif

/* The register tiles of gemm: X(rows, vectors).  Accumulators, one vector of b per column and a broadcast of x have to fit in
 * the registers, which is 32 for AVX-512 and NEON, 16 otherwise.  Every number of rows up to the largest exists, for
 * what is left of m rows.  Tried and spilled with GCC 12: 7x4 (AVX-512), 3x4 (AVX2); 14x1
 * ran 13% slower than 12x1 (AVX-512). */
#define FC_ROWS_1_4(X, v) X(1, v) X(2, v) X(3, v) X(4, v)
#define FC_ROWS_1_6(X, v) FC_ROWS_1_4(X, v) X(5, v) X(6, v)
#define FC_ROWS_1_8(X, v) FC_ROWS_1_6(X, v) X(7, v) X(8, v)
#define FC_ROWS_1_12(X, v) FC_ROWS_1_8(X, v) X(9, v) X(10, v) X(11, v) X(12, v)
#define FC_ROWS_1_14(X, v) FC_ROWS_1_12(X, v) X(13, v) X(14, v)

#if defined(__AVX512F__)
#define FC_TILES(X) FC_ROWS_1_12(X, 1) FC_ROWS_1_14(X, 2) FC_ROWS_1_8(X, 3) FC_ROWS_1_6(X, 4)
#define FC_MAX_VECTORS 4
#define FC_WIDE_ROWS 6 /* of a tile of so many vectors */
static const int fc_max_rows[] = {0, 12, 14, 8, FC_WIDE_ROWS};
#elif defined(__AVX2__)
#define FC_TILES(X) FC_ROWS_1_8(X, 1) FC_ROWS_1_6(X, 2)
#define FC_MAX_VECTORS 2
#define FC_WIDE_ROWS 6
static const int fc_max_rows[] = {0, 8, FC_WIDE_ROWS};
#elif defined(__aarch64__)
#define FC_TILES(X) FC_ROWS_1_8(X, 1) FC_ROWS_1_8(X, 2) FC_ROWS_1_8(X, 3) FC_ROWS_1_6(X, 4)
#define FC_MAX_VECTORS 4
#define FC_WIDE_ROWS 6
static const int fc_max_rows[] = {0, 8, 8, 8, FC_WIDE_ROWS};
#else
#define FC_TILES(X) FC_ROWS_1_6(X, 1) FC_ROWS_1_4(X, 2)
#define FC_MAX_VECTORS 2
#define FC_WIDE_ROWS 4
static const int fc_max_rows[] = {0, 6, FC_WIDE_ROWS};
#endif

#define FC_LINE_BYTES 64 /* of a cache */

#define FC_INLINE static inline __attribute__((always_inline))
#define FC_NOINLINE __attribute__((noinline))

/* Makes the compiler round a product, a vec, by itself instead of within an FMA (elsewhere it is left to the compiler). */
#if defined(__SSE2__)
#define FC_ROUNDED(product) __asm__("" : "+v"(product))
#elif defined(__aarch64__)
#define FC_ROUNDED(product) __asm__("" : "+w"(product))
#else
#define FC_ROUNDED(product) (void)(product)
#endif

typedef uint64_t lanes64 __attribute__((vector_size(FC_VECTOR_BYTES)));

FC_INLINE lanes64 splat64(uint64_t x) { return x - (lanes64){0}; }

/* The lower half of each lane times b. */
FC_INLINE lanes64 halves_product(lanes64 a, uint32_t b)
{
#if defined(__AVX512F__)
    return (lanes64)_mm512_mul_epu32((__m512i)a, (__m512i)splat64(b));
#elif defined(__AVX2__)
    return (lanes64)_mm256_mul_epu32((__m256i)a, (__m256i)splat64(b));
#elif defined(__SSE2__)
    return (lanes64)_mm_mul_epu32((__m128i)a, (__m128i)splat64(b));
#else
    return (a & 0xFFFFFFFFu) * b;
#endif
}
