#include "transposed.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "driver.h"

namespace kbnet {
namespace {

float value(const Matrix& m, int64_t i) {
    if (!m.bfloat16) return static_cast<const float*>(m.data)[i];
    const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(m.data)[i]) << 16;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

// Mean products of queries and keys [heads][C / heads][C / heads], and mean squares of queries and keys, [C] each.
struct Means {
    std::vector<float> products, queries, keys;
};

// The mean of all images' sums, or one image's.
Means means_of(const std::vector<float>& sums, const AttentionCall& call, int64_t image0, int64_t images, int64_t pixels) {
    std::vector<float> mean(static_cast<std::size_t>(call.sums()));
    for (std::size_t i = 0; i < mean.size(); ++i) {
        double total = 0;
        for (int64_t b = image0; b < image0 + images; ++b) total += sums[static_cast<std::size_t>(b) * mean.size() + i];
        mean[i] = static_cast<float>(total / static_cast<double>(pixels * images));
    }
    const auto keys = mean.end() - call.sizes.channels, queries = keys - call.sizes.channels;
    return {{mean.begin(), queries}, {queries, keys}, {keys, mean.end()}};
}

// The layer's weight [C, C] times the attention of the means.
void multiply_out(const AttentionCall& call, const Matrix& temperature, const Means& means, float eps, float* to) {
    const int64_t channels = call.sizes.channels, each = channels / call.heads;
    std::vector<float> row(static_cast<std::size_t>(each));
    std::fill(to, to + channels * channels, 0.0f);
    for (int64_t c = 0; c < channels; ++c) {
        const int64_t head = c / each, first = head * each;
        const float length = std::max(std::sqrt(means.queries[static_cast<std::size_t>(c)]), eps);
        float most = -std::numeric_limits<float>::infinity(), total = 0.0f;
        for (int64_t j = 0; j < each; ++j) {
            const float other = std::max(std::sqrt(means.keys[static_cast<std::size_t>(first + j)]), eps);
            float& at = row[static_cast<std::size_t>(j)];
            at = means.products[static_cast<std::size_t>(c * each + j)] / (length * other) * value(temperature, head);
            most = std::max(most, at);
        }
        for (float& at : row) total += at = std::exp(at - most);
        for (int64_t o = 0; o < channels; ++o) {
            const float share = value(call.out, o * channels + c) / total;
            for (int64_t j = 0; j < each; ++j) to[o * channels + first + j] += share * row[static_cast<std::size_t>(j)];
        }
    }
}

Means from_context(const Context& context, std::size_t site, const AttentionCall& call) {
    const auto channels = static_cast<std::size_t>(call.sizes.channels), all = static_cast<std::size_t>(call.sums());
    if (site + 2 >= context.means.size() || context.means[site].size() != all - 2 * channels ||
        context.means[site + 1].size() != channels || context.means[site + 2].size() != channels)
        throw std::invalid_argument("the shared averages belong to another network");
    return {context.means[site], context.means[site + 1], context.means[site + 2]};
}

}  // namespace

void transposed_attention(const Kernels& kernels, AttentionCall call, const Matrix& temperature, Context& context,
                          std::size_t site, int64_t input_height, int threads) {
    const Sizes& s = call.sizes;
    const int64_t halo = context.kind == Context::kGather ? context.halo * s.height / input_height : 0;
    const int64_t pixels = (s.height - 2 * halo) * (s.width - 2 * halo);
    const bool each = context.kind != Context::kShared && context.kind != Context::kGather;
    call.out_batch = each ? s.batch : 1;
    // F.normalize clamps the root of a sum at 1e-12; this is the root of a mean.
    const float eps = 1e-12f / std::sqrt(static_cast<float>(pixels));
    const Floats matrices = allocate(call.out_batch * s.channels * s.channels);
    if (context.kind == Context::kShared) {
        multiply_out(call, temperature, from_context(context, site, call), eps, matrices.get());
    } else {
        std::vector<float> sums(static_cast<std::size_t>(s.batch * call.sums()));
        attention_sums(kernels, call, halo, sums.data(), threads);
        for (int64_t b = 0; b < call.out_batch; ++b) {
            const Means means = means_of(sums, call, b, each ? 1 : s.batch, pixels);
            multiply_out(call, temperature, means, eps, matrices.get() + b * s.channels * s.channels);
            if (!each) context.means.insert(context.means.end(), {means.products, means.queries, means.keys});
        }
    }
    call.out = {matrices.get(), false};
    attention(kernels, call, threads);
}

}  // namespace kbnet
