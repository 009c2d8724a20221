#include "engine.h"

#include "layers.h"

namespace kbnet {

Network::Network(const Settings& settings, Source& source, const Kernels& kernels, const FilePages& file)
    : kernels_(kernels),
      file_(file),
      form_(settings.family == Family::kLarge ? make_kbnet_l(settings, source, kernels) : make_kbnet_s(settings, source, kernels)) {}

Network::~Network() = default;

int64_t Network::multiple() const { return form_->multiple(); }

int64_t Network::bytes(int64_t batch, int64_t height, int64_t width, int64_t window) const {
    return form_->bytes(batch, height, width, window);
}

void Network::run(const Tensor4& x, const Tensor4& y, int64_t batch, int64_t height, int64_t width, Context& context,
                  int threads) const {
    if (batch * height * width == 0) return;
    if (context.kind == Context::kGather) context.means.clear();
    // Rereading pages costs time too, but on a large image far less than the layers.
    const bool releases = form_->bytes(batch, height, width, 0) > static_cast<int64_t>(file_.bytes / 4);
    form_->run(x, y, batch, height, width, context, threads, releases ? file_ : FilePages{});
}

}  // namespace kbnet
