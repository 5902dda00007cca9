// The part of onnxruntime's C API that this example calls, for builds without onnxruntime's own
// header (wheels do not have it; -DORT_ROOT=... takes the real one instead).
//
// OrtApi is an append-only table of function pointers, so a call keeps its slot in every later
// release. Names are those of the API, so that the program compiles against either header; slots
// that nothing here calls are padding.
#ifndef CPP_APP_ORT_SUBSET_H_
#define CPP_APP_ORT_SUBSET_H_

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtAllocator;
struct OrtEnv;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
};

enum OrtLoggingLevel : int { ORT_LOGGING_LEVEL_WARNING = 2 };
enum OrtAllocatorType : int { OrtDeviceAllocator = 0 };
enum OrtMemType : int { OrtMemTypeDefault = 0 };

struct OrtApi {
  void* unused_0_1[2];
  const char* (*GetErrorMessage)(const OrtStatus*);                                  // slot 2
  OrtStatus* (*CreateEnv)(OrtLoggingLevel level, const char* log_id, OrtEnv** out);  // slot 3
  void* unused_4_6[3];
  OrtStatus* (*CreateSession)(const OrtEnv*, const char* path, const OrtSessionOptions*,
                              OrtSession** out);  // slot 7
  void* unused_8;
  OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names,
                    const OrtValue* const* inputs, size_t input_count,
                    const char* const* output_names, size_t output_count,
                    OrtValue** outputs);                        // slot 9
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** out);  // slot 10
  void* unused_11_23[13];
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int count);  // slot 24
  void* unused_25_28[4];
  OrtStatus* (*RegisterCustomOpsLibrary)(OrtSessionOptions*, const char* path,
                                         void** handle);                // slot 29
  OrtStatus* (*SessionGetInputCount)(const OrtSession*, size_t* out);   // slot 30
  OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t* out);  // slot 31
  void* unused_32;
  OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, size_t index,
                                        OrtTypeInfo** out);  // slot 33
  void* unused_34_35[2];
  OrtStatus* (*SessionGetInputName)(const OrtSession*, size_t index, OrtAllocator*,
                                    char** out);  // slot 36
  OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t index, OrtAllocator*,
                                     char** out);  // slot 37
  void* unused_38_48[11];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t bytes,
                                               const int64_t* dims, size_t rank,
                                               ONNXTensorElementDataType,
                                               OrtValue** out);  // slot 49
  void* unused_50;
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void** out);  // slot 51
  void* unused_52_54[3];
  OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*,
                                         const OrtTensorTypeAndShapeInfo** out);  // slot 55
  void* unused_56_59[4];
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*,
                                     ONNXTensorElementDataType* out);               // slot 60
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t* out);  // slot 61
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* dims,
                              size_t rank);  // slot 62
  void* unused_63_64[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*,
                                      OrtTensorTypeAndShapeInfo** out);  // slot 65
  void* unused_66_68[3];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo** out);  // slot 69
  void* unused_70_75[6];
  OrtStatus* (*AllocatorFree)(OrtAllocator*, void* memory);  // slot 76
  void* unused_77;
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator** out);  // slot 78
  void* unused_79_91[13];
  void (*ReleaseEnv)(OrtEnv*);                // slot 92
  void (*ReleaseStatus)(OrtStatus*);          // slot 93
  void (*ReleaseMemoryInfo)(OrtMemoryInfo*);  // slot 94
  void (*ReleaseSession)(OrtSession*);        // slot 95
  void (*ReleaseValue)(OrtValue*);            // slot 96
  void* unused_97;
  void (*ReleaseTypeInfo)(OrtTypeInfo*);                              // slot 98
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);  // slot 99
  void (*ReleaseSessionOptions)(OrtSessionOptions*);                  // slot 100
};

#define CPP_APP_CHECK_SLOT(member, slot) \
  static_assert(offsetof(OrtApi, member) == (slot) * sizeof(void*), #member " left its slot")
CPP_APP_CHECK_SLOT(CreateSession, 7);
CPP_APP_CHECK_SLOT(Run, 9);
CPP_APP_CHECK_SLOT(SetIntraOpNumThreads, 24);
CPP_APP_CHECK_SLOT(RegisterCustomOpsLibrary, 29);
CPP_APP_CHECK_SLOT(SessionGetInputTypeInfo, 33);
CPP_APP_CHECK_SLOT(SessionGetOutputName, 37);
CPP_APP_CHECK_SLOT(CreateTensorWithDataAsOrtValue, 49);
CPP_APP_CHECK_SLOT(GetTensorMutableData, 51);
CPP_APP_CHECK_SLOT(CastTypeInfoToTensorInfo, 55);
CPP_APP_CHECK_SLOT(GetTensorElementType, 60);
CPP_APP_CHECK_SLOT(GetTensorTypeAndShape, 65);
CPP_APP_CHECK_SLOT(CreateCpuMemoryInfo, 69);
CPP_APP_CHECK_SLOT(AllocatorFree, 76);
CPP_APP_CHECK_SLOT(GetAllocatorWithDefaultOptions, 78);
CPP_APP_CHECK_SLOT(ReleaseStatus, 93);
CPP_APP_CHECK_SLOT(ReleaseSessionOptions, 100);
#undef CPP_APP_CHECK_SLOT

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

}  // extern "C"

#endif  // CPP_APP_ORT_SUBSET_H_
