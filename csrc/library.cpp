// The C interface (include/kbnet.h): converts pixels of any format and strides, and exceptions to statuses.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "cpu.h"
#include "file_contents.h"
#include "include/kbnet.h"
#include "restoration.h"
#include "weights_file.h"

#ifndef KBNET_VERSION
#define KBNET_VERSION "unknown"
#endif

struct kbnet_model {
    kbnet::FileContents file;
    kbnet::WeightsFile weights;
    kbnet::Network network, in_bfloat16;  // both read the same weights

    explicit kbnet_model(kbnet::FileContents contents)
        : file(std::move(contents)), weights(file.view(), true),
          network(weights.settings(), weights, kbnet::chosen_kernels(), pages()),
          in_bfloat16(paired(weights.settings()), weights, network.kernels(), pages()) {
        weights.expect_all_used();
        pages().release();
        if (!weights.is_in_place()) file = kbnet::FileContents();
    }

    kbnet::FilePages pages() const { return weights.is_in_place() ? file.pages() : kbnet::FilePages{}; }

    static kbnet::Settings paired(kbnet::Settings settings) {
        settings.paired = true;
        return settings;
    }
};

namespace kbnet {
namespace {

constexpr int64_t kDefaultMemory = int64_t{320} << 20;
constexpr float kLuma[3] = {0.299f, 0.587f, 0.114f};  // ITU-R BT.601

thread_local char last_error[512] = "";

kbnet_status failed(kbnet_status status, const std::string& why) {
    const std::size_t length = std::min(why.size(), sizeof last_error - 1);
    std::memcpy(last_error, why.data(), length);
    last_error[length] = '\0';
    return status;
}

// Calls `work`, which returns a status. Converts every exception to a status.
template <class Work>
kbnet_status guarded(Work work) noexcept {
    try {
        return work();
    } catch (const BadWeights& error) {
        return failed(KBNET_ERROR_FILE, error.what());
    } catch (const TooLittleMemory& error) {
        return failed(KBNET_ERROR_MEMORY,
                      "expected a memory_limit of at least " + std::to_string(error.needed) + " bytes for this image");
    } catch (const std::bad_alloc&) {
        return failed(KBNET_ERROR_MEMORY, "out of memory; set a smaller memory_limit, for smaller tiles");
    } catch (const Cancelled&) {
        return failed(KBNET_ERROR_CANCELLED, "cancelled by the progress callback");
    } catch (const NotFinite& error) {
        return failed(KBNET_ERROR_VALUES, error.in_input ? "expected finite values, but the image contains NaN or infinity"
                                                         : "the network returned NaN or infinity for this image");
    } catch (const std::invalid_argument& error) {
        return failed(KBNET_ERROR_ARGUMENT, error.what());
    } catch (const std::exception& error) {
        return failed(KBNET_ERROR_INTERNAL, std::string("internal error: ") + error.what());
    } catch (...) {
        return failed(KBNET_ERROR_INTERNAL, "internal error");
    }
}

void expect(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// A kbnet_image with its strides filled in.
class Pixels {
public:
    Pixels(const kbnet_image& image, const char* name) : image_(image) {
        const std::string prefix = std::string(name) + ": expected ";
        const auto check = [&](bool holds, const char* what) { expect(holds, (prefix + what).c_str()); };
        check(image.data != nullptr, "data to be a pointer to pixels, got NULL");
        check(image.width > 0 && image.height > 0, "width and height to be at least 1");
        check(image.channels >= 1 && image.channels <= 4, "channels to be 1 to 4");
        check(image.format == KBNET_UINT8 || image.format == KBNET_UINT16 || image.format == KBNET_FLOAT,
              "format to be KBNET_UINT8, KBNET_UINT16 or KBNET_FLOAT");
        value_ = image.format == KBNET_UINT8 ? 1 : image.format == KBNET_UINT16 ? 2 : 4;
        if (!image_.channel_stride) image_.channel_stride = value_;
        if (!image_.pixel_stride) image_.pixel_stride = value_ * image.channels;
        if (!image_.row_stride) image_.row_stride = image_.pixel_stride * image.width;
    }

    int64_t height() const { return image_.height; }
    int64_t width() const { return image_.width; }
    int channels() const { return image_.channels; }
    int colours() const { return image_.channels >= 3 ? 3 : 1; }

    // Nominally in [0, 1].
    float get(int64_t y, int64_t x, int c) const {
        const char* const at = address(y, x, c);
        if (image_.format == KBNET_UINT8) return static_cast<float>(static_cast<unsigned char>(*at)) / 255.0f;
        if (image_.format == KBNET_UINT16) return static_cast<float>(load<uint16_t>(at)) / 65535.0f;
        return load<float>(at);
    }

    void set(int64_t y, int64_t x, int c, float value) const {
        char* const at = address(y, x, c);
        if (image_.format == KBNET_FLOAT) return store(at, value);
        const float white = image_.format == KBNET_UINT8 ? 255.0f : 65535.0f;
        // half to even, in the default rounding mode
        const float whole = std::nearbyint(std::min(std::max(value, 0.0f), 1.0f) * white);
        if (image_.format == KBNET_UINT8)
            store(at, static_cast<uint8_t>(whole));
        else
            store(at, static_cast<uint16_t>(whole));
    }

private:
    char* address(int64_t y, int64_t x, int c) const {
        return static_cast<char*>(image_.data) + y * image_.row_stride + x * image_.pixel_stride + c * image_.channel_stride;
    }
    template <class T>
    static T load(const char* at) {
        T value;
        std::memcpy(&value, at, sizeof value);
        return value;
    }
    template <class T>
    static void store(char* at, T value) {
        std::memcpy(at, &value, sizeof value);
    }

    kbnet_image image_;
    ptrdiff_t value_;
};

int usable_processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
    return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

kbnet_options checked(const kbnet_options* given) {
    kbnet_options options;
    kbnet_options_init_sized(&options, sizeof options);
    if (given) {
        expect(given->size >= sizeof(size_t) && given->size <= 4096, "options: expected size to be set by kbnet_options_init");
        std::memcpy(&options, given, std::min(given->size, sizeof options));
    }
    expect(options.threads >= 0 && options.threads <= 4096, "options: expected threads to be 0 to 4096");
    expect(options.tile >= -1, "options: expected tile to be -1 (the whole image), 0 (automatic) or a size in pixels");
    expect(options.window >= KBNET_WINDOW_OF_WEIGHTS,
           "options: expected window to be KBNET_WINDOW_OF_WEIGHTS, 0 (the whole image) or a size in pixels");
    expect(options.strength >= 0 && options.strength <= 1, "options: expected strength to be 0 to 1");
    expect(options.bfloat16 == 0 || options.bfloat16 == 1, "options: expected bfloat16 to be 0 or 1");
    return options;
}

// Converts pixels to the network's channels: unchanged, a gray value repeated, or the luma of a colour.
void to_network(const Pixels& image, int64_t channels, int64_t y, int64_t x, int64_t count, float* row) {
    for (int64_t i = 0; i < count; ++i) {
        if (channels == 1 && image.colours() == 3) {
            row[i] = 0;
            for (int c = 0; c < 3; ++c) row[i] += kLuma[c] * image.get(y, x + i, c);
        } else
            for (int64_t c = 0; c < channels; ++c)
                row[c * count + i] = image.get(y, x + i, image.colours() == 3 ? static_cast<int>(c) : 0);
    }
}

void from_network(const Pixels& input, const Pixels& output, int64_t channels, float strength, int64_t y, const float* row) {
    const int64_t width = input.width();
    for (int64_t x = 0; x < width; ++x) {
        float before[3] = {}, luma = 0, after[3];
        for (int c = 0; c < input.colours(); ++c) before[c] = input.get(y, x, c), luma += kLuma[c] * before[c];
        for (int c = 0; c < input.colours(); ++c) {
            if (channels == input.colours())
                after[c] = row[c * width + x];
            else if (channels == 3)
                after[c] = (row[x] + row[width + x] + row[2 * width + x]) / 3;
            else
                after[c] = before[c] + (row[x] - luma);
            if (strength != 1) after[c] = before[c] + strength * (after[c] - before[c]);
        }
        const float alpha = input.channels() % 2 ? 0 : input.get(y, x, input.channels() - 1);
        for (int c = 0; c < input.colours(); ++c) output.set(y, x, c, after[c]);
        if (input.channels() % 2 == 0) output.set(y, x, input.channels() - 1, alpha);
    }
}

}  // namespace
}  // namespace kbnet

using namespace kbnet;

extern "C" {

const char* kbnet_version(void) { return KBNET_VERSION; }
int32_t kbnet_abi_version(void) { return KBNET_ABI_VERSION; }
const char* kbnet_error(void) { return last_error; }

kbnet_model* kbnet_open(const char* path) {
    kbnet_model* model = nullptr;
    guarded([&] {
        expect(path != nullptr, "expected a path, got NULL");
        model = new kbnet_model(FileContents::of(path));
        return KBNET_OK;
    });
    return model;
}

kbnet_model* kbnet_open_memory(const void* data, size_t size) {
    kbnet_model* model = nullptr;
    guarded([&] {
        expect(data != nullptr, "expected the bytes of a weights file, got NULL");
        model = new kbnet_model(FileContents(std::string(static_cast<const char*>(data), size)));
        return KBNET_OK;
    });
    return model;
}

void kbnet_free(kbnet_model* model) { delete model; }

int32_t kbnet_channels(const kbnet_model* model) {
    return model ? static_cast<int32_t>(model->weights.settings().channels) : 0;
}

const char* kbnet_instruction_set(const kbnet_model* model) { return model ? model->network.kernels().name : nullptr; }

int32_t kbnet_window(const kbnet_model* model) { return model ? static_cast<int32_t>(model->weights.window()) : 0; }

int32_t kbnet_has_bfloat16(const kbnet_model* model) { return model && model->network.kernels().has_pairs; }

void kbnet_options_init_sized(kbnet_options* options, size_t size) {
    if (!options) return;
    const kbnet_options defaults{std::min(size, sizeof defaults), 0, 0, KBNET_WINDOW_OF_WEIGHTS, 1.0f, 0, nullptr, nullptr, 0};
    std::memcpy(options, &defaults, defaults.size);
}

kbnet_status kbnet_restore(const kbnet_model* model, const kbnet_image* input, const kbnet_image* output,
                           const kbnet_options* given) {
    return guarded([&] {
        expect(model && input && output, "expected a model, an input and an output, got NULL");
        const kbnet_options options = checked(given);
        const Pixels from(*input, "input"), to(*output, "output");
        expect(from.width() == to.width() && from.height() == to.height() && from.channels() == to.channels(),
               "expected output to have the width, height and channels of input");
        const int64_t channels = kbnet_channels(model);
        Restoration task{from.height(), from.width(), {}, {}, {}};
        task.read = [&](int64_t y, int64_t x, int64_t count, float* row) { to_network(from, channels, y, x, count, row); };
        task.write = [&](int64_t y, const float* row) { from_network(from, to, channels, options.strength, y, row); };
        task.go_on = [&](int64_t done, int64_t total) {
            return !options.progress || options.progress(options.user, done, total) == 0;
        };
        task.threads = options.threads ? options.threads : usable_processors();
        task.tile = options.tile;
        task.window = options.window == KBNET_WINDOW_OF_WEIGHTS ? model->weights.window() : options.window;
        const size_t most = static_cast<size_t>(std::numeric_limits<int64_t>::max());
        task.memory = options.memory_limit ? static_cast<int64_t>(std::min(options.memory_limit, most))
                      : options.tile       ? std::numeric_limits<int64_t>::max()
                                           : kDefaultMemory;
        restore(options.bfloat16 ? model->in_bfloat16 : model->network, channels, task);
        return KBNET_OK;
    });
}

}  // extern "C"
