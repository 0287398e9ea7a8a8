/* The C side of fastconv: kernels on one cache block, chosen per instruction set.
 *
 * Contract of everything here: no allocation, no threads, no errors, no state, no printing.  The caller (the Cython drivers)
 * owns blocking, borders, buffers and threads.  Counts, offsets and leading dimensions are in elements, never in bytes.
 * Pointers to elements are void because one struct serves both dtypes; `itemsize` tells which: 4 is float, 8 is double.
 */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>
#include <stdint.h>

typedef ptrdiff_t fc_index;

/* What gemm does with a finished tile, in this order; and where the tile goes. */
enum {
    FC_ACCUMULATE = 1, /* add what y holds */
    FC_GAIN = 2,       /* multiply by gain[j] */
    FC_BIAS = 4,       /* add bias[j] */
    FC_SIDE = 8,       /* add side, which is addressed as y */
    FC_RELU = 16,      /* negative becomes 0, NaN stays */
    FC_FAR = 32,       /* y is not in the cache: ask for it before it is written */
    FC_AHEAD = 64,     /* nor is x, whose rows lie end to end: ask for the next tile's */
};

/* Halves of the 6 rows of Winograd's points, which their transforms can take one at a time. */
enum {
    FC_INNER = 1, /* rows 0, 1 and 4 */
    FC_OUTER = 2, /* rows 2, 3 and 5 */
    FC_BOTH = FC_INNER | FC_OUTER,
};
static inline int fc_half(fc_index row) { return row == 2 || row == 3 || row == 5 ? FC_OUTER : FC_INNER; }

/* Pooling by 2x2 windows leaves one byte per result for its gradient: the number of the pixel in its window (0 1 / 2 3) that the
 * gradient goes to, or FC_DEAD, where it goes nowhere. */
enum { FC_DEAD = 255 };

/* Asks for the cache line of what is read soon. */
static inline void fc_prefetch(const void *address) { __builtin_prefetch(address); }

/* What a loop does that waits for another thread. */
static inline void fc_pause(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

/* Rows that are read next and lie in memory: `lines` cache lines of each, `step` elements from row to row. */
typedef struct fc_next {
    const void *rows;
    fc_index step, lines;
} fc_next;

/* A rectangle of a window's taps, in elements.  Tap (a, b) lies at
 *     x_tap = first + x_row[a] + x_column[b] of the image,  w_tap = w_row[a] + w_column[b] of the filters. */
typedef struct fc_taps {
    fc_index first, rows, columns;
    const fc_index *x_row, *x_column, *w_row, *w_column;
} fc_taps;

typedef struct fc_kernels {
    const char *isa;
    fc_index itemsize;
    fc_index vl;          /* elements in a vector */
    fc_index max_vectors; /* widest panel that gemm takes, in vectors */

    /* One panel of `vectors` vectors, the only matrix product in fastconv.  For i < m, j < n:
     *
     *     y[yrow[i] + j]  =  sum over p < k of  x[row[i] + col[p]] * b[p * ldb + j]       (then FC_* flags)
     *
     * The left matrix is never formed: an image seen through a moving window is x[row[i] + col[p]], row[i] being the pixel's
     * address and col[p] the tap's.  The three passes of a convolution are three ways to fill the tables:
     *
     *                    i            p                  b                          yrow
     *     forward        pixel        tap x channel      packed filters             output pixel
     *     input grad.    pixel        tap x channel      packed, transposed         input pixel
     *     filter grad.   tap x chan.  pixel              output gradient's rows     row of the filter
     *
     *           col[p] ->            j -> n       vectors * vl
     *          +--------+          +-------------+--+
     *   row[i] | x      |        p | b panel     |0 |     rows of b are read in whole vectors: columns n and above
     *     |    |        |        | |             |0 |     must be readable; what they hold does not reach y
     *     v    +--------+        v +-------------+--+
     *
     * OUT y; IN yrow[m], x, row[m], col[k], b[k][ldb], gain[n], bias[n], side[yrow[i] + j] (NULL without their flags; side may
     * be y, without FC_ACCUMULATE).  k = 0 gives zeros (then the flags).  next (or NULL): k rows that are asked for meanwhile, a line
     * of each for each whole tile.
     */
    void (*gemm)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                 fc_index k, const void *b, fc_index ldb, fc_index vectors, fc_index n, const void *gain, const void *bias,
                 const void *side, const fc_next *next, int flags);

    /* The same sum for few columns, n < vl, that would leave most lanes of gemm empty: here the lanes run along p.  Within each
     * `run` of p the table col rises by one, so x is read in whole vectors; b is transposed, b[j * k + p].
     * OUT y; IN yrow[m], x, row[m], col[k], b[n][k]; gain, bias and side as for gemm.  No FC_ACCUMULATE. */
    void (*dots)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                 fc_index k, fc_index run, const void *b, fc_index n, const void *gain, const void *bias, const void *side,
                 int flags);

    /* The same sum for 1 to 4 rows and any number of columns, from b as it lies in memory, which is read once, row after row.
     * OUT y; IN yrow[m], x, row[m], col[k], b[k][ldb]; k > 0.  No flags. */
    void (*few_rows)(void *y, const fc_index *yrow, const void *x, const fc_index *row, fc_index m, const fc_index *col,
                     fc_index k, const void *b, fc_index ldb, fc_index n);

    /* b[p][j] = w[p * w_row + j * w_col] for p < k, j < n, and 0 for n <= j < width.  OUT b[k][width]; IN w. */
    void (*pack)(void *b, const void *w, fc_index k, fc_index n, fc_index width, fc_index w_row, fc_index w_col);

    /* The same with w_col = 1 for several panels: vector v of row p goes to b + place[v] + (first + p) * step[v].  OUT b; IN place
     * and step[vectors of n], w. */
    void (*pack_panels)(void *b, const fc_index *place, const fc_index *step, fc_index first, const void *w, fc_index k, fc_index n,
                        fc_index w_row);

    /* The three transforms of Winograd's algorithm between pixels and the 6x6 points (src_c/winograd_tmpl.h), for one tile and
     * all its channels.  Point (i, j) is plane number 6 i + j, `plane` elements from the one before.
     *
     *     winograd_data    v = B^T x B       of 6x6 pixels pixel[6 i + j][channel]
     *     winograd_filter  u = G g G^T       of taps x taps pixels tap[taps i + j][channel]; taps 2 .. 5
     *     winograd_result  y = A^T s A       m x m pixels y[i * y_row + j * y_pixel + channel], of which only the first
     *                                        height x width are written; m 2 .. 5; then FC_GAIN, FC_BIAS,
     *                                        FC_SIDE, FC_RELU; FC_FAR
     *
     * All of them know the first rows x columns points alone: 6 each way, or as few as 3 where fewer results are wanted.
     * Where rows or columns is 1, filters, tiles and points are lines along the other axis: 6 pixels, `taps` taps, m results.
     * winograd_data and winograd_filter compute those rows of points that are in `halves`; of a line all.
     *
     * v, u and s hold whole vectors: c or n rounded up to vl.  The surplus is written with zeros, and not read into y. */
    void (*winograd_data)(void *v, fc_index plane, const void *const *pixel, fc_index c, int rows, int columns, int halves);
    void (*winograd_filter)(void *u, fc_index plane, const void *const *tap, fc_index c, int taps, int rows, int columns,
                            int halves);
    void (*winograd_result)(void *y, fc_index y_row, fc_index y_pixel, fc_index height, fc_index width, const void *s,
                            fc_index plane, fc_index n, const void *gain, const void *bias, const void *side, int flags, int m,
                            int rows, int columns);

    /* Depthwise convolution of a row's m pixels that see the same taps; each of the n channels has filters of its own:
     *
     *     y[i * y_step + j]  =  sum over taps of  x[x_tap + i * x_step + j] * w[w_tap + j]      (then FC_BIAS, FC_RELU)
     *
     * depthwise_filter is the gradient of w: dw[w_tap + j] += sum over i < m of x[x_tap + i * x_step + j] * dy[i * dy_step + j].
     * OUT y; INOUT dw; IN x, w, dy, bias[n] (NULL without FC_BIAS).  No FC_ACCUMULATE.
     *
     * repeat and fold stand around them where each input channel has `times` filters: y[i * times + q] = x[i] for i < n,
     * q < times; and y[i] = sum over q of x[i * times + q].  OUT y[n * times], IN x[n]; OUT y[n], IN x[n * times]. */
    void (*depthwise)(void *y, fc_index y_step, const void *x, fc_index x_step, fc_index m, const fc_taps *taps, const void *w,
                      fc_index n, const void *bias, int flags);
    void (*depthwise_filter)(void *dw, const void *x, fc_index x_step, const void *dy, fc_index dy_step, fc_index m,
                             const fc_taps *taps, fc_index n);
    void (*repeat)(void *y, const void *x, fc_index n, fc_index times);
    void (*fold)(void *y, const void *x, fc_index n, fc_index times);

    /* Max pooling: m windows of h x w pixels, `step` pixels apart, which lie in the image as a whole; c channels:
     *
     *     y[i][ch]      =  maximum over r < h, q < w of  x[r * x_row + (i * step + q) * c + ch]       a NaN comes out
     *     where[i][ch]  =  tap + r * tap_row + q  of the first maximum, the first NaN if there is one; below 255
     *
     * A caller clips the windows at the border and numbers the taps of the whole window: tap is the first one's number.
     * ahead: so many rows below the windows will be wanted next and are asked for; there need not be any.
     * OUT y[m][c], where[m][c] (NULL: not wanted); IN x. */
    void (*max_pool)(void *y, uint8_t *where, const void *x, fc_index x_row, fc_index h, fc_index w, fc_index step, fc_index m,
                     fc_index c, fc_index tap, fc_index tap_row, fc_index ahead);

    /* Its gradient, each pixel written once: m pixels, `step` pixels apart, each seen by h x w windows (perhaps by none):
     *
     *     dx[i * step * c + ch]  =  sum over r < h, q < w, in this order, of  dy[at]
     *                               where  where[at] = tap - r * tap_row - q * tap_pixel,    at = r * y_row + (i + q) * c + ch
     *
     * The earlier the window, the later its tap that is this pixel.  The sum begins with 0, so a -0 becomes 0; fresh: no two
     * windows share a pixel, and a -0 stays.  stream: dx had better not pass through the caches.
     * OUT dx; IN dy and where, laid out as y. */
    void (*max_pool_gather)(void *dx, fc_index step, const void *dy, const uint8_t *where, fc_index y_row, fc_index h, fc_index w,
                            fc_index m, fc_index c, fc_index tap, fc_index tap_row, fc_index tap_pixel,
                            int fresh, int stream);

    /* The same from x, of windows that lie side by side, w pixels apart, as max_pool takes them:
     *
     *     dx[r * x_row + (i * w + q) * c + ch]  =  dy[i][ch]  at the first maximum of window i, or the first NaN, else 0
     *
     * ahead and stream: as for max_pool and max_pool_gather.  OUT dx, laid out as x; IN x, dy[m][c]. */
    void (*max_pool_spread)(void *dx, const void *x, const void *dy, fc_index x_row, fc_index h, fc_index w, fc_index m,
                            fc_index c, fc_index ahead, int stream);

    /* Max pooling of one output row, and where.  Output pixel i looks at rows 0 .. h-1, columns lo[i] .. hi[i]-1 (already
     * clipped to the image; at least one pixel) and c channels, x[r * x_row + column * c + channel];  argmax[i][channel] =
     * r * w + column  of the first maximum (the first NaN if there is one), in pixels of an image w wide, counted from x.
     * OUT y[ow][c], argmax[ow][c]; IN x, lo[ow], hi[ow]. */
    void (*max_pool_argmax_row)(void *y, int64_t *argmax, const void *x, fc_index x_row, fc_index h, fc_index w,
                                const fc_index *lo, const fc_index *hi, fc_index ow, fc_index c);

    /* Average pooling of one output row, as max_pool_argmax_row: the sum of a window's pixels, row by row, divided by their
     * number, which counts no padding.  And its gradient: dx at each pixel of the window += dy divided by that number.  Channels
     * 0 .. count-1 of c, so that a caller can share the channels out.  fresh: no two windows share a pixel, so dx is not read
     * but written.  OUT y[ow][c]; INOUT dx (laid out as x); IN x, dy[ow][c]. */
    void (*avg_pool_row)(void *y, const void *x, fc_index x_row, fc_index h, const fc_index *lo, const fc_index *hi,
                         fc_index ow, fc_index c);
    void (*avg_pool_grad_row)(void *dx, const void *dy, fc_index x_row, fc_index h, const fc_index *lo, const fc_index *hi,
                              fc_index ow, fc_index c, fc_index count, int fresh);

    /* The two ends of the chain convolution, relu, 2x2 max pooling in steps of 2, whose dense arrays are never formed.
     *
     * pool_windows: the maxima of rows x columns pixels x[r * x_row + q * x_pixel + channel], n channels, into
     * ceil(rows / 2) x ceil(columns / 2) results y[i * y_row + j * y_pixel + channel], and their bytes (NULL: none wanted)
     * where[the same offset].  Windows may hang over the last row and column.  First maximum, first NaN, as in max_pool;
     * a maximum that is not above 0 is dead.   OUT y, where; IN x.
     *
     * unpool: of the dense gradient of an image, rows x columns pixels from (top, left) on, n channels:
     * dy[r * dy_row + q * dy_pixel + channel] = scale * g where the byte names this pixel, else 0; outside the windows 0.
     * OUT dy; IN g[gh][gw][c], where[gh][gw][c], of which n channels from these addresses on are read. */
    void (*pool_windows)(void *y, uint8_t *where, fc_index y_row, fc_index y_pixel, const void *x, fc_index x_row,
                         fc_index x_pixel, fc_index rows, fc_index columns, fc_index n);
    void (*unpool)(void *dy, fc_index dy_row, fc_index dy_pixel, const void *g, const uint8_t *where, fc_index gh, fc_index gw,
                   fc_index c, fc_index top, fc_index left, fc_index rows, fc_index columns, fc_index n, double scale);

    /* Elementwise, n elements.  y and x may be the same array. */
    void (*relu)(void *y, const void *x, fc_index n);
    void (*relu_grad)(void *dx, const void *dy, const void *y, fc_index n);    /* dy where y > 0, else 0 */
    void (*sigmoid_grad)(void *dx, const void *y, const void *dy, fc_index n); /* dy y (1 - y) */
    void (*tanh_grad)(void *dx, const void *y, const void *dy, fc_index n);    /* dy (1 - y^2) */
    void (*add)(void *y, const void *x, fc_index n);                           /* y += x */
    void (*sum)(void *y, const void *a, const void *b, fc_index n);            /* a + b */

    /* Rows of c channels. */
    void (*bias_add)(void *y, const void *x, const void *bias, fc_index rows, fc_index c);
    void (*column_sum)(void *sum, const void *x, fc_index rows, fc_index c); /* sum[c] = over rows of x */

    /* Batch normalization of rows of c channels.  Sums are double whatever the elements are.
     *
     *     moments         sums[0][c] is the mean of `before` rows and sums[1][c] the sum of their squared deviations from it;
     *                     zeros if before is 0.  They become those of these rows too, whose column_sum is total[c].
     *     normalize       y = (x - mean) * gain + offset, + side if it is not NULL; then relu, if so
     *     normalize_sums  sums[0][c] += dy,  sums[1][c] += dy * (x - mean)  over the rows
     *     normalize_grad  dx = (dy - level - (x - mean) * tilt) * gain; without level and tilt (NULL) dy * gain
     *
     * With an offset the last two take dy for 0 where relu was not above 0, that is, where normalize without a side was not.
     * OUT y, dx; INOUT sums[2][c]; IN total, mean, gain, offset, level, tilt [c], x, side and dy [rows][c]. */
    void (*moments)(double *sums, fc_index before, const void *total, const void *x, fc_index rows, fc_index c);
    void (*normalize)(void *y, const void *x, const void *mean, const void *gain, const void *offset, const void *side, int relu,
                      fc_index rows, fc_index c);
    void (*normalize_sums)(double *sums, const void *dy, const void *x, const void *mean, const void *gain, const void *offset,
                           fc_index rows, fc_index c);
    void (*normalize_grad)(void *dx, const void *dy, const void *x, const void *mean, const void *gain, const void *offset,
                           const void *level, const void *tilt, fc_index rows, fc_index c);

    /* Local response normalization of rows of c channels, and its gradient; channels outside 0 .. c - 1 are zeros:
     *
     *     scale[ch] = bias + alpha * sum over |k| <= radius of x[ch + k] ** 2
     *     y = x / scale ** beta
     *     dx[ch] = dy[ch] / scale[ch] ** beta - 2 alpha beta x[ch] * sum over |k| <= radius of (dy y / scale)[ch + k]
     *
     * OUT y or dx; scratch memory padded[rows * (c + radius) + radius + vl]; IN x, y and dy, [rows][c]. */
    void (*lrn)(void *y, void *padded, const void *x, fc_index rows, fc_index c, fc_index radius, double bias, double alpha,
                double beta);
    void (*lrn_grad)(void *dx, void *padded, const void *dy, const void *x, const void *y, fc_index rows, fc_index c,
                     fc_index radius, double bias, double alpha, double beta);

    /* Inverted dropout of elements 4 * block .. of an array: x * scale where the element's 32 random bits are at least
     * `threshold`, else 0.  Random bits: Philox4x32-10, key = seed, counter = element / 4, word = element % 4
     * (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).  x, y, where start at element 4 * block.
     * where[n] (NULL: none) becomes FC_DEAD where an element is dropped. */
    void (*dropout)(void *y, uint8_t *where, const void *x, fc_index n, uint64_t block, uint64_t seed, uint32_t threshold, double scale);

    /* One optimizer step on n parameters, in one pass.  g is read once; p and the slots are updated in place.
     *     adam  m += (1 - b1) (g - m);  v += (1 - b2) (g g - v);  p -= rate m / (sqrt(v) + epsilon)
     *     sgd   v = momentum v - rate g;  p += v
     * (Kingma and Ba, Adam, ICLR 2015, the form before section 2.1: the bias correction is in `rate`). */
    void (*adam)(void *p, const void *g, void *m, void *v, fc_index n, double rate, double b1, double b2, double epsilon);
    void (*sgd)(void *p, const void *g, void *v, fc_index n, double rate, double momentum);
} fc_kernels;

/* The instruction sets in this build, best first, ending with generic. */
typedef struct fc_isa {
    const char *name;
    int (*supported)(void); /* by the processor and the operating system we run on */
    const fc_kernels *f32, *f64;
    const fc_kernels *narrow_f32, *narrow_f64; /* of half as wide vectors, as fast a vector; or the same again */
} fc_isa;

extern const fc_isa fc_isas[];
extern const int fc_isa_count;

#endif
