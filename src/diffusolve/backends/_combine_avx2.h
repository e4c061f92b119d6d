/* Sums of single precision on x86 processors with AVX2: 64 numbers of each array at a time, whose sums stay in registers,
with numbers of half precision widened and narrowed on the way. What is here does nothing and returns 0 on others. */

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define INLINE_AVX2 AVX2 __attribute__((always_inline)) static inline

enum { CHUNK = 64 };

/* S for each of the eight registers that a chunk fills. */
#define EACH(S) S(0) S(1) S(2) S(3) S(4) S(5) S(6) S(7)

/* CALL with `kind` as a constant. */
#define OF_KIND(kind, CALL)                                                                                            \
    switch (kind) {                                                                                                    \
    case WIDE: CALL(WIDE); break;                                                                                      \
    case BFLOAT16: CALL(BFLOAT16); break;                                                                              \
    default: CALL(FLOAT16);                                                                                            \
    }

/* What has AVX2 also has F16C, which not all compilers can ask for. */
static int has_avx2(void) {
    static int known = -1; /* threads may find it out at once */
    if (known < 0) known = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return known;
}

INLINE_AVX2 __m256 widened(const char *x, int kind, int v) {
    if (kind == WIDE) return _mm256_loadu_ps((const float *)x + 8 * v);
    const __m128i half = _mm_loadu_si128((const __m128i *)x + v);
    if (kind == FLOAT16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* To the nearest, in the middle to the even one. */
INLINE_AVX2 __m128i narrowed(__m256 x, int kind) {
    if (kind == FLOAT16) return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

/* sum = c * x, or (c + lost) * x if lost is not 0. */
INLINE_AVX2 void multiply(__m256 *sum, const char *x, int kind, float coefficient, float lost) {
    const __m256 c = _mm256_set1_ps(coefficient), l = _mm256_set1_ps(lost);
#define MULTIPLY(v) sum[v] = _mm256_mul_ps(c, widened(x, kind, v));
#define MULTIPLY_LOST(v) sum[v] = _mm256_fmadd_ps(l, widened(x, kind, v), sum[v]);
    EACH(MULTIPLY)
    if (lost != 0) {
        EACH(MULTIPLY_LOST)
    }
}

/* sum += c * x */
INLINE_AVX2 void add(__m256 *sum, const char *x, int kind, float coefficient) {
    const __m256 c = _mm256_set1_ps(coefficient);
#define ADD(v) sum[v] = _mm256_fmadd_ps(c, widened(x, kind, v), sum[v]);
    EACH(ADD)
}

/* sum += (c + lost) * x */
INLINE_AVX2 void add_last(__m256 *sum, const char *x, int kind, float coefficient, float lost) {
    const __m256 c = _mm256_set1_ps(coefficient), l = _mm256_set1_ps(lost);
#define ADD_LAST(v)                                                                                                    \
    {                                                                                                                  \
        const __m256 b = widened(x, kind, v);                                                                          \
        sum[v] = _mm256_fmadd_ps(c, b, _mm256_fmadd_ps(l, b, sum[v]));                                                 \
    }
    EACH(ADD_LAST)
}

/* sum = c * (a + (ratio + lost) * b): what two terms that may be large leave when they nearly cancel is rounded where it
is small, by the fused multiplication. */
INLINE_AVX2 void add_two(__m256 *sum, const char *a, int a_kind, const char *b, int b_kind, const Output *output) {
    const __m256 c = _mm256_set1_ps((float)output->coefficient[0]), r = _mm256_set1_ps(output->ratio),
                 l = _mm256_set1_ps(output->ratio_lost);
#define ADD_TWO(v)                                                                                                     \
    {                                                                                                                  \
        const __m256 x = widened(a, a_kind, v), y = widened(b, b_kind, v);                                             \
        sum[v] = _mm256_mul_ps(c, _mm256_fmadd_ps(l, y, _mm256_fmadd_ps(r, y, x)));                                    \
    }
    EACH(ADD_TWO)
}

/* NaN stays what it is. */
INLINE_AVX2 void clip(__m256 *sum, float limit) {
    const __m256 low = _mm256_set1_ps(-limit), high = _mm256_set1_ps(limit);
#define CLIP(v) sum[v] = _mm256_min_ps(high, _mm256_max_ps(low, sum[v]));
    EACH(CLIP)
}

INLINE_AVX2 void store(const __m256 *sum, char *r, int kind, int bypass) {
#define STORE_WIDE(v) _mm256_storeu_ps((float *)r + 8 * v, sum[v]);
#define STREAM_WIDE(v) _mm256_stream_ps((float *)r + 8 * v, sum[v]);
#define STORE_NARROW(v) _mm_storeu_si128((__m128i *)r + v, narrowed(sum[v], kind));
#define STREAM_NARROW(v) _mm_stream_si128((__m128i *)r + v, narrowed(sum[v], kind));
    if (kind == WIDE && bypass) {
        EACH(STREAM_WIDE)
    } else if (kind == WIDE) {
        EACH(STORE_WIDE)
    } else if (bypass) {
        EACH(STREAM_NARROW)
    } else {
        EACH(STORE_NARROW)
    }
}

/* One output from the parts of its sources, of these kinds: to `r` and to `made` if they are given. */
AVX2 static void combine_chunk(const Output *output, const char *const *part, const char *kind, char *r, int r_kind,
                               float *made, int bypass) {
    const int *source = output->source;
    const float *single = output->single, lost = output->lost;
    const Py_ssize_t last = output->terms - 1;
    __m256 sum[8];
#define FIRST_TERM(KIND) multiply(sum, part[source[0]], KIND, single[0], last ? 0 : lost)
#define TERM(KIND) add(sum, part[source[t]], KIND, single[t])
#define LAST_TERM(KIND) add_last(sum, part[source[last]], KIND, single[last], lost)
    if (last > 0 && output->limit < INFINITY) {
        const int first = kind[source[0]], second = kind[source[1]];
#define BOTH(KIND) add_two(sum, part[source[0]], KIND, part[source[1]], KIND, output)
        if (first == second) OF_KIND(first, BOTH)
        else add_two(sum, part[source[0]], first, part[source[1]], second, output);
    } else {
        OF_KIND(kind[source[0]], FIRST_TERM)
        for (Py_ssize_t t = 1; t < last; t++) OF_KIND(kind[source[t]], TERM)
        if (last > 0) OF_KIND(kind[source[last]], LAST_TERM)
    }
    if (output->limit < INFINITY) clip(sum, (float)output->limit);
    if (made) store(sum, (char *)made, WIDE, 0);
#define RESULT(KIND) store(sum, r, KIND, bypass)
    if (r) OF_KIND(r_kind, RESULT)
}

AVX2 static int run_avx2(const Task *task, Py_ssize_t begin, Py_ssize_t end) {
    const Program *program = task->program;
    const Py_ssize_t inputs = program->inputs, arrays = inputs + program->outputs;
    float made[MOST_ARRAYS][CHUNK], padded[MOST_ARRAYS][CHUNK];
    const char *part[MOST_ARRAYS];
    char *result[MOST_ARRAYS];
    size_t size[MOST_ARRAYS];
    int bypass = task->count >= LARGE; /* large arrays are written past the caches */
    if (!has_avx2()) return 0;
    for (Py_ssize_t i = 0; i < arrays; i++) {
        size[i] = program->kind[i] == WIDE ? sizeof(float) : sizeof(uint16_t);
        result[i] = task->arrays[i] ? task->arrays[i] + begin * size[i] : NULL;
        part[i] = i < inputs ? result[i] : (char *)made[i - inputs];
        if (i >= inputs && (uintptr_t)result[i] % 32) bypass = 0;
    }
    for (Py_ssize_t at = begin; at < end; at += CHUNK) {
        const Py_ssize_t n = end - at < CHUNK ? end - at : CHUNK;
        for (Py_ssize_t i = 0; n < CHUNK && i < inputs; i++)
            part[i] = memcpy(memset(padded[i], 0, sizeof *padded), part[i], n * size[i]);
        for (Py_ssize_t o = 0; o < program->outputs; o++) {
            const Output *output = &program->output[o];
            char *r = result[inputs + o], *all_of_r = r && n < CHUNK ? (char *)padded[inputs + o] : r;
            combine_chunk(output, part, program->source_kind, all_of_r, program->kind[inputs + o],
                          output->is_read ? made[o] : NULL, bypass && n == CHUNK);
            if (r && n < CHUNK) memcpy(r, all_of_r, n * size[inputs + o]);
            if (r) result[inputs + o] = r + CHUNK * size[inputs + o];
        }
        for (Py_ssize_t i = 0; i < inputs; i++) part[i] += CHUNK * size[i];
    }
    if (bypass) _mm_sfence();
    return 1;
}

/* One or two terms of no half precision, clipped; two as in add_two. */
AVX2 static int clipped_avx2(float *r, float *const *x, const Output *output, Py_ssize_t n) {
    const float *a = x[0], *b = x[output->terms - 1], limit = (float)output->limit, c = (float)output->coefficient[0];
    const float ratio = output->ratio, lost = output->ratio_lost;
    if (!has_avx2()) return 0;
    _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++) {
        const float sum = c * (output->terms > 1 ? fmaf(lost, b[i], fmaf(ratio, b[i], a[i])) : a[i]);
        r[i] = sum < -limit ? -limit : sum > limit ? limit : sum; /* NaN stays what it is */
    }
    return 1;
}
