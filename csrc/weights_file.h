// A network's settings and parameters from a .safetensors file of kbnet (models/checkpoint.py writes it). Nothing in the
// file is trusted: every size is checked before it is used.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine.h"

namespace kbnet {

// The file is damaged, or of something else; the message says which.
struct BadWeights : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class WeightsFile final : public Source {
public:
    explicit WeightsFile(std::string_view bytes);

    const Settings& settings() const { return settings_; }

    // float32, kept here; BadWeights if the file has no such parameter, or one of another size or not finite.
    Matrix find(const std::string& name, int64_t values) override;

    // BadWeights if the file holds parameters that nobody asked for: it is of a larger network than its settings say.
    void expect_all_used() const;

private:
    std::unordered_map<std::string, std::vector<float>> parameters_;
    std::unordered_set<std::string> used_;
    Settings settings_;
};

// The whole file as bytes; BadWeights if it cannot be read or is larger than 2 GiB.
std::string read_file(const char* path);

}  // namespace kbnet
