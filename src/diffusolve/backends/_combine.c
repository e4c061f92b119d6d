/* Linear combinations of arrays, several at once, in one pass over memory. native.py says how it is used.

A program is made once: for each output its terms (source, coefficient), the largest last, where a source is one of the
inputs or an output before, and the limit that its numbers are clipped to. Arrays are taken block by block, small enough
to stay in the fastest cache, so that each input is read from memory once and each output written once. An output may be
one of the inputs that no later output reads. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>

#ifndef _WIN32
#include <pthread.h>
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

enum { BLOCK = 1024, AT_ONCE = 6, MOST_ARRAYS = 64, MOST_THREADS = 64, LEAST_PER_THREAD = 1 << 17 };

typedef struct {
    Py_ssize_t terms;
    int *source;
    double *coefficient, limit;
} Output;

typedef struct {
    int is_double;
    Py_ssize_t inputs, outputs;
    Output *output;
} Program;

typedef struct {
    const Program *program;
    char *const *arrays; /* inputs, then outputs */
    Py_ssize_t begin, end;
} Task;

/* r[i] = c[0] * x[0][i] + ... + c[k - 1] * x[k - 1][i], for k up to AT_ONCE; r may be one of the x.

The last term is the largest. l is what its coefficient lost when it was rounded, towards zero so that infinity stays what
it is; it is added first, and little but the roundings of the sum itself is left. */
#define TINY 0x1p-60

#define DEFINE_COMBINE(NAME, REAL)                                                                                     \
    FOR_EACH_PROCESSOR static void NAME(REAL *r, Py_ssize_t k, REAL *const *x, const REAL *c, REAL l, Py_ssize_t n) {  \
        const REAL *a = x[0], *b = x[k > 1 ? 1 : 0], *d = x[k > 2 ? 2 : 0], *e = x[k > 3 ? 3 : 0],                     \
                   *f = x[k > 4 ? 4 : 0], *g = x[k > 5 ? 5 : 0];                                                       \
        switch (k) {                                                                                                   \
        case 1:                                                                                                        \
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
    FOR_EACH_PROCESSOR static void NAME##_clipped(REAL *r, Py_ssize_t k, REAL *const *x, const double *c, double limit, \
                                                  Py_ssize_t n) {                                                      \
        const REAL *a = x[0], *b = x[k - 1];                                                                           \
        const double p = k > 1 ? c[0] : 0, q = c[k - 1];                                                               \
        _Pragma("GCC ivdep") for (Py_ssize_t i = 0; i < n; i++) {                                                      \
            double sum = k > 1 ? p * a[i] + q * b[i] : q * b[i];                                                       \
            r[i] = (REAL)(sum < -limit ? -limit : sum > limit ? limit : sum); /* NaN stays what it is */               \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static REAL NAME##_lost(double coefficient, REAL *rounded) {                                                       \
        if (fabs((double)*rounded) > fabs(coefficient)) *rounded = (REAL)nextafterf((float)*rounded, 0);               \
        REAL lost = (REAL)(coefficient - (double)*rounded);                                                            \
        return lost != 0 ? lost : *rounded * (REAL)TINY; /* since 0 times infinity is none */                          \
    }                                                                                                                  \
                                                                                                                       \
    static void NAME##_task(const Task *task) {                                                                        \
        const Program *program = task->program;                                                                        \
        for (Py_ssize_t at = task->begin; at < task->end; at += BLOCK) {                                               \
            Py_ssize_t n = task->end - at < BLOCK ? task->end - at : BLOCK;                                            \
            for (Py_ssize_t o = 0; o < program->outputs; o++) {                                                        \
                const Output *output = &program->output[o];                                                            \
                REAL *r = (REAL *)task->arrays[program->inputs + o] + at;                                              \
                REAL *x[AT_ONCE], c[AT_ONCE], sum[BLOCK];                                                              \
                Py_ssize_t k = 0;                                                                                      \
                for (Py_ssize_t t = 0; t < output->terms; t++) {                                                       \
                    if (k == AT_ONCE) { /* the sum so far becomes the first of the terms that are left */              \
                        NAME(sum, k, x, c, c[k - 1] * (REAL)TINY, n);                                                  \
                        x[0] = sum, c[0] = 1, k = 1;                                                                   \
                    }                                                                                                  \
                    x[k] = (REAL *)task->arrays[output->source[t]] + at, c[k++] = (REAL)output->coefficient[t];        \
                }                                                                                                      \
                if (output->limit < INFINITY) {                                                                        \
                    NAME##_clipped(r, k, x, output->coefficient, output->limit, n);                                    \
                } else {                                                                                               \
                    REAL lost = NAME##_lost(output->coefficient[output->terms - 1], &c[k - 1]);                        \
                    NAME(r, k, x, c, lost, n);                                                                         \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

DEFINE_COMBINE(combine_float, float)
DEFINE_COMBINE(combine_double, double)

static void *run_task(void *argument) {
    const Task *task = argument;
    (task->program->is_double ? combine_double_task : combine_float_task)(task);
    return NULL;
}

static void run_tasks(const Program *program, char *const *arrays, Py_ssize_t count, Py_ssize_t threads) {
    Py_ssize_t most = count / LEAST_PER_THREAD;
    threads = threads < most ? threads : most;
#ifdef _WIN32
    threads = 1;
#else
    if (threads > 1) {
        Task task[MOST_THREADS];
        pthread_t thread[MOST_THREADS];
        int started[MOST_THREADS];
        threads = threads < MOST_THREADS ? threads : MOST_THREADS;
        for (Py_ssize_t i = 0; i < threads; i++) {
            task[i] = (Task){program, arrays, count / threads * i, i + 1 < threads ? count / threads * (i + 1) : count};
            started[i] = i > 0 && pthread_create(&thread[i], NULL, run_task, &task[i]) == 0;
        }
        for (Py_ssize_t i = 0; i < threads; i++)
            if (!started[i]) run_task(&task[i]);
        for (Py_ssize_t i = 0; i < threads; i++)
            if (started[i]) pthread_join(thread[i], NULL);
        return;
    }
#endif
    run_task(&(Task){program, arrays, 0, count});
}

static void free_program(Program *program) {
    for (Py_ssize_t o = 0; program->output && o < program->outputs; o++) {
        PyMem_Free(program->output[o].source);
        PyMem_Free(program->output[o].coefficient);
    }
    PyMem_Free(program->output);
    PyMem_Free(program);
}

static void destroy(PyObject *capsule) { free_program(PyCapsule_GetPointer(capsule, "diffusolve.program")); }

static int read_output(Output *output, PyObject *given, Py_ssize_t sources) {
    PyObject *terms;
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
    if (!output->source || !output->coefficient) return PyErr_NoMemory(), -1;
    for (Py_ssize_t t = 0; t < output->terms; t++) {
        if (!PyArg_ParseTuple(PyTuple_GetItem(terms, t), "id", &output->source[t], &output->coefficient[t])) return -1;
        if (output->source[t] < 0 || output->source[t] >= sources) {
            PyErr_Format(PyExc_ValueError, "source %d is not one of %zd.", output->source[t], sources);
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(program_doc, "program(is_double, inputs, outputs)\n--\n\n"
                          "A program for :func:`combine`. `outputs` holds for each output what it is clipped to "
                          "(may be infinite) and its terms (source, coefficient).");

static PyObject *make_program(PyObject *module, PyObject *arguments) {
    int is_double;
    Py_ssize_t inputs;
    PyObject *outputs;
    if (!PyArg_ParseTuple(arguments, "pnO!", &is_double, &inputs, &PyTuple_Type, &outputs)) return NULL;
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
    if (!program->output) return free_program(program), PyErr_NoMemory();
    for (Py_ssize_t o = 0; o < count; o++)
        if (read_output(&program->output[o], PyTuple_GetItem(outputs, o), inputs + o) < 0)
            return free_program(program), NULL;
    PyObject *capsule = PyCapsule_New(program, "diffusolve.program", destroy);
    if (!capsule) free_program(program);
    return capsule;
}

PyDoc_STRVAR(combine_doc, "combine(program, count, threads, *addresses)\n--\n\n"
                          "Run a program on arrays of `count` numbers, the addresses of its inputs and then of its "
                          "outputs given. Nothing is checked that only the arrays could tell.");

static PyObject *combine(PyObject *module, PyObject *const *arguments, Py_ssize_t given) {
    if (given < 3) return PyErr_Format(PyExc_TypeError, "expected a program, a count, threads and addresses.");
    const Program *program = PyCapsule_GetPointer(arguments[0], "diffusolve.program");
    if (!program) return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(arguments[1]), threads = PyLong_AsSsize_t(arguments[2]);
    if (PyErr_Occurred()) return NULL;
    if (given - 3 != program->inputs + program->outputs)
        return PyErr_Format(PyExc_TypeError, "%zd addresses: expected %zd.", given - 3,
                            program->inputs + program->outputs);
    char *arrays[MOST_ARRAYS];
    for (Py_ssize_t i = 0; i < given - 3; i++) {
        arrays[i] = PyLong_AsVoidPtr(arguments[i + 3]);
        if (!arrays[i] && count > 0) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "an address is 0.");
            return NULL;
        }
    }
    if (count < LEAST_PER_THREAD) {
        run_tasks(program, arrays, count, 1);
    } else {
        Py_BEGIN_ALLOW_THREADS;
        run_tasks(program, arrays, count, threads);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"program", make_program, METH_VARARGS, program_doc},
    {"combine", (PyCFunction)(void (*)(void))combine, METH_FASTCALL, combine_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_combine", "Linear combinations in one pass over memory.", 0, methods, slots, 0, 0, 0,
};

PyMODINIT_FUNC PyInit__combine(void) { return PyModuleDef_Init(&module); }
