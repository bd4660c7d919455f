// Stands before the stubs' own copies: large uploads are logged and not made, so that the weights of
// a full-size model, which are a hole in a sparse file, take no memory. While the file beside
// the log that ends in .error holds the number of one of CUDA's errors, every copy ends with it.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOST_TO_DEVICE = 1, LARGE = 1 << 20 };

static int error(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s.error", getenv("STUB_CUDA_LOG"));
  int number = 0;
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  if (fscanf(file, "%d", &number) != 1) number = 0;
  fclose(file);
  return number;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
  int wanted = error();
  if (wanted) return wanted;
  static int file = -1;
  if (file < 0) file = open(getenv("STUB_CUDA_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
  dprintf(file, "COPY %zu kind=%d from=%p\n", bytes, kind, from);
  if (kind != HOST_TO_DEVICE || bytes < LARGE) memcpy(to, from, bytes);
  return 0;
}

const char *cudaGetErrorString(int number) { return number == 2 ? "out of memory" : "an error"; }

int cudaThreadExchangeStreamCaptureMode(int *mode) { return 0; }

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, NULL);
}
