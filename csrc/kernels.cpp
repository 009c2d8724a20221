// The kernels of one instruction set. CMake compiles this file several times, each with its own flags and KBNET_ISA.
#include "attention.h"
#include "backward.h"
#include "edges.h"
#include "feed_forward.h"
#include "feed_forward_training.h"
#include "forward.h"
#include "forward_tile.h"
#include "fusion.h"
#include "fusion_backward.h"
#include "pairs.h"
#include "problem.h"

namespace {

int64_t backward_packed(const kbnet::BackwardCall& call) {
    return call.sizes.bases * call.sizes.group * (call.sizes.taps() + 1);
}

void backward_pack(const kbnet::BackwardCall& call, int64_t group, float* packed) {
    pack_weight(packed, call.weight, call.bias, group, call.sizes);
}

}  // namespace

#define KBNET_JOIN_(a, b) a##b
#define KBNET_JOIN(a, b) KBNET_JOIN_(a, b)
#define KBNET_TEXT_(a) #a
#define KBNET_TEXT(a) KBNET_TEXT_(a)

namespace kbnet {

// The only exported symbol of this file.
extern const Kernels KBNET_JOIN(kernels_, KBNET_ISA);
const Kernels KBNET_JOIN(kernels_, KBNET_ISA) = {
    KBNET_TEXT(KBNET_ISA), kHavePairs,           pairs_are_faster,      works,
    forward_packed,        forward_pack,         forward_scratch,   forward_strip,
    forward_tile_packed,   forward_tile_pack,      forward_tile_scratch,  forward_tile,
    backward_packed,       backward_pack,        backward_scratch,  backward_strip,  write_dx_row,
    dweight_pitch,         fusion_packed,        fusion_pack,       feed_forward_packed, feed_forward_pack,
    attention_packed,      attention_pack,       fusion_scratch,    fusion_tile,         feed_forward_scratch,
    feed_forward_tile,     attention_scratch,    attention_sums_tile, attention_tile,
    feed_forward_training_scratch, feed_forward_training_prepare, feed_forward_strip, feed_forward_backward_strip,
    fusion_training_scratch, fusion_training_prepare, fusion_forward_strip, fusion_backward_strip,
    sums_scratch,          sums_row,
    edge_packed,           edge_pack,            edge_scratch,      edge_tile,
};

}  // namespace kbnet
