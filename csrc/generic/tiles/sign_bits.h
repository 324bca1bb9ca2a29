// The signs of a vector's lanes as bits: the one thing that plain vector types cannot say shortly. The only x86
// instructions named in the core; elsewhere it is arithmetic.
#pragma once

#include <type_traits>

#include "generic/tiles/simd.h"
#include "plain/network.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr int kFlagBytes = 32;
using Flags32 = VectorOf<std::int32_t, kFlagBytes>::type;
using Flags64 = VectorOf<std::int64_t, kFlagBytes>::type;

// An integer as wide as a number.
template <class T>
using Whole = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

// Lanes are 0 or -1; the first one's bit is the lowest.
#if defined(__AVX__)
inline Bits sign_bits(Flags32 flags) {
  return static_cast<unsigned>(__builtin_ia32_movmskps256(reinterpret_cast<VectorOf<float, kFlagBytes>::type>(flags)));
}

inline Bits sign_bits(Flags64 flags) {
  return static_cast<unsigned>(__builtin_ia32_movmskpd256(reinterpret_cast<VectorOf<double, kFlagBytes>::type>(flags)));
}
#else
inline Bits sign_bits(Flags32 flags) {
  const auto bytes = __builtin_convertvector(flags, VectorOf<std::int8_t, 8>::type) & 1;
  Bits spread;
  __builtin_memcpy(&spread, &bytes, sizeof(spread));
  return spread * Bits(0x0102040810204080) >> 56;  // byte i's bit goes to bit 56 + i
}

inline Bits sign_bits(Flags64 flags) {
  const auto words = __builtin_convertvector(flags, VectorOf<std::int16_t, 8>::type) & 1;
  Bits spread;
  __builtin_memcpy(&spread, &words, sizeof(spread));
  return spread * Bits(0x0001000200040008) >> 48;
}
#endif

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
