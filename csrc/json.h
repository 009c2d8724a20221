// A small strict JSON reader (RFC 8259) for the headers of weights files, which may be hostile.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kbnet {

struct Json {
    enum Kind { kNull, kBool, kNumber, kString, kArray, kObject } kind = kNull;
    bool boolean = false;
    double number = 0;
    std::string text;
    std::vector<Json> items;                            // kArray
    std::vector<std::pair<std::string, Json>> members;  // kObject, in the order of the text

    // A member by name; null if there is none or this is no object. The last of equal names.
    const Json* find(std::string_view name) const;
};

// Throws std::runtime_error if the text is not one JSON value, or nests deeper than 32 levels.
Json parse_json(std::string_view text);

}  // namespace kbnet
