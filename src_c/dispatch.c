/* The table of instruction sets in this build.  setup.py defines FC_HAVE_<ISA> for each one that the compiler accepted. */
#include "fastconv.h"

#define DECLARE(isa) extern const fc_kernels fc_kernels_f32_##isa, fc_kernels_f64_##isa;
#define ENTRY(isa, narrow)                                                                                                   \
    {#isa, isa##_supported, &fc_kernels_f32_##isa, &fc_kernels_f64_##isa, &fc_kernels_f32_##narrow, &fc_kernels_f64_##narrow}

/* __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers. */
#ifdef FC_HAVE_AVX512
DECLARE(avx512)
static int avx512_supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
#endif

#ifdef FC_HAVE_AVX2
DECLARE(avx2)
static int avx2_supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

#ifdef FC_HAVE_NEON
DECLARE(neon)
static int neon_supported(void) { return 1; } /* every aarch64 has it */
#endif

DECLARE(generic)
static int generic_supported(void) { return 1; }

const fc_isa fc_isas[] = {
#ifdef FC_HAVE_AVX512
#ifdef FC_HAVE_AVX2
    ENTRY(avx512, avx2), /* every processor with the one has the other */
#else
    ENTRY(avx512, avx512),
#endif
#endif
#ifdef FC_HAVE_AVX2
    ENTRY(avx2, avx2),
#endif
#ifdef FC_HAVE_NEON
    ENTRY(neon, neon),
#endif
    ENTRY(generic, generic),
};

const int fc_isa_count = sizeof(fc_isas) / sizeof(fc_isas[0]);
