/* All kernels for one instruction set, both dtypes.  Compiled once per ISA with -DFC_ISA=<name> and that ISA's flags. */
#include "fastconv.h"

#include <math.h>
#include <string.h>

#include "vec.h"
#include "philox.h"

#define PASTE_(a, b, c) a##_##b##_##c
#define PASTE(a, b, c) PASTE_(a, b, c)
#define STRING_(s) #s
#define STRING(s) STRING_(s)

#define T float
#define INT int32_t
#define SQRT sqrtf
#define POW powf
#define DTYPE f32
#include "kernels_tmpl.h"
#undef T
#undef INT
#undef SQRT
#undef POW
#undef DTYPE

#define T double
#define INT int64_t
#define SQRT sqrt
#define POW pow
#define DTYPE f64
#include "kernels_tmpl.h"
