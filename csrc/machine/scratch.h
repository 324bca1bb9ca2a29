// Scratch memory that is kept between calls: fresh pages would cost more than a small meta-step.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <mutex>
#include <vector>

#include "machine/size.h"

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
  static constexpr std::size_t kKeepBlocks = 4;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static std::vector<Block>& kept() {
    static std::vector<Block> blocks;
    return blocks;
  }

  // The smallest block that is large enough: a call within a call leaves the large ones to others.
  static Block find(std::size_t bytes) {
    std::vector<Block>& blocks = kept();
    auto best = blocks.end();
    for (auto block = blocks.begin(); block != blocks.end(); ++block)
      if (block->bytes >= bytes && (best == blocks.end() || block->bytes < best->bytes)) best = block;
    if (best == blocks.end()) return {nullptr, 0};
    const Block found = *best;
    blocks.erase(best);
    return found;
  }

  static Block take(std::size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex());
    if (const Block block = find(bytes); block.data) return block;
    const std::size_t page = bytes < 2 * kHugePage ? 4096 : kHugePage;
    const std::size_t size = bytes ? (bytes + page - 1) / page * page : page;
    void* data = std::aligned_alloc(page, size);
    if (!data) throw NoRoom(static_cast<double>(bytes));
#if defined(MADV_HUGEPAGE)
    if (page == kHugePage) madvise(data, size, MADV_HUGEPAGE);  // a wish: 512 times fewer page faults
#endif
    return {data, size};
  }

  static void give(Block block) {
    std::lock_guard<std::mutex> lock(mutex());
    std::vector<Block>& blocks = kept();
    blocks.push_back(block);
    std::size_t bytes = 0;
    for (const Block& each : blocks) bytes += each.bytes;
    while (!blocks.empty() && (blocks.size() > kKeepBlocks || bytes > kKeepAtMost)) {
      bytes -= blocks.front().bytes;  // the one that has lain longest
      std::free(blocks.front().data);
      blocks.erase(blocks.begin());
    }
  }

  Block block_;
};

}  // namespace fastmaml
