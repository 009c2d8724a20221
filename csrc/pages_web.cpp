#include "pages_web.h"

#include <cstdint>
#include <vector>

namespace kbnet {
namespace {

constexpr std::size_t kPage = 65536, kHeader = 64;  // the header holds the size of the block

struct Range {
    std::size_t start, stop;
};

std::vector<Range> unused;  // in order, never touching each other

// Adds a range, joined with its neighbours.
void add(Range range) {
    std::size_t i = 0;
    while (i < unused.size() && unused[i].stop < range.start) ++i;
    while (i < unused.size() && unused[i].start <= range.stop) {
        range.start = range.start < unused[i].start ? range.start : unused[i].start;
        range.stop = range.stop > unused[i].stop ? range.stop : unused[i].stop;
        unused.erase(unused.begin() + static_cast<std::ptrdiff_t>(i));
    }
    unused.insert(unused.begin() + static_cast<std::ptrdiff_t>(i), range);
}

// Grows the memory so that its last unused range has this size.
bool grow(std::size_t size) {
    const std::size_t end = __builtin_wasm_memory_size(0) * kPage;
    if (!unused.empty() && unused.back().stop == end) size -= unused.back().stop - unused.back().start;
    const std::size_t before = __builtin_wasm_memory_grow(0, size / kPage);
    if (before == SIZE_MAX) return false;
    add({before * kPage, before * kPage + size});
    return true;
}

}  // namespace

void* take_pages(std::size_t bytes) {
    if (bytes > SIZE_MAX - kHeader - kPage) return nullptr;
    const std::size_t size = (bytes + kHeader + kPage - 1) / kPage * kPage;
    for (bool grown = false;; grown = true) {
        std::size_t best = unused.size();
        for (std::size_t i = 0; i < unused.size(); ++i) {
            const std::size_t room = unused[i].stop - unused[i].start;
            if (room >= size && (best == unused.size() || room < unused[best].stop - unused[best].start)) best = i;
        }
        if (best < unused.size()) {
            const std::size_t start = unused[best].start;
            unused[best].start += size;
            if (unused[best].start == unused[best].stop) unused.erase(unused.begin() + static_cast<std::ptrdiff_t>(best));
            *reinterpret_cast<std::size_t*>(start) = size;
            return reinterpret_cast<void*>(start + kHeader);
        }
        if (grown || !grow(size)) return nullptr;
    }
}

void give_pages(void* block) {
    if (!block) return;
    const std::size_t start = reinterpret_cast<std::size_t>(block) - kHeader;
    add({start, start + *reinterpret_cast<std::size_t*>(start)});
}

}  // namespace kbnet
