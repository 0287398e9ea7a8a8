/* The templates for one dtype, and the table that exports them.  Parameters: T, INT, SQRT, POW, DTYPE, FC_ISA. */
#define FN(name) PASTE(fc_##name, DTYPE, FC_ISA)

#include "types_tmpl.h"
#include "gemm_tmpl.h"
#include "winograd_tmpl.h"
#include "pool_tmpl.h"
#include "elementwise_tmpl.h"
#include "norm_tmpl.h"
#include "depthwise_tmpl.h"

const fc_kernels FN(kernels) = {
    .isa = STRING(FC_ISA),
    .itemsize = sizeof(T),
    .vl = VL,
    .max_vectors = FC_MAX_VECTORS,
    .gemm = FN(gemm),
    .dots = FN(dots),
    .few_rows = FN(few_rows),
    .pack = FN(pack),
    .pack_panels = FN(pack_panels),
    .winograd_data = FN(winograd_data),
    .winograd_filter = FN(winograd_filter),
    .winograd_result = FN(winograd_result),
    .depthwise = FN(depthwise),
    .depthwise_filter = FN(depthwise_filter),
    .repeat = FN(repeat),
    .fold = FN(fold),
    .max_pool = FN(max_pool),
    .max_pool_gather = FN(max_pool_gather),
    .max_pool_spread = FN(max_pool_spread),
    .max_pool_argmax_row = FN(max_pool_argmax_row),
    .avg_pool_row = FN(avg_pool_row),
    .avg_pool_grad_row = FN(avg_pool_grad_row),
    .pool_windows = FN(pool_windows),
    .unpool = FN(unpool),
    .relu = FN(relu),
    .relu_grad = FN(relu_grad),
    .sigmoid_grad = FN(sigmoid_grad),
    .tanh_grad = FN(tanh_grad),
    .add = FN(add),
    .sum = FN(sum),
    .bias_add = FN(bias_add),
    .column_sum = FN(column_sum),
    .moments = FN(moments),
    .normalize = FN(normalize),
    .normalize_sums = FN(normalize_sums),
    .normalize_grad = FN(normalize_grad),
    .lrn = FN(lrn),
    .lrn_grad = FN(lrn_grad),
    .dropout = FN(dropout),
    .adam = FN(adam),
    .sgd = FN(sgd),
};

#undef FN
#undef VL
#undef QUAD
#undef vec
#undef uvec
#undef ivec
#undef truth
#undef tags
