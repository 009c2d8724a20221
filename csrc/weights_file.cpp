#include "weights_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "json.h"

namespace kbnet {
namespace {

constexpr int64_t kMostBlocks = 64;  // of a level
constexpr int64_t kLargestWindow = 65536;
constexpr std::size_t kLargestHeader = std::size_t{16} << 20;

float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(mantissa), -24), sign ? -1.0f : 1.0f);
    const uint32_t bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float bfloat16_to_float(uint16_t stored) {
    const uint32_t bits = static_cast<uint32_t>(stored) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class Stored, class Convert>
std::vector<float> convert(std::string_view bytes, Convert to_float) {
    std::vector<float> values(bytes.size() / sizeof(Stored));
    for (std::size_t i = 0; i < values.size(); ++i) {
        Stored stored;
        std::memcpy(&stored, bytes.data() + i * sizeof stored, sizeof stored);
        values[i] = static_cast<float>(to_float(stored));
    }
    return values;
}

std::size_t size_of(const std::string& dtype) { return dtype == "F64" ? 8 : dtype == "F32" ? 4 : 2; }

BadWeights not_finite(const std::string& name) {
    return BadWeights("the weights are damaged: " + name + " contains NaN or infinity");
}

// A parameter in place; null if it is misaligned or must be converted.
Matrix in_file(const std::string& name, const std::string& dtype, std::string_view bytes) {
    const std::size_t count = bytes.size() / size_of(dtype);
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(dtype) != 0) return {};
    if (dtype == "F32") {
        const auto* values = reinterpret_cast<const float*>(bytes.data());
        if (!std::all_of(values, values + count, [](float v) { return std::isfinite(v); })) throw not_finite(name);
        return {values, false};
    }
    if (dtype != "BF16") return {};
    const auto* values = reinterpret_cast<const uint16_t*>(bytes.data());
    if (std::any_of(values, values + count, [](uint16_t v) { return (v & 0x7f80) == 0x7f80; })) throw not_finite(name);
    return {values, true};
}

std::vector<float> decode(const std::string& name, const std::string& dtype, std::string_view bytes) {
    std::vector<float> values;
    if (dtype == "F32")
        values = convert<float>(bytes, [](float v) { return v; });
    else if (dtype == "F16")
        values = convert<uint16_t>(bytes, half_to_float);
    else if (dtype == "BF16")
        values = convert<uint16_t>(bytes, bfloat16_to_float);
    else if (dtype == "F64")
        values = convert<double>(bytes, [](double v) { return v; });
    else
        throw BadWeights("expected floating-point parameters, but " + name + " is " + dtype.substr(0, 20));
    for (const float value : values)
        if (!std::isfinite(value)) throw not_finite(name);
    return values;
}

class SettingsReader {
public:
    explicit SettingsReader(const Json& table) : table_(table) {}

    int64_t whole(const char* name, int64_t low, int64_t high) const { return whole(member(name), name, low, high); }

    std::vector<int64_t> wholes(const char* name, int64_t low, int64_t high) const {
        const Json& found = member(name);
        if (found.kind != Json::kArray || found.items.empty() || found.items.size() > 6) fail(name);
        std::vector<int64_t> values;
        for (const Json& item : found.items) values.push_back(whole(item, name, low, high));
        return values;
    }

    double positive(const char* name, double high) const {
        const Json& found = member(name);
        if (found.kind != Json::kNumber || !(found.number > 0 && found.number <= high)) fail(name);
        return found.number;
    }

    bool boolean(const char* name) const {
        const Json& found = member(name);
        if (found.kind != Json::kBool) fail(name);
        return found.boolean;
    }

    [[noreturn]] static void fail(const std::string& name) {
        throw BadWeights("the weights are damaged: the setting " + name + " is missing or out of range");
    }

private:
    const Json& member(const char* name) const {
        const Json* found = table_.find(name);
        if (!found) fail(name);
        return *found;
    }

    static int64_t whole(const Json& found, const char* name, int64_t low, int64_t high) {
        const double value = found.number;
        if (found.kind != Json::kNumber || !(value >= low && value <= high) || value != std::floor(value)) fail(name);
        return static_cast<int64_t>(value);
    }

    const Json& table_;
};

void read_small(const SettingsReader& read, Settings& s) {
    s.middle_blocks = read.whole("middle_blocks", 0, kMostBlocks);
    s.encoder_blocks = read.wholes("encoder_blocks", 0, kMostBlocks), s.decoder_blocks = read.wholes("decoder_blocks", 0, kMostBlocks);
    s.ffn_scale = read.positive("ffn_scale", 16), s.lightweight = read.boolean("lightweight");
    if (s.encoder_blocks.size() != s.decoder_blocks.size()) SettingsReader::fail("decoder_blocks");
    if (s.width % s.group || s.width % (s.lightweight ? 2 : 4)) SettingsReader::fail("width");
    for (std::size_t level = 0; level <= s.encoder_blocks.size(); ++level) {
        const auto hidden = static_cast<int64_t>(s.ffn_scale * static_cast<double>(s.width << level));
        if (hidden < 2 || hidden % 2) SettingsReader::fail("ffn_scale");
    }
}

void read_large(const SettingsReader& read, Settings& s) {
    s.blocks = read.wholes("blocks", 0, kMostBlocks), s.heads = read.wholes("heads", 1, 1024);
    s.refinement_blocks = read.whole("refinement_blocks", 0, kMostBlocks);
    s.expansion = read.positive("expansion", 16), s.bias = read.boolean("bias");
    if (s.blocks.size() != 4) SettingsReader::fail("blocks");
    if (s.heads.size() != 4) SettingsReader::fail("heads");
    if (s.width % 2) SettingsReader::fail("width");
    for (std::size_t level = 0; level < 4; ++level) {
        const int64_t channels = s.width << level;
        const auto hidden = static_cast<int64_t>(static_cast<double>(channels) * s.expansion);
        if (channels % s.heads[level]) SettingsReader::fail("heads");
        if (hidden < 1 || hidden % s.group) SettingsReader::fail("expansion");
    }
}

// The bounds are those of models/bounds.py and models/config.py.
Settings read_settings(const std::string& family, const Json& table) {
    const SettingsReader read(table);
    Settings s{};
    s.channels = read.whole("channels", 1, 3);
    if (s.channels == 2) SettingsReader::fail("channels");
    s.width = read.whole("width", 2, 1024);
    s.bases = read.whole("bases", 1, 512), s.group = read.whole("group_channels", 1, 64);
    s.kernel = read.whole("kernel_size", 1, 15), s.head_limit = read.whole("coefficient_limit", 2, 1024);
    s.eps = 1e-6f;
    if (s.kernel % 2 == 0) SettingsReader::fail("kernel_size");
    s.family = family == "kbnet-l" ? Family::kLarge : Family::kSmall;
    s.family == Family::kLarge ? read_large(read, s) : read_small(read, s);
    return s;
}

// The window of models/usage.py's JSON.
int64_t read_window(const Json& usage) {
    const int64_t window = SettingsReader(usage).whole("window", 1, kLargestWindow);
    const Json* context = usage.find("context");
    const std::string where = context ? context->text : std::string();
    if (where != "local" && where != "global" && where != "tile") SettingsReader::fail("context");
    return where == "local" ? window : 0;
}

}  // namespace

WeightsFile::WeightsFile(std::string_view bytes, bool in_place) {
    uint64_t length = 0;
    if (bytes.size() < 10) throw BadWeights("expected a .safetensors file, got " + std::to_string(bytes.size()) + " bytes");
    for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]);
    if (bytes[8] != '{') throw BadWeights("expected a .safetensors file; this file has another format");
    if (length > kLargestHeader || length > bytes.size() - 8)
        throw BadWeights("the weights are damaged or truncated: the header is longer than the file");
    Json header;
    try {
        header = parse_json(bytes.substr(8, length));
    } catch (const std::runtime_error& error) {
        throw BadWeights(std::string("the weights are damaged: the header is ") + error.what());
    }
    const std::string_view data = bytes.substr(8 + length);
    const Json* about = header.find("__metadata__");
    const auto text = [&](const char* name) {
        const Json* found = about ? about->find(name) : nullptr;
        return found && found->kind == Json::kString ? found->text : std::string();
    };
    if (text("kbnet") != "1") throw BadWeights("expected weights written by kbnet; to convert others, run `kbnet convert`");
    const std::string family = text("family");
    if (family != "kbnet-s" && family != "kbnet-l")
        throw BadWeights("expected weights of KBNet-S or KBNet-L, got " + family.substr(0, 20) + ", which this library doesn't support");
    try {
        settings_ = read_settings(family, parse_json(text("settings")));
        if (about->find("usage")) window_ = read_window(parse_json(text("usage")));
    } catch (const BadWeights&) {
        throw;
    } catch (const std::runtime_error& error) {
        throw BadWeights(std::string("the weights are damaged: the settings are ") + error.what());
    }
    for (const auto& [name, tensor] : header.members) {
        if (name == "__metadata__") continue;
        const Json *dtype = tensor.find("dtype"), *offsets = tensor.find("data_offsets"), *shape = tensor.find("shape");
        const auto damaged = [&, &name = name] { return BadWeights("the weights are damaged: " + name.substr(0, 80) + " is outside the file"); };
        if (!dtype || !offsets || !shape || offsets->items.size() != 2) throw damaged();
        const double begin = offsets->items[0].number, end = offsets->items[1].number;
        if (!(begin >= 0 && begin <= end && end <= static_cast<double>(data.size()))) throw damaged();
        double values = 1;
        for (const Json& side : shape->items) values *= side.number;
        const auto size = static_cast<std::size_t>(end - begin);
        if (values * static_cast<double>(size_of(dtype->text)) != static_cast<double>(size)) throw damaged();
        const std::string_view stored = data.substr(static_cast<std::size_t>(begin), size);
        const auto [place, is_new] = parameters_.try_emplace(name);
        if (!is_new) throw BadWeights("the weights are damaged: " + name.substr(0, 80) + " is there twice");
        Parameter& made = place->second;
        if (in_place) made.values = in_file(name.substr(0, 80), dtype->text, stored);
        if (made.values.data) {
            in_place_ = true;
        } else {
            made.own = decode(name.substr(0, 80), dtype->text, stored);
            made.values = {made.own.data(), false};
        }
        made.count = static_cast<int64_t>(size / size_of(dtype->text));
    }
}

Matrix WeightsFile::find(const std::string& name, int64_t values) {
    const auto found = parameters_.find(name);
    if (found == parameters_.end()) throw BadWeights("the weights don't match their settings: " + name + " is missing");
    if (found->second.count != values)
        throw BadWeights("the weights don't match their settings: " + name + " has " + std::to_string(found->second.count) +
                         " values, expected " + std::to_string(values));
    used_.insert(name);
    return found->second.values;
}

void WeightsFile::expect_all_used() const {
    for (const auto& [name, values] : parameters_)
        if (!used_.count(name)) throw BadWeights("the weights don't match their settings: unexpected parameter " + name.substr(0, 80));
}

}  // namespace kbnet
