// Scratch memory that is kept between calls: fresh pages would cost more than a small meta-step.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace fastmaml {

class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : block_(take(bytes)) {}
  ~Scratch() { give(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return block_.data; }

 private:
  struct Block {
    void* data;
    std::size_t bytes;
  };
  static constexpr std::size_t kKeepAtMost = std::size_t{1} << 30;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static std::vector<Block>& kept() {
    static std::vector<Block> blocks;
    return blocks;
  }

  static Block take(std::size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex());
    std::vector<Block>& blocks = kept();
    while (!blocks.empty()) {
      const Block block = blocks.back();
      blocks.pop_back();
      if (block.bytes >= bytes) return block;
      std::free(block.data);
    }
    const std::size_t page = bytes < 2 * kHugePage ? 4096 : kHugePage;
    const std::size_t size = bytes ? (bytes + page - 1) / page * page : page;
    void* data = std::aligned_alloc(page, size);
    if (!data) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (page == kHugePage) madvise(data, size, MADV_HUGEPAGE);  // a wish: 512 times fewer page faults
#endif
    return {data, size};
  }

  static void give(Block block) {
    std::lock_guard<std::mutex> lock(mutex());
    if (block.bytes > kKeepAtMost || kept().size() >= 4) return std::free(block.data);
    kept().push_back(block);
  }

  Block block_;
};

}  // namespace fastmaml
