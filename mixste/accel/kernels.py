"""Triton kernels of the fast path on CUDA: attention over joints and over frames, norms with their residual.

All read tokens in one layout, (batch, frames, joints, dim), so that nothing is transposed between spatial and temporal
blocks. Tensors are in the network's precision (bfloat16), arithmetic in float32. Gradients that are sums over
tokens, those of biases and norms, come from the backward kernel that has their terms at hand: each program leaves one
row in `partial`, and `_added` adds them up, in the same order every time.
"""

import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

try:
    from mixste.accel import hopper
except ImportError:  # no Gluon in this Triton
    hopper = None

LOG2_E = math.log2(math.e)

# Parameters that all kernels share. Names in capitals are addresses of tensors, or, if typed tl.constexpr, constants
# that a kernel is compiled for; those in small letters are numbers.
#   rows           tokens: batch · frames · joints, in this order
#   X, OUT, …      (rows, DIM) bfloat16, unless said otherwise; D_… is the gradient of …, of the same shape and type
#   KEEP           (rows,) float32, if KEPT: factor of a branch by stochastic depth, 0 or more than 1
#   W, BIAS        a layer's weight (out, in) and bias (out,), or a norm's (DIM,), all float32
#   PARTIAL        float32, one row of sums for each program (see above)
#   DIM, COLUMNS   width of a token, and the next power of two, which the lanes of a program cover
#   CHUNK          rows that a program takes, one after the other
# The programs of norms are single warps, so that sums along a row need no barrier.


@triton.jit
def _normalised(x, inside, DIM: tl.constexpr, eps):
    """(x − mean) / deviation, and 1 / deviation. x must be 0 outside, and the result is."""
    x = tl.where(inside, x - tl.sum(x) / DIM, 0.0)
    inverse = tl.rsqrt(tl.sum(x * x) / DIM + eps)
    return x * inverse, inverse


@triton.jit
def _normalised_backward(d, x, inverse, DIM: tl.constexpr):
    """The gradient before a normalisation from that after it."""
    return (d - tl.sum(d) / DIM - x * (tl.sum(d * x) / DIM)) * inverse


@triton.jit
def _norm_forward(
    X, BIAS, KEEP, INNER_W, INNER_B, POSITION, OUTER_W, OUTER_B, NEXT_BIAS, NEXT_KEEP, STREAM, NORMED, INVERSE,
    rows, joints, frames, inner_eps, outer_eps,
    DIM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
    BIASED: tl.constexpr, KEPT: tl.constexpr, INNER: tl.constexpr, PLACED: tl.constexpr,
    NEXT: tl.constexpr, NEXT_KEPT: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """X + KEEP · BIAS, then the inner norm of it, plus POSITION, then the outer norm of that: see `norm`.

    X: (rows, DIM). BIAS (DIM,), if BIASED, and KEEP: of the branch that X ends with.
    INNER_W, INNER_B, if INNER; OUTER_W, OUTER_B: (DIM,), of the norms. POSITION: (frames, DIM) float32, if PLACED.
    NEXT_BIAS (DIM,), if NEXT, and NEXT_KEEP (rows,), if NEXT_KEPT: of the branch that follows, added to STREAM.
    STREAM, if INNER or NEXT, and NORMED: (rows, DIM), before and after the outer norm.
    INVERSE: (rows,) float32, the outer norm's 1 / deviation, written instead of NORMED if FOLDED.
    joints, frames: tell a row's frame. inner_eps, outer_eps: of the norms.
    """
    column = tl.arange(0, COLUMNS)
    if not FOLDED:
        outer_w = tl.load(OUTER_W + column, column < DIM, 0.0)
        outer_b = tl.load(OUTER_B + column, column < DIM, 0.0)
    if INNER:
        inner_w = tl.load(INNER_W + column, column < DIM, 0.0)
        inner_b = tl.load(INNER_B + column, column < DIM, 0.0)
    if BIASED:
        bias = tl.load(BIAS + column, column < DIM, 0.0)
    if NEXT:
        next_bias = tl.load(NEXT_BIAS + column, column < DIM, 0.0)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for step in range(CHUNK):
        row = first + step
        inside = (row < rows) & (column < DIM)
        at = row * DIM + column
        x = tl.load(X + at, inside, 0.0).to(tl.float32)
        if BIASED:
            x += bias * (tl.load(KEEP + row, row < rows, 0.0) if KEPT else 1.0)
        if INNER:
            x, _ = _normalised(x, inside, DIM, inner_eps)
            x = x * inner_w + inner_b
            if PLACED:
                x += tl.load(POSITION + (row // joints) % frames * DIM + column, inside, 0.0)
        if NEXT:
            keep = tl.load(NEXT_KEEP + row, row < rows, 0.0) if NEXT_KEPT else 1.0
            tl.store(STREAM + at, (x + keep * next_bias).to(STREAM.dtype.element_ty), inside)
        elif INNER:
            tl.store(STREAM + at, x.to(STREAM.dtype.element_ty), inside)
        x, inverse = _normalised(x, inside, DIM, outer_eps)
        if FOLDED:
            tl.store(INVERSE + row, inverse, row < rows)
        else:
            tl.store(NORMED + at, (x * outer_w + outer_b).to(NORMED.dtype.element_ty), inside)


@triton.jit
def _norm_backward(
    X, D_NORMED, D_STREAM, BIAS, KEEP, INNER_W, INNER_B, POSITION, OUTER_W, D_X, D_PLACED, PARTIAL,
    rows, joints, frames, inner_eps, outer_eps,
    DIM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
    BIASED: tl.constexpr, KEPT: tl.constexpr, INNER: tl.constexpr, PLACED: tl.constexpr,
    SUMS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of `_norm_forward`, which it computes again on the way.

    X, BIAS, KEEP, INNER_W, INNER_B, POSITION, OUTER_W, numbers: as there. D_NORMED, D_STREAM: (rows, DIM), given.
    D_X: (rows, DIM), of X. D_PLACED: (rows, DIM), if PLACED, of the sum with POSITION.
    PARTIAL: (programs, SUMS, DIM), of BIAS, outer weight and bias, and if INNER, when SUMS is 5, inner weight and bias.
    STAGES: rows on their way from memory at a time.
    """
    column = tl.arange(0, COLUMNS)
    outer_w = tl.load(OUTER_W + column, column < DIM, 0.0)
    d_outer_w = tl.zeros([COLUMNS], tl.float32)
    d_outer_b = tl.zeros([COLUMNS], tl.float32)
    d_bias = tl.zeros([COLUMNS], tl.float32)
    if BIASED:
        bias = tl.load(BIAS + column, column < DIM, 0.0)
    if INNER:
        inner_w = tl.load(INNER_W + column, column < DIM, 0.0)
        inner_b = tl.load(INNER_B + column, column < DIM, 0.0)
        d_inner_w = tl.zeros([COLUMNS], tl.float32)
        d_inner_b = tl.zeros([COLUMNS], tl.float32)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for step in tl.range(CHUNK, num_stages=STAGES):  # the next rows are on their way meanwhile
        row = first + step
        inside = (row < rows) & (column < DIM)
        at = row * DIM + column
        x = tl.load(X + at, inside, 0.0).to(tl.float32)
        keep = tl.load(KEEP + row, row < rows, 0.0) if KEPT else 1.0
        if BIASED:
            x += bias * keep
        d_normed = tl.load(D_NORMED + at, inside, 0.0).to(tl.float32)
        d = tl.load(D_STREAM + at, inside, 0.0).to(tl.float32)
        if INNER:
            inner, inner_inverse = _normalised(x, inside, DIM, inner_eps)
            x = tl.where(inside, inner * inner_w + inner_b, 0.0)
            if PLACED:
                x += tl.load(POSITION + (row // joints) % frames * DIM + column, inside, 0.0)
        outer, outer_inverse = _normalised(x, inside, DIM, outer_eps)
        d_outer_w += d_normed * outer
        d_outer_b += d_normed
        d += _normalised_backward(d_normed * outer_w, outer, outer_inverse, DIM)
        if INNER:
            if PLACED:
                tl.store(D_PLACED + at, d.to(D_PLACED.dtype.element_ty), inside)
            d_inner_w += d * inner
            d_inner_b += d
            d = _normalised_backward(d * inner_w, inner, inner_inverse, DIM)
        tl.store(D_X + at, d.to(D_X.dtype.element_ty), inside)
        d_bias += tl.where(inside, d * keep, 0.0)
    sums = PARTIAL + tl.program_id(0) * SUMS * DIM + column
    tl.store(sums, d_bias, column < DIM)
    tl.store(sums + DIM, d_outer_w, column < DIM)
    tl.store(sums + 2 * DIM, d_outer_b, column < DIM)
    if INNER:
        tl.store(sums + 3 * DIM, d_inner_w, column < DIM)
        tl.store(sums + 4 * DIM, d_inner_b, column < DIM)


@triton.jit
def _embed(
    KEYPOINTS, W, BIAS, POSITION, OUT, rows, joints, DIM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """KEYPOINTS: (rows, 2) float32. W: (DIM, 2). BIAS: (DIM,). POSITION: (joints, DIM) float32. OUT: (rows, DIM)."""
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    w_x, w_y = tl.load(W + 2 * column, inside, 0.0), tl.load(W + 2 * column + 1, inside, 0.0)
    bias = tl.load(BIAS + column, inside, 0.0)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for step in range(CHUNK):
        row = first + step
        x = tl.load(KEYPOINTS + 2 * row, row < rows, 0.0)
        y = tl.load(KEYPOINTS + 2 * row + 1, row < rows, 0.0)
        out = x * w_x + y * w_y + bias + tl.load(POSITION + row % joints * DIM + column, inside, 0.0)
        tl.store(OUT + row * DIM + column, out.to(OUT.dtype.element_ty), inside & (row < rows))


@triton.jit
def _head(X, W, BIAS, OUT, rows, DIM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr):
    """X: (rows, DIM). W: (3, DIM). BIAS: (3,). OUT: (rows, 3) float32."""
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    w_x = tl.load(W + column, inside, 0.0)
    w_y = tl.load(W + DIM + column, inside, 0.0)
    w_z = tl.load(W + 2 * DIM + column, inside, 0.0)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for step in range(CHUNK):
        row = first + step
        x = tl.load(X + row * DIM + column, inside & (row < rows), 0.0).to(tl.float32)
        tl.store(OUT + 3 * row, tl.sum(x * w_x) + tl.load(BIAS), row < rows)
        tl.store(OUT + 3 * row + 1, tl.sum(x * w_y) + tl.load(BIAS + 1), row < rows)
        tl.store(OUT + 3 * row + 2, tl.sum(x * w_z) + tl.load(BIAS + 2), row < rows)


@triton.jit
def _head_backward(D_OUT, W, D_X, rows, DIM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr):
    """D_OUT: (rows, 3) float32. W: (3, DIM). D_X: (rows, DIM)."""
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    w_x = tl.load(W + column, inside, 0.0)
    w_y = tl.load(W + DIM + column, inside, 0.0)
    w_z = tl.load(W + 2 * DIM + column, inside, 0.0)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for step in range(CHUNK):
        row = first + step
        d_x = tl.load(D_OUT + 3 * row, row < rows, 0.0) * w_x
        d_x += tl.load(D_OUT + 3 * row + 1, row < rows, 0.0) * w_y
        d_x += tl.load(D_OUT + 3 * row + 2, row < rows, 0.0) * w_z
        tl.store(D_X + row * DIM + column, d_x.to(D_X.dtype.element_ty), inside & (row < rows))


@triton.jit
def _drop(ACTIVE, BEFORE, KEEP, rows, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """ACTIVE, BEFORE: (rows, WIDTH), GELU's result and what it is of, written where KEEP is 0. ROWS: of a program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    dropped = (tl.load(KEEP + row, row < rows, 1.0) == 0)[:, None] & (column < WIDTH)[None, :]
    at = row[:, None] * WIDTH + column[None, :]
    tl.store(ACTIVE + at, tl.zeros([ROWS, COLUMNS], ACTIVE.dtype.element_ty), dropped)
    tl.store(BEFORE + at, tl.full([ROWS, COLUMNS], -100.0, BEFORE.dtype.element_ty), dropped)


@triton.jit
def _add_rows(X, SUM, rows, chunk, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """X: (rows, WIDTH). SUM: (chunks, WIDTH) float32. A program adds COLUMNS of `chunk` rows, ROWS at a time."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(1) * chunk
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(first, tl.minimum(first + chunk, rows), ROWS, num_stages=4):
        row = start + tl.arange(0, ROWS)[:, None]
        total += tl.load(X + row.to(tl.int64) * WIDTH + column[None, :], (row < rows) & (column < WIDTH)[None, :], 0.0)
    tl.store(SUM + tl.program_id(1) * WIDTH + column, tl.sum(total, 0), column < WIDTH)


@triton.jit
def _tile(X, row, stride, rows, WIDTH: tl.constexpr):
    """(len(row), WIDTH) of a tensor whose rows lie `stride` apart; 0 from `rows` on."""
    return tl.load(X + row[:, None] * stride + tl.arange(0, WIDTH)[None, :], row[:, None] < rows, 0.0)


@triton.jit
def _kept(x, KEEP, first, row, rows, KEPT: tl.constexpr):
    if KEPT:
        x = (x.to(tl.float32) * tl.load(KEEP + first + row, row < rows, 0.0)[:, None]).to(x.dtype)
    return x


# Parameters of attention, besides those above.
#   QKV            (rows, 3 · DIM): queries, keys and values, in each of them HEADS heads of WIDTH columns
#   BIAS           (3 · DIM,) float32, of QKV, which does not hold it yet
#   scale          of scores, times log₂ e in forward kernels; backward kernels take it bare, and log_scale besides
#   PARTIAL        (tiles, blocks or sequences of all heads, 3 · DIM): gradients of BIAS
# The bias of queries, keys and values is added here, not by the product before. That of the keys moves all scores of a
# query alike: it changes nothing and has no gradient. That of the values passes through, since weights sum to one, and
# its gradient is the output's, summed.


@triton.jit
def _plus(x, BIAS, WIDTH: tl.constexpr):
    return (x.to(tl.float32) + tl.load(BIAS + tl.arange(0, WIDTH))[None, :]).to(x.dtype)


@triton.jit
def _spatial_weights(q, k, tokens, joints, scale):
    """Softmax within each of the frames that lie in one tile; rows beyond them are a frame of their own."""
    frame = tokens // joints
    scores = tl.where(frame[:, None] == frame[None, :], tl.dot(q, tl.trans(k)), float("-inf"))
    weights = tl.exp2(scores * scale - (tl.max(scores, 1) * scale)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _spatial_forward(
    QKV, BIAS, INVERSE, KEEP, OUT, rows, joints, per_tile, scale,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, KEPT: tl.constexpr,
    FOLDED: tl.constexpr,
):  # fmt: skip
    """Several frames in one tile: 3 of 17 joints in 64 rows, where library kernels would pad 17 to 64.

    OUT: (rows, DIM). per_tile: rows of whole frames, of the TOKENS that a tile has room for.
    INVERSE: (rows,) float32, if FOLDED: the norm before is in the weights of qkv (see `cuda.folded`), but for this, its
    1 / deviation.
    """
    head = tl.program_id(0) % HEADS
    first = (tl.program_id(0) // HEADS).to(tl.int64) * per_tile
    rows = tl.minimum(rows - first, per_tile)
    tokens = tl.arange(0, TOKENS)
    QKV += first * 3 * DIM + head * WIDTH
    q = _tile(QKV, tokens, 3 * DIM, rows, WIDTH)
    k = _tile(QKV + DIM, tokens, 3 * DIM, rows, WIDTH)
    v = _tile(QKV + 2 * DIM, tokens, 3 * DIM, rows, WIDTH)
    if FOLDED:
        inverse = tl.load(INVERSE + first + tokens, tokens < rows, 0.0)[:, None]
        k, v = (k * inverse).to(k.dtype), (v * inverse).to(v.dtype)
        q = _plus(q * inverse, BIAS + head * WIDTH, WIDTH).to(k.dtype)
    else:
        q = _plus(q, BIAS + head * WIDTH, WIDTH)
    weights = _spatial_weights(q, k, tokens, joints, scale)
    out = tl.dot(weights.to(v.dtype), v)
    out = _plus(out, BIAS + 2 * DIM + head * WIDTH, WIDTH)
    out = _kept(out, KEEP, first, tokens, rows, KEPT)
    at = (first + tokens[:, None]) * DIM + head * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), tokens[:, None] < rows)


@triton.jit
def _store(D, d, row, stride, rows, WIDTH: tl.constexpr):
    at = row[:, None] * stride + tl.arange(0, WIDTH)[None, :]
    tl.store(D + at, d.to(D.dtype.element_ty), row[:, None] < rows)


@triton.jit
def _store_sum(SUM, d, row, rows, WIDTH: tl.constexpr):
    tl.store(SUM + tl.arange(0, WIDTH), tl.sum(tl.where(row[:, None] < rows, d.to(tl.float32), 0.0), 0))


@triton.jit
def _spatial_backward(
    QKV, BIAS, KEEP, D_OUT, D_QKV, PARTIAL, rows, joints, per_tile, scale, log_scale,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """A program owns a tile in one head, as in `_spatial_forward`. D_OUT: (rows, DIM). D_QKV: (rows, 3 · DIM)."""
    head = tl.program_id(0) % HEADS
    tile = tl.program_id(0) // HEADS
    first = tile.to(tl.int64) * per_tile
    rows = tl.minimum(rows - first, per_tile)
    tokens = tl.arange(0, TOKENS)
    QKV += first * 3 * DIM + head * WIDTH
    D_QKV += first * 3 * DIM + head * WIDTH
    PARTIAL += tile * 3 * DIM + head * WIDTH
    q = _plus(_tile(QKV, tokens, 3 * DIM, rows, WIDTH), BIAS + head * WIDTH, WIDTH)
    k = _tile(QKV + DIM, tokens, 3 * DIM, rows, WIDTH)
    v = _tile(QKV + 2 * DIM, tokens, 3 * DIM, rows, WIDTH)
    d_out = _tile(D_OUT + first * DIM + head * WIDTH, tokens, DIM, rows, WIDTH)
    d_out = _kept(d_out, KEEP, first, tokens, rows, KEPT)
    tl.store(PARTIAL + DIM + tl.arange(0, WIDTH), tl.zeros([WIDTH], tl.float32))
    _store_sum(PARTIAL + 2 * DIM, d_out, tokens, rows, WIDTH)
    weights = _spatial_weights(q, k, tokens, joints, log_scale)
    d_weights = tl.dot(d_out, tl.trans(v))
    d_scores = weights * (d_weights - tl.sum(weights * d_weights, 1)[:, None]) * scale
    d_scores = d_scores.to(q.dtype)
    d_q = tl.dot(d_scores, k)
    _store(D_QKV, d_q, tokens, 3 * DIM, rows, WIDTH)
    _store(D_QKV + DIM, tl.dot(tl.trans(d_scores), q), tokens, 3 * DIM, rows, WIDTH)
    _store(D_QKV + 2 * DIM, tl.dot(tl.trans(weights.to(q.dtype)), d_out), tokens, 3 * DIM, rows, WIDTH)
    _store_sum(PARTIAL, d_q, tokens, rows, WIDTH)


@triton.jit
def _temporal_forward(
    QKV, BIAS, KEEP, OUT, LOG_SUM, scale, FRAMES: tl.constexpr, JOINTS: tl.constexpr,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """Softmax over all frames of one joint, block by block. QKV and OUT are descriptors of (batch, frames, all else),
    by which Hopper's copy engine brings and takes blocks; beyond the last frame they read 0 and write nothing.

    LOG_SUM: (batch, JOINTS, HEADS, FRAMES) float32, log₂ of each softmax's sum, for the backward kernels. BLOCK: frames
    of a program, as queries, and of a step, as keys.
    """
    blocks = tl.cdiv(FRAMES, BLOCK)
    sequence = tl.program_id(0) // blocks
    head, joint, batch = sequence % HEADS, sequence // HEADS % JOINTS, sequence // HEADS // JOINTS
    at = joint * 3 * DIM + head * WIDTH
    begin = tl.program_id(0) % blocks * BLOCK
    query = begin + tl.arange(0, BLOCK)
    q = _plus(QKV.load([batch, begin, at]).reshape(BLOCK, WIDTH), BIAS + head * WIDTH, WIDTH)
    first = batch.to(tl.int64) * FRAMES * JOINTS + joint
    if KEPT:  # noqa: SIM102 (there is nothing to load otherwise)
        if tl.load(KEEP + first) == 0:  # a dropped branch, and with it the whole sequence
            OUT.store([batch, begin, joint * DIM + head * WIDTH], tl.zeros([1, BLOCK, WIDTH], q.dtype))
            no_weight = tl.full([BLOCK], float("inf"), tl.float32)
            tl.store(LOG_SUM + sequence.to(tl.int64) * FRAMES + query, no_weight, query < FRAMES)
            return
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, FRAMES, BLOCK):
        key = start + tl.arange(0, BLOCK)
        k = QKV.load([batch, start, at + DIM]).reshape(BLOCK, WIDTH)
        v = QKV.load([batch, start, at + 2 * DIM]).reshape(BLOCK, WIDTH)
        scores = tl.where(key[None, :] < FRAMES, tl.dot(q, tl.trans(k)), float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores * scale - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None])
        highest = higher
    out = _plus(out / total[:, None], BIAS + 2 * DIM + head * WIDTH, WIDTH)
    out = _kept(out, KEEP, first, query * JOINTS, FRAMES * JOINTS, KEPT)
    OUT.store([batch, begin, joint * DIM + head * WIDTH], out.to(q.dtype).reshape(1, BLOCK, WIDTH))
    tl.store(LOG_SUM + sequence.to(tl.int64) * FRAMES + query, highest + tl.log2(total), query < FRAMES)


@triton.jit
def _output_gradient(
    OUT, D_OUT, BIAS, KEEP, first, row, JOINTS: tl.constexpr, FRAMES: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """That of the attention itself, without keep and bias, and its product with the output, by token.

    OUT, D_OUT: where the sequence begins in (rows, DIM). BIAS: of its head's values. first: its first row. row: frames.
    """
    out = _tile(OUT, row, JOINTS * DIM, FRAMES, WIDTH).to(tl.float32)
    d_out = _tile(D_OUT, row, JOINTS * DIM, FRAMES, WIDTH)
    mean = tl.sum(out * d_out.to(tl.float32), 1)
    d_out = _kept(d_out, KEEP, first, row * JOINTS, FRAMES * JOINTS, KEPT)
    bias = tl.load(BIAS + tl.arange(0, WIDTH))
    return d_out, mean - tl.sum(d_out.to(tl.float32) * bias[None, :], 1)


@triton.jit
def _temporal_backward(
    QKV, BIAS, KEEP, OUT, D_OUT, LOG_SUM, D_QKV, PARTIAL, scale, log_scale, FRAMES: tl.constexpr, JOINTS: tl.constexpr,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, OWN: tl.constexpr, OTHERS: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """A program owns a block of frames: as keys it collects from all queries, then as queries from all keys.

    OUT, D_OUT: (rows, DIM). LOG_SUM: of `_temporal_forward`. D_QKV: (rows, 3 · DIM). OWN: frames of its block. OTHERS:
    of a step.
    """
    blocks = tl.cdiv(FRAMES, OWN)
    sequence, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    head, joint = sequence % HEADS, sequence // HEADS % JOINTS
    first = (sequence // HEADS // JOINTS).to(tl.int64) * FRAMES * JOINTS + joint
    stride = JOINTS * 3 * DIM
    QKV += first * 3 * DIM + head * WIDTH
    D_QKV += first * 3 * DIM + head * WIDTH
    BIAS += head * WIDTH
    OUT += first * DIM + head * WIDTH
    D_OUT += first * DIM + head * WIDTH
    LOG_SUM += sequence.to(tl.int64) * FRAMES
    PARTIAL += ((sequence // HEADS) * blocks + block) * 3 * DIM + head * WIDTH

    own = block * OWN + tl.arange(0, OWN)
    q = _plus(_tile(QKV, own, stride, FRAMES, WIDTH), BIAS, WIDTH)
    k = _tile(QKV + DIM, own, stride, FRAMES, WIDTH)
    v = _tile(QKV + 2 * DIM, own, stride, FRAMES, WIDTH)

    d_k = tl.zeros([OWN, WIDTH], tl.float32)
    d_v = tl.zeros([OWN, WIDTH], tl.float32)
    for start in range(0, FRAMES, OTHERS):
        other = start + tl.arange(0, OTHERS)
        query = _plus(_tile(QKV, other, stride, FRAMES, WIDTH), BIAS, WIDTH)
        d_out, mean = _output_gradient(
            OUT, D_OUT, BIAS + 2 * DIM, KEEP, first, other, JOINTS, FRAMES, DIM, WIDTH, KEPT
        )  # fmt: skip
        log_sum = tl.load(LOG_SUM + other, other < FRAMES, float("inf"))  # no weight beyond the last query
        weights = tl.exp2(tl.dot(k, tl.trans(query)) * log_scale - log_sum[None, :])  # (keys, queries)
        d_v += tl.dot(weights.to(q.dtype), d_out)
        d_scores = weights * (tl.dot(v, tl.trans(d_out)) - mean[None, :])
        d_k += tl.dot(d_scores.to(q.dtype), query)
    _store(D_QKV + DIM, d_k * scale, own, stride, FRAMES, WIDTH)
    _store(D_QKV + 2 * DIM, d_v, own, stride, FRAMES, WIDTH)

    d_out, mean = _output_gradient(OUT, D_OUT, BIAS + 2 * DIM, KEEP, first, own, JOINTS, FRAMES, DIM, WIDTH, KEPT)
    tl.store(PARTIAL + DIM + tl.arange(0, WIDTH), tl.zeros([WIDTH], tl.float32))
    _store_sum(PARTIAL + 2 * DIM, d_out, own, FRAMES, WIDTH)
    log_sum = tl.load(LOG_SUM + own, own < FRAMES, float("inf"))
    d_q = tl.zeros([OWN, WIDTH], tl.float32)
    for start in range(0, FRAMES, OTHERS):
        other = start + tl.arange(0, OTHERS)
        key = _tile(QKV + DIM, other, stride, FRAMES, WIDTH)
        value = _tile(QKV + 2 * DIM, other, stride, FRAMES, WIDTH)
        weights = tl.exp2(tl.dot(q, tl.trans(key)) * log_scale - log_sum[:, None])
        weights = tl.where(other[None, :] < FRAMES, weights, 0.0)
        d_scores = weights * (tl.dot(d_out, tl.trans(value)) - mean[:, None])
        d_q += tl.dot(d_scores.to(q.dtype), key)
    d_q *= scale
    _store(D_QKV, d_q, own, stride, FRAMES, WIDTH)
    _store_sum(PARTIAL, d_q, own, FRAMES, WIDTH)


@triton.jit
def _temporal_backward_whole(
    QKV, BIAS, KEEP, OUT, D_OUT, LOG_SUM, D_QKV, PARTIAL, scale, log_scale, FRAMES: tl.constexpr, JOINTS: tl.constexpr,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """A program owns a whole sequence, if it is short enough: five products instead of seven.

    Parameters as in `_temporal_backward`. QUERIES: FRAMES or more, all at once. KEYS: frames of a step.
    """
    sequence = tl.program_id(0)
    head, joint = sequence % HEADS, sequence // HEADS % JOINTS
    first = (sequence // HEADS // JOINTS).to(tl.int64) * FRAMES * JOINTS + joint
    stride: tl.constexpr = JOINTS * 3 * DIM
    QKV += first * 3 * DIM + head * WIDTH
    D_QKV += first * 3 * DIM + head * WIDTH
    PARTIAL += (sequence // HEADS) * 3 * DIM + head * WIDTH
    BIAS += head * WIDTH
    OUT += first * DIM + head * WIDTH
    D_OUT += first * DIM + head * WIDTH
    query = tl.arange(0, QUERIES)
    if KEPT:  # noqa: SIM102
        if tl.load(KEEP + first) == 0:
            for part in tl.static_range(3):
                _store(D_QKV + part * DIM, tl.zeros([QUERIES, WIDTH], tl.float32), query, stride, FRAMES, WIDTH)
                tl.store(PARTIAL + part * DIM + tl.arange(0, WIDTH), tl.zeros([WIDTH], tl.float32))
            return
    q = _plus(_tile(QKV, query, stride, FRAMES, WIDTH), BIAS, WIDTH)
    d_out, mean = _output_gradient(OUT, D_OUT, BIAS + 2 * DIM, KEEP, first, query, JOINTS, FRAMES, DIM, WIDTH, KEPT)
    tl.store(PARTIAL + DIM + tl.arange(0, WIDTH), tl.zeros([WIDTH], tl.float32))
    _store_sum(PARTIAL + 2 * DIM, d_out, query, FRAMES, WIDTH)
    log_sum = tl.load(LOG_SUM + sequence.to(tl.int64) * FRAMES + query, query < FRAMES, float("inf"))
    d_q = tl.zeros([QUERIES, WIDTH], tl.float32)
    for start in range(0, FRAMES, KEYS):
        key = start + tl.arange(0, KEYS)
        k = _tile(QKV + DIM, key, stride, FRAMES, WIDTH)
        v = _tile(QKV + 2 * DIM, key, stride, FRAMES, WIDTH)
        weights = tl.exp2(tl.dot(q, tl.trans(k)) * log_scale - log_sum[:, None])
        weights = tl.where(key[None, :] < FRAMES, weights, 0.0)
        d_v = tl.dot(tl.trans(weights.to(q.dtype)), d_out)
        d_scores = (weights * (tl.dot(d_out, tl.trans(v)) - mean[:, None])).to(q.dtype)
        d_k = tl.dot(tl.trans(d_scores), q) * scale
        d_q = tl.dot(d_scores, k, d_q)
        _store(D_QKV + DIM, d_k, key, stride, FRAMES, WIDTH)
        _store(D_QKV + 2 * DIM, d_v, key, stride, FRAMES, WIDTH)
    d_q *= scale
    _store(D_QKV, d_q, query, stride, FRAMES, WIDTH)
    _store_sum(PARTIAL, d_q, query, FRAMES, WIDTH)


# Attention over frames with heads whose width is no power of two, as 68 = 17 · 32 / 8. The matrix units take powers of
# two: a head is split into its first MAIN columns and the REST, which is padded to 16 in a product of its own. A token
# is a whole frame: there is one sequence for each window and head. LOG_SUM: (batch, HEADS, FRAMES).

PADDED: tl.constexpr = tl.constexpr(16)
# Forward: queries of a program, keys of a step, warps. Backward: keys of a step, warps.
UNEVEN, UNEVEN_BACKWARD = (64, 64, 4), (32, 8)


@triton.jit
def _main(X, row, stride, rows, MAIN: tl.constexpr):
    return tl.load(X + row[:, None] * stride + tl.arange(0, MAIN)[None, :], row[:, None] < rows, 0.0)


@triton.jit
def _rest(X, row, stride, rows, MAIN: tl.constexpr, REST: tl.constexpr):
    column = tl.arange(0, PADDED)[None, :]
    return tl.load(X + MAIN + row[:, None] * stride + column, (row[:, None] < rows) & (column < REST), 0.0)


@triton.jit
def _main_bias(BIAS, MAIN: tl.constexpr):
    return tl.load(BIAS + tl.arange(0, MAIN))[None, :]


@triton.jit
def _rest_bias(BIAS, MAIN: tl.constexpr, REST: tl.constexpr):
    column = tl.arange(0, PADDED)
    return tl.load(BIAS + MAIN + column, column < REST, 0.0)[None, :]


@triton.jit
def _store_parts(X, main, rest, row, stride, rows, MAIN: tl.constexpr, REST: tl.constexpr):
    X += row[:, None] * stride
    inside, column = row[:, None] < rows, tl.arange(0, PADDED)[None, :]
    tl.store(X + tl.arange(0, MAIN)[None, :], main.to(X.dtype.element_ty), inside)
    tl.store(X + MAIN + column, rest.to(X.dtype.element_ty), inside & (column < REST))


@triton.jit
def _store_part_sums(SUM, main, rest, MAIN: tl.constexpr, REST: tl.constexpr):
    """Of columns; rows beyond the last frame are 0."""
    column = tl.arange(0, PADDED)
    tl.store(SUM + tl.arange(0, MAIN), tl.sum(main.to(tl.float32), 0))
    tl.store(SUM + MAIN + column, tl.sum(rest.to(tl.float32), 0), column < REST)


@triton.jit
def _output_gradient_part(out, d_out, bias, KEEP, first, KEPT: tl.constexpr):
    """As `_output_gradient`, of some columns of a whole sequence."""
    before = out.to(tl.float32) * d_out.to(tl.float32)
    if KEPT:
        d_out = (d_out * tl.load(KEEP + first)).to(out.dtype)
    return d_out, tl.sum(before - d_out.to(tl.float32) * bias, 1)


@triton.jit
def _uneven_forward(
    QKV, BIAS, KEEP, OUT, LOG_SUM, scale, FRAMES: tl.constexpr, DIM: tl.constexpr, HEADS: tl.constexpr,
    MAIN: tl.constexpr, REST: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """LOG_SUM: (batch, HEADS, FRAMES) float32, log₂ of each softmax's sum."""
    blocks: tl.constexpr = (FRAMES + QUERIES - 1) // QUERIES
    sequence = tl.program_id(0) // blocks
    head, first = sequence % HEADS, (sequence // HEADS).to(tl.int64) * FRAMES
    query = tl.program_id(0) % blocks * QUERIES + tl.arange(0, QUERIES)
    stride: tl.constexpr = 3 * DIM
    QKV += first * stride + head * (MAIN + REST)
    BIAS += head * (MAIN + REST)
    low: tl.constexpr = OUT.dtype.element_ty
    q = (_main(QKV, query, stride, FRAMES, MAIN) + _main_bias(BIAS, MAIN)).to(low)
    q_rest = (_rest(QKV, query, stride, FRAMES, MAIN, REST) + _rest_bias(BIAS, MAIN, REST)).to(low)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, MAIN], tl.float32)
    out_rest = tl.zeros([QUERIES, PADDED], tl.float32)
    for start in range(0, FRAMES, KEYS):
        key = start + tl.arange(0, KEYS)
        scores = tl.dot(q, tl.trans(_main(QKV + DIM, key, stride, FRAMES, MAIN)))
        scores = tl.dot(q_rest, tl.trans(_rest(QKV + DIM, key, stride, FRAMES, MAIN, REST)), scores)
        scores = tl.where(key[None, :] < FRAMES, scores * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        weights = weights.to(low)
        out = tl.dot(weights, _main(QKV + 2 * DIM, key, stride, FRAMES, MAIN), out * shrink[:, None])
        v_rest = _rest(QKV + 2 * DIM, key, stride, FRAMES, MAIN, REST)
        out_rest = tl.dot(weights, v_rest, out_rest * shrink[:, None])
        highest = higher
    out = out / total[:, None] + _main_bias(BIAS + 2 * DIM, MAIN)
    out_rest = out_rest / total[:, None] + _rest_bias(BIAS + 2 * DIM, MAIN, REST)
    if KEPT:
        keep = tl.load(KEEP + first)
        out, out_rest = out * keep, out_rest * keep
    _store_parts(OUT + first * DIM + head * (MAIN + REST), out, out_rest, query, DIM, FRAMES, MAIN, REST)
    tl.store(LOG_SUM + sequence * FRAMES + query, highest + tl.log2(total), query < FRAMES)


@triton.jit
def _uneven_backward(
    QKV, BIAS, KEEP, OUT, D_OUT, LOG_SUM, D_QKV, PARTIAL, scale, log_scale, FRAMES: tl.constexpr, DIM: tl.constexpr,
    HEADS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """A program owns a sequence in one head. QUERIES: FRAMES or more. PARTIAL: (batch, 3 · DIM)."""
    sequence = tl.program_id(0)
    head, first = sequence % HEADS, (sequence // HEADS).to(tl.int64) * FRAMES
    query = tl.arange(0, QUERIES)
    stride: tl.constexpr = 3 * DIM
    QKV += first * stride + head * (MAIN + REST)
    D_QKV += first * stride + head * (MAIN + REST)
    OUT += first * DIM + head * (MAIN + REST)
    D_OUT += first * DIM + head * (MAIN + REST)
    PARTIAL += (sequence // HEADS) * stride + head * (MAIN + REST)
    BIAS += head * (MAIN + REST)
    low: tl.constexpr = D_QKV.dtype.element_ty
    d_out, mean = _output_gradient_part(
        _main(OUT, query, DIM, FRAMES, MAIN), _main(D_OUT, query, DIM, FRAMES, MAIN), _main_bias(BIAS + 2 * DIM, MAIN),
        KEEP, first, KEPT,
    )  # fmt: skip
    d_out_rest, mean_rest = _output_gradient_part(
        _rest(OUT, query, DIM, FRAMES, MAIN, REST), _rest(D_OUT, query, DIM, FRAMES, MAIN, REST),
        _rest_bias(BIAS + 2 * DIM, MAIN, REST), KEEP, first, KEPT,
    )  # fmt: skip
    mean += mean_rest
    _store_part_sums(PARTIAL + 2 * DIM, d_out, d_out_rest, MAIN, REST)
    q = (_main(QKV, query, stride, FRAMES, MAIN) + _main_bias(BIAS, MAIN)).to(low)
    q_rest = (_rest(QKV, query, stride, FRAMES, MAIN, REST) + _rest_bias(BIAS, MAIN, REST)).to(low)
    log_sum = tl.load(LOG_SUM + sequence * FRAMES + query, query < FRAMES, float("inf"))  # no weight beyond them
    d_q = tl.zeros([QUERIES, MAIN], tl.float32)
    d_q_rest = tl.zeros([QUERIES, PADDED], tl.float32)
    for start in range(0, FRAMES, KEYS):
        key = start + tl.arange(0, KEYS)
        k = _main(QKV + DIM, key, stride, FRAMES, MAIN)
        k_rest = _rest(QKV + DIM, key, stride, FRAMES, MAIN, REST)
        scores = tl.dot(q, tl.trans(k))
        scores = tl.dot(q_rest, tl.trans(k_rest), scores)
        weights = tl.exp2(scores * log_scale - log_sum[:, None])
        weights = tl.where(key[None, :] < FRAMES, weights, 0.0)
        d_weights = tl.dot(d_out, tl.trans(_main(QKV + 2 * DIM, key, stride, FRAMES, MAIN)))
        v_rest = _rest(QKV + 2 * DIM, key, stride, FRAMES, MAIN, REST)
        d_weights = tl.dot(d_out_rest, tl.trans(v_rest), d_weights)
        d_scores = (weights * (d_weights - mean[:, None])).to(low)
        turned = tl.trans(weights.to(low))
        d_v, d_v_rest = tl.dot(turned, d_out), tl.dot(turned, d_out_rest)
        _store_parts(D_QKV + 2 * DIM, d_v, d_v_rest, key, stride, FRAMES, MAIN, REST)
        turned = tl.trans(d_scores)
        d_k, d_k_rest = tl.dot(turned, q) * scale, tl.dot(turned, q_rest) * scale
        _store_parts(D_QKV + DIM, d_k, d_k_rest, key, stride, FRAMES, MAIN, REST)
        d_q = tl.dot(d_scores, k, d_q)
        d_q_rest = tl.dot(d_scores, k_rest, d_q_rest)
    d_q, d_q_rest = (d_q * scale).to(low), (d_q_rest * scale).to(low)
    _store_parts(D_QKV, d_q, d_q_rest, query, stride, FRAMES, MAIN, REST)
    _store_part_sums(PARTIAL, d_q, d_q_rest, MAIN, REST)
    column = tl.arange(0, MAIN + MAIN)  # the bias of the keys has no gradient
    tl.store(PARTIAL + DIM + column, tl.zeros([MAIN + MAIN], tl.float32), column < MAIN + REST)


# Launching. Functions take contiguous (rows, width) tensors; rows are tokens.


class Layout:
    """How many tokens there are, and how they lie."""

    def __init__(self, batch: int, frames: int, joints: int, device):
        self.batch, self.frames, self.joints = batch, frames, joints
        self.rows = batch * frames * joints


def embed(layout, keypoints, weight, bias, position, dtype):
    """(batch, frames, joints, 2) -> (rows, dim): the first linear layer and the joints' positions, rounded once."""
    out = torch.empty(layout.rows, len(weight), dtype=dtype, device=keypoints.device)
    _embed[(triton.cdiv(layout.rows, 8),)](
        keypoints.contiguous(), weight, bias, position, out, layout.rows, layout.joints, DIM=len(weight),
        COLUMNS=triton.next_power_of_2(len(weight)), CHUNK=8, num_warps=1,
    )  # fmt: skip
    return out


def head(layout, normed, weight, bias):
    """(rows, dim) -> (rows, 3) in float32: bfloat16 cannot resolve millimetres at 1 m."""
    dim = normed.shape[1]
    out = torch.empty(layout.rows, 3, dtype=torch.float32, device=normed.device)
    _head[(triton.cdiv(layout.rows, 8),)](
        normed, weight, bias, out, layout.rows, DIM=dim, COLUMNS=triton.next_power_of_2(dim), CHUNK=8, num_warps=1
    )
    return out


def head_backward(layout, d_out, weight, dtype):
    """The gradient of head's normed."""
    dim = weight.shape[1]
    d_normed = torch.empty(layout.rows, dim, dtype=dtype, device=d_out.device)
    _head_backward[(triton.cdiv(layout.rows, 8),)](
        d_out, weight, d_normed, layout.rows, DIM=dim, COLUMNS=triton.next_power_of_2(dim), CHUNK=8, num_warps=1
    )
    return d_normed


def _chunk(rows: int, least: int, most: int, programs: int) -> int:
    """Rows per program: few enough to fill the GPU, a power of two since each value compiles another kernel."""
    return max(least, min(most, triton.next_power_of_2(rows // programs)))


def _warps(dim: int) -> int:
    """Warps of a program that takes rows one by one: a single one, unless a row would fill its registers."""
    return 1 if dim <= 512 else 4


def _added(partial):
    """The sum over programs."""
    out = torch.empty_like(partial[0])
    _add_rows[(triton.cdiv(out.numel(), 32), 1)](
        partial, out, len(partial), len(partial), WIDTH=out.numel(), ROWS=64, COLUMNS=32, num_warps=4
    )
    return out


def column_sums(x):
    """The sum over rows, in float32."""
    (rows, width), chunk = x.shape, _chunk(x.shape[0], 64, 1024, programs=64)
    partial = torch.empty(triton.cdiv(rows, chunk), width, dtype=torch.float32, device=x.device)
    _add_rows[(triton.cdiv(width, 64), len(partial))](
        x, partial, rows, chunk, WIDTH=width, ROWS=64, COLUMNS=64, num_warps=4
    )
    return _added(partial)


def norm(layout, x, outer, bias=None, keep=None, inner=None, position=None, ahead=None, dtype=None, folded=False):
    """stream = inner norm of (x + keep · bias) + position, where given; normed = outer norm of that.

    inner, outer: LayerNorms. ahead: bias and keep of the branch that follows, which the stream takes along, so that
    its product can be added in place. keep, by row, may be None for 1. dtype: of normed, by default x's. Returns
    stream (if it is not x) and normed; if folded, instead of normed the outer norm's 1 / deviation, (rows,), see
    `cuda.folded`.
    """
    dim = x.shape[-1]
    chunk = _chunk(layout.rows, 1, 4, programs=2048)
    next_bias, next_keep = ahead or (None, None)
    stream = torch.empty_like(x) if inner or ahead else None
    normed = None if folded else torch.empty_like(x, dtype=dtype)
    inverse = torch.empty(layout.rows, dtype=torch.float32, device=x.device) if folded else None
    _norm_forward[(triton.cdiv(layout.rows, chunk),)](
        x, bias, keep, inner and inner.weight, inner and inner.bias, position, outer.weight, outer.bias,
        next_bias, next_keep, stream, normed, inverse,
        layout.rows, layout.joints, layout.frames, inner.eps if inner else 0.0, outer.eps,
        DIM=dim, COLUMNS=triton.next_power_of_2(dim), CHUNK=chunk, BIASED=bias is not None,
        KEPT=keep is not None, INNER=inner is not None, PLACED=position is not None, NEXT=ahead is not None,
        NEXT_KEPT=next_keep is not None, FOLDED=folded, num_warps=_warps(dim),
    )  # fmt: skip
    return stream, inverse if folded else normed


def norm_backward(layout, x, d_normed, d_stream, outer, bias=None, keep=None, inner=None, position=None):
    """Gradients of norm's x; of position; and of what keep multiplies, outer w, b, inner w, b, where given."""
    dim = x.shape[-1]
    chunk = _chunk(layout.rows, 4, 64, programs=1024)
    programs = triton.cdiv(layout.rows, chunk)
    sums = 5 if inner else 3
    d_x = torch.empty_like(x)
    d_placed = torch.empty_like(x) if position is not None else None
    partial = torch.empty(programs, sums, dim, dtype=torch.float32, device=x.device)
    _norm_backward[(programs,)](
        x, d_normed, d_stream, bias, keep, inner and inner.weight, inner and inner.bias, position, outer.weight,
        d_x, d_placed, partial,
        layout.rows, layout.joints, layout.frames, inner.eps if inner else 0.0, outer.eps,
        DIM=dim, COLUMNS=triton.next_power_of_2(dim), CHUNK=chunk, BIASED=bias is not None, KEPT=keep is not None,
        INNER=inner is not None, PLACED=position is not None, SUMS=sums, STAGES=3, num_warps=_warps(dim),
    )  # fmt: skip
    if position is not None:
        d_placed = d_placed.view(layout.batch, layout.frames, layout.joints, dim).sum((0, 2), dtype=torch.float32)
    return d_x, d_placed, _added(partial)


def drop(active, before, keep):
    """Where keep is 0, set the result of GELU to 0, and its input so low that its derivative is 0 too. In place."""
    rows, width = active.shape
    _drop[(triton.cdiv(rows, 8),)](
        active, before, keep, rows, WIDTH=width, COLUMNS=triton.next_power_of_2(width), ROWS=8, num_warps=4
    )


def _frames_in_a_tile(joints: int) -> tuple[int, int]:
    """Rows of a tile of spatial attention, and how many of them are used: whole frames only."""
    tokens = max(64, triton.next_power_of_2(joints))
    return tokens, tokens // joints * joints


def attention(layout, qkv, bias, heads: int, scale: float, temporal: bool, keep=None, inverse=None):
    """keep · attention of inverse · qkv + bias, (rows, 3 · dim) -> (rows, dim), and what its backward needs besides.

    keep and inverse are by row, keep alike along a sequence; None stands for 1. Temporal attention takes no inverse.
    """
    dim = qkv.shape[1] // 3
    out = torch.empty(layout.rows, dim, dtype=qkv.dtype, device=qkv.device)
    sizes = {"DIM": dim, "HEADS": heads, "WIDTH": dim // heads, "KEPT": keep is not None}
    if not temporal:
        tokens, per_tile = _frames_in_a_tile(layout.joints)
        _spatial_forward[(triton.cdiv(layout.rows, per_tile) * heads,)](
            qkv, bias, inverse, keep, out, layout.rows, layout.joints, per_tile, scale * LOG2_E, **sizes,
            TOKENS=tokens, FOLDED=inverse is not None, num_warps=4,
        )  # fmt: skip
        return out, None
    if uneven(layout.frames, layout.joints, dim // heads):
        return _uneven_attention(layout, qkv, bias, heads, scale, keep)
    sequences = layout.batch * layout.joints * heads
    log_sum = torch.empty(sequences, layout.frames, dtype=torch.float32, device=qkv.device)
    block = min(64, max(16, triton.next_power_of_2(layout.frames)))
    qkv, blocks = (
        TensorDescriptor.from_tensor(x.view(layout.batch, layout.frames, -1), [1, block, dim // heads])
        for x in (qkv, out)
    )
    _temporal_forward[(triton.cdiv(layout.frames, block) * sequences,)](
        qkv, bias, keep, blocks, log_sum, scale * LOG2_E, layout.frames, layout.joints, **sizes, BLOCK=block,
        num_warps=4, num_stages=3, maxnreg=128 if dim // heads <= 64 else None,
    )  # fmt: skip
    return out, log_sum


def attention_backward(layout, qkv, bias, heads, scale, temporal, keep, out, log_sum, d_out):
    """Gradients of qkv and bias."""
    dim = out.shape[1]
    if temporal and uneven(layout.frames, layout.joints, dim // heads):
        d_qkv, partial = _uneven_attention_backward(layout, qkv, bias, heads, scale, keep, out, log_sum, d_out)
        return d_qkv, _added(partial)
    if hopper is not None and hopper.covers(layout, dim // heads, temporal, qkv.device):
        given = (layout, qkv, bias, heads, scale, keep)
        if temporal:
            d_qkv, partial = hopper.temporal_backward(*given, out, log_sum, d_out)
        else:
            d_qkv, partial = hopper.spatial_backward(*given, d_out)
        return d_qkv, _added(partial)
    d_qkv = torch.empty_like(qkv)
    sizes = {"DIM": dim, "HEADS": heads, "WIDTH": dim // heads, "KEPT": keep is not None}
    if not temporal:
        tokens, per_tile = _frames_in_a_tile(layout.joints)
        tiles = triton.cdiv(layout.rows, per_tile)
        partial = torch.empty(tiles, 3 * dim, dtype=torch.float32, device=qkv.device)
        _spatial_backward[(tiles * heads,)](
            qkv, bias, keep, d_out, d_qkv, partial, layout.rows, layout.joints, per_tile, scale, scale * LOG2_E,
            **sizes, TOKENS=tokens, num_warps=4,
            maxnreg=128 if sizes["WIDTH"] <= 64 else None,  # the compiler would take more, for fewer at a time
        )  # fmt: skip
        return d_qkv, _added(partial)
    if layout.frames <= 256 and sizes["WIDTH"] <= 64:
        queries = max(16, triton.next_power_of_2(layout.frames))
        partial = torch.empty(layout.batch * layout.joints, 3 * dim, dtype=torch.float32, device=qkv.device)
        _temporal_backward_whole[(layout.batch * layout.joints * heads,)](
            qkv, bias, keep, out, d_out, log_sum, d_qkv, partial, scale, scale * LOG2_E, layout.frames, layout.joints,
            **sizes, QUERIES=queries, KEYS=min(64, queries), num_warps=8 if queries > 128 else 4, num_stages=3,
        )  # fmt: skip
        return d_qkv, _added(partial)
    block = min(64, max(16, triton.next_power_of_2(layout.frames)))
    blocks = triton.cdiv(layout.frames, block)
    partial = torch.empty(layout.batch * layout.joints * blocks, 3 * dim, dtype=torch.float32, device=qkv.device)
    _temporal_backward[(blocks * layout.batch * layout.joints * heads,)](
        qkv, bias, keep, out, d_out, log_sum, d_qkv, partial, scale, scale * LOG2_E, layout.frames, layout.joints,
        **sizes, OWN=block, OTHERS=block, num_warps=4, num_stages=2,
    )  # fmt: skip
    return d_qkv, _added(partial)


def uneven(frames: int, joints: int, width: int) -> bool:
    """Whether `attention` over frames uses the kernels for uneven heads, as of this width."""
    main, rest = _split(width)
    return joints == 1 and main in (16, 32, 64) and 0 < rest <= PADDED.value and frames <= 256


def _split(width: int) -> tuple[int, int]:
    """The largest power of two in a head's width, and the rest."""
    main = 1 << (width.bit_length() - 1)
    return main, width - main


def _uneven_sizes(layout, dim: int, heads: int, keep) -> dict[str, object]:
    main, rest = _split(dim // heads)
    return {
        "FRAMES": layout.frames, "DIM": dim, "HEADS": heads, "MAIN": main, "REST": rest, "KEPT": keep is not None
    }  # fmt: skip


def _uneven_attention(layout, qkv, bias, heads: int, scale: float, keep=None):
    """As `kernels.attention` over frames, where a frame is one token."""
    (queries, keys, warps), dim = UNEVEN, qkv.shape[1] // 3
    queries, keys = (min(most, max(16, triton.next_power_of_2(layout.frames))) for most in (queries, keys))
    out = torch.empty(layout.rows, dim, dtype=qkv.dtype, device=qkv.device)
    log_sum = torch.empty(layout.batch * heads, layout.frames, dtype=torch.float32, device=qkv.device)
    _uneven_forward[(triton.cdiv(layout.frames, queries) * layout.batch * heads,)](
        qkv, bias, keep, out, log_sum, scale * LOG2_E, **_uneven_sizes(layout, dim, heads, keep), QUERIES=queries,
        KEYS=keys, num_warps=warps,
    )  # fmt: skip
    return out, log_sum


def _uneven_attention_backward(layout, qkv, bias, heads, scale, keep, out, log_sum, d_out):
    """Gradients of qkv, and of bias by window."""
    dim, d_qkv, queries = out.shape[1], torch.empty_like(qkv), max(16, triton.next_power_of_2(layout.frames))
    partial = torch.empty(layout.batch, 3 * dim, dtype=torch.float32, device=qkv.device)
    _uneven_backward[(layout.batch * heads,)](
        qkv, bias, keep, out, d_out, log_sum, d_qkv, partial, scale, scale * LOG2_E,
        **_uneven_sizes(layout, dim, heads, keep), QUERIES=queries, KEYS=min(UNEVEN_BACKWARD[0], queries),
        num_warps=UNEVEN_BACKWARD[1], num_stages=2,
    )  # fmt: skip
    return d_qkv, partial
