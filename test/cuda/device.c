// Stands before the stubs' own functions. Large uploads are logged and not made, so that the weights
// of a full-size model, which are a hole in a sparse file, take no memory. And calls fail when they
// are told to: while the file beside the log that ends in .error holds `ERROR FUNCTION CALL`, that
// function ends with this number of CUDA's errors from its CALL-th call on, counted in each process
// since the file was written. The function may be `*`: a device that is lost.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HOST_TO_DEVICE = 1, LARGE = 1 << 20 };

// Also asked by cublas_lt.c.
int stub_error(const char *function) {
  static struct timespec written;
  static int calls;
  char path[4096], wanted[64];
  int number, first;
  struct stat status;
  snprintf(path, sizeof path, "%s.error", getenv("STUB_CUDA_LOG"));
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  const int fields = fscanf(file, "%d %63s %d", &number, wanted, &first);
  fstat(fileno(file), &status);
  fclose(file);
  if (fields != 3 || (strcmp(wanted, "*") && strcmp(wanted, function))) return 0;
  if (memcmp(&written, &status.st_mtim, sizeof written)) calls = 0;
  written = status.st_mtim;
  return __sync_add_and_fetch(&calls, 1) >= first ? number : 0;
}

static int logged(void) {
  static int file = -1;
  if (file < 0) file = open(getenv("STUB_CUDA_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
  return file;
}

static void *stubbed(const char *function) {
  return dlsym(dlopen("libcudart.so.13", RTLD_LAZY | RTLD_NOLOAD), function);
}

#define FAILABLE(function, parameters, ...)                        \
  int function parameters {                                        \
    const int wanted = stub_error(#function);                      \
    if (wanted) return wanted;                                     \
    return ((int(*) parameters)stubbed(#function))(__VA_ARGS__);   \
  }

FAILABLE(cudaMalloc, (void **address, size_t bytes), address, bytes)
FAILABLE(cudaHostAlloc, (void **address, size_t bytes, unsigned flags), address, bytes, flags)
FAILABLE(cudaLaunchKernelExC, (const void *config, const void *kernel, void **arguments), config,
         kernel, arguments)
FAILABLE(cudaStreamSynchronize, (void *stream), stream)

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
  const int wanted = stub_error(__func__);
  if (wanted) return wanted;
  dprintf(logged(), "COPY %zu kind=%d from=%p\n", bytes, kind, from);
  if (kind != HOST_TO_DEVICE || bytes < LARGE) memcpy(to, from, bytes);
  return 0;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

int cudaMemcpy2DAsync(void *to, size_t toStride, const void *from, size_t fromStride, size_t width,
                      size_t rows, int kind, void *stream) {
  const int wanted = stub_error(__func__);
  if (wanted) return wanted;
  dprintf(logged(), "COPY %zu kind=%d from=%p\n", width * rows, kind, from);
  for (size_t row = 0; row < rows; row++)
    memcpy((char *)to + row * toStride, (const char *)from + row * fromStride, width);
  return 0;
}

int cudaThreadExchangeStreamCaptureMode(int *mode) { return 0; }

const char *cudaGetErrorString(int number) { return number == 2 ? "out of memory" : "an error"; }
const char *cudaGetErrorName(int number) {
  return number == 2 ? "cudaErrorMemoryAllocation" : "cudaErrorIllegalAddress";
}
