/*
 * The fused operators of fluxd and the device they run on: one description for two libraries.
 *
 * The CPU twins are linked into the addon, the CUDA kernels are a second library,
 * libfluxd_cuda.so, which exports `fluxd_cuda_library` alone. Both fill the same table of
 * functions, so code that calls an operator is written once.
 *
 * Conventions of every operator:
 * - Tensors are dense and row-major; dims stand in brackets, rows first. Operands do not overlap
 *   unless the operator says so.
 * - Sums, norms and rotations are float32; a result is rounded once, to nearest even, when stored.
 * - Zero rows are allowed and do nothing.
 * - The result is 0, or another number with a sentence in `last_error()` of the calling thread.
 *   A combination of dtypes or dims that a library does not have is such an error.
 * - CUDA launches only enqueue: no synchronisation, and no allocation after a stream's first call
 *   (so that a stream can be captured). Pointers to tensors are device pointers, 16-byte aligned.
 *   One stream is used by one host thread at a time.
 */
#ifndef FLUXD_KERNELS_H
#define FLUXD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes with every change of this file that an older library would misread. */
#define FLUXD_ABI_VERSION 4

/* Numbers of ONNX's TensorProto.DataType. */
typedef enum {
  FLUXD_F32 = 1,
  FLUXD_F16 = 10, /* images only */
  FLUXD_BF16 = 16,
  FLUXD_E4M3 = 17 /* float8e4m3fn: no infinity, largest value 448 */
} fluxd_dtype;

/* What becomes of t = x·Wᵀ + bias, [rows, out]. */
typedef enum {
  FLUXD_EPILOGUE_NONE = 0,     /* y = t */
  FLUXD_EPILOGUE_GELU = 1,     /* y = t/2 · (1 + tanh(√(2/π)·(t + 0.044715·t³))) */
  FLUXD_EPILOGUE_GATED = 2     /* y = residual + gate ⊙ t; gate runs along `out` */
} fluxd_epilogue;

/*
 * Where an operator runs. CUDA: a cudaStream_t. CPU: a `const fluxd_pool *`; NULL computes on the
 * calling thread.
 */
typedef void *fluxd_queue;

typedef struct {
  void *context;
  /* Calls body(data, i) once for each i in [0, count), on any threads; returns after the last. */
  void (*parallel_for)(void *context, int64_t count, void (*body)(void *data, int64_t i),
                       void *data);
} fluxd_pool;

/*
 * Linear layer. t[r, o] = Σ_i x[r, i]·weight[o, i] + bias[o], then the epilogue.
 * `dtype` is that of x, weight, bias, residual and y: F32 or BF16.
 * y may be residual (element by element each is read before it is written).
 * With `left`, y is wider: columns of left as they are, then those of the layer; not for a gated
 * one. CUDA: BF16; `in`, `out` and `left_width` are multiples of 8.
 */
typedef struct {
  int64_t rows, in, out;
  fluxd_dtype dtype;
  fluxd_epilogue epilogue;
  const void *x;        /* [rows, in] */
  const void *weight;   /* [out, in] */
  const void *bias;     /* [out], or NULL */
  const float *gate;    /* [out]; FLUXD_EPILOGUE_GATED only */
  const void *residual; /* [rows, out]; FLUXD_EPILOGUE_GATED only */
  void *y;              /* [rows, left_width + out] */
  const void *left;     /* [rows, left_width], or NULL */
  int64_t left_width;   /* 0 without left */
} fluxd_linear;

/*
 * Linear layer over e4m3 operands.
 * t[r, o] = x_scale[r]·weight_scale[o]·Σ_i x[r, i]·weight[o, i] + bias[o], then the epilogue.
 * `dtype` is that of bias, residual and y: F32 or BF16. y may be residual.
 * CUDA: BF16; `in` and `out` are multiples of 16.
 */
typedef struct {
  int64_t rows, in, out;
  fluxd_dtype dtype;
  fluxd_epilogue epilogue;
  const void *x;             /* [rows, in], E4M3 */
  const float *x_scale;      /* [rows] */
  const void *weight;        /* [out, in], E4M3 */
  const float *weight_scale; /* [out] */
  const void *bias;          /* [out], or NULL */
  const float *gate;         /* [out]; FLUXD_EPILOGUE_GATED only */
  const void *residual;      /* [rows, out]; FLUXD_EPILOGUE_GATED only */
  void *y;                   /* [rows, out] */
} fluxd_fp8_linear;

/*
 * e4m3 with one scale per row: of activations (a row is a token) and of weights (a row is an
 * output channel). scale[r] = max_i |x[r, i]| / 448, or 1 where that is 0;
 * y[r, i] = e4m3(x[r, i] / scale[r]), rounded to nearest even.
 * With `right`, a row is one of x and one of right, side by side.
 * `dtype` is that of x and right: F32 or BF16.
 */
typedef struct {
  int64_t rows, width;
  fluxd_dtype dtype;
  const void *x;       /* [rows, width] */
  void *y;             /* [rows, width + right_width], E4M3 */
  float *scale;        /* [rows] */
  const void *right;   /* [rows, right_width], or NULL */
  int64_t right_width; /* 0 without right */
} fluxd_quantize_rows;

/*
 * LayerNorm without affine, then modulation. With mean and biased variance of each row,
 * y = (x - mean) / √(variance + epsilon) ⊙ scale + shift; `scale` already holds the 1 of (1 + s).
 * `dtype` is that of x: F32 or BF16. `y_dtype` is the same, or E4M3: then y is quantised as by
 * fluxd_quantize_rows (from float32, without a detour over BF16) and `y_scale` is written.
 */
typedef struct {
  int64_t rows, width;
  fluxd_dtype dtype, y_dtype;
  float epsilon;
  const void *x;      /* [rows, width] */
  const float *scale; /* [width] */
  const float *shift; /* [width] */
  void *y;            /* [rows, width] */
  float *y_scale;     /* [rows]; y_dtype E4M3 only */
} fluxd_modulated_norm;

/*
 * From one fused projection qkv [rows, 3·heads·head_dim] (q, then k, then v; head-major inside
 * each): q and k after an RMS norm over each head and rotation of interleaved pairs, and v.
 *   n = x / √(mean(x²) + epsilon) ⊙ scale                       over the head_dim of each head
 *   y[2j] = n[2j]·cos[r, j] − n[2j+1]·sin[r, j],  y[2j+1] = n[2j+1]·cos[r, j] + n[2j]·sin[r, j]
 * `dtype` is that of qkv, both scales, q, k and v: F32 or BF16. head_dim is even.
 * Two streams that share an attention are two calls, whose results are row ranges of one buffer.
 */
typedef struct {
  int64_t rows, heads, head_dim;
  fluxd_dtype dtype;
  float epsilon;
  const void *qkv;     /* [rows, 3·heads·head_dim] */
  const void *q_scale; /* [head_dim] */
  const void *k_scale; /* [head_dim] */
  const float *cos;    /* [rows, head_dim/2] */
  const float *sin;    /* [rows, head_dim/2] */
  void *q, *k, *v;     /* [rows, heads·head_dim] each */
} fluxd_qk_norm_rope;

/*
 * A weight with low-rank changes: merged = base + (up ⊙ rank_scale)·down, in float32, rounded once.
 * Several changes are one, with their ranks side by side and a scale for each rank. Scaling rounds
 * to float32 before the product, so that factors that were scaled before give the same bits.
 * `dtype` is that of base: F32 or BF16. `merged_dtype` is the same, or E4M3: then merged is
 * quantised as by fluxd_quantize_rows (from float32) and `merged_scale` is written.
 * merged may be base if their dtypes agree. rank 0 copies or quantises.
 */
typedef struct {
  int64_t out, in, rank;
  fluxd_dtype dtype, merged_dtype;
  const void *base;    /* [out, in] */
  const float *up;     /* [out, rank] */
  const float *down;   /* [rank, in] */
  void *merged;        /* [out, in] */
  float *merged_scale; /* [out]; merged_dtype E4M3 only */
  const float *rank_scale; /* [rank], or NULL: all 1 */
} fluxd_merge;

/*
 * GroupNorm over an image, and SiLU of it where asked. A group is channels/groups neighbouring
 * channels; with mean and biased variance of all values of its group,
 *   n = (x − mean) / √(variance + epsilon)·scale[channel] + shift[channel]
 *   y = n, or with `silu` n / (1 + exp(−n)).
 * `dtype` is that of x and y: F32 or F16, which overflows to infinity. Groups divide the channels.
 * CUDA: `plane` a multiple of 8 is faster.
 */
typedef struct {
  int64_t channels, groups, plane; /* plane: height·width */
  fluxd_dtype dtype;
  int32_t silu;
  float epsilon;
  const void *x;      /* [channels, plane] */
  const float *scale; /* [channels] */
  const float *shift; /* [channels] */
  void *y;            /* [channels, plane] */
} fluxd_group_norm;

typedef struct {
  uint32_t abi_version; /* FLUXD_ABI_VERSION of the header it was built with */
  int (*linear)(const fluxd_linear *, fluxd_queue);
  int (*fp8_linear)(const fluxd_fp8_linear *, fluxd_queue);
  int (*quantize_rows)(const fluxd_quantize_rows *, fluxd_queue);
  int (*modulated_norm)(const fluxd_modulated_norm *, fluxd_queue);
  int (*qk_norm_rope)(const fluxd_qk_norm_rope *, fluxd_queue);
  int (*merge)(const fluxd_merge *, fluxd_queue);
  int (*group_norm)(const fluxd_group_norm *, fluxd_queue);
  const char *(*last_error)(void);
} fluxd_kernels;

/*
 * Memory and order of one device, as the upload and the merging of weights need them. Streams run
 * what is enqueued in order; an event is a point of a stream. Failures as above.
 */
typedef struct fluxd_device fluxd_device;
struct fluxd_device {
  uint32_t abi_version;
  const fluxd_kernels *kernels;
  void *context; /* first argument of every function below */
  int (*memory)(void *context, size_t *free_bytes, size_t *total_bytes);
  int (*alloc)(void *context, size_t bytes, void **memory); /* 256-byte aligned */
  int (*free)(void *context, void *memory);                 /* NULL is allowed */
  int (*alloc_host)(void *context, size_t bytes, void **memory); /* pinned: copies can overlap */
  int (*free_host)(void *context, void *memory);
  int (*create_stream)(void *context, fluxd_queue *stream);
  int (*destroy_stream)(void *context, fluxd_queue stream);
  int (*synchronize)(void *context, fluxd_queue stream); /* waits for all that was enqueued */
  int (*upload)(void *context, void *device, const void *host, size_t bytes, fluxd_queue);
  int (*download)(void *context, void *host, const void *device, size_t bytes, fluxd_queue);
  int (*copy)(void *context, void *to, const void *from, size_t bytes, fluxd_queue);
  int (*create_event)(void *context, void **event);
  int (*destroy_event)(void *context, void *event);
  int (*record)(void *context, void *event, fluxd_queue stream);
  int (*wait)(void *context, void *event); /* until it is reached; not if never recorded */
};

/* The CPU twins; operators take a fluxd_pool as their queue. */
const fluxd_kernels *fluxd_cpu_kernels(void);

/* Host memory in the place of a device; its streams run at once, on the calling thread. */
const fluxd_device *fluxd_cpu_device(void);

/*
 * The one export of libfluxd_cuda.so: writes device `ordinal` into *device, which stays valid
 * until the process ends. On failure returns non-zero and writes a sentence into *error.
 */
int fluxd_cuda_library(int ordinal, const fluxd_device **device, const char **error);

#ifdef __cplusplus
}
#endif

#endif
