// The part of onnxruntime's C ABI that this library calls, in our own words.
//
// OrtApi is an append-only table of function pointers: a call keeps its slot in every later
// runtime. Only the slots used here are named, the rest is padding of the right size. The table is
// asked for at version 17, so one binary serves onnxruntime 1.17 and everything after it.
// OrtCustomOp is the other direction: a table of callbacks that we fill in, cut off where version
// 17 ends.
#ifndef SLC_ORT_ABI_H_
#define SLC_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtCustomOp;

inline constexpr uint32_t kOrtApiVersion = 17;

enum OrtErrorCode : int {
  kOrtFail = 1,
  kOrtInvalidArgument = 2,
  kOrtNotImplemented = 9,
};

enum OrtElementType : int {
  kOrtUndefined = 0,
  kOrtFloat = 1,
  kOrtUint8 = 2,
  kOrtInt8 = 3,
  kOrtFloat16 = 10,
};

enum OrtParameterKind : int { kOrtRequired = 0, kOrtOptional = 1, kOrtVariadic = 2 };

enum OrtMemoryType : int { kOrtMemoryDefault = 0 };

struct OrtApi {
  OrtStatus* (*CreateStatus)(OrtErrorCode code, const char* message);  // slot 0
  void* unused_1;
  const char* (*GetErrorMessage)(const OrtStatus* status);  // slot 2
  void* unused_3_25[23];
  OrtStatus* (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** out);  // slot 26
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  void* unused_29_50[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);  // slot 51
  void* unused_52_59[8];
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info,
                                     OrtElementType* out);  // slot 60
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count);
  void* unused_63_64[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value,
                                      OrtTensorTypeAndShapeInfo** out);  // slot 65
  void* unused_66_85[20];
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name,
                                             int64_t* out);  // slot 86
  void* unused_87;
  OrtStatus* (*KernelContext_GetInputCount)(const OrtKernelContext* context, size_t* out);
  void* unused_89;
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index,
                                       const OrtValue** out);  // slot 90
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index,
                                        const int64_t* dims, size_t count, OrtValue** out);
  void* unused_92;
  void (*ReleaseStatus)(OrtStatus* status);  // slot 93
  void* unused_94_98[5];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);  // slot 99
  void* unused_100;
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);  // slot 101
  void* unused_102_192[91];
  OrtStatus* (*KernelContext_GetGPUComputeStream)(const OrtKernelContext* context,
                                                  void** out);  // slot 193
  void* unused_194_248[55];
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, size_t index,
                                                  int* is_constant,
                                                  const OrtValue** out);  // slot 249
  void* unused_250_273[24];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context,
                                          void (*task)(void* data, size_t index), size_t total,
                                          size_t num_batch, void* data);  // slot 274
};

#define SLC_CHECK_SLOT(member, slot) \
  static_assert(offsetof(OrtApi, member) == (slot) * sizeof(void*), #member " left its slot")
SLC_CHECK_SLOT(GetErrorMessage, 2);
SLC_CHECK_SLOT(CreateCustomOpDomain, 26);
SLC_CHECK_SLOT(CustomOpDomain_Add, 27);
SLC_CHECK_SLOT(AddCustomOpDomain, 28);
SLC_CHECK_SLOT(GetTensorMutableData, 51);
SLC_CHECK_SLOT(GetTensorElementType, 60);
SLC_CHECK_SLOT(GetDimensionsCount, 61);
SLC_CHECK_SLOT(GetDimensions, 62);
SLC_CHECK_SLOT(GetTensorTypeAndShape, 65);
SLC_CHECK_SLOT(KernelInfoGetAttribute_int64, 86);
SLC_CHECK_SLOT(KernelContext_GetInputCount, 88);
SLC_CHECK_SLOT(KernelContext_GetInput, 90);
SLC_CHECK_SLOT(KernelContext_GetOutput, 91);
SLC_CHECK_SLOT(ReleaseStatus, 93);
SLC_CHECK_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
SLC_CHECK_SLOT(ReleaseCustomOpDomain, 101);
SLC_CHECK_SLOT(KernelContext_GetGPUComputeStream, 193);
SLC_CHECK_SLOT(KernelInfoGetConstantInput_tensor, 249);
SLC_CHECK_SLOT(KernelContext_ParallelFor, 274);
#undef SLC_CHECK_SLOT

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  OrtElementType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  OrtElementType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  OrtParameterKind (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtParameterKind (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtMemoryType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};
static_assert(offsetof(OrtCustomOp, GetEndVersion) == 21 * sizeof(void*), "callback table moved");

}  // extern "C"

#endif  // SLC_ORT_ABI_H_
