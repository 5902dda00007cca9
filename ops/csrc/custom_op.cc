#include "custom_op.h"

namespace slc {
namespace {

const CustomOp& Self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

}  // namespace

void FillCommon(CustomOp* op) {
  op->version = kOrtApiVersion;
  op->GetName = [](const OrtCustomOp* self) { return Self(self).name; };
  op->GetExecutionProviderType = [](const OrtCustomOp* self) { return Self(self).provider; };
  op->GetInputTypeCount = [](const OrtCustomOp* self) { return Self(self).inputs.size(); };
  op->GetInputType = [](const OrtCustomOp* self, size_t i) { return Self(self).inputs[i].type; };
  op->GetInputCharacteristic = [](const OrtCustomOp* self, size_t i) {
    return Self(self).inputs[i].kind;
  };
  op->GetInputMemoryType = [](const OrtCustomOp*, size_t) { return kOrtMemoryDefault; };
  op->GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  op->GetOutputType = [](const OrtCustomOp* self, size_t) { return Self(self).activation; };
  op->GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  op->GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op->GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op->GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
}

}  // namespace slc
