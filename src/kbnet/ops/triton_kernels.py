"""The three Triton kernels of kernel basis attention. Imported only by `kbnet.ops.triton`, at its first use.

All three turn on the same small product. For one offset (u,v) of the kernel, mixing the bases at P pixels is

    E[(i,g,o), p] = sum_n W[n, (g,o), i, u, v] * a[n, p]

a matrix product whose inner axis is the bases, so that neither k nor G wastes any of it; it lives in registers, for one
offset, 16 output channels and P pixels at a time, and is used at once:

    forward and dx    y[(g,o), p] += sum_i E[(i,g,o), p] * x[(g,i), p + (u,v)]
    da                da[n, p]    += sum_(i,g,o) W * (x[(g,i), p + (u,v)] * dy[(g,o), p])
    dW                dW          += sum_p (x * dy)[(i,g,o), p] * a[n, p]

Axes of the tiles: P pixels, numbered through the whole batch (so that small images share a block) and always the last
axis, which lets neighbouring threads read neighbouring pixels; GB groups; OG output channels of each; IG input channels
of each; BN bases. All are powers of two; what sticks out over C, G or N is masked. Tiles that hold (input, group,
output) channels have IG*GB*OG rows in that order. Bases [N, C, G, k, k] and biases [N, C] are read by their strides: as
parameters lie, or packed so that what one step reads lies together. Gradients are written in the same way.

Exact products of float32 are summed in two levels: one accumulator for each offset or block of pixels, and one for
these. A single chain over all of them loses several times as much.

Offsets into tensors are 64 bits wide; the numbers of pixels are as wide as they need to be.
"""

import triton
import triton.language as tl

# Integers are not specialized on their values: one compiled kernel serves every size of image. Inductor, which compiles
# the same kernels, takes any integer that is 1 for a constant all the same: `tl.cast` and `tl.to_tensor` know both.
SIZES = ("blocks", "pixels", "height", "width", "channels")
X, A, DY = (tuple(f"{t}_{axis}" for axis in ("image", "channel", "row", "column")) for t in ("x", "a", "dy"))
Y = tuple(f"y_{axis}" for axis in ("image", "channel", "row", "column"))
DA = ("da_part", "da_image", "da_channel", "da_row", "da_column")
# These are specialized: whether bases lie side by side, and rows begin on multiples of 16 values.
W = ("w_basis", "w_channel", "w_input", "w_row", "w_column")
B = ("b_basis", "b_channel")


@triton.jit
def _wide(stride):
    return tl.cast(stride, tl.int64)


@triton.jit
def _pixels(block, pixels, height, width, P: tl.constexpr):
    """Image, row and column of the pixels of a block, and which of them exist."""
    pixels = tl.to_tensor(pixels)
    number = tl.full((P,), block, pixels.dtype) * P + tl.arange(0, P)
    exists = (number >= 0) & (number < pixels)  # the last block may run over the end of the integers
    column = number % width
    line = number // width
    return (line // height).to(tl.int64), (line % height).to(tl.int64), column.to(tl.int64), exists


@triton.jit
def _channels(block, channels, G: tl.constexpr, GB: tl.constexpr, OG: tl.constexpr):
    """First group and first output channel in its group of a block of channels: groups slow, outputs fast."""
    PARTS: tl.constexpr = (G + OG - 1) // OG
    return block // PARTS * GB, block % PARTS * OG


@triton.jit
def _outputs(group, first, channels, G: tl.constexpr, GB: tl.constexpr, OG: tl.constexpr):
    """Channel numbers of the GB*OG outputs of a block, in the order (group, output), and which of them exist."""
    number = tl.arange(0, GB * OG)
    g, o = group + number // OG, first + number % OG
    return g * G + o, (o < G) & (g * G < channels)


@triton.jit
def _inputs(group, first, channels, G: tl.constexpr, GB: tl.constexpr, IG: tl.constexpr):
    """Channel numbers of the IG*GB inputs of a block, in the order (input, group), and which of them exist."""
    number = tl.arange(0, IG * GB)
    i, g = first + number // GB, group + number % GB
    return g * G + i, (i < G) & (g * G < channels)


@triton.jit
def _members(group, out, first, channels, G: tl.constexpr, GB: tl.constexpr, OG: tl.constexpr, IG: tl.constexpr):
    """Group's first channel, input and output of the group for each (input, group, output), and which of them exist."""
    number = tl.arange(0, IG * GB * OG)
    i, g, o = first + number // (GB * OG), group + number // OG % GB, out + number % OG
    return (g * G).to(tl.int64), i.to(tl.int64), o.to(tl.int64), (i < G) & (o < G) & (g * G < channels)


@triton.jit
def _offset(offset, w_row, w_column, K: tl.constexpr):
    """Where the bases of one offset of the kernel begin, [1]."""
    long = tl.zeros((1,), tl.int64)
    return (long + offset // K) * w_row + (long + offset % K) * w_column


@triton.jit(do_not_specialize=[*SIZES, *X, *A, *Y])
def apply_kernel(
    x_ptr, a_ptr, w_ptr, b_ptr, y_ptr,
    blocks, pixels, height, width, channels,
    x_image, x_channel, x_row, x_column,
    a_image, a_channel, a_row, a_column,
    y_image, y_channel, y_row, y_column,
    w_basis, w_channel, w_input, w_row, w_column, b_basis, b_channel,
    N: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, BN: tl.constexpr, IG: tl.constexpr, GB: tl.constexpr, OG: tl.constexpr,
    BACKWARD: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Output for one block of channels and of pixels: y, or dx from dy.

    The gradient of x is the same sum with the kernels flipped and the channels of a group exchanged, but for the
    coefficients, which are then those of the pixel that is read, and for the bias. Operands are multiplied as they are
    stored, or `WIDEN`ed to float32.
    """
    OPERAND: tl.constexpr = tl.float32 if WIDEN else x_ptr.dtype.element_ty
    program = tl.program_id(0)
    group, out = _channels(program % blocks, channels, G, GB, OG)
    image, row, column, exists = _pixels(program // blocks, pixels, height, width, P)
    x_pixel = x_ptr + (image * x_image + row * x_row + column * x_column)
    a_pixel = a_ptr + (image * a_image + row * a_row + column * a_column)
    # Offsets of one step: small numbers of rows times what may be a large stride.
    x_row, x_column, a_row, a_column = _wide(x_row), _wide(x_column), _wide(a_row), _wide(a_column)
    NS: tl.constexpr = (N + BN - 1) // BN
    IS: tl.constexpr = (G + IG - 1) // IG
    n = tl.arange(0, BN)
    a = tl.zeros((BN, P), a_ptr.dtype.element_ty)
    if NS == 1 and not BACKWARD:
        a = tl.load(a_pixel[None, :] + (n.to(tl.int64) * a_channel)[:, None], (n < N)[:, None] & exists[None, :], 0)
    total = tl.zeros((IG * GB, OG, P), tl.float32)
    for step in range(K * K * IS * NS):
        first_n, first_i, offset = step % NS * BN, step // NS % IS * IG, step // (NS * IS)
        down, right = offset // K - K // 2, offset % K - K // 2
        seen = exists & (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        if NS > 1 or BACKWARD:
            a_at, a_seen = a_pixel, exists
            if BACKWARD:
                a_at += down * a_row + right * a_column
                a_seen = seen
            basis = first_n + n
            a = tl.load(
                a_at[None, :] + (basis.to(tl.int64) * a_channel)[:, None], (basis < N)[:, None] & a_seen[None, :], 0
            )
        c0, i, o, real = _members(group, out, first_i, channels, G, GB, OG, IG)
        if BACKWARD:
            at = (c0 + i) * w_channel + o * w_input + _offset(K * K - 1 - offset, w_row, w_column, K)
        else:
            at = (c0 + o) * w_channel + i * w_input + _offset(offset, w_row, w_column, K)
        w_n = (first_n + n).to(tl.int64) * w_basis
        w = tl.load(w_ptr + at[:, None] + w_n[None, :], real[:, None] & (first_n + n < N)[None, :], 0)
        mixed = tl.dot(w.to(OPERAND), a.to(OPERAND), input_precision=PRECISION)
        c, c_real = _inputs(group, first_i, channels, G, GB, IG)
        x_at = x_pixel + (down * x_row + right * x_column)
        x = tl.load(x_at[None, :] + (c.to(tl.int64) * x_channel)[:, None], c_real[:, None] & seen[None, :], 0)
        total += tl.reshape(mixed, (IG * GB, OG, P)) * x.to(tl.float32)[:, None, :]
    c, c_real = _outputs(group, out, channels, G, GB, OG)
    y = tl.sum(tl.reshape(total, (IG, GB * OG, P)), 0)
    if not BACKWARD:
        for first_n in tl.static_range(0, N, BN):
            if NS > 1:
                basis = first_n + n
                a = tl.load(
                    a_pixel[None, :] + (basis.to(tl.int64) * a_channel)[:, None],
                    (basis < N)[:, None] & exists[None, :],
                    0,
                )
            b_n = (first_n + n).to(tl.int64) * b_basis
            b_at = b_ptr + (c.to(tl.int64) * b_channel)[:, None] + b_n[None, :]
            b = tl.load(b_at, c_real[:, None] & (first_n + n < N)[None, :], 0)
            y += tl.dot(b.to(OPERAND), a.to(OPERAND), input_precision=PRECISION)
    y_at = y_ptr + (image * y_image + row * y_row + column * y_column)[None, :] + (c.to(tl.int64) * y_channel)[:, None]
    tl.store(y_at, y.to(y_ptr.dtype.element_ty), c_real[:, None] & exists[None, :])


@triton.jit
def _products(
    x_at, dy_tile, x_channel, group, first_i, channels, seen, unit,
    G: tl.constexpr, P: tl.constexpr, IG: tl.constexpr, GB: tl.constexpr, OG: tl.constexpr,
):  # fmt: skip
    """x * dy for every (input, group, output) and pixel, [IG*GB*OG, P] in float32; where `unit`, x is 1."""
    c, c_real = _inputs(group, first_i, channels, G, GB, IG)
    mask = c_real[:, None] & seen[None, :]
    x = tl.load(x_at[None, :] + (c.to(tl.int64) * x_channel)[:, None], mask, 0).to(tl.float32)
    x = tl.where(unit, 1.0, x)
    outer = tl.reshape(x, (IG, GB, 1, P)) * tl.reshape(dy_tile, (1, GB, OG, P))
    return tl.reshape(outer, (IG * GB * OG, P))


@triton.jit(do_not_specialize=["blocks", "parts", *SIZES[1:], *X, *DY, *DA])
def coefficients_gradient_kernel(
    dy_ptr, x_ptr, w_ptr, b_ptr, da_ptr,
    blocks, parts, pixels, height, width, channels,
    dy_image, dy_channel, dy_row, dy_column,
    x_image, x_channel, x_row, x_column,
    da_part, da_image, da_channel, da_row, da_column,
    w_basis, w_channel, w_input, w_row, w_column, b_basis, b_channel,
    N: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, BN: tl.constexpr, IG: tl.constexpr, GB: tl.constexpr, OG: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """da of BN bases at one block of pixels, summed over one part of the blocks of channels."""
    NS: tl.constexpr = (N + BN - 1) // BN
    IS: tl.constexpr = (G + IG - 1) // IG
    program = tl.program_id(0)
    n = program % NS * BN + tl.arange(0, BN)
    part = program // NS % parts
    image, row, column, exists = _pixels(program // NS // parts, pixels, height, width, P)
    x_pixel = x_ptr + (image * x_image + row * x_row + column * x_column)
    dy_pixel = dy_ptr + (image * dy_image + row * dy_row + column * dy_column)
    x_row, x_column = _wide(x_row), _wide(x_column)
    w_n, b_n = n.to(tl.int64) * w_basis, n.to(tl.int64) * b_basis
    da = tl.zeros((BN, P), tl.float32)
    # 1, but the compiler doesn't know that: otherwise it would join the two levels into one.
    unit = tl.cast(pixels > 0, tl.float32)
    each = (blocks + parts - 1) // parts
    for block in range(part * each, tl.minimum(part * each + each, blocks)):
        group, out = _channels(block, channels, G, GB, OG)
        c, c_real = _outputs(group, out, channels, G, GB, OG)
        mask = c_real[:, None] & exists[None, :]
        dy = tl.load(dy_pixel[None, :] + (c.to(tl.int64) * dy_channel)[:, None], mask, 0).to(tl.float32)
        b_at = b_ptr + (c.to(tl.int64) * b_channel)[None, :] + b_n[:, None]
        b = tl.load(b_at, c_real[None, :] & (n < N)[:, None], 0)
        if PRECISION == "ieee":
            da += tl.dot(b.to(tl.float32), dy, input_precision=PRECISION) * unit
        else:
            da = tl.dot(b.to(tl.float32), dy, da, input_precision=PRECISION)
        for offset in range(K * K):
            down, right = offset // K - K // 2, offset % K - K // 2
            seen = exists & (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
            x_at = x_pixel + (down * x_row + right * x_column)
            level = da
            if PRECISION == "ieee":
                level = tl.zeros((BN, P), tl.float32)
            for step in range(IS):
                c0, i, o, real = _members(group, out, step * IG, channels, G, GB, OG, IG)
                at = (c0 + o) * w_channel + i * w_input + _offset(offset, w_row, w_column, K)
                w = tl.load(w_ptr + at[None, :] + w_n[:, None], real[None, :] & (n < N)[:, None], 0)
                outer = _products(x_at, dy, x_channel, group, step * IG, channels, seen, False, G, P, IG, GB, OG)
                level = tl.dot(w.to(tl.float32), outer, level, input_precision=PRECISION)
            if PRECISION == "ieee":
                da += level * unit
            else:
                da = level
    at = da_ptr + part.to(tl.int64) * da_part + (image * da_image + row * da_row + column * da_column)
    da_at = at[None, :] + (n.to(tl.int64) * da_channel)[:, None]
    tl.store(da_at, da.to(da_ptr.dtype.element_ty), (n < N)[:, None] & exists[None, :])


@triton.jit(do_not_specialize=["blocks", "parts", *SIZES[1:], *X, *DY, *A, "dw_part", "db_part"])
def bases_gradient_kernel(
    dy_ptr, x_ptr, a_ptr, dw_ptr, db_ptr,
    blocks, parts, pixels, height, width, channels,
    dy_image, dy_channel, dy_row, dy_column,
    x_image, x_channel, x_row, x_column,
    a_image, a_channel, a_row, a_column,
    dw_part, db_part, w_basis, w_channel, w_input, w_row, w_column, b_basis, b_channel,
    N: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, BN: tl.constexpr, IG: tl.constexpr, GB: tl.constexpr, OG: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dW and db of one block of channels, one offset and BN bases, summed over one part of the pixels.

    Parts lie `dw_part` and `db_part` values apart, each laid out as dW and db are. db is the gradient of a basis whose
    x is 1 everywhere, and takes one step more.
    """
    NS: tl.constexpr = (N + BN - 1) // BN
    IS: tl.constexpr = (G + IG - 1) // IG
    STEPS: tl.constexpr = K * K * IS + 1
    program = tl.program_id(0)
    n = program % NS * BN + tl.arange(0, BN)
    step = program // NS % STEPS
    rest = program // (NS * STEPS)
    part = rest // blocks
    group, out = _channels(rest % blocks, channels, G, GB, OG)
    is_bias = step == STEPS - 1
    first_i, offset = step % IS * IG, step // IS
    if is_bias:
        first_i, offset = 0, K * K // 2  # the middle, where every pixel is inside the image
    down, right = offset // K - K // 2, offset % K - K // 2
    c, c_real = _outputs(group, out, channels, G, GB, OG)
    dw = tl.zeros((IG * GB * OG, BN), tl.float32)
    unit = tl.cast(pixels > 0, tl.float32)  # as in coefficients_gradient_kernel
    pixel_blocks = tl.cast((pixels + (P - 1)) // P, tl.int32)
    each = (pixel_blocks + parts - 1) // parts
    for block in range(part * each, tl.minimum(part * each + each, pixel_blocks)):
        image, row, column, exists = _pixels(block, pixels, height, width, P)
        seen = exists & (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        dy_at = dy_ptr + (image * dy_image + row * dy_row + column * dy_column)[None, :]
        mask = c_real[:, None] & seen[None, :]
        dy = tl.load(dy_at + (c.to(tl.int64) * dy_channel)[:, None], mask, 0).to(tl.float32)
        x_at = x_ptr + (image * x_image + (row + down) * x_row + (column + right) * x_column)
        outer = _products(x_at, dy, x_channel, group, first_i, channels, seen, is_bias, G, P, IG, GB, OG)
        a_at = a_ptr + (image * a_image + row * a_row + column * a_column)[None, :]
        a = tl.load(a_at + (n.to(tl.int64) * a_channel)[:, None], (n < N)[:, None] & seen[None, :], 0).to(tl.float32)
        if PRECISION == "ieee":
            dw += tl.dot(outer, tl.trans(a), input_precision=PRECISION) * unit
        else:
            dw = tl.dot(outer, tl.trans(a), dw, input_precision=PRECISION)
    c0, i, o, real = _members(group, out, first_i, channels, G, GB, OG, IG)
    wide_n, wide_part = n.to(tl.int64), part.to(tl.int64)
    mask = real[:, None] & (n < N)[None, :]
    value = dw.to(dw_ptr.dtype.element_ty)
    if is_bias:
        at = (c0 + o) * b_channel
        # Of its inputs only the first.
        tl.store(
            db_ptr + wide_part * db_part + at[:, None] + (wide_n * b_basis)[None, :], value, mask & (i == 0)[:, None]
        )
    else:
        at = (c0 + o) * w_channel + i * w_input + _offset(offset, w_row, w_column, K)
        tl.store(dw_ptr + wide_part * dw_part + at[:, None] + (wide_n * w_basis)[None, :], value, mask)


@triton.jit
def _fold(part_ptr, whole_ptr, parts, size, block, P: tl.constexpr, PARTS: tl.constexpr):
    """Sums over `parts` of P of the `size` values of each."""
    number = block.to(tl.int64) * P + tl.arange(0, P)
    exists = number < size
    total = tl.zeros((PARTS, P), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        at = part_ptr + part.to(tl.int64)[:, None] * size + number[None, :]
        total += tl.load(at, (part < parts)[:, None] & exists[None, :], 0)
    tl.store(whole_ptr + number, tl.sum(total, 0).to(whole_ptr.dtype.element_ty), exists)


@triton.jit(do_not_specialize=["da_parts", "da_size", "dw_parts", "dw_size", "db_size"])
def fold_kernel(
    da_part_ptr, dw_part_ptr, db_part_ptr, da_ptr, dw_ptr, db_ptr,
    da_parts, da_size, dw_parts, dw_size, db_size,
    P: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """All gradients that were written in parts, in one launch; a size of 0 leaves one alone."""
    program = tl.program_id(0)
    in_da, in_dw = (da_size + (P - 1)) // P, (dw_size + (P - 1)) // P
    if program < in_da:
        _fold(da_part_ptr, da_ptr, da_parts, da_size, program, P, PARTS)
    elif program < in_da + in_dw:
        _fold(dw_part_ptr, dw_ptr, dw_parts, dw_size, program - in_da, P, PARTS)
    else:
        _fold(db_part_ptr, db_ptr, dw_parts, db_size, program - in_da - in_dw, P, PARTS)
