/* Linear combinations of arrays, several at once, in one pass over memory. native.py says how it is used.

A program is made once: for each output its terms (source, coefficient), the largest last, where a source is one of the
inputs or an output before, and the limit that its numbers are clipped to. Arrays are taken block by block, small enough
to stay in the fastest cache, so that each input is read from memory once and each output written once. An output may be
one of the inputs that no later output reads, or have no array at all and be there for later outputs only. Arrays of half
precision are widened block by block, and summed up in single precision. What x86 processors do better stands in
_combine_x86.h.

Rows are many programs in one call: batching/compiled.py. Their arrays have one length, and a program knows the place of
each of its arrays in its row. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(PORTABLE)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Into what is compiled for each processor. */
#ifdef _MSC_VER
#define INLINE static __forceinline
#else
#define INLINE __attribute__((always_inline)) static inline
#endif

enum { BLOCK = 1024, AT_ONCE = 6, MOST_ARRAYS = 64, MOST_NARROW = 12, MOST_SCRATCH = 4 };

enum { MOST_THREADS = 64, LEAST_PER_THREAD = 1 << 15, ALIGNED = 64 /* begin of a part */, LARGE = 1 << 22 };

enum { WIDE, BFLOAT16, FLOAT16 }; /* the kinds of arrays; wide ones are of the program's precision */

typedef struct {
    Py_ssize_t terms;
    int *source;
    double *coefficient, limit;
    float *single;           /* the coefficients in single precision */
    double lost;             /* what the last one lost by that: see below */
    float ratio, ratio_lost; /* of two terms to be clipped: the second coefficient divided by the first, likewise */
    int is_read;             /* by a later output */
} Output;

typedef struct {
    int is_double;
    Py_ssize_t inputs, outputs;
    Output *output;
    int has_narrow;
    char *kind;        /* of inputs, then outputs */
    char *source_kind; /* the same as sources: what an output was before it was narrowed */
    int *place;        /* of inputs, then outputs; NULL in programs that are not for rows */
} Program;

typedef struct {
    const Program *program;
    char *const *arrays; /* inputs, then outputs */
    Py_ssize_t count;    /* numbers in one array */
} Task;

/* The arrays of a row: places from 0 are slots, one after the other in its own memory; -1 - k is its part of stack k. */
typedef struct {
    const Program *program; /* NULL: nothing is done for this row */
    char *slots;
} Row;

typedef struct {
    const Row *row;
    Py_ssize_t count; /* numbers in one array of a row */
    char *const *stack;
} Rows;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(PORTABLE)
#include "_combine_x86.h"
#else

static int clipped_avx2(float *r, float *const *x, const Output *output, Py_ssize_t n) { return 0; }

static int run_vectors(const Task *task, Py_ssize_t begin, Py_ssize_t end) { return 0; }

#endif

/* r[i] = c[0] * x[0][i] + ... + c[k - 1] * x[k - 1][i], for k up to AT_ONCE; r may be one of the x.

The last term is the largest. l is what its coefficient lost when it was rounded, towards zero so that infinity stays what
it is; it is added first, and little but the roundings of the sum itself is left. A single term may have l = 0. */
#define TINY 0x1p-60

#define DEFINE_COMBINE(NAME, REAL, COEFFICIENT)                                                                        \
    INLINE void NAME(REAL *r, Py_ssize_t k, REAL *const *x, const REAL *c, REAL l, Py_ssize_t n) {                     \
        const REAL *a = x[0], *b = x[k > 1 ? 1 : 0], *d = x[k > 2 ? 2 : 0], *e = x[k > 3 ? 3 : 0],                     \
                   *f = x[k > 4 ? 4 : 0], *g = x[k > 5 ? 5 : 0];                                                       \
        switch (k) {                                                                                                   \
        case 1:                                                                                                        \
            if (l == 0) {                                                                                              \
                _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++)                                                \
                    r[i] = c[0] * a[i];                                                                                \
                break;                                                                                                 \
            }                                                                                                          \
            _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++)                                                    \
                r[i] = l * a[i] + c[0] * a[i];                                                                         \
            break;                                                                                                     \
        case 2:                                                                                                        \
            _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++)                                                    \
                r[i] = l * b[i] + c[0] * a[i] + c[1] * b[i];                                                           \
            break;                                                                                                     \
        case 3:                                                                                                        \
            _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++)                                                    \
                r[i] = l * d[i] + c[0] * a[i] + c[1] * b[i] + c[2] * d[i];                                             \
            break;                                                                                                     \
        case 4:                                                                                                        \
            _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++)                                                    \
                r[i] = l * e[i] + c[0] * a[i] + c[1] * b[i] + c[2] * d[i] + c[3] * e[i];                               \
            break;                                                                                                     \
        case 5:                                                                                                        \
            _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++)                                                    \
                r[i] = l * f[i] + c[0] * a[i] + c[1] * b[i] + c[2] * d[i] + c[3] * e[i] + c[4] * f[i];                 \
            break;                                                                                                     \
        default:                                                                                                       \
            _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++)                                                    \
                r[i] = l * g[i] + c[0] * a[i] + c[1] * b[i] + c[2] * d[i] + c[3] * e[i] + c[4] * f[i] + c[5] * g[i];   \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* The same for one or two terms, in double precision, since they may be large and their sum small; and clipped. */\
    INLINE void NAME##_clipped(REAL *r, REAL *const *x, const Output *output, Py_ssize_t n) {                          \
        const REAL *a = x[0], *b = x[output->terms - 1];                                                               \
        const double p = output->terms > 1 ? output->coefficient[0] : 0, q = output->coefficient[output->terms - 1];   \
        const double limit = output->limit;                                                                            \
        _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++) {                                                      \
            const double sum = output->terms > 1 ? p * a[i] + q * b[i] : q * b[i];                                     \
            r[i] = (REAL)(sum < -limit ? -limit : sum > limit ? limit : sum); /* NaN stays what it is */               \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* All outputs of a program for n numbers of the arrays (inputs, then outputs). */                                 \
    INLINE void NAME##_block(const Program *program, REAL *const *array, Py_ssize_t n) {                               \
        for (Py_ssize_t o = 0; o < program->outputs; o++) {                                                            \
            const Output *output = &program->output[o];                                                                \
            REAL *r = array[program->inputs + o];                                                                      \
            REAL *x[AT_ONCE] = {r}, c[AT_ONCE], sum[BLOCK];                                                            \
            Py_ssize_t k = 0;                                                                                          \
            for (Py_ssize_t t = 0; t < output->terms; t++) {                                                           \
                if (k == AT_ONCE) { /* the sum so far becomes the first of the terms that are left */                  \
                    NAME(sum, k, x, c, c[k - 1] * (REAL)TINY, n);                                                      \
                    x[0] = sum, c[0] = 1, k = 1;                                                                       \
                }                                                                                                      \
                x[k] = array[output->source[t]], c[k++] = output->COEFFICIENT[t];                                      \
            }                                                                                                          \
            if (output->limit < INFINITY) {                                                                            \
                if (sizeof(REAL) != sizeof(float) || !clipped_avx2((float *)r, (float *const *)x, output, n))          \
                    NAME##_clipped(r, x, output, n);                                                                   \
            } else {                                                                                                   \
                NAME(r, k, x, c, (REAL)output->lost, n);                                                               \
            }                                                                                                          \
        }                                                                                                              \
    }

DEFINE_COMBINE(combine_float, float, single)
DEFINE_COMBINE(combine_double, double, coefficient)

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Half precision to single, exactly. */
INLINE void widen(float *r, const uint16_t *x, int kind, Py_ssize_t n) {
    if (kind == BFLOAT16) {
        for (Py_ssize_t i = 0; i < n; i++) r[i] = as_float((uint32_t)x[i] << 16);
        return;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t magnitude = (x[i] & 0x7fffu) << 13, exponent = magnitude & 0x0f800000u;
        uint32_t rebased = magnitude + (112u << 23);                                       /* its exponent has another bias */
        uint32_t subnormal = as_bits(as_float(rebased + (1u << 23)) - as_float(113u << 23)); /* no leading 1 */
        uint32_t value = exponent == 0 ? subnormal : exponent == 0x0f800000u ? rebased + (112u << 23) : rebased;
        r[i] = as_float(value | (x[i] & 0x8000u) << 16);
    }
}

/* Single precision to half, to the nearest, in the middle to the even one. */
INLINE void narrow(uint16_t *r, const float *x, int kind, Py_ssize_t n) {
    if (kind == BFLOAT16) {
        for (Py_ssize_t i = 0; i < n; i++) {
            uint32_t bits = as_bits(x[i]), rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
            r[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
        }
        return;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t bits = as_bits(x[i]), magnitude = bits & 0x7fffffffu;
        uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1)) >> 13;
        uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f); /* the sum rounds to steps of 2^-24 */
        uint32_t infinite = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
        uint32_t value = magnitude >= 143u << 23 ? infinite : magnitude < 113u << 23 ? subnormal : normal;
        r[i] = (uint16_t)(value | (bits >> 16 & 0x8000u));
    }
}

FOR_EACH_PROCESSOR static void run_double(const Task *task, Py_ssize_t begin, Py_ssize_t end) {
    const Program *program = task->program;
    double *block[MOST_ARRAYS], scratch[MOST_SCRATCH][BLOCK];
    for (Py_ssize_t at = begin; at < end; at += BLOCK) {
        for (Py_ssize_t i = 0, used = 0; i < program->inputs + program->outputs; i++)
            block[i] = task->arrays[i] ? (double *)task->arrays[i] + at : scratch[used++];
        combine_double_block(program, block, end - at < BLOCK ? end - at : BLOCK);
    }
}

FOR_EACH_PROCESSOR static void run_float(const Task *task, Py_ssize_t begin, Py_ssize_t end) {
    const Program *program = task->program;
    float *block[MOST_ARRAYS], scratch[MOST_SCRATCH][BLOCK];
    for (Py_ssize_t at = begin; at < end; at += BLOCK) {
        for (Py_ssize_t i = 0, used = 0; i < program->inputs + program->outputs; i++)
            block[i] = task->arrays[i] ? (float *)task->arrays[i] + at : scratch[used++];
        combine_float_block(program, block, end - at < BLOCK ? end - at : BLOCK);
    }
}

/* The same where some arrays are of half precision. */
FOR_EACH_PROCESSOR static void run_narrow(const Task *task, Py_ssize_t begin, Py_ssize_t end) {
    const Program *program = task->program;
    Py_ssize_t inputs = program->inputs, arrays = inputs + program->outputs;
    float *block[MOST_ARRAYS], widened[MOST_NARROW + MOST_SCRATCH][BLOCK];
    for (Py_ssize_t at = begin; at < end; at += BLOCK) {
        Py_ssize_t n = end - at < BLOCK ? end - at : BLOCK, used = 0;
        for (Py_ssize_t i = 0; i < arrays; i++) {
            const int in_place = program->kind[i] == WIDE && task->arrays[i];
            block[i] = in_place ? (float *)task->arrays[i] + at : widened[used++];
            if (program->kind[i] != WIDE && i < inputs)
                widen(block[i], (uint16_t *)task->arrays[i] + at, program->kind[i], n);
        }
        combine_float_block(program, block, n);
        for (Py_ssize_t i = inputs; i < arrays; i++)
            if (program->kind[i] != WIDE && task->arrays[i])
                narrow((uint16_t *)task->arrays[i] + at, block[i], program->kind[i], n);
    }
}

static void run_task(const void *work, Py_ssize_t begin, Py_ssize_t end) {
    const Task *task = work;
    const Program *program = task->program;
    if (!program->is_double && (program->has_narrow || task->count >= LARGE) && run_vectors(task, begin, end)) return;
    (program->is_double ? run_double : program->has_narrow ? run_narrow : run_float)(task, begin, end);
}

/* A part of the numbers of all rows. */
static void run_rows(const void *work, Py_ssize_t begin, Py_ssize_t end) {
    const Rows *rows = work;
    for (Py_ssize_t at = begin, next; at < end; at = next) {
        const Py_ssize_t index = at / rows->count, first = index * rows->count;
        const Row *row = &rows->row[index];
        next = first + rows->count < end ? first + rows->count : end;
        if (!row->program) continue;
        const Program *program = row->program;
        char *arrays[MOST_ARRAYS];
        const size_t size = (size_t)rows->count * (program->is_double ? sizeof(double) : sizeof(float));
        for (Py_ssize_t i = 0; i < program->inputs + program->outputs; i++) {
            const int place = program->place[i];
            arrays[i] = place >= 0 ? row->slots + place * size : rows->stack[-1 - place] + index * size;
        }
        run_task(&(Task){program, arrays, rows->count}, at - first, next - first);
    }
}

/* Does the part of some work that lies between two numbers. */
typedef void (*DoPart)(const void *work, Py_ssize_t begin, Py_ssize_t end);

#ifdef _WIN32

static void share_out(DoPart do_part, const void *work, Py_ssize_t count, Py_ssize_t threads) { do_part(work, 0, count); }

static void find_workers(void) {}

#else

typedef struct {
    DoPart do_part;
    const void *work;
    Py_ssize_t count, parts;
    _Atomic Py_ssize_t taken;
} Team;

static void take_parts(void *argument) {
    Team *team = argument;
    for (Py_ssize_t i; (i = atomic_fetch_add(&team->taken, 1)) < team->parts;) {
        const Py_ssize_t size = team->count / team->parts / ALIGNED * ALIGNED;
        team->do_part(team->work, i * size, i + 1 < team->parts ? (i + 1) * size : team->count);
    }
}

static void *run_thread(void *team) { return take_parts(team), NULL; }

/* Has a function called by so many of the threads that PyTorch works with; NULL where its OpenMP library is not GNU's or
like it. */
static void (*with_workers)(void (*)(void *), void *, unsigned threads, unsigned flags);

static void forget_workers(void) { with_workers = NULL; } /* which a forked process does not have */

static void find_workers(void) {
#ifndef PORTABLE
    *(void **)&with_workers = dlsym(RTLD_DEFAULT, "GOMP_parallel");
#endif
    pthread_atfork(NULL, NULL, forget_workers);
}

/* Do work of `count` numbers with up to so many threads: PyTorch's, which are there already and would get in the way of
others, else new ones. */
static void share_out(DoPart do_part, const void *work, Py_ssize_t count, Py_ssize_t threads) {
    Team team = {do_part, work, count, count / LEAST_PER_THREAD < threads ? count / LEAST_PER_THREAD : threads, 0};
    pthread_t thread[MOST_THREADS];
    Py_ssize_t started = 0;
    if (team.parts < 2) {
        do_part(work, 0, count);
    } else if (with_workers) {
        with_workers(take_parts, &team, (unsigned)threads, 0);
    } else {
        while (started < MOST_THREADS && started < team.parts - 1)
            if (pthread_create(&thread[started++], NULL, run_thread, &team)) {
                started--;
                break;
            }
        take_parts(&team);
        for (Py_ssize_t i = 0; i < started; i++) pthread_join(thread[i], NULL);
    }
}

#endif

static void free_program(Program *program) {
    for (Py_ssize_t o = 0; program->output && o < program->outputs; o++) {
        PyMem_Free(program->output[o].source);
        PyMem_Free(program->output[o].coefficient);
        PyMem_Free(program->output[o].single);
    }
    PyMem_Free(program->output);
    PyMem_Free(program->kind);
    PyMem_Free(program->source_kind);
    PyMem_Free(program->place);
    PyMem_Free(program);
}

static void destroy(PyObject *capsule) { free_program(PyCapsule_GetPointer(capsule, "diffusolve.program")); }

/* Round towards zero, and tell what is lost. */
static double round_to_single(double exact, float *rounded) {
    *rounded = (float)exact;
    if (fabs(*rounded) > fabs(exact)) *rounded = nextafterf(*rounded, 0);
    const double lost = exact - *rounded;
    return lost != 0 ? lost : exact * TINY; /* since 0 times infinity is none */
}

static void round_coefficients(Output *output, int is_double) {
    const Py_ssize_t last = output->terms - 1;
    const double *c = output->coefficient;
    const double lost = round_to_single(c[last], &output->single[last]);
    output->lost = last == 0 && (is_double || output->single[0] == c[0]) ? 0 : is_double ? c[last] * TINY : lost;
    if (last == 1) output->ratio_lost = (float)round_to_single(c[1] / c[0], &output->ratio);
}

static int read_output(Program *program, Py_ssize_t index, PyObject *given) {
    PyObject *terms;
    Output *output = &program->output[index];
    Py_ssize_t sources = program->inputs + index;
    if (!PyArg_ParseTuple(given, "dO!", &output->limit, &PyTuple_Type, &terms)) return -1;
    output->terms = PyTuple_Size(terms);
    if (output->terms < 1) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "an output has no terms.");
        return -1;
    }
    if (output->limit < INFINITY && output->terms > 2) {
        PyErr_Format(PyExc_ValueError, "an output of %zd terms cannot be clipped: at most 2.", output->terms);
        return -1;
    }
    output->source = PyMem_Calloc(output->terms, sizeof(int));
    output->coefficient = PyMem_Calloc(output->terms, sizeof(double));
    output->single = PyMem_Calloc(output->terms, sizeof(float));
    if (!output->source || !output->coefficient || !output->single) return PyErr_NoMemory(), -1;
    for (Py_ssize_t t = 0; t < output->terms; t++) {
        if (!PyArg_ParseTuple(PyTuple_GetItem(terms, t), "id", &output->source[t], &output->coefficient[t])) return -1;
        if (output->source[t] < 0 || output->source[t] >= sources) {
            PyErr_Format(PyExc_ValueError, "source %d is not one of %zd.", output->source[t], sources);
            return -1;
        }
        output->single[t] = (float)output->coefficient[t];
        if (output->source[t] >= program->inputs) program->output[output->source[t] - program->inputs].is_read = 1;
    }
    if (output->limit < INFINITY && output->terms == 2 && output->coefficient[0] == 0) {
        PyErr_SetString(PyExc_ValueError, "the first term of an output that is clipped has the coefficient 0.");
        return -1;
    }
    round_coefficients(output, program->is_double);
    return 0;
}

static int read_places(Program *program, PyObject *places) {
    Py_ssize_t count = PyTuple_Size(places); /* an error if it is none */
    if (PyErr_Occurred()) return -1;
    if (count != program->inputs + program->outputs) {
        PyErr_Format(PyExc_ValueError, "%zd places for %zd inputs and %zd outputs.", count, program->inputs,
                     program->outputs);
        return -1;
    }
    program->place = PyMem_Calloc(count ? count : 1, sizeof(int));
    if (!program->place) return PyErr_NoMemory(), -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        program->place[i] = (int)PyLong_AsLong(PyTuple_GetItem(places, i));
        if (PyErr_Occurred()) return -1;
    }
    return 0;
}

static int read_kinds(Program *program, const char *kinds, Py_ssize_t given) {
    Py_ssize_t count = program->inputs + program->outputs, narrow = 0;
    for (Py_ssize_t i = 0; i < given; i++) {
        narrow += kinds[i] != WIDE;
        if (kinds[i] < WIDE || kinds[i] > FLOAT16) {
            PyErr_Format(PyExc_ValueError, "kind %d of array %zd: expected 0 to %d.", kinds[i], i, FLOAT16);
            return -1;
        }
    }
    if (given != count || narrow > MOST_NARROW || (narrow && (program->is_double || program->place))) {
        PyErr_Format(PyExc_ValueError,
                     "%zd kinds, %zd of half precision: expected %zd, at most %d of half precision, which neither sums "
                     "in double precision nor rows can have.",
                     given, narrow, count, MOST_NARROW);
        return -1;
    }
    program->has_narrow = narrow > 0;
    memcpy(program->kind, kinds, count);
    memcpy(program->source_kind, kinds, program->inputs);
    return 0;
}

PyDoc_STRVAR(program_doc, "program(is_double, inputs, outputs, places=None, kinds=b'')\n--\n\n"
                          "A program for :func:`combine`. `outputs` holds for each output what it is clipped to "
                          "(may be infinite) and its terms (source, coefficient). With the `places` of the inputs and "
                          "then of the outputs it is one for :func:`combine_rows`. `kinds` says for each of them whether "
                          "it is of the precision that sums are computed in (0), bfloat16 (1) or float16 (2).");

static PyObject *make_program(PyObject *module, PyObject *arguments) {
    int is_double;
    Py_ssize_t inputs;
    PyObject *outputs, *places = Py_None;
    const char *kinds = NULL;
    Py_ssize_t given = 0;
    if (!PyArg_ParseTuple(arguments, "pnO!|Oy#", &is_double, &inputs, &PyTuple_Type, &outputs, &places, &kinds, &given))
        return NULL;
    Py_ssize_t count = PyTuple_Size(outputs);
    if (inputs < 0 || inputs + count > MOST_ARRAYS)
        return PyErr_Format(PyExc_ValueError, "%zd inputs and %zd outputs: at most %d together.", inputs, count,
                            MOST_ARRAYS);
    Program *program = PyMem_Calloc(1, sizeof(Program));
    if (!program) return PyErr_NoMemory();
    program->is_double = is_double;
    program->inputs = inputs;
    program->outputs = count;
    program->output = PyMem_Calloc(count ? count : 1, sizeof(Output));
    program->kind = PyMem_Calloc(inputs + count + 1, 1);
    program->source_kind = PyMem_Calloc(inputs + count + 1, 1);
    if (!program->output || !program->kind || !program->source_kind) return free_program(program), PyErr_NoMemory();
    for (Py_ssize_t o = 0; o < count; o++)
        if (read_output(program, o, PyTuple_GetItem(outputs, o)) < 0)
            return free_program(program), NULL;
    if (places != Py_None && read_places(program, places) < 0) return free_program(program), NULL;
    if (given && read_kinds(program, kinds, given) < 0) return free_program(program), NULL;
    PyObject *capsule = PyCapsule_New(program, "diffusolve.program", destroy);
    if (!capsule) free_program(program);
    return capsule;
}

PyDoc_STRVAR(combine_doc, "combine(program, count, threads, *addresses)\n--\n\n"
                          "Run a program on arrays of `count` numbers, the addresses of its inputs and then of its "
                          "outputs given, 0 for an output that is there for others only. Nothing is checked that "
                          "only the arrays could tell.");

static PyObject *combine(PyObject *module, PyObject *const *arguments, Py_ssize_t given) {
    if (given < 3) return PyErr_Format(PyExc_TypeError, "expected a program, a count, threads and addresses.");
    const Program *program = PyCapsule_GetPointer(arguments[0], "diffusolve.program");
    if (!program) return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(arguments[1]), threads = PyLong_AsSsize_t(arguments[2]);
    if (PyErr_Occurred()) return NULL;
    if (given - 3 != program->inputs + program->outputs)
        return PyErr_Format(PyExc_TypeError, "%zd addresses: expected %zd.", given - 3,
                            program->inputs + program->outputs);
    if (count <= 0) Py_RETURN_NONE;
    char *arrays[MOST_ARRAYS];
    Py_ssize_t scratch = 0;
    for (Py_ssize_t i = 0; i < given - 3; i++) {
        arrays[i] = PyLong_AsVoidPtr(arguments[i + 3]);
        if (!arrays[i]) {
            if (PyErr_Occurred()) return NULL;
            if (i < program->inputs) return PyErr_Format(PyExc_ValueError, "the address of input %zd is 0.", i);
            scratch++;
        }
    }
    if (scratch > MOST_SCRATCH)
        return PyErr_Format(PyExc_ValueError, "%zd outputs have no address: at most %d may.", scratch, MOST_SCRATCH);
    const Task task = {program, arrays, count};
    if (count < LEAST_PER_THREAD) {
        run_task(&task, 0, count);
    } else {
        Py_BEGIN_ALLOW_THREADS;
        share_out(run_task, &task, count, threads);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

/* One row of a call: None, or (program, address of its slots). */
static int read_row(Row *row, PyObject *given, Py_ssize_t stacks) {
    if (given == Py_None) return 0;
    if (!PyTuple_Check(given) || PyTuple_Size(given) != 2) {
        PyErr_SetString(PyExc_TypeError, "a row is None or a tuple (program, slots).");
        return -1;
    }
    Program *program = PyCapsule_GetPointer(PyTuple_GetItem(given, 0), "diffusolve.program");
    if (!program) return -1;
    if (!program->place) {
        PyErr_SetString(PyExc_ValueError, "the program has no places: it is not for rows.");
        return -1;
    }
    row->slots = PyLong_AsVoidPtr(PyTuple_GetItem(given, 1));
    if (PyErr_Occurred()) return -1;
    for (Py_ssize_t i = 0; i < program->inputs + program->outputs; i++) {
        int place = program->place[i];
        if (-1 - place >= stacks) {
            PyErr_Format(PyExc_ValueError, "place %d, but %zd stacks are given.", place, stacks);
            return -1;
        }
        if (place >= 0 && !row->slots) {
            PyErr_SetString(PyExc_ValueError, "an address is 0.");
            return -1;
        }
    }
    row->program = program;
    return 0;
}

PyDoc_STRVAR(combine_rows_doc, "combine_rows(rows, count, threads, *stacks)\n--\n\n"
                               "Run the program of each of `rows`, a list of tuples (program, address of the slots), "
                               "or None where nothing is done. A place from 0 is a slot, `count` numbers each; -1 - k "
                               "is the row's part of the array `stacks[k]` of `count` numbers per row. Nothing is "
                               "checked that only the arrays could tell.");

static PyObject *combine_rows(PyObject *module, PyObject *const *arguments, Py_ssize_t given) {
    if (given < 3 || !PyList_Check(arguments[0]))
        return PyErr_Format(PyExc_TypeError, "expected a list of rows, a count, threads and stacks.");
    Py_ssize_t rows = PyList_Size(arguments[0]), stacks = given - 3;
    Py_ssize_t count = PyLong_AsSsize_t(arguments[1]), threads = PyLong_AsSsize_t(arguments[2]);
    if (PyErr_Occurred()) return NULL;
    if (rows == 0 || count <= 0) Py_RETURN_NONE;
    if (stacks > MOST_ARRAYS) return PyErr_Format(PyExc_ValueError, "%zd stacks: at most %d.", stacks, MOST_ARRAYS);
    char *stack[MOST_ARRAYS];
    for (Py_ssize_t i = 0; i < stacks; i++) {
        stack[i] = PyLong_AsVoidPtr(arguments[i + 3]);
        if (!stack[i]) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "an address is 0.");
            return NULL;
        }
    }
    Row *row = PyMem_Calloc(rows, sizeof(Row));
    if (!row) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < rows; i++)
        if (read_row(&row[i], PyList_GetItem(arguments[0], i), stacks) < 0) return PyMem_Free(row), NULL;
    const Rows all = {row, count, stack};
    if (rows * count < LEAST_PER_THREAD) {
        run_rows(&all, 0, rows * count);
    } else {
        Py_BEGIN_ALLOW_THREADS;
        share_out(run_rows, &all, rows * count, threads);
        Py_END_ALLOW_THREADS;
    }
    PyMem_Free(row);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"program", make_program, METH_VARARGS, program_doc},
    {"combine", (PyCFunction)(void (*)(void))combine, METH_FASTCALL, combine_doc},
    {"combine_rows", (PyCFunction)(void (*)(void))combine_rows, METH_FASTCALL, combine_rows_doc},
    {NULL, NULL, 0, NULL},
};

static int start(PyObject *module) { return find_workers(), 0; }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, start},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_combine", "Linear combinations in one pass over memory.", 0, methods, slots, 0, 0, 0,
};

PyMODINIT_FUNC PyInit__combine(void) { return PyModuleDef_Init(&module); }
