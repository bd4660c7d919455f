#include "file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace fluxd {

MappedFile::MappedFile(const std::string &path) : path_(path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat stats;
  const bool opened = descriptor >= 0 && fstat(descriptor, &stats) == 0;
  if (opened && stats.st_size > 0) {
    void *start = mmap(nullptr, size_t(stats.st_size), PROT_READ, MAP_SHARED, descriptor, 0);
    if (start != MAP_FAILED) {
      start_ = static_cast<std::byte *>(start);
      bytes_ = size_t(stats.st_size);
    }
  }
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (!start_)
    throw std::runtime_error(path + ": expected a file of weights (" +
                             (opened && stats.st_size == 0 ? "it is empty" : std::strerror(error)) +
                             ")");
}

MappedFile::~MappedFile() {
  if (start_) munmap(start_, bytes_);
}

const std::byte *MappedFile::at(size_t offset, size_t bytes) const {
  if (offset > bytes_ || bytes > bytes_ - offset)
    throw std::runtime_error(path_ + ": expected " + std::to_string(bytes) + " bytes at " +
                             std::to_string(offset) + " but the file has " +
                             std::to_string(bytes_));
  return start_ + offset;
}

}  // namespace fluxd
