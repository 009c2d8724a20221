// A small, strict JSON reader (RFC 8259) for the untrusted headers of weights files.
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
    std::vector<std::pair<std::string, Json>> members;  // kObject, in order of appearance

    // Returns a member by name, null if there is none. If names repeat, the last one counts.
    const Json* find(std::string_view name) const;
};

// Throws std::runtime_error if the text isn't a single JSON value or is nested more than 32 levels deep.
Json parse_json(std::string_view text);

}  // namespace kbnet
