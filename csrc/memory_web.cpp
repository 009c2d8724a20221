// memory.cpp for WebAssembly: one thread, and no store of blocks, since a module never returns memory to the system.
#include <cstdlib>

#include "pages_web.h"
#include "work.h"

namespace kbnet {
namespace {

constexpr std::size_t kLarge = std::size_t{256} << 10;

}  // namespace

void FilePages::release() const {}

Floats allocate(int64_t floats) {
    const std::size_t bytes = std::max<std::size_t>((static_cast<std::size_t>(floats) * sizeof(float) + 63) / 64 * 64, 64);
    void* const p = bytes >= kLarge ? take_pages(bytes) : std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    return Floats(static_cast<float*>(p), GiveBack{bytes});
}

void GiveBack::operator()(float* p) const {
    if (bytes >= kLarge)
        give_pages(p);
    else
        std::free(p);
}

}  // namespace kbnet
