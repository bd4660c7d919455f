// Stub of libcudnn.so.9 for the functions that must answer something; `run` makes one that returns
// 0 for every other name the provider looks up. Work that would be launched is logged like the
// other stubs' (STUB_CUDA_LOG), as one line each.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// cudnn_graph.h: cudnnBackendAttributeName_t and cudnnBackendAttributeType_t.
enum { HEURISTIC_RESULTS = 202, DESCRIPTOR_TYPE = 15 };

static int logged(const char *call) {
  static int file = -1;
  if (file < 0) file = open(getenv("STUB_CUDA_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
  dprintf(file, "CUDNN %s\n", call);
  return 0;
}

size_t cudnnGetVersion(void) { return 91300; }
const char *cudnnGetErrorString(int status) { return status ? "stub error" : "success"; }
void cudnnGetLastErrorString(char *text, size_t size) { if (size) *text = 0; }

int cudnnBackendCreateDescriptor(int type, void **descriptor) {
  *descriptor = calloc(1, 64);
  return 0;
}

// One engine for every operation, which needs no workspace.
int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted, int64_t *count,
                             void *values) {
  if (count) *count = name == HEURISTIC_RESULTS ? 1 : 0;
  if (values && wanted > 0 && type != DESCRIPTOR_TYPE) *(int64_t *)values = 0;
  return 0;
}

int cudnnBackendExecute(void) { return logged("BackendExecute"); }
int cudnnConvolutionForward(void) { return logged("ConvolutionForward"); }
int cudnnBatchNormalizationForwardTraining(void) { return logged("BatchNormalizationForwardTraining"); }
int cudnnBatchNormalizationForwardInference(void) { return logged("BatchNormalizationForwardInference"); }
int cudnnReduceTensor(void) { return logged("ReduceTensor"); }
int cudnnSoftmaxForward(void) { return logged("SoftmaxForward"); }
int cudnnAddTensor(void) { return logged("AddTensor"); }

static int nothing(size_t *bytes) {
  *bytes = 0;
  return 0;
}
int cudnnGetReductionWorkspaceSize(void *handle, void *reduce, void *from, void *to, size_t *bytes) {
  return nothing(bytes);
}
int cudnnGetReductionIndicesSize(void *handle, void *reduce, void *from, void *to, size_t *bytes) {
  return nothing(bytes);
}
