// Sizes of memory, none of which overflows in silence, and what is said where there is no room.
#pragma once

#include <cstdio>
#include <new>
#include <string>
#include <utility>

#include "plain/network.h"

namespace fastmaml {

// More elements than an address space has bytes, and so far below what an Index holds that sums of sizes need no check.
constexpr Index kMostElements = Index{1} << 48;

// Memory that cannot be had; Python's MemoryError.
class NoRoom : public std::bad_alloc {
 public:
  explicit NoRoom(double bytes, std::string words = "no room") : bytes_(bytes), words_(std::move(words)) {}
  double bytes() const { return bytes_; }  // asked for, at least
  const char* what() const noexcept override { return words_.c_str(); }

 private:
  double bytes_;
  std::string words_;
};

// The elements of an array of so many rows, columns, ...; throws NoRoom where no memory holds so many.
template <class... Factors>
Index elements(Index first, Factors... others) {
  Index size = first;
  double exact = static_cast<double>(first);
  bool over = false;
  ((exact *= static_cast<double>(others), over |= __builtin_mul_overflow(size, static_cast<Index>(others), &size)),
   ...);
  if (over || size > kMostElements) throw NoRoom(exact * sizeof(float));
  return size;
}

template <class T>
std::size_t bytes_of(Index count) {
  if (count > kMostElements) throw NoRoom(static_cast<double>(count) * sizeof(T));
  return static_cast<std::size_t>(count) * sizeof(T);
}

// As people read it: "1.5 GiB".
inline std::string amount(double bytes) {
  static const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 6; ++unit) bytes /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, "%.3g %s", bytes, units[unit]);
  return text;
}

}  // namespace fastmaml
