// The forward pass over one tile of an image that is wide enough to fill vectors with the pixels of a row.
//
// Reads the group's channels in place, in planes with a border. There are no copies per tap, so the group's planes and
// the bases of one output channel stay in the L1 cache. forward.h handles narrow images, several per strip.
#pragma once

#include "dense.h"
#include "forward.h"

namespace {

struct ForwardTileScratch {
    Field field;
    int64_t planes_count, taps, bases4, dense, row;
    int32_t *tile_at, *offsets;
    float *coefficients, *planes, *pairs, *out, *weight, *bias;
    int64_t floats;

    ForwardTileScratch(const ForwardCall& call, const Tile& tile, float* base)
        : field(tile, call.sizes.half(), call.sizes.height, call.sizes.width) {
        const Sizes& s = call.sizes;
        const bool paired = in_pairs(call);
        planes_count = paired ? (s.group + 1) / 2 : s.group;
        taps = planes_count * s.kernel * s.kernel;
        bases4 = round_up(s.bases, kRows);
        dense = field.dense(), row = field.vectors_across() * kLanes;
        Arena arena{base};
        tile_at = reinterpret_cast<int32_t*>(arena.take(Vectors::room(field.rows, field.pitch)));
        offsets = reinterpret_cast<int32_t*>(arena.take(taps));
        coefficients = arena.take(bases4 * dense);
        planes = arena.take(s.group * field.floats);
        pairs = paired ? arena.take(planes_count * field.floats) : planes;
        out = arena.take(s.group * dense);
        weight = arena.take(bases4 * taps);
        bias = arena.take(bases4);
        floats = arena.used;
    }
};

inline int64_t forward_tile_scratch(const ForwardCall& call, const Tile& largest) {
    return ForwardTileScratch(call, largest, nullptr).floats;
}

template <class Dot>
inline void mix_group(const ForwardCall& call, const ForwardTileScratch& k, const Vectors& at, int64_t group) {
    const Sizes& s = call.sizes;
    for (int64_t c = 0; c < s.group; ++c) {
        pack_bases(k.weight, k.bias, call.weight, call.bias, group * s.group + c, s.channels, s, 1.0f, in_pairs(call));
        mix_bases<Dot>(k.out + c * k.dense, k.pairs, at, k.offsets, k.taps, k.weight, k.bias, k.coefficients, k.dense,
                       k.bases4);
    }
}

void forward_tile(const ForwardCall& call, const Tile& tile, int64_t group0, int64_t group1, float* scratch) {
    const Sizes& s = call.sizes;
    const ForwardTileScratch k(call, tile, scratch);
    const Vectors at = k.field.tile_vectors(k.tile_at);
    tap_offsets(k.offsets, k.planes_count, k.field.floats, s.kernel, k.field.pitch);
    gather_dense(k.coefficients, k.dense, k.row, call.coefficients, 0, s.bases, tile);
    fill(k.coefficients + s.bases * k.dense, (k.bases4 - s.bases) * k.dense, 0.0f);
    for (int64_t g = group0; g < group1; ++g) {
        gather_field(k.planes, k.field, call.x, g * s.group, s.group, tile);
        if (in_pairs(call)) {
            pair_panels(k.pairs, k.field.floats, k.planes, k.field.floats, s.group, k.field.floats);
            mix_group<PairDot>(call, k, at, g);
        } else
            mix_group<FloatDot>(call, k, at, g);
        scatter_dense(call.y, k.out, k.dense, k.row, g * s.group, s.group, tile);
    }
}

}  // namespace
