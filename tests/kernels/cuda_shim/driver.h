// What the drivers of kernels on the CPU share: memory that sanitizers watch, their arguments, and what they print.
// Arguments: input, output, seed of the schedule, and "file:line" of a place where nobody waits. Prints the places where
// threads waited.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace cuda_shim {

// Memory of exactly that size, for the sanitizers to watch; the file's next bytes, or what no result looks like.
template <class T>
struct Buffer {
  Buffer(int64_t count_, std::FILE* file) : count(count_), data(static_cast<T*>(std::aligned_alloc(256, padded(count)))) {
    std::memset(data, 0xff, padded(count));
    if (file != nullptr && std::fread(data, sizeof(T), static_cast<size_t>(count), file) != static_cast<size_t>(count))
      die("the input is too short");
#if defined(__SANITIZE_ADDRESS__)
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    __asan_poison_memory_region(reinterpret_cast<char*>(data) + bytes, padded(count) - bytes);
#endif
  }
  static size_t padded(int64_t count) { return (static_cast<size_t>(count) * sizeof(T) + 511) / 256 * 256; }
  void write(std::FILE* file) const { std::fwrite(data, sizeof(T), static_cast<size_t>(count), file); }
  int64_t count;
  T* data;
};

// The input; sets the seed and the place where nobody waits.
inline std::FILE* begin(int argc, char** argv) {
  if (argc != 4 && argc != 5) die("arguments: input output seed [file:line]");
  shim.seed = std::stoull(argv[3]);
  if (argc == 5) {  // the first place that is seen gets the first number
    const std::string place(argv[4]);
    const size_t colon = place.rfind(':');
    static const std::string file = place.substr(0, colon);
    shim.left_out = 0;
    site("left out", file.c_str(), std::stoi(place.substr(colon + 1)));
  }
  std::FILE* in = std::fopen(argv[1], "rb");
  if (in == nullptr) die("no input");
  return in;
}

inline std::FILE* output(char** argv) {
  std::FILE* out = std::fopen(argv[2], "wb");
  if (out == nullptr) die("no output");
  return out;
}

inline void end(std::FILE* out) {
  std::fclose(out);
  for (int i = 0; i < shim.n_sites; ++i) {
    const Site& site = shim.sites[i];
    std::printf("%s %s:%d\n", site.kind, site.file, site.line);
  }
}

}  // namespace cuda_shim
