#include <limits>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "work.h"

namespace kbnet {
namespace {

struct Piece {
    float* data;
    std::size_t bytes;
};

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kKept = 0;  // the poisoned guards between panels must not outlive the call
#else
constexpr std::size_t kKept = std::size_t{256} << 20;  // maximum in total: a network's images of a megapixel
#endif

// Images are read and written by rows of many channels, each in another page; large pages make that faster.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

constexpr std::size_t kMost = 64;  // maximum number of blocks; every call searches all of them

// New blocks of this size take the place of kept ones, so that blocks that no call asks for again don't add to the peak.
// Kept blocks of this size are given only to calls that need most of them, for the same reason.
constexpr std::size_t kLarge = std::size_t{1} << 20;

// Never destroyed: threads can still return memory while the process exits.
struct Store {
    std::mutex mutex;
    std::vector<Piece> pieces;  // never exceeds its reserved capacity: returning memory must not throw
    std::size_t bytes = 0;

    Store() { pieces.reserve(kMost); }

    Piece take(std::size_t i) {
        const Piece piece = pieces[i];
        pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(i));
        bytes -= piece.bytes;
        return piece;
    }
    std::size_t free_oldest() {
        const Piece piece = take(0);
        std::free(piece.data);
        return piece.bytes;
    }
};
Store& store = *new Store;

// A caller that finds the store busy allocates directly: a mutex that was locked during a fork is never released.
using Turn = std::unique_lock<std::mutex>;

// For tests: memory starts as NaN, so that a value that is read before it is written shows.
bool poisons() {
    static const bool found = std::getenv("KBNET_POISON_MEMORY") != nullptr;
    return found;
}

Floats find_memory(int64_t floats) {
    const std::size_t wanted = static_cast<std::size_t>(floats) * sizeof(float);
    const std::size_t line = wanted < 2 * kHugePage ? 64 : kHugePage;
    const std::size_t bytes = std::max((wanted + line - 1) / line * line, line);
    const std::size_t room = bytes < kLarge ? 4 * bytes : bytes + bytes / 4;
    if (const Turn turn{store.mutex, std::try_to_lock}) {
        std::size_t best = store.pieces.size();
        for (std::size_t i = 0; i < store.pieces.size(); ++i) {
            const std::size_t size = store.pieces[i].bytes;
            if (size >= bytes && size <= room && (best == store.pieces.size() || size < store.pieces[best].bytes))
                best = i;
        }
        if (best < store.pieces.size()) {
            const Piece piece = store.take(best);
            return Floats(piece.data, GiveBack{piece.bytes});
        }
        std::size_t freed = 0;
        while (bytes >= kLarge && freed < bytes && !store.pieces.empty()) freed += store.free_oldest();
    }
    void* p = std::aligned_alloc(line, bytes);
    if (!p) throw std::bad_alloc();
#if defined(__linux__)
    if (line == kHugePage) madvise(p, bytes, MADV_HUGEPAGE);  // fails where the system has none, which is fine
#endif
    return Floats(static_cast<float*>(p), GiveBack{bytes});
}

}  // namespace

void FilePages::release() const {
#if defined(__linux__)
    if (bytes > 0) madvise(const_cast<void*>(data), bytes, MADV_DONTNEED);
#endif
}

Floats allocate(int64_t floats) {
    Floats memory = find_memory(floats);
    if (poisons()) std::fill_n(memory.get(), floats, std::numeric_limits<float>::quiet_NaN());
    return memory;
}

void GiveBack::operator()(float* p) const {
    if (const Turn turn{store.mutex, std::try_to_lock}; turn && bytes <= kKept) {
        while (store.pieces.size() == kMost || store.bytes + bytes > kKept) store.free_oldest();
#if defined(__linux__) && defined(MADV_FREE)
        // The system can take it while nobody uses it, but doesn't unless it needs memory.
        if (bytes >= 2 * kHugePage) madvise(p, bytes, MADV_FREE);
#endif
        store.pieces.push_back({p, bytes});
        store.bytes += bytes;
    } else
        std::free(p);
}

}  // namespace kbnet
