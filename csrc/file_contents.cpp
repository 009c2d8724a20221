#include "file_contents.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "weights_file.h"

namespace kbnet {
namespace {

constexpr std::size_t kLargest = std::size_t{2} << 30;
constexpr std::size_t kMapped = std::size_t{64} << 20;  // larger files are mapped; truncating one crashes its readers

class Descriptor {
public:
    explicit Descriptor(const char* path) : number_(::open(path, O_RDONLY | O_CLOEXEC)) {}
    ~Descriptor() {
        if (number_ >= 0) close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    operator int() const { return number_; }

private:
    int number_;
};

}  // namespace

void FileContents::Unmap::operator()(void* data) const { munmap(data, bytes); }

FileContents FileContents::of(const char* path) {
    const std::string name = path;
    const auto failed = [&](const char* what) { return BadWeights(what + name + ": " + std::strerror(errno)); };
    const Descriptor file(path);
    struct stat about {};
    if (file < 0 || fstat(file, &about) != 0) throw failed("can't open ");
    const auto size = static_cast<std::size_t>(about.st_size);
    const auto too_large = [&] { return BadWeights("expected a weights file of at most 2 GiB, but " + name + " is larger"); };
    FileContents made;
    if (S_ISREG(about.st_mode) && size > kLargest) throw too_large();
    if (S_ISREG(about.st_mode) && size > kMapped) {
        void* const data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
        if (data != MAP_FAILED) {
            made.mapped_ = {data, Unmap{size}};
            return made;
        }
    }
    std::vector<char> block(1 << 20);
    for (;;) {
        const ssize_t got = read(file, block.data(), block.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw failed("can't read ");
        if (got == 0) return made;
        if (made.read_.size() + static_cast<std::size_t>(got) > kLargest) throw too_large();
        made.read_.append(block.data(), static_cast<std::size_t>(got));
    }
}

std::string_view FileContents::view() const {
    return mapped_ ? std::string_view(static_cast<const char*>(mapped_.get()), mapped_.get_deleter().bytes) : read_;
}

FilePages FileContents::pages() const {
    return mapped_ ? FilePages{mapped_.get(), mapped_.get_deleter().bytes} : FilePages{};
}

}  // namespace kbnet
