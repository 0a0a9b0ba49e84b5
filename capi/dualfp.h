/* The C interface of dualfp: number formats, quantizers, planes and products at a chosen precision.
 *
 * The caller owns all memory: tensors, workspace, and what kernels keep on a stream. No function
 * allocates memory of a device, and none but dualfp_stream_state_init() waits for one. On a GPU a
 * function enqueues its work on the stream that it is given, which may be being captured: it then
 * launches what it would have launched otherwise. On the CPU it has finished when it returns.
 *
 * Every function returns DUALFP_OK or says in dualfp_last_error() what was wrong with which
 * argument; outputs are then unspecified. No exception leaves the library and nothing ends the
 * process. Functions may be called from any thread at once; calls that share a stream or its state
 * must be ordered by the caller.
 *
 * Structs that may grow begin with their size as the caller was compiled, so that a program runs
 * with any later library of the same DUALFP_ABI_VERSION. Absent tensors have no data. Zero every
 * struct before setting members: zero is the default of each.
 *
 * Formats, layouts and rounding are those of docs/formats.md; docs/c_api.md has an example.
 */

#ifndef DUALFP_CAPI_DUALFP_H_
#define DUALFP_CAPI_DUALFP_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// NOLINTBEGIN(readability-identifier-naming): C's own style.

/* Grows when a caller that was compiled against an older header would go wrong. */
enum { DUALFP_ABI_VERSION = 1 };

typedef enum dualfp_status {
  DUALFP_OK = 0,
  DUALFP_INVALID_ARGUMENT = 1,   /* a value, shape, dtype, stride or device that does not fit */
  DUALFP_NOT_FOUND = 2,          /* no such device, name or file */
  DUALFP_INVALID_DATA = 3,       /* weights that are NaN or infinite; bytes that break a format */
  DUALFP_UNSUPPORTED = 4,        /* valid, but not something that this build or device computes */
  DUALFP_RESOURCE_EXHAUSTED = 5, /* out of memory */
  DUALFP_CANCELLED = 6,
  DUALFP_IO = 7,
  DUALFP_INTERNAL = 8 /* a bug in dualfp, or a GPU's error, in the driver's words */
} dualfp_status;

typedef enum dualfp_dtype {
  DUALFP_F32 = 0,
  DUALFP_F16 = 1,
  DUALFP_BF16 = 2,
  DUALFP_F8_E4M3 = 3,
  DUALFP_F8_E5M2 = 4,
  DUALFP_F8_E8M0 = 5,
  DUALFP_U8 = 6,
  DUALFP_I8 = 7,
  DUALFP_I64 = 8,
  DUALFP_U16 = 9
} dualfp_dtype;

typedef enum dualfp_precision {
  DUALFP_EXACT = 0, /* the weight as it was before it was split or coded */
  DUALFP_FP8 = 1,
  DUALFP_FP4 = 2
} dualfp_precision;

typedef enum dualfp_format {
  DUALFP_PLAIN = 0,
  DUALFP_NESTED = 1,
  DUALFP_NESTED12 = 2,
  DUALFP_FORMAT_FP8 = 3,
  DUALFP_NVFP4 = 4,
  DUALFP_MXFP4 = 5,
  DUALFP_MXFP8 = 6
} dualfp_format;

typedef enum dualfp_granularity { /* over what a weight's scale is shared */
                                  DUALFP_SCALE_NONE = 0,
                                  DUALFP_SCALE_PER_TENSOR = 1,
                                  DUALFP_SCALE_PER_CHANNEL = 2,
                                  DUALFP_SCALE_BLOCK128 = 3,
                                  DUALFP_SCALE_GROUP = 4
} dualfp_granularity;

typedef enum dualfp_activation_quant {                        /* what happens to X at DUALFP_FP8 */
                                       DUALFP_PER_TOKEN = 0,  /* a scale a row, max |x| / 448 */
                                       DUALFP_PER_TENSOR = 1, /* one for all rows, which then depend
                                                                 on each other */
                                       DUALFP_STATIC = 2,     /* the weight's input_scale */
                                       DUALFP_WEIGHT_ONLY = 3, /* none: X is used as it is */
                                       DUALFP_PER_GROUP = 4 /* a scale for 128 elements of a row */
} dualfp_activation_quant;

enum { DUALFP_CPU = -1 }; /* dualfp_tensor.device; GPUs count from 0 */
enum { DUALFP_MAX_RANK = 4 };

typedef struct dualfp_tensor {
  void* data;
  int64_t shape[DUALFP_MAX_RANK];
  int64_t strides[DUALFP_MAX_RANK]; /* elements */
  int32_t rank;
  int32_t dtype;  /* dualfp_dtype */
  int32_t device; /* DUALFP_CPU or a GPU's index */
  int32_t reserved;
} dualfp_tensor;

/* A weight [n, k] by its planes and scales, all on one device. Which are there, with what shapes:
 *                values            lower                 scales
 *   PLAIN        F16|BF16|F32 [n,k]
 *   NESTED       F8_E4M3 [n,k]     U8 [n,k]
 *   NESTED12     F8_E4M3 [n,k]     CPU: U8 [n,(k+1)/2]   CPU: I8 [n]
 *                                  GPU: U8, dualfp_nibble_bytes()   GPU: F32 [n]
 *   FORMAT_FP8   F8_E4M3 [n,k]                           F32 [1], [n] or [n/128,k/128] rounded up
 *   NVFP4        U8 [n,k/2]                              F8_E4M3 [n,k/16], and global_scale F32 [1]
 *   MXFP4, MXFP8 U8 [n,k/2], F8_E4M3 [n,k]               F8_E8M0 [n,k/32]
 * On a GPU, planes are as dualfp_nest(), dualfp_nest12() and dualfp_planes_to_device() leave them.
 * Outliers are ascending: I64 [c] row * k + column and F32 [c]. NESTED12 on a GPU has them in
 * outlier_index alone, as dualfp_nest12_batches() packs them. */
typedef struct dualfp_weight {
  uint32_t struct_size;
  int32_t format;      /* dualfp_format */
  int32_t granularity; /* dualfp_granularity */
  int32_t reserved;
  int64_t n;
  int64_t k;
  dualfp_tensor values;
  dualfp_tensor lower;
  dualfp_tensor scales;
  dualfp_tensor global_scale;
  dualfp_tensor input_scale; /* F32 [1], for DUALFP_STATIC */
  dualfp_tensor outlier_index;
  dualfp_tensor outlier_value;
} dualfp_weight;

/* y [m,n] = x [m,k] weight^T + bias + residual, at a precision.
 * x may be F32, F16 or BF16, or codes and x_scales that dualfp_quantize() wrote. Columns are
 * contiguous, rows may be strided; on a GPU x's and y's rows begin at multiples of 16 bytes. m may
 * be 0. y must not overlap x. */
typedef struct dualfp_gemm_args {
  uint32_t struct_size;
  int32_t precision;        /* dualfp_precision */
  int32_t activation_quant; /* dualfp_activation_quant; at DUALFP_FP8 only */
  int32_t promoted;         /* not 0: FP8 sums go to FP32 every 128 of k, on tensor cores too */
  int32_t silu_mul;         /* not 0: rows of the weight are gate and up in turn, y is [m, n/2] */
  int32_t reserved;
  const dualfp_weight* weight;
  dualfp_tensor x;
  dualfp_tensor x_scales; /* F32 [m], beside an x of codes */
  dualfp_tensor y;        /* F32, F16 or BF16 */
  dualfp_tensor bias;     /* F32 [n], optional */
  dualfp_tensor residual; /* like y, optional; may be y itself */
  void* stream;           /* cudaStream_t; ignored on the CPU */
  void* stream_state;     /* see dualfp_stream_state_bytes() */
  void* workspace;        /* on x's device, at a multiple of 256 */
  int64_t workspace_bytes;
} dualfp_gemm_args;

/* What splitting saw, on the device of the weight. Calls add to it: zero it first. */
typedef struct dualfp_plane_counts {
  uint64_t outliers;   /* to be listed; those beyond the lists' room are counted only */
  uint64_t non_finite; /* NaN and infinities: no weight can have any */
  uint64_t not_before; /* where there are any: the complement of the first one's index */
  uint64_t rounded;    /* weights that the format's 16-bit type does not hold exactly */
  uint64_t invalid;    /* reserved */
  float largest_error; /* largest relative error of those */
  uint32_t reserved;
} dualfp_plane_counts;

/* The library's DUALFP_ABI_VERSION, and its own version, e.g. "0.1.0". */
int32_t dualfp_abi_version(void);
const char* dualfp_version(void);

/* One line about the last call of this thread that failed; "" where none has. Valid until the
 * thread's next call. */
const char* dualfp_last_error(void);

/* GPUs that this build and the driver can use; 0 where there are none, never an error. */
int32_t dualfp_gpu_count(void);
/* 90 for 9.0; of the CPU 0. */
dualfp_status dualfp_compute_capability(int32_t device, int32_t* capability);
/* "NVIDIA H200". Cut to `size` bytes, ending in 0. */
dualfp_status dualfp_device_name(int32_t device, char* name, size_t size);

/* Threads that CPU functions share, the caller included; 0: one a core, the default. */
dualfp_status dualfp_set_num_threads(int32_t threads);

/* What kernels keep on a stream between launches: so many bytes of the device at a multiple of 256,
 * 0 where they keep nothing. Each stream that runs at a time wants its own; a graph runs with that
 * of its capture. dualfp_stream_state_init() enqueues the initialisation, and waits for the device
 * the first time: call it while loading, not while the stream is captured. */
dualfp_status dualfp_stream_state_bytes(int32_t device, int64_t* bytes);
dualfp_status dualfp_stream_state_init(int32_t device, void* state, void* stream);

/* Whether a GPU's stream is being captured: 1 or 0. */
dualfp_status dualfp_stream_is_capturing(int32_t device, void* stream, int32_t* capturing);

/* Bytes of workspace that are enough for dualfp_gemm() with these arguments and any smaller m.
 * Only shapes, dtypes and devices of the tensors matter: any data that is not null will do. */
dualfp_status dualfp_gemm_workspace_bytes(const dualfp_gemm_args* args, int64_t* bytes);
dualfp_status dualfp_gemm(const dualfp_gemm_args* args);
/* Which kernel dualfp_gemm() runs, by name. A function of the arguments' shapes and of the device
 * alone. Cut to `size` bytes, ending in 0. */
dualfp_status dualfp_gemm_kernel(const dualfp_gemm_args* args, char* name, size_t size);

/* Activations x F32|F16|BF16 [m,k] to codes F8_E4M3 [m,k] and scales F32 [m], by PER_TOKEN,
 * PER_TENSOR or STATIC. `static_scale` is F32 [1] on x's device, for STATIC. On a GPU x is F16 or
 * BF16, k a multiple of 16, codes are contiguous and permuted inside each 16 of k as the products
 * want them (docs/formats.md), and PER_TENSOR writes the one scale to scales[0], which holds
 * DUALFP_PER_TENSOR_SCRATCH floats. */
enum { DUALFP_PER_TENSOR_SCRATCH = 1024 };
dualfp_status dualfp_quantize(const dualfp_tensor* x, int32_t activation_quant,
                              const dualfp_tensor* static_scale, const dualfp_tensor* codes,
                              const dualfp_tensor* scales, void* stream);

/* A weight F32|F16|BF16 [n,k] on the CPU to codes and scales of a format with scales, of the shapes
 * that dualfp_weight says. `global_scale` may be null where the format has none. */
dualfp_status dualfp_quantize_weight(const dualfp_tensor* weight, int32_t format,
                                     int32_t granularity, const dualfp_tensor* codes,
                                     const dualfp_tensor* scales,
                                     const dualfp_tensor* global_scale);

/* Planes. `weight` is contiguous F16, BF16 or (on the CPU) F32 [n,k]; planes and shifts are as
 * dualfp_weight has them. The index and value lists have room for as many outliers as their shape
 * says; on a GPU they come in no order, so sort them by index. On a GPU k is a multiple of 16 and
 * `counts` is known when the stream has come by. On the CPU non-finite weights are
 * DUALFP_INVALID_DATA. Planes of more outliers than there was room for are of no use. */
dualfp_status dualfp_nest(const dualfp_tensor* weight, const dualfp_tensor* upper,
                          const dualfp_tensor* lower, const dualfp_tensor* outlier_index,
                          const dualfp_tensor* outlier_value, dualfp_plane_counts* counts,
                          void* stream);

/* Nested12: `weight` is BF16 on a GPU. There, scales are F32 [n] and outlier values U16 [c], BF16
 * patterns for dualfp_nest12_batches(). */
dualfp_status dualfp_nest12(const dualfp_tensor* weight, const dualfp_tensor* upper,
                            const dualfp_tensor* nibbles, const dualfp_tensor* scales,
                            const dualfp_tensor* outlier_index, const dualfp_tensor* outlier_value,
                            dualfp_plane_counts* counts, void* stream);

/* Bytes of the nibble plane on a device. */
int64_t dualfp_nibble_bytes(int32_t device, int64_t n, int64_t k);

/* Packs a GPU's sorted outliers of a NESTED12 weight, host memory, into rows of 32 I64 each, host
 * memory with room for `capacity` rows: what dualfp_weight.outlier_index [rows,32] holds on the
 * GPU. With too little room `rows` says how many there are, and nothing is written. */
dualfp_status dualfp_nest12_batches(int64_t n, int64_t k, const int64_t* index,
                                    const uint16_t* bf16, int64_t count, int64_t* batches,
                                    int64_t capacity, int64_t* rows);

/* The weight again, exactly: `out` F16 of NESTED, BF16 of NESTED12, [n,k], contiguous. On a GPU
 * outliers of NESTED are left clamped: add outlier_value at outlier_index. */
dualfp_status dualfp_merge(const dualfp_weight* weight, const dualfp_tensor* out, void* stream);

/* Row-major planes of a NESTED weight, or codes of a FP8 one (`lower` null), on a GPU, to what its
 * kernels read, in place; k is a multiple of 16. */
dualfp_status dualfp_planes_to_device(const dualfp_tensor* upper, const dualfp_tensor* lower,
                                      void* stream);

/* Floats of the host to codes of a dtype and back: nearest, ties to even, saturating where the
 * format has no infinity. F16, BF16, F8_E4M3, F8_E5M2. */
dualfp_status dualfp_encode(int32_t dtype, const float* values, void* codes, int64_t count);
dualfp_status dualfp_decode(int32_t dtype, const void* codes, float* values, int64_t count);

// NOLINTEND(readability-identifier-naming)

#ifdef __cplusplus
}
#endif

#endif  // DUALFP_CAPI_DUALFP_H_
