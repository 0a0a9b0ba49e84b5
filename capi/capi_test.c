/* The C interface from C, against the published definitions in double arithmetic. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dualfp.h"

enum { kM = 5, kN = 48, kK = 272 };

static int failures = 0;

static void Expect(int holds, const char* what, int line) {
  if (!holds) {
    printf("line %d: %s (%s)\n", line, what, dualfp_last_error());
    ++failures;
  }
}
#define EXPECT(condition) Expect((condition), #condition, __LINE__)

static dualfp_tensor Matrix(void* data, int32_t dtype, int64_t rows, int64_t columns) {
  dualfp_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.device = DUALFP_CPU;
  tensor.rank = 2;
  tensor.shape[0] = rows;
  tensor.shape[1] = columns;
  tensor.strides[0] = columns;
  tensor.strides[1] = 1;
  return tensor;
}

static dualfp_tensor Vector(void* data, int32_t dtype, int64_t count) {
  dualfp_tensor tensor = Matrix(data, dtype, count, 1);
  tensor.rank = 1;
  tensor.strides[0] = 1;
  return tensor;
}

/* IEEE 754 binary16 and OCP E4M3 by their definitions. */
static double HalfValue(uint16_t h) {
  const int exponent = h >> 10 & 31;
  const int mantissa = h & 1023;
  const double magnitude =
      exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
  return h >> 15 ? -magnitude : magnitude;
}

static double E4m3Value(uint8_t code) {
  const int exponent = code >> 3 & 15;
  const int mantissa = code & 7;
  const double magnitude = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
  return code >> 7 ? -magnitude : magnitude;
}

/* The nearest code, an even one where two are as near. */
static uint8_t NearestE4m3(double value) {
  int best = 0;
  for (int code = 1; code < 127; ++code) {
    const double closer = fabs(E4m3Value((uint8_t)best) - fabs(value));
    const double distance = fabs(E4m3Value((uint8_t)code) - fabs(value));
    if (distance < closer || (distance == closer && code % 2 == 0)) {
      best = code;
    }
  }
  return (uint8_t)(signbit(value) ? best | 128 : best);
}

static uint16_t half_weights[kN * kK];
static float x[kM * kK];
static uint8_t upper[kN * kK];
static uint8_t lower[kN * kK];
static int64_t outlier_index[64];
static float outlier_value[64];
static int64_t num_outliers;

static void MakeInputs(void) {
  static float weights[kN * kK];
  uint32_t state = 1;
  for (int i = 0; i < kN * kK; ++i) {
    state = state * 1664525u + 1013904223u;
    weights[i] = (float)((double)state / 4294967296.0 - 0.5) * 0.4f;
  }
  weights[7] = 2.5f; /* beyond the planes */
  weights[3 * kK + 11] = -100.0f;
  EXPECT(dualfp_encode(DUALFP_F16, weights, half_weights, kN * kK) == DUALFP_OK);
  for (int i = 0; i < kM * kK; ++i) {
    state = state * 1664525u + 1013904223u;
    x[i] = (float)((double)state / 4294967296.0 - 0.5) * 6.0f;
  }
}

static dualfp_weight NestedWeight(void) {
  dualfp_weight weight;
  memset(&weight, 0, sizeof weight);
  weight.struct_size = sizeof weight;
  weight.format = DUALFP_NESTED;
  weight.n = kN;
  weight.k = kK;
  weight.values = Matrix(upper, DUALFP_F8_E4M3, kN, kK);
  weight.lower = Matrix(lower, DUALFP_U8, kN, kK);
  weight.outlier_index = Vector(outlier_index, DUALFP_I64, num_outliers);
  weight.outlier_value = Vector(outlier_value, DUALFP_F32, num_outliers);
  return weight;
}

static void TestFormats(void) {
  uint8_t codes[256];
  float values[256];
  for (int i = 0; i < 256; ++i) {
    codes[i] = (uint8_t)i;
  }
  EXPECT(dualfp_decode(DUALFP_F8_E4M3, codes, values, 256) == DUALFP_OK);
  for (int i = 0; i < 256; ++i) {
    EXPECT((i & 127) == 127 ? isnan(values[i]) : values[i] == (float)E4m3Value((uint8_t)i));
  }
  EXPECT(dualfp_encode(DUALFP_F8_E4M3, x, codes, 256) == DUALFP_OK);
  for (int i = 0; i < 256; ++i) {
    EXPECT(codes[i] == NearestE4m3(x[i]));
  }
  EXPECT(dualfp_decode(DUALFP_I64, codes, values, 256) == DUALFP_INVALID_ARGUMENT);
}

static void TestNest(void) {
  const dualfp_tensor w = Matrix(half_weights, DUALFP_F16, kN, kK);
  const dualfp_tensor u = Matrix(upper, DUALFP_F8_E4M3, kN, kK);
  const dualfp_tensor l = Matrix(lower, DUALFP_U8, kN, kK);
  const dualfp_tensor index = Vector(outlier_index, DUALFP_I64, 64);
  const dualfp_tensor value = Vector(outlier_value, DUALFP_F32, 64);
  dualfp_plane_counts counts;
  memset(&counts, 0, sizeof counts);
  EXPECT(dualfp_nest(&w, &u, &l, &index, &value, &counts, NULL) == DUALFP_OK);
  EXPECT(counts.outliers == 2 && counts.rounded == 0);
  EXPECT(outlier_index[0] == 7 && outlier_value[0] == 0.75f);
  EXPECT(outlier_index[1] == 3 * kK + 11 && outlier_value[1] == -98.25f);
  num_outliers = 2;
  for (int i = 0; i < kN * kK; ++i) {
    const double clamped = fmax(-1.75, fmin(1.75, HalfValue(half_weights[i])));
    EXPECT(upper[i] == NearestE4m3(256 * clamped));
  }
  static uint16_t merged[kN * kK];
  const dualfp_weight weight = NestedWeight();
  const dualfp_tensor out = Matrix(merged, DUALFP_F16, kN, kK);
  EXPECT(dualfp_merge(&weight, &out, NULL) == DUALFP_OK);
  EXPECT(memcmp(merged, half_weights, sizeof merged) == 0);
}

static void TestNested12(void) {
  static uint16_t bf16[kN * kK];
  static uint16_t merged[kN * kK];
  static uint8_t upper12[kN * kK];
  static uint8_t nibbles[kN * kK / 2];
  static int8_t shifts[kN];
  static int64_t index[4096];
  static float value[4096];
  float row[kK];
  for (int n = 0; n < kN; ++n) {
    for (int k = 0; k < kK; ++k) {
      row[k] = (float)HalfValue(half_weights[n * kK + k]);
    }
    EXPECT(dualfp_encode(DUALFP_BF16, row, bf16 + n * kK, kK) == DUALFP_OK);
  }
  EXPECT(dualfp_nibble_bytes(DUALFP_CPU, kN, kK) == (int64_t)sizeof nibbles);
  dualfp_weight weight = NestedWeight();
  weight.format = DUALFP_NESTED12;
  weight.values = Matrix(upper12, DUALFP_F8_E4M3, kN, kK);
  weight.lower = Matrix(nibbles, DUALFP_U8, kN, kK / 2);
  weight.scales = Vector(shifts, DUALFP_I8, kN);
  weight.outlier_index = Vector(index, DUALFP_I64, 4096);
  weight.outlier_value = Vector(value, DUALFP_F32, 4096);
  dualfp_plane_counts counts;
  memset(&counts, 0, sizeof counts);
  const dualfp_tensor w = Matrix(bf16, DUALFP_BF16, kN, kK);
  EXPECT(dualfp_nest12(&w, &weight.values, &weight.lower, &weight.scales, &weight.outlier_index,
                       &weight.outlier_value, &counts, NULL) == DUALFP_OK);
  EXPECT(counts.outliers > 0 && counts.outliers < 4096);
  weight.outlier_index.shape[0] = (int64_t)counts.outliers;
  weight.outlier_value.shape[0] = (int64_t)counts.outliers;
  const dualfp_tensor out = Matrix(merged, DUALFP_BF16, kN, kK);
  EXPECT(dualfp_merge(&weight, &out, NULL) == DUALFP_OK);
  EXPECT(memcmp(merged, bf16, sizeof merged) == 0);
}

/* Row by row: |y - expected| within the rounding of an FP32 sum. */
static void ExpectProduct(const float* y, const double* quantized_x, const double* w,
                          const float* bias, int line) {
  for (int m = 0; m < kM; ++m) {
    for (int n = 0; n < kN; ++n) {
      double sum = bias[n];
      double magnitude = fabs(bias[n]);
      for (int k = 0; k < kK; ++k) {
        const double product = quantized_x[m * kK + k] * w[n * kK + k];
        sum += product;
        magnitude += fabs(product);
      }
      if (!(fabs(y[m * kN + n] - sum) <= 1e-5 * magnitude)) {
        printf("y[%d, %d] is %g, expected %g; ", m, n, y[m * kN + n], sum);
        Expect(0, "a product", line);
      }
    }
  }
}

static void TestGemm(void) {
  static double exact[kN * kK];
  static double fp8[kN * kK];
  static double quantized_x[kM * kK];
  static double plain_x[kM * kK];
  static float y[kM * kN];
  static float bias[kN];
  for (int n = 0; n < kN; ++n) {
    bias[n] = (float)n - 20.0f;
  }
  for (int i = 0; i < kN * kK; ++i) {
    exact[i] = HalfValue(half_weights[i]);
    fp8[i] = E4m3Value(upper[i]) / 256;
  }
  for (int i = 0; i < num_outliers; ++i) {
    fp8[outlier_index[i]] += outlier_value[i];
  }
  for (int m = 0; m < kM; ++m) {
    float largest = 0;
    for (int k = 0; k < kK; ++k) {
      largest = fmaxf(largest, fabsf(x[m * kK + k]));
    }
    const float scale = largest / 448.0f;
    for (int k = 0; k < kK; ++k) {
      plain_x[m * kK + k] = x[m * kK + k];
      quantized_x[m * kK + k] = E4m3Value(NearestE4m3(x[m * kK + k] / scale)) * scale;
    }
  }
  const dualfp_weight weight = NestedWeight();
  dualfp_gemm_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.weight = &weight;
  args.x = Matrix(x, DUALFP_F32, kM, kK);
  args.y = Matrix(y, DUALFP_F32, kM, kN);
  args.bias = Vector(bias, DUALFP_F32, kN);
  for (int precision = DUALFP_EXACT; precision <= DUALFP_FP8; ++precision) {
    args.precision = precision;
    EXPECT(dualfp_gemm_workspace_bytes(&args, &args.workspace_bytes) == DUALFP_OK);
    args.workspace = aligned_alloc(256, ((size_t)args.workspace_bytes + 256) / 256 * 256);
    EXPECT(dualfp_gemm(&args) == DUALFP_OK);
    free(args.workspace);
    ExpectProduct(y, precision == DUALFP_FP8 ? quantized_x : plain_x,
                  precision == DUALFP_FP8 ? fp8 : exact, bias, __LINE__);
  }
  /* Codes that were quantized before give the same bits. */
  static uint8_t codes[kM * kK];
  static float scales[kM];
  static float again[kM * kN];
  dualfp_gemm_args from_codes = args;
  from_codes.x = Matrix(codes, DUALFP_F8_E4M3, kM, kK);
  from_codes.x_scales = Vector(scales, DUALFP_F32, kM);
  from_codes.y.data = again;
  EXPECT(dualfp_quantize(&args.x, DUALFP_PER_TOKEN, NULL, &from_codes.x, &from_codes.x_scales,
                         NULL) == DUALFP_OK);
  EXPECT(dualfp_gemm_workspace_bytes(&from_codes, &from_codes.workspace_bytes) == DUALFP_OK);
  from_codes.workspace = aligned_alloc(256, ((size_t)from_codes.workspace_bytes + 256) / 256 * 256);
  EXPECT(dualfp_gemm(&from_codes) == DUALFP_OK);
  free(from_codes.workspace);
  EXPECT(memcmp(y, again, sizeof y) == 0);
  char name[64];
  EXPECT(dualfp_gemm_kernel(&args, name, sizeof name) == DUALFP_OK && strlen(name) > 4);
}

static void TestFp8Weights(void) {
  static float w[kN * kK];
  static uint8_t codes[kN * kK];
  static float scales[kN];
  for (int i = 0; i < kN * kK; ++i) {
    w[i] = (float)HalfValue(half_weights[i]);
  }
  const dualfp_tensor source = Matrix(w, DUALFP_F32, kN, kK);
  const dualfp_tensor q = Matrix(codes, DUALFP_F8_E4M3, kN, kK);
  const dualfp_tensor s = Vector(scales, DUALFP_F32, kN);
  EXPECT(dualfp_quantize_weight(&source, DUALFP_FORMAT_FP8, DUALFP_SCALE_PER_CHANNEL, &q, &s,
                                NULL) == DUALFP_OK);
  for (int n = 0; n < kN; ++n) {
    float largest = 0;
    for (int k = 0; k < kK; ++k) {
      largest = fmaxf(largest, fabsf(w[n * kK + k]));
    }
    EXPECT(scales[n] == largest / 448.0f);
    for (int k = 0; k < kK; ++k) {
      EXPECT(codes[n * kK + k] == NearestE4m3(w[n * kK + k] / scales[n]));
    }
  }
}

/* E2M1 by its definition; even columns in low nibbles. */
static double Nvfp4Value(const uint8_t* codes, const uint8_t* scales, float global, int n, int k) {
  static const double kMagnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const int code = codes[(n * kK + k) / 2] >> (k % 2 * 4) & 15;
  const double value = kMagnitudes[code & 7] * E4m3Value(scales[n * (kK / 16) + k / 16]) * global;
  return code >> 3 ? -value : value;
}

static void TestNvfp4(void) {
  static float w[kN * kK];
  static uint8_t codes[kN * kK / 2];
  static uint8_t scales[kN * kK / 16];
  static double value[kN * kK];
  static double plain_x[kM * kK];
  static float y[kM * kN];
  static float bias[kN];
  float global = 0;
  float largest = 0;
  for (int i = 0; i < kN * kK; ++i) {
    w[i] = (float)HalfValue(half_weights[i]);
    largest = fmaxf(largest, fabsf(w[i]));
  }
  const dualfp_tensor source = Matrix(w, DUALFP_F32, kN, kK);
  dualfp_weight weight;
  memset(&weight, 0, sizeof weight);
  weight.struct_size = sizeof weight;
  weight.format = DUALFP_NVFP4;
  weight.granularity = DUALFP_SCALE_GROUP;
  weight.n = kN;
  weight.k = kK;
  weight.values = Matrix(codes, DUALFP_U8, kN, kK / 2);
  weight.scales = Matrix(scales, DUALFP_F8_E4M3, kN, kK / 16);
  weight.global_scale = Vector(&global, DUALFP_F32, 1);
  EXPECT(dualfp_quantize_weight(&source, DUALFP_NVFP4, DUALFP_SCALE_GROUP, &weight.values,
                                &weight.scales, &weight.global_scale) == DUALFP_OK);
  EXPECT(fabs(global - largest / (6 * 448.0)) <= 1e-6 * global);
  for (int n = 0; n < kN; ++n) {
    for (int k = 0; k < kK; ++k) {
      const double step = E4m3Value(scales[n * (kK / 16) + k / 16]) * global;
      value[n * kK + k] = Nvfp4Value(codes, scales, global, n, k);
      /* The widest gap between codes is 2. */
      EXPECT(fabs(value[n * kK + k] - w[n * kK + k]) <= 1.0001 * step);
    }
  }
  for (int i = 0; i < kM * kK; ++i) {
    plain_x[i] = x[i];
  }
  dualfp_gemm_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.weight = &weight;
  args.x = Matrix(x, DUALFP_F32, kM, kK);
  args.y = Matrix(y, DUALFP_F32, kM, kN);
  EXPECT(dualfp_gemm_workspace_bytes(&args, &args.workspace_bytes) == DUALFP_OK);
  args.workspace = aligned_alloc(256, ((size_t)args.workspace_bytes + 256) / 256 * 256);
  EXPECT(dualfp_gemm(&args) == DUALFP_OK);
  free(args.workspace);
  ExpectProduct(y, plain_x, value, bias, __LINE__);
}

static void TestBadInput(void) {
  static float y[kM * kN];
  dualfp_weight weight = NestedWeight();
  dualfp_gemm_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.weight = &weight;
  args.x = Matrix(x, DUALFP_F32, kM, kK - 1);
  args.y = Matrix(y, DUALFP_F32, kM, kN);
  EXPECT(dualfp_gemm(&args) == DUALFP_INVALID_ARGUMENT);
  EXPECT(strstr(dualfp_last_error(), "x is F32[5, 271]") != NULL);
  args.x = Matrix(x, 99, kM, kK);
  EXPECT(dualfp_gemm(&args) == DUALFP_INVALID_ARGUMENT);
  args.x = Matrix(x, DUALFP_F32, kM, kK);
  args.precision = DUALFP_FP4;
  EXPECT(dualfp_gemm(&args) == DUALFP_UNSUPPORTED);
  args.precision = 17;
  EXPECT(dualfp_gemm(&args) == DUALFP_INVALID_ARGUMENT);
  args.precision = DUALFP_EXACT;
  weight.struct_size = 8;
  EXPECT(dualfp_gemm(&args) == DUALFP_INVALID_ARGUMENT);
  weight.struct_size = sizeof weight;
  args.y.strides[0] = kN - 1; /* rows overlap */
  EXPECT(dualfp_gemm(&args) == DUALFP_INVALID_ARGUMENT);
  args.y.strides[0] = kN;
  args.x.device = 0; /* not where the weight is */
  EXPECT(dualfp_gemm(&args) != DUALFP_OK);
  args.x.device = DUALFP_CPU;
  args.x.shape[0] = 0; /* no rows: nothing to do */
  args.y.shape[0] = 0;
  EXPECT(dualfp_gemm(&args) == DUALFP_OK);
  EXPECT(dualfp_gemm(NULL) == DUALFP_INVALID_ARGUMENT);
  EXPECT(dualfp_set_num_threads(-1) == DUALFP_INVALID_ARGUMENT);
  int64_t bytes = -1;
  EXPECT(dualfp_stream_state_bytes(DUALFP_CPU, &bytes) == DUALFP_OK && bytes == 0);
  EXPECT(dualfp_stream_state_bytes(1000, &bytes) == DUALFP_NOT_FOUND);

  half_weights[5] = 0x7c00;
  const dualfp_tensor w = Matrix(half_weights, DUALFP_F16, kN, kK);
  dualfp_plane_counts counts;
  memset(&counts, 0, sizeof counts);
  EXPECT(dualfp_nest(&w, &weight.values, &weight.lower, NULL, NULL, &counts, NULL) ==
         DUALFP_INVALID_DATA);
}

int main(void) {
  EXPECT(dualfp_abi_version() == DUALFP_ABI_VERSION);
  EXPECT(strlen(dualfp_version()) >= 5);
  EXPECT(dualfp_set_num_threads(2) == DUALFP_OK);
  EXPECT(strlen(dualfp_last_error()) == 0);
  MakeInputs();
  TestFormats();
  TestNest();
  TestNested12();
  TestGemm();
  TestFp8Weights();
  TestNvfp4();
  TestBadInput();
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
