/* Sums of single precision on x86 processors: 8 vectors of each array at a time, whose sums stay in registers, with numbers
of half precision widened and narrowed on the way. _combine_vectors.h says how, here stands what it is made of: once with
AVX2 and once with AVX-512, whose instructions for bfloat16 round one vector at once. Processors with neither are left to
_combine.c. */

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512bf16,avx2,fma,f16c")))

#if !defined(WITHOUT_AVX512) && (defined(__clang__) ? __clang_major__ >= 10 : __GNUC__ >= 11)
#define KNOWS_AVX512
#endif

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

AVX2 static inline __m256 from_bfloat16_avx2(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

/* To the nearest, in the middle to the even one. */
AVX2 static inline __m128i to_bfloat16_avx2(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

#define TARGET AVX2
#define NAME(name) name##_avx2
#define VECTOR __m256
#define HALVES __m128i
#define LANES 8
#define SET _mm256_set1_ps
#define LOAD _mm256_loadu_ps
#define LOAD_HALVES _mm_loadu_si128
#define STORE _mm256_storeu_ps
#define STORE_HALVES _mm_storeu_si128
#define STREAM _mm256_stream_ps
#define STREAM_HALVES _mm_stream_si128
#define MULTIPLY _mm256_mul_ps
#define MULTIPLY_ADD _mm256_fmadd_ps
#define LEAST _mm256_min_ps
#define GREATEST _mm256_max_ps
#define FROM_BFLOAT16 from_bfloat16_avx2
#define TO_BFLOAT16 to_bfloat16_avx2
#define FROM_FLOAT16 _mm256_cvtph_ps
#define TO_FLOAT16(x) _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)
#include "_combine_vectors.h"

#ifdef KNOWS_AVX512

static int has_avx512(void) {
    static int known = -1;
    if (known < 0)
        known = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512bf16") && has_avx2();
    return known;
}

AVX512 static inline __m512 from_bfloat16_avx512(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/* The same as with AVX2, but that numbers below the least normal one become 0. */
AVX512 static inline __m256i to_bfloat16_avx512(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

#define TARGET AVX512
#define NAME(name) name##_avx512
#define VECTOR __m512
#define HALVES __m256i
#define LANES 16
#define SET _mm512_set1_ps
#define LOAD _mm512_loadu_ps
#define LOAD_HALVES _mm256_loadu_si256
#define STORE _mm512_storeu_ps
#define STORE_HALVES _mm256_storeu_si256
#define STREAM _mm512_stream_ps
#define STREAM_HALVES _mm256_stream_si256
#define MULTIPLY _mm512_mul_ps
#define MULTIPLY_ADD _mm512_fmadd_ps
#define LEAST _mm512_min_ps
#define GREATEST _mm512_max_ps
#define FROM_BFLOAT16 from_bfloat16_avx512
#define TO_BFLOAT16 to_bfloat16_avx512
#define FROM_FLOAT16 _mm512_cvtph_ps
#define TO_FLOAT16(x) _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)
#include "_combine_vectors.h"

#else

static int has_avx512(void) { return 0; }

static void run_avx512(const Task *task, Py_ssize_t begin, Py_ssize_t end) {}

#endif

/* Whether the processor has vectors; if so, the work is done. */
static int run_vectors(const Task *task, Py_ssize_t begin, Py_ssize_t end) {
    if (!has_avx2()) return 0;
    (has_avx512() ? run_avx512 : run_avx2)(task, begin, end);
    return 1;
}

/* One or two terms of no half precision, clipped; two as in add_two. */
AVX2 static int clipped_avx2(float *r, float *const *x, const Output *output, Py_ssize_t n) {
    const float *a = x[0], *b = x[output->terms - 1], limit = (float)output->limit, c = (float)output->coefficient[0];
    const float ratio = output->ratio, lost = output->ratio_lost;
    if (!has_avx2()) return 0;
    _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++) {
        const float sum = c * (output->terms > 1 ? fmaf(lost, b[i], fmaf(ratio, b[i], a[i])) : a[i]);
        const float raised = -limit > sum ? -limit : sum; /* in the order of the processor's least and greatest: */
        r[i] = limit < raised ? limit : raised;           /* NaN stays what it is */
    }
    return 1;
}
