// The forward pass over one tile of an image that is wide enough to fill vectors with the pixels of a row.
//
// Reads the group's channels in place, in planes with a border. There are no copies per tap, so the group's planes and
// the bases of one output channel stay in the L1 cache. forward.h handles narrow images, several per strip.
#pragma once

#include "forward.h"
#include "mixing.h"

namespace {

inline Products tile_products(const ForwardCall& call) { return products_for(call.x.bfloat16, call.split); }

inline int64_t forward_tile_packed(const ForwardCall& call) { return Mixing::packed(call.sizes, tile_products(call)); }

inline void forward_tile_pack(const ForwardCall& call, int64_t group, float* packed) {
    const Sizes& s = call.sizes;
    Mixing::pack(packed, call.weight, call.bias, Matrix{}, group, s.groups(), s, tile_products(call));
}

struct ForwardTileScratch {
    Field field;
    Mixing mixing;
    int64_t bases4, dense, row;
    int32_t* tile_at;
    float *coefficients, *planes, *out, *packed;
    int64_t floats;

    ForwardTileScratch(const ForwardCall& call, const Tile& tile, float* base)
        : field(tile, call.sizes.half(), call.sizes.height, call.sizes.width) {
        const Sizes& s = call.sizes;
        bases4 = round_up(s.bases, kRows);
        dense = field.dense(), row = field.vectors_across() * kLanes;
        Arena arena{base};
        tile_at = reinterpret_cast<int32_t*>(arena.take(Vectors::room(field.rows, field.pitch)));
        mixing = Mixing(s, tile_products(call), field, arena);
        coefficients = arena.take(bases4 * dense);
        planes = arena.take(s.group * field.floats);
        out = arena.take(s.group * dense);
        packed = call.packed ? nullptr : arena.take(forward_tile_packed(call));
        floats = arena.used;
    }
};

inline int64_t forward_tile_scratch(const ForwardCall& call, const Tile& largest) {
    return ForwardTileScratch(call, largest, nullptr).floats;
}

void forward_tile(const ForwardCall& call, const Tile& tile, int64_t group0, int64_t group1, float* scratch) {
    const Sizes& s = call.sizes;
    const MatrixUnit unit;
    ForwardTileScratch k(call, tile, scratch);
    const Vectors at = k.field.tile_vectors(k.tile_at);
    gather_dense(k.coefficients, k.dense, k.row, call.coefficients, 0, s.bases, tile);
    fill(k.coefficients + s.bases * k.dense, (k.bases4 - s.bases) * k.dense, 0.0f);
    k.mixing.prepare(k.coefficients);
    for (int64_t g = group0; g < group1; ++g) {
        if (k.packed) forward_tile_pack(call, g, k.packed);
        const float* packed = k.packed ? k.packed : call.packed + g * forward_tile_packed(call);
        gather_field(k.planes, k.field, call.x, g * s.group, s.group, tile);
        if (tile_products(call) != Products::kFloat)
            k.mixing.group<PairDot>(k.out, k.planes, at, packed);
        else
            k.mixing.group<FloatDot>(k.out, k.planes, at, packed);
        scatter_dense(call.y, k.out, k.dense, k.row, g * s.group, s.group, tile);
    }
}

}  // namespace
