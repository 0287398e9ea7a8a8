# The C API of src_c, as Cython sees it.  The contracts stand in src_c/fastconv.h.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "fastconv.h" nogil:
    ctypedef Py_ssize_t fc_index

    enum:
        FC_ACCUMULATE
        FC_GAIN
        FC_BIAS
        FC_SIDE
        FC_RELU
        FC_FAR
        FC_AHEAD

    enum:
        FC_INNER
        FC_OUTER
        FC_BOTH

    int fc_half(fc_index row) noexcept
    void fc_prefetch(const void *address) noexcept
    void fc_pause() noexcept

    ctypedef struct fc_taps:
        fc_index first, rows, columns
        const fc_index *x_row
        const fc_index *x_column
        const fc_index *w_row
        const fc_index *w_column

    ctypedef struct fc_next:
        const void *rows
        fc_index step, lines
    ctypedef struct fc_kernels:
        const char *isa
        fc_index itemsize
        fc_index vl
        fc_index max_vectors
        void (*gemm)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                     fc_index k, const void *b, fc_index ldb, fc_index vectors, fc_index n, const void *gain, const void *bias,
                     const void *side, const fc_next *next, int flags) noexcept nogil
        void (*dots)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                     fc_index k, fc_index run, const void *b, fc_index n, const void *gain, const void *bias,
                     const void *side, int flags) noexcept nogil
        void (*few_rows)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                         fc_index k, const void *b, fc_index ldb, fc_index n) noexcept nogil
        void (*pack)(void *b, const void *w, fc_index k, fc_index n, fc_index width, fc_index w_row,
                     fc_index w_col) noexcept nogil
        void (*pack_panels)(void *b, const fc_index *place, const fc_index *step, fc_index first, const void *w, fc_index k,
                            fc_index n, fc_index w_row) noexcept nogil
        void (*winograd_data)(void *v, fc_index plane, const void *const *pixel, fc_index c, int rows,
                              int columns, int halves) noexcept nogil
        void (*winograd_filter)(void *u, fc_index plane, const void *const *tap, fc_index c, int taps, int rows,
                                int columns, int halves) noexcept nogil
        void (*winograd_result)(void *y, fc_index y_row, fc_index y_pixel, fc_index height, fc_index width, const void *s,
                                fc_index plane, fc_index n, const void *gain, const void *bias, const void *side, int flags,
                                int m, int rows, int columns) noexcept nogil
        void (*depthwise)(void *y, fc_index y_step, const void *x, fc_index x_step, fc_index m, const fc_taps *taps,
                          const void *w, fc_index n, const void *bias, int flags) noexcept nogil
        void (*depthwise_filter)(void *dw, const void *x, fc_index x_step, const void *dy, fc_index dy_step, fc_index m,
                                 const fc_taps *taps, fc_index n) noexcept nogil
        void (*repeat)(void *y, const void *x, fc_index n, fc_index times) noexcept nogil
        void (*fold)(void *y, const void *x, fc_index n, fc_index times) noexcept nogil
        void (*max_pool)(void *y, uint8_t *where, const void *x, fc_index x_row, fc_index h, fc_index w, fc_index step,
                         fc_index m, fc_index c, fc_index tap, fc_index tap_row, fc_index ahead) noexcept nogil
        void (*max_pool_gather)(void *dx, fc_index step, const void *dy, const uint8_t *where, fc_index y_row, fc_index h,
                                fc_index w, fc_index m, fc_index c, fc_index tap, fc_index tap_row,
                                fc_index tap_pixel, int fresh, int stream) noexcept nogil
        void (*max_pool_spread)(void *dx, const void *x, const void *dy, fc_index x_row, fc_index h, fc_index w, fc_index m,
                                fc_index c, fc_index ahead, int stream) noexcept nogil
        void (*max_pool_argmax_row)(void *y, int64_t *argmax, const void *x, fc_index x_row, fc_index h, fc_index w,
                                    const fc_index *lo, const fc_index *hi, fc_index ow, fc_index c) noexcept nogil
        void (*avg_pool_row)(void *y, const void *x, fc_index x_row, fc_index h, const fc_index *lo, const fc_index *hi,
                             fc_index ow, fc_index c) noexcept nogil
        void (*avg_pool_grad_row)(void *dx, const void *dy, fc_index x_row, fc_index h, const fc_index *lo,
                                  const fc_index *hi, fc_index ow, fc_index c, fc_index count, int fresh) noexcept nogil
        void (*pool_windows)(void *y, uint8_t *where, fc_index y_row, fc_index y_pixel, const void *x, fc_index x_row,
                             fc_index x_pixel, fc_index rows, fc_index columns, fc_index n) noexcept nogil
        void (*unpool)(void *dy, fc_index dy_row, fc_index dy_pixel, const void *g, const uint8_t *where, fc_index gh,
                       fc_index gw, fc_index c, fc_index top, fc_index left, fc_index rows, fc_index columns, fc_index n,
                       double scale) noexcept nogil
        void (*relu)(void *y, const void *x, fc_index n) noexcept nogil
        void (*relu_grad)(void *dx, const void *dy, const void *y, fc_index n) noexcept nogil
        void (*sigmoid_grad)(void *dx, const void *y, const void *dy, fc_index n) noexcept nogil
        void (*tanh_grad)(void *dx, const void *y, const void *dy, fc_index n) noexcept nogil
        void (*add)(void *y, const void *x, fc_index n) noexcept nogil
        void (*sum)(void *y, const void *a, const void *b, fc_index n) noexcept nogil
        void (*bias_add)(void *y, const void *x, const void *bias, fc_index rows, fc_index c) noexcept nogil
        void (*column_sum)(void *sum, const void *x, fc_index rows, fc_index c) noexcept nogil
        void (*moments)(double *sums, fc_index before, const void *total, const void *x, fc_index rows, fc_index c) noexcept nogil
        void (*normalize)(void *y, const void *x, const void *mean, const void *gain, const void *offset, const void *side,
                          int relu, fc_index rows, fc_index c) noexcept nogil
        void (*normalize_sums)(double *sums, const void *dy, const void *x, const void *mean, const void *gain,
                               const void *offset, fc_index rows, fc_index c) noexcept nogil
        void (*normalize_grad)(void *dx, const void *dy, const void *x, const void *mean, const void *gain, const void *offset,
                               const void *level, const void *tilt, fc_index rows, fc_index c) noexcept nogil
        void (*lrn)(void *y, void *padded, const void *x, fc_index rows, fc_index c, fc_index radius, double bias,
                    double alpha, double beta) noexcept nogil
        void (*lrn_grad)(void *dx, void *padded, const void *dy, const void *x, const void *y, fc_index rows, fc_index c,
                         fc_index radius, double bias, double alpha, double beta) noexcept nogil
        void (*dropout)(void *y, uint8_t *where, const void *x, fc_index n, uint64_t block, uint64_t seed,
                        uint32_t threshold, double scale) noexcept nogil
        void (*adam)(void *p, const void *g, void *m, void *v, fc_index n, double rate, double b1, double b2,
                     double epsilon) noexcept nogil
        void (*sgd)(void *p, const void *g, void *v, fc_index n, double rate, double momentum) noexcept nogil

    ctypedef struct fc_isa:
        const char *name
        int (*supported)() noexcept
        const fc_kernels *f32
        const fc_kernels *f64
        const fc_kernels *narrow_f32
        const fc_kernels *narrow_f64

    const fc_isa fc_isas[]
    const int fc_isa_count
