/* Standard normal numbers that depend on a key, the number of the draw and their place alone. counter.py says the same in
NumPy, to the bit: every operation is one of IEEE single precision or of whole numbers. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef _WIN32
#include <pthread.h>
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

enum { BLOCKS = 256, CHUNK = 4 * BLOCKS, ROUNDS = 10, MOST_THREADS = 64, LEAST_PER_THREAD = 1 << 15 };

typedef struct {
    float *numbers;
    Py_ssize_t begin, end; /* chunks */
    Py_ssize_t count;
    uint32_t key[2];
    uint64_t draw;
} Task;

/* Box and Muller: two normal numbers of two uniform ones. */
static inline void two_normals(uint32_t a, uint32_t b, float *r, float *s) {
    /* log(u), u in (0, 1], as exponent and mantissa from sqrt(1/2) to sqrt(2), whose logarithm is 2 artanh(z) */
    float u = (float)a * 0x1p-32f + 0x1p-33f;
    uint32_t bits;
    memcpy(&bits, &u, sizeof bits);
    uint32_t shifted = bits - 0x3f3504f3u, mantissa = (shifted & 0x007fffffu) + 0x3f3504f3u;
    float m, exponent = (float)((int32_t)shifted >> 23);
    memcpy(&m, &mantissa, sizeof m);
    float z = (m - 1) / (m + 1), w = z * z;
    float logarithm = exponent * 0.693147182f + z * (2 + w * (0.666666687f + w * (0.4f + w * (0.285714298f + w * 0.222222224f))));
    float radius = sqrtf(-2 * (logarithm < 0 ? logarithm : 0));
    /* The angle: a quarter of the circle from its two highest bits, and from the others one from -pi/4 to pi/4. */
    float angle = (float)((int32_t)(b & 0x3fffffffu) - 0x20000000) * 1.46291812e-09f, v = angle * angle;
    float sine = angle * (1 + v * (-0.166666672f + v * (0.00833333377f + v * (-0.000198412701f + v * 2.75573188e-06f))));
    float cosine = 1 + v * (-0.5f + v * (0.0416666679f + v * (-0.00138888892f + v * (2.48015876e-05f + v * -2.755732e-07f))));
    uint32_t quarter = b >> 30;
    float x = quarter & 1 ? sine : cosine, y = quarter & 1 ? cosine : sine;
    *r = radius * (quarter == 1 || quarter == 2 ? -x : x);
    *s = radius * (quarter >= 2 ? -y : y);
}

/* Philox 4x32-10 (Salmon et al. 2011) of BLOCKS counters, made normal. */
FOR_EACH_PROCESSOR static void fill_chunk(float *restrict r, uint64_t first, const uint32_t *key, uint64_t draw) {
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) { /* counters of one chunk differ in their low word alone */
        c0[i] = (uint32_t)first + (uint32_t)i, c1[i] = (uint32_t)(first >> 32);
        c2[i] = (uint32_t)draw, c3[i] = (uint32_t)(draw >> 32);
    }
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t p = (uint64_t)0xd2511f53u * c0[i], q = (uint64_t)0xcd9e8d57u * c2[i];
            c0[i] = (uint32_t)(q >> 32) ^ c1[i] ^ k0, c1[i] = (uint32_t)q;
            c2[i] = (uint32_t)(p >> 32) ^ c3[i] ^ k1, c3[i] = (uint32_t)p;
        }
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    for (int i = 0; i < BLOCKS; i++) two_normals(c0[i], c1[i], &r[i], &r[i + BLOCKS]);
    for (int i = 0; i < BLOCKS; i++) two_normals(c2[i], c3[i], &r[i + 2 * BLOCKS], &r[i + 3 * BLOCKS]);
}

static void *run_task(void *argument) {
    const Task *task = argument;
    float last[CHUNK];
    for (Py_ssize_t chunk = task->begin; chunk < task->end; chunk++) {
        Py_ssize_t left = task->count - chunk * CHUNK;
        fill_chunk(left < CHUNK ? last : task->numbers + chunk * CHUNK, (uint64_t)chunk * BLOCKS, task->key, task->draw);
        if (left < CHUNK) memcpy(task->numbers + chunk * CHUNK, last, (size_t)left * sizeof(float));
    }
    return NULL;
}

static void fill(Task whole, Py_ssize_t threads) {
    Py_ssize_t most = whole.count / LEAST_PER_THREAD;
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
            task[i] = whole;
            task[i].begin = whole.end / threads * i;
            task[i].end = i + 1 < threads ? whole.end / threads * (i + 1) : whole.end;
            started[i] = i > 0 && pthread_create(&thread[i], NULL, run_task, &task[i]) == 0;
        }
        for (Py_ssize_t i = 0; i < threads; i++)
            if (!started[i]) run_task(&task[i]);
        for (Py_ssize_t i = 0; i < threads; i++)
            if (started[i]) pthread_join(thread[i], NULL);
        return;
    }
#endif
    run_task(&whole);
}

PyDoc_STRVAR(normal_doc, "normal(address, count, key0, key1, draw, threads)\n--\n\n"
                         "Write `count` normal numbers of single precision to `address`: those of draw number `draw` "
                         "with a key of two whole numbers of 32 bits.");

static PyObject *normal(PyObject *module, PyObject *arguments) {
    PyObject *address;
    Py_ssize_t count, threads;
    unsigned int key0, key1;
    unsigned long long draw;
    if (!PyArg_ParseTuple(arguments, "OnIIKn", &address, &count, &key0, &key1, &draw, &threads)) return NULL;
    float *numbers = PyLong_AsVoidPtr(address);
    if (!numbers && (PyErr_Occurred() || count > 0)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "the address is 0.");
        return NULL;
    }
    if (count > 0) {
        Py_BEGIN_ALLOW_THREADS;
        fill((Task){numbers, 0, (count + CHUNK - 1) / CHUNK, count, {key0, key1}, draw}, threads);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"normal", normal, METH_VARARGS, normal_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_normal", "Normal numbers from a counter.", 0, methods, slots, 0, 0, 0,
};

PyMODINIT_FUNC PyInit__normal(void) { return PyModuleDef_Init(&module); }
