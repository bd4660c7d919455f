/* The device of kernels.h on CUDA: memory, copies, streams, events. */
#pragma once

#include "fluxd/kernels.h"

namespace fluxd::cuda {

/**
 * Device `ordinal`, which becomes the only one of this process (an engine owns one accelerator).
 * Throws if there is no such device, or another one is in use.
 */
const fluxd_device *openDevice(int ordinal);

/** Makes the opened device the calling thread's current one. */
void useDevice();

}  // namespace fluxd::cuda
