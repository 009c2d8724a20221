// The functions of the WebAssembly module: one network, one tile at a time, on one thread. The JavaScript in web/ does the
// rest. Functions return an address or a number. Errors are passed to `kbnet_fail`, which does not return.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cpu.h"
#include "pages_web.h"
#include "restoration.h"
#include "weights_file.h"

#define EXPORT(name) __attribute__((export_name(name), visibility("default")))

extern "C" __attribute__((import_module("kbnet"), import_name("fail"), noreturn)) void kbnet_fail(const char* text,
                                                                                               std::size_t length);

namespace kbnet {
namespace {

struct Model {
    WeightsFile weights;
    Network network;
    Context context;
    std::vector<float> means;  // of the context: the number of sites, then the length and the values of each

    explicit Model(std::string_view bytes)
        : weights(bytes), network(weights.settings(), weights, *usable_kernels().front()) {
        weights.expect_all_used();
    }
};

std::vector<float> answer;  // result of the last call that returned several numbers

}  // namespace
}  // namespace kbnet

// The module has no unwinding: an exception ends the call in JavaScript, and the instance can't be used again.
extern "C" {

void* __cxa_allocate_exception(std::size_t size) { return std::malloc(size); }

[[noreturn]] void __cxa_throw(void* thrown, void*, void (*)(void*)) {
    // All exceptions thrown here have std::exception as their first base.
    const char* const text = static_cast<std::exception*>(thrown)->what();
    kbnet_fail(text, std::strlen(text));
}

using namespace kbnet;

EXPORT("allocate") void* web_allocate(std::size_t bytes) { return take_pages(bytes); }
EXPORT("release") void web_release(void* memory) { give_pages(memory); }

EXPORT("open") Model* web_open(const char* bytes, std::size_t size) { return new Model({bytes, size}); }
EXPORT("channels") int web_channels(const Model* model) { return static_cast<int>(model->weights.settings().channels); }
EXPORT("multiple") int web_multiple(const Model* model) { return static_cast<int>(model->network.multiple()); }

// x and y: [batch, channels, height, width]. kind: 0 full frame, 1 local, 2 gather, 3 shared.
EXPORT("run") void web_run(Model* model, float* x, float* y, int batch, int height, int width, int kind, int window, int halo) {
    const int64_t channels = model->weights.settings().channels, plane = int64_t{height} * width;
    Context& context = model->context;
    context.kind = static_cast<Context::Kind>(kind), context.window = window, context.halo = halo;
    const Tensor4 from{x, channels * plane, plane, width, 1, false}, to{y, channels * plane, plane, width, 1, false};
    model->network.run(from, to, batch, height, width, context, 1);
}

// The gathered averages: the number of sites, then the length and the values of each. `count` is the total length.
EXPORT("means") const float* web_means(Model* model, int* count) {
    std::vector<float>& flat = model->means;
    flat.assign(1, static_cast<float>(model->context.means.size()));
    for (const std::vector<float>& mean : model->context.means) {
        flat.push_back(static_cast<float>(mean.size()));
        flat.insert(flat.end(), mean.begin(), mean.end());
    }
    *count = static_cast<int>(flat.size());
    return flat.data();
}

EXPORT("set_means") void web_set_means(Model* model, const float* flat) {
    model->context.means.clear();
    const float* at = flat + 1;
    for (int site = 0; site < static_cast<int>(*flat); ++site) {
        const auto length = static_cast<std::size_t>(*at++);
        model->context.means.emplace_back(at, at + length);
        at += length;
    }
}

// Spans of an axis: their number, then the start, the stop and the weights of each.
EXPORT("spans") const float* web_spans(int length, int tile, int overlap, int multiple) {
    const std::vector<Span> spans = plan_spans(length, tile, overlap, multiple);
    answer.assign(1, static_cast<float>(spans.size()));
    for (const Span& span : spans) {
        answer.push_back(static_cast<float>(span.start)), answer.push_back(static_cast<float>(span.stop));
        answer.insert(answer.end(), span.weights.begin(), span.weights.end());
    }
    return answer.data();
}

// Corners of the crops from which averages are gathered: their number, then y and x of each.
EXPORT("crops") const float* web_crops(int height, int width, int side, int halo, int pixels, int multiple) {
    const auto corners = sample_crops(height, width, side, halo, pixels, multiple);
    answer.assign(1, static_cast<float>(corners.size()));
    for (const auto& corner : corners)
        answer.push_back(static_cast<float>(corner.first)), answer.push_back(static_cast<float>(corner.second));
    return answer.data();
}

}  // extern "C"
