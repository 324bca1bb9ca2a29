#include "machine/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fastmaml {

namespace baseline {
extern const Isa isa;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Isa isa;
}
namespace avx512 {
extern const Isa isa;
}
#endif

namespace {

#if defined(__x86_64__)
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

[[maybe_unused]] bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
#endif

std::vector<const Isa*> supported() {
  std::vector<const Isa*> list;
#if defined(FASTMAML_WIDE_ON_AVX2)
  if (!has_avx2()) throw std::runtime_error("this build of fastmaml is for tests on processors with AVX2 and FMA");
  list.push_back(&avx512::isa);
#else
  list.push_back(&baseline::isa);
#if defined(__x86_64__)
  if (has_avx2()) list.push_back(&avx2::isa);
  if (has_avx2() && has_avx512()) list.push_back(&avx512::isa);
#endif
#endif
  return list;
}

const Isa* find(const std::string& name) {
  std::string names;
  for (const Isa* isa : supported()) {
    if (name == isa->name) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa->name);
  }
  throw std::invalid_argument("instruction set '" + name + "' is not available; this processor has: " + names +
                              " (FASTMAML_ISA or set_isa takes one of these)");
}

const Isa* initial() {
  const char* forced = std::getenv("FASTMAML_ISA");
  return forced && *forced ? find(forced) : supported().back();
}

std::atomic<const Isa*>& chosen() {
  static std::atomic<const Isa*> isa{initial()};
  return isa;
}

}  // namespace

const Isa& current_isa() { return *chosen(); }

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa* isa : supported()) names.push_back(isa->name);
  return names;
}

void set_isa(const std::string& name) { chosen() = find(name); }

}  // namespace fastmaml
