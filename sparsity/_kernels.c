/* Penalties of float32 tensors and their gradients, in one or two passes over memory and without temporaries.
 * The definitions are the methods `formula` in regularizers/wcr.py, l1.py and hoyer_square.py.
 *
 * Every penalty has the same interface:
 *
 *   double NAME(count, w, g, n, arguments, lam, overwrite, threads)
 *
 * returns the sum of the penalties of `count` tensors; tensor t has n[t] elements at w[t]. Where g[t] is not NULL,
 * lam dR/dw is added to g[t], or replaces it if `overwrite` is set.
 *
 * A tensor is divided into chunks, which threads share, and a chunk into tiles. Sums within a tile are in float32, sums
 * over tiles and chunks in double. The divisions depend on n only, so a result does not depend on the number of
 * threads. Built without OpenMP, everything runs on one thread.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { TILE = 1024, MAX_CHUNKS = 256, MIN_CHUNK = 32 * TILE };

/* Number of elements of a chunk: a multiple of TILE. */
static int64_t chunk_size(int64_t n) {
    int64_t chunk = (n + MAX_CHUNKS - 1) / MAX_CHUNKS;
    chunk = (chunk + TILE - 1) / TILE * TILE;
    return chunk < MIN_CHUNK ? MIN_CHUNK : chunk;
}

static int64_t at_most(int64_t n, int64_t limit) { return n < limit ? n : limit; }

/* The mean of the magnitudes a = sqrt(w^2 + smooth) of a tile, and the sum of (a - mean)^2. Sums are taken of the
 * differences from the first magnitude, so that equal magnitudes have a variance of exactly 0. */
static void tile_magnitudes(const float *w, int64_t n, float smooth, double *mean, double *squares) {
    float a[TILE];
    const float first = sqrtf(w[0] * w[0] + smooth);
    float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        a[i] = sqrtf(w[i] * w[i] + smooth);
        sum += a[i] - first;
    }
    const float around = first + sum / (float)n;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < n; i++) {
        const float d = a[i] - around;
        square += d * d;
    }
    *mean = (double)first + (double)sum / (double)n;
    *squares = square;
}

/* Combine (n, mean, sum of squared deviations) of two parts, by the formula of Chan, Golub & LeVeque (1979). */
static void merge(double *n, double *mean, double *squares, double n2, double mean2, double squares2) {
    const double total = *n + n2, gap = mean2 - *mean;
    *squares += squares2 + gap * gap * *n * n2 / total;
    *mean += gap * n2 / total;
    *n = total;
}

/* R = 1 / (V + eps), V the variance of the magnitudes. arguments: smooth, eps. */
double wcr(int64_t count, const float *const *w, float *const *g, const int64_t *n, const double *arguments, double lam,
           int overwrite, int threads) {
    const float smooth = (float)arguments[0];
    double value = 0;
    for (int64_t t = 0; t < count; t++) {
        const int64_t chunk = chunk_size(n[t]), chunks = (n[t] + chunk - 1) / chunk;
        double means[MAX_CHUNKS], squares[MAX_CHUNKS];
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
        for (int64_t c = 0; c < chunks; c++) {
            const float *x = w[t] + c * chunk;
            const int64_t size = at_most(n[t] - c * chunk, chunk);
            double seen = 0, mean = 0, square = 0;
            for (int64_t i = 0; i < size; i += TILE) {
                double tile_mean, tile_square;
                const int64_t length = at_most(size - i, TILE);
                tile_magnitudes(x + i, length, smooth, &tile_mean, &tile_square);
                merge(&seen, &mean, &square, (double)length, tile_mean, tile_square);
            }
            means[c] = mean;
            squares[c] = square;
        }
        double seen = 0, total = 0, square = 0;
        for (int64_t c = 0; c < chunks; c++)
            merge(&seen, &total, &square, (double)at_most(n[t] - c * chunk, chunk), means[c], squares[c]);
        const double bounded = square / (double)n[t] + arguments[1]; /* V + eps */
        value += 1 / bounded;
        if (!g[t]) continue;
        const float mean = (float)total, factor = (float)(-2 * lam / ((double)n[t] * bounded * bounded));
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
        for (int64_t c = 0; c < chunks; c++) {
            const float *x = w[t] + c * chunk;
            float *y = g[t] + c * chunk;
            const int64_t size = at_most(n[t] - c * chunk, chunk);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) {
                const float a = sqrtf(x[i] * x[i] + smooth), slope = (a - mean) / a * x[i] * factor;
                y[i] = overwrite ? slope : y[i] + slope;
            }
        }
    }
    return value;
}

static float sign(float w) { return (float)((w > 0) - (w < 0)); }

/* Returns sum |w| of a tile, and sum w^2 in *square. */
static double tile_sums(const float *w, int64_t n, double *square) {
    float first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
    for (int64_t i = 0; i < n; i++) {
        first += fabsf(w[i]);
        second += w[i] * w[i];
    }
    *square = second;
    return first;
}

/* Adds push sign(w) - pull w to g, or overwrites g with it. */
static void push_and_pull(const float *w, float *g, int64_t n, float push, float pull, int overwrite) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float slope = sign(w[i]) * push - w[i] * pull;
        g[i] = overwrite ? slope : g[i] + slope;
    }
}

/* R = sum |w|. No arguments. One pass suffices, because the gradient needs no sum. */
double l1(int64_t count, const float *const *w, float *const *g, const int64_t *n, const double *arguments, double lam,
          int overwrite, int threads) {
    double value = 0;
    (void)arguments;
    for (int64_t t = 0; t < count; t++) {
        const int64_t chunk = chunk_size(n[t]), chunks = (n[t] + chunk - 1) / chunk;
        double absolutes[MAX_CHUNKS];
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
        for (int64_t c = 0; c < chunks; c++) {
            const int64_t size = at_most(n[t] - c * chunk, chunk);
            absolutes[c] = 0;
            for (int64_t i = 0; i < size; i += TILE) {
                const int64_t from = c * chunk + i, length = at_most(size - i, TILE);
                const float *x = w[t] + from;
                double square;
                absolutes[c] += tile_sums(x, length, &square);
                if (g[t]) push_and_pull(x, g[t] + from, length, (float)lam, 0, overwrite);
            }
        }
        for (int64_t c = 0; c < chunks; c++) value += absolutes[c];
    }
    return value;
}

/* R = (sum |w|)^2 / (sum w^2 + eps). arguments: eps. */
double hoyer_square(int64_t count, const float *const *w, float *const *g, const int64_t *n, const double *arguments,
                    double lam, int overwrite, int threads) {
    double value = 0;
    for (int64_t t = 0; t < count; t++) {
        const int64_t chunk = chunk_size(n[t]), chunks = (n[t] + chunk - 1) / chunk;
        double absolutes[MAX_CHUNKS], squares[MAX_CHUNKS], absolute = 0, square = arguments[0];
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
        for (int64_t c = 0; c < chunks; c++) {
            const int64_t size = at_most(n[t] - c * chunk, chunk);
            absolutes[c] = squares[c] = 0;
            for (int64_t i = 0; i < size; i += TILE) {
                double tile_square;
                absolutes[c] += tile_sums(w[t] + c * chunk + i, at_most(size - i, TILE), &tile_square);
                squares[c] += tile_square;
            }
        }
        for (int64_t c = 0; c < chunks; c++) {
            absolute += absolutes[c];
            square += squares[c];
        }
        const double ratio = isfinite(square) ? absolute / square : NAN; /* w^2 overflows: nan as in PyTorch, not 0 */
        value += absolute * ratio;
        if (!g[t]) continue;
        const float push = (float)(2 * lam * ratio), pull = (float)(2 * lam * ratio * ratio);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && chunks > 1)
        for (int64_t c = 0; c < chunks; c++)
            push_and_pull(w[t] + c * chunk, g[t] + c * chunk, at_most(n[t] - c * chunk, chunk), push, pull, overwrite);
    }
    return value;
}
