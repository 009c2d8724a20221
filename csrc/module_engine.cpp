// Bindings in kbnet.engine._native for whole networks: settings and arrays in, restored image out, without torch.
#include "module_engine.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine.h"
#include "views.h"

namespace nb = nanobind;

namespace kbnet {
namespace {

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;

class State final : public Source {
public:
    explicit State(nb::dict arrays) : arrays_(std::move(arrays)) {}

    Matrix find(const std::string& name, int64_t values) override {
        const nb::str key(name.c_str());
        expect(arrays_.contains(key), "the weights lack " + name);
        const AnyArray array = nb::cast<AnyArray>(arrays_[key]);
        expect(static_cast<int64_t>(array.size()) == values,
               name + " has " + std::to_string(array.size()) + " values, expected " + std::to_string(values));
        held_.push_back(array);
        if (array.dtype() == nb::dtype<uint16_t>()) return {array.data(), true};  // bfloat16 as raw bits
        return matrix(array);
    }

private:
    nb::dict arrays_;
    std::vector<AnyArray> held_;  // keeps the arrays alive, because matrices aren't copied
};

class Engine {
public:
    Engine(const nb::dict& settings, const nb::dict& arrays, const std::string& instruction_set, bool bfloat16,
           std::optional<Bytes> file)
        : state_(arrays), file_(std::move(file)) {
        const auto whole = [&](const char* name) { return nb::cast<int64_t>(settings[name]); };
        const auto wholes = [&](const char* name) { return nb::cast<std::vector<int64_t>>(settings[name]); };
        Settings s{};
        s.channels = whole("channels"), s.width = whole("width");
        s.bases = whole("bases"), s.group = whole("group_channels"), s.kernel = whole("kernel_size");
        s.head_limit = whole("coefficient_limit"), s.eps = 1e-6f, s.paired = bfloat16;
        if (settings.contains("heads")) {
            s.family = Family::kLarge;
            s.blocks = wholes("blocks"), s.heads = wholes("heads");
            s.refinement_blocks = whole("refinement_blocks");
            s.expansion = nb::cast<double>(settings["expansion"]), s.bias = nb::cast<bool>(settings["bias"]);
        } else {
            s.middle_blocks = whole("middle_blocks");
            s.encoder_blocks = wholes("encoder_blocks"), s.decoder_blocks = wholes("decoder_blocks");
            s.ffn_scale = nb::cast<double>(settings["ffn_scale"]);
            s.lightweight = nb::cast<bool>(settings["lightweight"]);
        }
        const FilePages pages = file_ ? FilePages{file_->data(), file_->size()} : FilePages{};
        network_ = std::make_unique<Network>(s, state_, kernels_named(instruction_set), pages);
        in_bfloat16_ = bfloat16 && network_->kernels().has_pairs;
    }

    std::vector<std::vector<float>> run(const Image& x, const Image& y, const std::string& context, int64_t window,
                                        int64_t halo, const std::vector<std::vector<float>>& means, int threads) const {
        expect_same_shape(x, y, "y must have the shape of x");
        expect(x.stride(3) == 1 && y.stride(3) == 1, "rows of pixels must be contiguous");
        Context how;
        how.window = window, how.halo = halo, how.means = means;
        if (context == "local")
            how.kind = Context::kLocal;
        else if (context == "gather")
            how.kind = Context::kGather;
        else if (context == "shared")
            how.kind = Context::kShared;
        else
            expect(context == "full", "expected the context to be full, local, gather or shared");
        const auto size = [&](std::size_t i) { return static_cast<int64_t>(x.shape(i)); };
        const Tensor4 from{x.data(), x.stride(0), x.stride(1), x.stride(2), 1, false};
        const Tensor4 to{y.data(), y.stride(0), y.stride(1), y.stride(2), 1, false};
        {
            nb::gil_scoped_release release;
            network_->run(from, to, size(0), size(2), size(3), how, threads);
        }
        return how.kind == Context::kGather ? how.means : std::vector<std::vector<float>>{};
    }

    int64_t bytes(int64_t batch, int64_t height, int64_t width, int64_t window) const {
        return network_->bytes(batch, height, width, window);
    }
    int64_t multiple() const { return network_->multiple(); }
    std::string instruction_set() const { return network_->kernels().name; }
    bool in_bfloat16() const { return in_bfloat16_; }

private:
    State state_;
    std::optional<Bytes> file_;
    std::unique_ptr<Network> network_;
    bool in_bfloat16_;
};

}  // namespace

void define_engine(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<Engine>(m, "Engine", "A network with its weights.")
        .def(nb::init<const nb::dict&, const nb::dict&, const std::string&, bool, std::optional<Bytes>>(), "settings"_a,
             "arrays"_a, "instruction_set"_a = "", "bfloat16"_a = false, "file"_a = nb::none())
        .def("run", &Engine::run, "x"_a, "y"_a.noconvert(), "context"_a, "window"_a, "halo"_a, "means"_a, "threads"_a)
        .def("bytes", &Engine::bytes, "batch"_a, "height"_a, "width"_a, "window"_a = 0)
        .def_prop_ro("multiple", &Engine::multiple)
        .def_prop_ro("instruction_set", &Engine::instruction_set)
        .def_prop_ro("in_bfloat16", &Engine::in_bfloat16);
}

}  // namespace kbnet
