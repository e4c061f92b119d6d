/* Included by _combine_x86.h for each width of vectors, with the names of what there is for it. */

#define INLINED TARGET __attribute__((always_inline)) static inline
#define CHUNK (8 * LANES)
#define EACH _Pragma("GCC unroll 8") for (int v = 0; v < 8; v++)

INLINED VECTOR NAME(widened)(const char *x, int kind, int v) {
    if (kind == WIDE) return LOAD((const float *)x + LANES * v);
    const HALVES halves = LOAD_HALVES((const HALVES *)x + v);
    return kind == FLOAT16 ? FROM_FLOAT16(halves) : FROM_BFLOAT16(halves);
}

/* sum = c * x, or (c + lost) * x if lost is not 0. */
INLINED void NAME(multiply)(VECTOR *sum, const char *x, int kind, float coefficient, float lost) {
    const VECTOR c = SET(coefficient), l = SET(lost);
    EACH sum[v] = MULTIPLY(c, NAME(widened)(x, kind, v));
    if (lost != 0) EACH sum[v] = MULTIPLY_ADD(l, NAME(widened)(x, kind, v), sum[v]);
}

/* sum += c * x */
INLINED void NAME(add)(VECTOR *sum, const char *x, int kind, float coefficient) {
    const VECTOR c = SET(coefficient);
    EACH sum[v] = MULTIPLY_ADD(c, NAME(widened)(x, kind, v), sum[v]);
}

/* sum += (c + lost) * x */
INLINED void NAME(add_last)(VECTOR *sum, const char *x, int kind, float coefficient, float lost) {
    const VECTOR c = SET(coefficient), l = SET(lost);
    EACH {
        const VECTOR b = NAME(widened)(x, kind, v);
        sum[v] = MULTIPLY_ADD(c, b, MULTIPLY_ADD(l, b, sum[v]));
    }
}

/* sum = c * (a + (ratio + lost) * b): what two terms that may be large leave when they nearly cancel is rounded where it
is small, by the fused multiplication. */
INLINED void NAME(add_two)(VECTOR *sum, const char *a, int a_kind, const char *b, int b_kind, const Output *output) {
    const VECTOR c = SET((float)output->coefficient[0]), r = SET(output->ratio), l = SET(output->ratio_lost);
    EACH {
        const VECTOR x = NAME(widened)(a, a_kind, v), y = NAME(widened)(b, b_kind, v);
        sum[v] = MULTIPLY(c, MULTIPLY_ADD(l, y, MULTIPLY_ADD(r, y, x)));
    }
}

/* NaN stays what it is. */
INLINED void NAME(clip)(VECTOR *sum, float limit) {
    const VECTOR low = SET(-limit), high = SET(limit);
    EACH sum[v] = LEAST(high, GREATEST(low, sum[v]));
}

INLINED void NAME(store)(const VECTOR *sum, char *r, int kind, int bypass) {
    if (kind == WIDE) {
        float *to = (float *)r;
        if (bypass) EACH STREAM(to + LANES * v, sum[v]);
        else EACH STORE(to + LANES * v, sum[v]);
        return;
    }
    EACH {
        const HALVES halves = kind == FLOAT16 ? TO_FLOAT16(sum[v]) : TO_BFLOAT16(sum[v]);
        if (bypass) STREAM_HALVES((HALVES *)r + v, halves);
        else STORE_HALVES((HALVES *)r + v, halves);
    }
}

/* One output from the parts of its sources, of these kinds: to `r` and to `made` if they are given. */
TARGET static void NAME(combine_chunk)(const Output *output, const char *const *part, const char *kind, char *r,
                                       int r_kind, float *made, int bypass) {
    const int *source = output->source;
    const float *single = output->single, lost = output->lost;
    const Py_ssize_t last = output->terms - 1;
    VECTOR sum[8];
#define FIRST_TERM(KIND) NAME(multiply)(sum, part[source[0]], KIND, single[0], last ? 0 : lost)
#define TERM(KIND) NAME(add)(sum, part[source[t]], KIND, single[t])
#define LAST_TERM(KIND) NAME(add_last)(sum, part[source[last]], KIND, single[last], lost)
#define BOTH_TERMS(KIND) NAME(add_two)(sum, part[source[0]], KIND, part[source[1]], KIND, output)
#define RESULT(KIND) NAME(store)(sum, r, KIND, bypass)
    if (last > 0 && output->limit < INFINITY) {
        const int first = kind[source[0]], second = kind[source[1]];
        if (first == second) OF_KIND(first, BOTH_TERMS)
        else NAME(add_two)(sum, part[source[0]], first, part[source[1]], second, output);
    } else {
        OF_KIND(kind[source[0]], FIRST_TERM)
        for (Py_ssize_t t = 1; t < last; t++) OF_KIND(kind[source[t]], TERM)
        if (last > 0) OF_KIND(kind[source[last]], LAST_TERM)
    }
    if (output->limit < INFINITY) NAME(clip)(sum, (float)output->limit);
    if (made) NAME(store)(sum, (char *)made, WIDE, 0);
    if (r) OF_KIND(r_kind, RESULT)
#undef FIRST_TERM
#undef TERM
#undef LAST_TERM
#undef BOTH_TERMS
#undef RESULT
}

TARGET static void NAME(run)(const Task *task, Py_ssize_t begin, Py_ssize_t end) {
    const Program *program = task->program;
    const Py_ssize_t inputs = program->inputs, arrays = inputs + program->outputs;
    float made[MOST_ARRAYS][CHUNK], padded[MOST_ARRAYS][CHUNK];
    const char *part[MOST_ARRAYS];
    char *result[MOST_ARRAYS];
    size_t size[MOST_ARRAYS];
    int bypass = task->count >= LARGE; /* large arrays are written past the caches */
    for (Py_ssize_t i = 0; i < arrays; i++) {
        size[i] = program->kind[i] == WIDE ? sizeof(float) : sizeof(uint16_t);
        result[i] = task->arrays[i] ? task->arrays[i] + begin * size[i] : NULL;
        part[i] = i < inputs ? result[i] : (char *)made[i - inputs];
        if (i >= inputs && (uintptr_t)result[i] % sizeof(VECTOR)) bypass = 0;
    }
    for (Py_ssize_t at = begin; at < end; at += CHUNK) {
        const Py_ssize_t n = end - at < CHUNK ? end - at : CHUNK;
        for (Py_ssize_t i = 0; n < CHUNK && i < inputs; i++)
            part[i] = memcpy(memset(padded[i], 0, sizeof *padded), part[i], n * size[i]);
        for (Py_ssize_t o = 0; o < program->outputs; o++) {
            const Output *output = &program->output[o];
            char *r = result[inputs + o], *all_of_r = r && n < CHUNK ? (char *)padded[inputs + o] : r;
            NAME(combine_chunk)(output, part, program->source_kind, all_of_r, program->kind[inputs + o],
                                output->is_read ? made[o] : NULL, bypass && n == CHUNK);
            if (r && n < CHUNK) memcpy(r, all_of_r, n * size[inputs + o]);
            if (r) result[inputs + o] = r + CHUNK * size[inputs + o];
        }
        for (Py_ssize_t i = 0; i < inputs; i++) part[i] += CHUNK * size[i];
    }
    if (bypass) _mm_sfence();
}

#undef INLINED
#undef CHUNK
#undef EACH
#undef TARGET
#undef NAME
#undef VECTOR
#undef HALVES
#undef LANES
#undef SET
#undef LOAD
#undef LOAD_HALVES
#undef STORE
#undef STORE_HALVES
#undef STREAM
#undef STREAM_HALVES
#undef MULTIPLY
#undef MULTIPLY_ADD
#undef LEAST
#undef GREATEST
#undef FROM_BFLOAT16
#undef TO_BFLOAT16
#undef FROM_FLOAT16
#undef TO_FLOAT16
