// Large blocks of memory in a WebAssembly module. The allocator of its C library rounds them up to powers of two.
#pragma once

#include <cstddef>

namespace kbnet {

// At least `bytes`, aligned to 64; nullptr if the memory can't grow.
void* take_pages(std::size_t bytes);
void give_pages(void* block);

}  // namespace kbnet
