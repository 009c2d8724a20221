// The bytes of a weights file: mapped if the file is large, to avoid a second copy.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "work.h"

namespace kbnet {

class FileContents {
public:
    FileContents() = default;
    explicit FileContents(std::string bytes) : read_(std::move(bytes)) {}

    // Throws BadWeights if the file can't be read or is larger than 2 GiB.
    static FileContents of(const char* path);

    // Valid until this object is moved or destroyed.
    std::string_view view() const;
    // Its pages, if it is mapped.
    FilePages pages() const;

private:
    struct Unmap {
        std::size_t bytes;
        void operator()(void* data) const;
    };

    std::string read_;
    std::unique_ptr<void, Unmap> mapped_{nullptr, Unmap{0}};
};

}  // namespace kbnet
