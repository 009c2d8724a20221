// Reads a network's settings and parameters from a .safetensors file that models/weights.py wrote. The file isn't
// trusted: every size is checked before it is used.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine.h"

namespace kbnet {

// The file is damaged or contains something else; the message says which.
struct BadWeights : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class WeightsFile final : public Source {
public:
    // With `in_place`, parameters of float32 and bfloat16 stay where they are: `bytes` must then outlive this object.
    explicit WeightsFile(std::string_view bytes, bool in_place = false);

    const Settings& settings() const { return settings_; }

    // The side of the window around each pixel over which the weights were meant to average, in pixels; 0 for the whole
    // image, also if the file doesn't say (models/usage.py).
    int64_t window() const { return window_; }

    // Whether any parameter stays in `bytes`.
    bool is_in_place() const { return in_place_; }

    // Throws BadWeights if the parameter is missing or has another size.
    Matrix find(const std::string& name, int64_t values) override;

    // Throws BadWeights if the file contains other parameters: then its network is larger than its settings.
    void expect_all_used() const;

private:
    struct Parameter {
        Matrix values{};
        int64_t count = 0;
        std::vector<float> own;  // empty if it stays in the file
    };

    std::unordered_map<std::string, Parameter> parameters_;
    std::unordered_set<std::string> used_;
    Settings settings_;
    int64_t window_ = 0;
    bool in_place_ = false;
};

}  // namespace kbnet
