// A file of weights, mapped: its pages come in when they are read and cost no memory of ours.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

namespace fluxd {

class MappedFile {
 public:
  // Throws with the reason where the file cannot be read.
  explicit MappedFile(const std::string &path);
  ~MappedFile();
  MappedFile(const MappedFile &) = delete;

  // Throws where the file ends before offset + bytes.
  const std::byte *at(size_t offset, size_t bytes) const;

 private:
  std::string path_;
  std::byte *start_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fluxd
