"""Triton kernels of the fast path on CUDA: attention over joints and over frames, norms with their residual, GELU.

All read tokens where they lie, (batch, frames, joints, dim), so that nothing is ever moved between spatial and temporal
blocks. Tensors are in the network's precision (bfloat16), arithmetic in float32. Gradients that are sums over
tokens, those of biases and norms, come from the backward kernel that has their terms at hand: each program leaves one
row in `partial`, and `partial.sum(0)` finishes the sum, in the same order every time.
"""

import math

import torch
import triton
import triton.language as tl

LOG2_E = math.log2(math.e)
CHUNK = 64  # rows that one program of a backward kernel sums


# The norms' programs are single warps that take some rows one after the other: sums along a row then need no barrier.


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
    X, Y, BIAS, KEEP, INNER_W, INNER_B, POSITION, OUTER_W, OUTER_B, SUM, STREAM, NORMED,
    rows, joints, frames, inner_eps, outer_eps,
    DIM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
    BRANCH: tl.constexpr, BIASED: tl.constexpr, KEPT: tl.constexpr, INNER: tl.constexpr, PLACED: tl.constexpr,
    SAVE: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, COLUMNS)
    outer_w = tl.load(OUTER_W + column, column < DIM, 0.0)
    outer_b = tl.load(OUTER_B + column, column < DIM, 0.0)
    if INNER:
        inner_w = tl.load(INNER_W + column, column < DIM, 0.0)
        inner_b = tl.load(INNER_B + column, column < DIM, 0.0)
    if BIASED:
        bias = tl.load(BIAS + column, column < DIM, 0.0)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for step in range(CHUNK):
        row = first + step
        inside = (row < rows) & (column < DIM)
        at = row * DIM + column
        x = tl.load(X + at, inside, 0.0).to(tl.float32)
        if BRANCH or BIASED:
            y = tl.zeros([COLUMNS], tl.float32)
            if BIASED:
                y += bias
            if KEPT:
                y *= tl.load(KEEP + row, row < rows, 0.0)
            if BRANCH:
                y += tl.load(Y + at, inside, 0.0).to(tl.float32)
            x += y
        if SAVE:
            saved = x.to(SUM.dtype.element_ty)
            tl.store(SUM + at, saved, inside)
            x = saved.to(tl.float32)  # so that the backward sees the very numbers
        if INNER:
            x, _ = _normalised(x, inside, DIM, inner_eps)
            x = x * inner_w + inner_b
            if PLACED:
                x += tl.load(POSITION + (row // joints) % frames * DIM + column, inside, 0.0)
            tl.store(STREAM + at, x.to(STREAM.dtype.element_ty), inside)
        x, _ = _normalised(x, inside, DIM, outer_eps)
        tl.store(NORMED + at, (x * outer_w + outer_b).to(NORMED.dtype.element_ty), inside)


@triton.jit
def _norm_backward(
    SUM, D_NORMED, D_STREAM, KEEP, INNER_W, INNER_B, POSITION, OUTER_W, D_SUM, D_PLACED, PARTIAL,
    rows, joints, frames, inner_eps, outer_eps,
    DIM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
    KEPT: tl.constexpr, INNER: tl.constexpr, PLACED: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, COLUMNS)
    outer_w = tl.load(OUTER_W + column, column < DIM, 0.0)
    d_outer_w = tl.zeros([COLUMNS], tl.float32)
    d_outer_b = tl.zeros([COLUMNS], tl.float32)
    d_bias = tl.zeros([COLUMNS], tl.float32)
    if INNER:
        inner_w = tl.load(INNER_W + column, column < DIM, 0.0)
        inner_b = tl.load(INNER_B + column, column < DIM, 0.0)
        d_inner_w = tl.zeros([COLUMNS], tl.float32)
        d_inner_b = tl.zeros([COLUMNS], tl.float32)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for step in range(CHUNK):
        row = first + step
        inside = (row < rows) & (column < DIM)
        at = row * DIM + column
        x = tl.load(SUM + at, inside, 0.0).to(tl.float32)
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
        tl.store(D_SUM + at, d.to(D_SUM.dtype.element_ty), inside)
        if KEPT:
            d *= tl.load(KEEP + row, row < rows, 0.0)
        d_bias += tl.where(inside, d, 0.0)
    sums = PARTIAL + tl.program_id(0) * 5 * DIM + column
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
def _gelu_forward(
    X, BIAS, KEEP, OUT, rows, WIDTH, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEPT: tl.constexpr
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < WIDTH)
    at = row * WIDTH + column
    x = tl.load(X + at, inside, 0.0).to(tl.float32) + tl.load(BIAS + column, column < WIDTH, 0.0).to(tl.float32)
    x *= 0.5 * (1 + tl.erf(x * 0.7071067811865476))
    if KEPT:
        x *= tl.load(KEEP + row, row < rows, 0.0)
    tl.store(OUT + at, x.to(OUT.dtype.element_ty), inside)


@triton.jit
def _gelu_backward(
    X, BIAS, KEEP, D_OUT, D_X, PARTIAL, rows, WIDTH,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    bias = tl.load(BIAS + column, column < WIDTH, 0.0).to(tl.float32)
    d_bias = tl.zeros([ROWS, COLUMNS], tl.float32)
    first = tl.program_id(1).to(tl.int64) * CHUNK
    for start in range(0, CHUNK, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < WIDTH)
        at = row * WIDTH + column
        x = tl.load(X + at, inside, 0.0).to(tl.float32) + bias
        d = tl.load(D_OUT + at, inside, 0.0).to(tl.float32)
        d *= 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
        if KEPT:
            d *= tl.load(KEEP + row, row < rows, 0.0)
        tl.store(D_X + at, d.to(D_X.dtype.element_ty), inside)
        d_bias += d
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(PARTIAL + tl.program_id(1) * WIDTH + column, tl.sum(d_bias, 0), column < WIDTH)


@triton.jit
def _tile(X, row, stride, rows, WIDTH: tl.constexpr):
    """(len(row), WIDTH) of a tensor whose rows lie `stride` apart; 0 from `rows` on."""
    return tl.load(X + row[:, None] * stride + tl.arange(0, WIDTH)[None, :], row[:, None] < rows, 0.0)


@triton.jit
def _kept(x, KEEP, first, row, rows, KEPT: tl.constexpr):
    if KEPT:
        x = (x.to(tl.float32) * tl.load(KEEP + first + row, row < rows, 0.0)[:, None]).to(x.dtype)
    return x


@triton.jit
def _plus(x, BIAS, WIDTH: tl.constexpr):
    return (x.to(tl.float32) + tl.load(BIAS + tl.arange(0, WIDTH))[None, :]).to(x.dtype)


@triton.jit
def _spatial_weights(q, k, tokens, joints, scale):
    """Softmax within each of the frames that lie in one tile; rows beyond them are a frame of their own."""
    scores = tl.dot(q, tl.trans(k)) * scale
    frame = tokens // joints
    scores = tl.where(frame[:, None] == frame[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _spatial_forward(
    QKV, BIAS, KEEP, OUT, rows, joints, per_tile, scale,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, BIASED: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """Several frames in one tile: 3 of 17 joints in 64 rows, where library kernels would pad 17 to 64."""
    head = tl.program_id(0) % HEADS
    first = (tl.program_id(0) // HEADS).to(tl.int64) * per_tile
    rows = tl.minimum(rows - first, per_tile)
    tokens = tl.arange(0, TOKENS)
    QKV += first * 3 * DIM + head * WIDTH
    q = _tile(QKV, tokens, 3 * DIM, rows, WIDTH)
    k = _tile(QKV + DIM, tokens, 3 * DIM, rows, WIDTH)
    v = _tile(QKV + 2 * DIM, tokens, 3 * DIM, rows, WIDTH)
    if BIASED:
        q = _plus(q, BIAS + head * WIDTH, WIDTH)
    out = tl.dot(_spatial_weights(q, k, tokens, joints, scale).to(v.dtype), v)
    if BIASED:
        out = _plus(out, BIAS + 2 * DIM + head * WIDTH, WIDTH)
    out = _kept(out, KEEP, first, tokens, rows, KEPT)
    at = (first + tokens[:, None]) * DIM + head * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), tokens[:, None] < rows)


@triton.jit
def _store_gradient(D, PARTIAL, d, row, stride, rows, WIDTH: tl.constexpr):
    column = tl.arange(0, WIDTH)
    tl.store(D + row[:, None] * stride + column[None, :], d.to(D.dtype.element_ty), row[:, None] < rows)
    tl.store(PARTIAL + column, tl.sum(tl.where(row[:, None] < rows, d, 0.0), 0))


@triton.jit
def _spatial_backward(
    QKV, KEEP, D_OUT, D_QKV, PARTIAL, rows, joints, per_tile, scale, log_scale,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % HEADS
    tile = tl.program_id(0) // HEADS
    first = tile.to(tl.int64) * per_tile
    rows = tl.minimum(rows - first, per_tile)
    tokens = tl.arange(0, TOKENS)
    QKV += first * 3 * DIM + head * WIDTH
    D_QKV += first * 3 * DIM + head * WIDTH
    PARTIAL += tile * 3 * DIM + head * WIDTH
    q = _tile(QKV, tokens, 3 * DIM, rows, WIDTH)
    k = _tile(QKV + DIM, tokens, 3 * DIM, rows, WIDTH)
    v = _tile(QKV + 2 * DIM, tokens, 3 * DIM, rows, WIDTH)
    d_out = _tile(D_OUT + first * DIM + head * WIDTH, tokens, DIM, rows, WIDTH)
    d_out = _kept(d_out, KEEP, first, tokens, rows, KEPT)
    weights = _spatial_weights(q, k, tokens, joints, log_scale)
    d_weights = tl.dot(d_out, tl.trans(v))
    d_scores = weights * (d_weights - tl.sum(weights * d_weights, 1)[:, None]) * scale
    d_scores = d_scores.to(q.dtype)
    _store_gradient(D_QKV, PARTIAL, tl.dot(d_scores, k), tokens, 3 * DIM, rows, WIDTH)
    _store_gradient(D_QKV + DIM, PARTIAL + DIM, tl.dot(tl.trans(d_scores), q), tokens, 3 * DIM, rows, WIDTH)
    d_v = tl.dot(tl.trans(weights.to(q.dtype)), d_out)
    _store_gradient(D_QKV + 2 * DIM, PARTIAL + 2 * DIM, d_v, tokens, 3 * DIM, rows, WIDTH)


@triton.jit
def _temporal_forward(
    QKV, BIAS, KEEP, OUT, LOG_SUM, scale, FRAMES: tl.constexpr, JOINTS: tl.constexpr,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    BIASED: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """Softmax over all frames of one joint, key block by key block."""
    sequence = tl.program_id(1)
    head, joint = sequence % HEADS, sequence // HEADS % JOINTS
    first = (sequence // HEADS // JOINTS).to(tl.int64) * FRAMES * JOINTS + joint
    stride = JOINTS * 3 * DIM
    QKV += first * 3 * DIM + head * WIDTH
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    q = _tile(QKV, query, stride, FRAMES, WIDTH)
    if BIASED:
        q = _plus(q, BIAS + head * WIDTH, WIDTH)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, WIDTH], tl.float32)
    for start in range(0, FRAMES, KEYS):
        key = start + tl.arange(0, KEYS)
        k = _tile(QKV + DIM, key, stride, FRAMES, WIDTH)
        v = _tile(QKV + 2 * DIM, key, stride, FRAMES, WIDTH)
        scores = tl.where(key[None, :] < FRAMES, tl.dot(q, tl.trans(k)) * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None])
        highest = higher
    out /= total[:, None]
    if BIASED:
        out = _plus(out, BIAS + 2 * DIM + head * WIDTH, WIDTH)
    out = _kept(out, KEEP, first, query * JOINTS, FRAMES * JOINTS, KEPT)
    at = (first + query[:, None].to(tl.int64) * JOINTS) * DIM + head * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), query[:, None] < FRAMES)
    tl.store(LOG_SUM + sequence.to(tl.int64) * FRAMES + query, highest + tl.log2(total), query < FRAMES)


@triton.jit
def _temporal_backward(
    QKV, KEEP, OUT, D_OUT, LOG_SUM, D_QKV, PARTIAL, scale, log_scale, FRAMES: tl.constexpr, JOINTS: tl.constexpr,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, OWN: tl.constexpr, OTHERS: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """A program owns a block of frames: as keys it collects from all queries, then as queries from all keys."""
    sequence = tl.program_id(1)
    head, joint = sequence % HEADS, sequence // HEADS % JOINTS
    first = (sequence // HEADS // JOINTS).to(tl.int64) * FRAMES * JOINTS + joint
    stride, out_stride = JOINTS * 3 * DIM, JOINTS * DIM
    QKV += first * 3 * DIM + head * WIDTH
    D_QKV += first * 3 * DIM + head * WIDTH
    OUT += first * DIM + head * WIDTH
    D_OUT += first * DIM + head * WIDTH
    LOG_SUM += sequence.to(tl.int64) * FRAMES
    PARTIAL += ((sequence // HEADS) * tl.num_programs(0) + tl.program_id(0)) * 3 * DIM + head * WIDTH

    own = tl.program_id(0) * OWN + tl.arange(0, OWN)
    q = _tile(QKV, own, stride, FRAMES, WIDTH)
    k = _tile(QKV + DIM, own, stride, FRAMES, WIDTH)
    v = _tile(QKV + 2 * DIM, own, stride, FRAMES, WIDTH)

    d_k = tl.zeros([OWN, WIDTH], tl.float32)
    d_v = tl.zeros([OWN, WIDTH], tl.float32)
    for start in range(0, FRAMES, OTHERS):
        other = start + tl.arange(0, OTHERS)
        query = _tile(QKV, other, stride, FRAMES, WIDTH)
        out = _tile(OUT, other, out_stride, FRAMES, WIDTH).to(tl.float32)
        d_out = _tile(D_OUT, other, out_stride, FRAMES, WIDTH)
        mean = tl.sum(out * d_out.to(tl.float32), 1)
        d_out = _kept(d_out, KEEP, first, other * JOINTS, FRAMES * JOINTS, KEPT)
        log_sum = tl.load(LOG_SUM + other, other < FRAMES, float("inf"))  # no weight beyond the last query
        weights = tl.exp2(tl.dot(k, tl.trans(query)) * log_scale - log_sum[None, :])  # (keys, queries)
        d_v += tl.dot(weights.to(q.dtype), d_out)
        d_scores = weights * (tl.dot(v, tl.trans(d_out)) - mean[None, :]) * scale
        d_k += tl.dot(d_scores.to(q.dtype), query)
    _store_gradient(D_QKV + DIM, PARTIAL + DIM, d_k, own, stride, FRAMES, WIDTH)
    _store_gradient(D_QKV + 2 * DIM, PARTIAL + 2 * DIM, d_v, own, stride, FRAMES, WIDTH)

    out = _tile(OUT, own, out_stride, FRAMES, WIDTH).to(tl.float32)
    d_out = _tile(D_OUT, own, out_stride, FRAMES, WIDTH)
    mean = tl.sum(out * d_out.to(tl.float32), 1)
    d_out = _kept(d_out, KEEP, first, own * JOINTS, FRAMES * JOINTS, KEPT)
    log_sum = tl.load(LOG_SUM + own, own < FRAMES, float("inf"))
    d_q = tl.zeros([OWN, WIDTH], tl.float32)
    for start in range(0, FRAMES, OTHERS):
        other = start + tl.arange(0, OTHERS)
        key = _tile(QKV + DIM, other, stride, FRAMES, WIDTH)
        value = _tile(QKV + 2 * DIM, other, stride, FRAMES, WIDTH)
        weights = tl.exp2(tl.dot(q, tl.trans(key)) * log_scale - log_sum[:, None])
        weights = tl.where(other[None, :] < FRAMES, weights, 0.0)
        d_scores = weights * (tl.dot(d_out, tl.trans(value)) - mean[:, None]) * scale
        d_q += tl.dot(d_scores.to(q.dtype), key)
    _store_gradient(D_QKV, PARTIAL, d_q, own, stride, FRAMES, WIDTH)


@triton.jit
def _temporal_backward_whole(
    QKV, KEEP, OUT, D_OUT, LOG_SUM, D_QKV, PARTIAL, scale, log_scale, FRAMES: tl.constexpr, JOINTS: tl.constexpr,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """A program owns a whole sequence, if it is short enough: five products in place of seven."""
    sequence = tl.program_id(0)
    head, joint = sequence % HEADS, sequence // HEADS % JOINTS
    first = (sequence // HEADS // JOINTS).to(tl.int64) * FRAMES * JOINTS + joint
    stride: tl.constexpr = JOINTS * 3 * DIM
    QKV += first * 3 * DIM + head * WIDTH
    D_QKV += first * 3 * DIM + head * WIDTH
    PARTIAL += (sequence // HEADS) * 3 * DIM + head * WIDTH
    query = tl.arange(0, QUERIES)
    q = _tile(QKV, query, stride, FRAMES, WIDTH)
    d_out = _tile(D_OUT + first * DIM + head * WIDTH, query, JOINTS * DIM, FRAMES, WIDTH)
    out = _tile(OUT + first * DIM + head * WIDTH, query, JOINTS * DIM, FRAMES, WIDTH).to(tl.float32)
    mean = tl.sum(out * d_out.to(tl.float32), 1)
    d_out = _kept(d_out, KEEP, first, query * JOINTS, FRAMES * JOINTS, KEPT)
    log_sum = tl.load(LOG_SUM + sequence.to(tl.int64) * FRAMES + query, query < FRAMES, float("inf"))
    column = tl.arange(0, WIDTH)
    d_q = tl.zeros([QUERIES, WIDTH], tl.float32)
    sum_k = tl.zeros([WIDTH], tl.float32)
    sum_v = tl.zeros([WIDTH], tl.float32)
    for start in range(0, FRAMES, KEYS):
        key = start + tl.arange(0, KEYS)
        k = _tile(QKV + DIM, key, stride, FRAMES, WIDTH)
        v = _tile(QKV + 2 * DIM, key, stride, FRAMES, WIDTH)
        weights = tl.exp2(tl.dot(q, tl.trans(k)) * log_scale - log_sum[:, None])
        weights = tl.where(key[None, :] < FRAMES, weights, 0.0)
        d_v = tl.dot(tl.trans(weights.to(q.dtype)), d_out)
        d_scores = (weights * (tl.dot(d_out, tl.trans(v)) - mean[:, None]) * scale).to(q.dtype)
        d_k = tl.dot(tl.trans(d_scores), q)
        d_q = tl.dot(d_scores, k, d_q)
        at = key[:, None] * stride + column[None, :]
        tl.store(D_QKV + DIM + at, d_k.to(D_QKV.dtype.element_ty), key[:, None] < FRAMES)
        tl.store(D_QKV + 2 * DIM + at, d_v.to(D_QKV.dtype.element_ty), key[:, None] < FRAMES)
        sum_k += tl.sum(d_k, 0)
        sum_v += tl.sum(d_v, 0)
    _store_gradient(D_QKV, PARTIAL, d_q, query, stride, FRAMES, WIDTH)
    tl.store(PARTIAL + DIM + column, sum_k)
    tl.store(PARTIAL + 2 * DIM + column, sum_v)


# Launching. Functions take contiguous (rows, width) tensors; rows are tokens.


class Layout:
    """How many tokens there are, and how they lie."""

    def __init__(self, batch: int, frames: int, joints: int):
        self.batch, self.frames, self.joints = batch, frames, joints
        self.rows = batch * frames * joints


def embed(layout, keypoints, weight, bias, position, dtype):
    """(batch, frames, joints, 2) -> (rows, dim): the first linear layer and the joints' positions, rounded but once."""
    out = torch.empty(layout.rows, len(weight), dtype=dtype, device=keypoints.device)
    _embed[(triton.cdiv(layout.rows, 8),)](
        keypoints.contiguous(), weight, bias, position, out, layout.rows, layout.joints, DIM=len(weight),
        COLUMNS=triton.next_power_of_2(len(weight)), CHUNK=8, num_warps=1,
    )  # fmt: skip
    return out


def head(layout, normed, weight, bias):
    """(rows, dim) -> (rows, 3) in float32: bfloat16 cannot tell millimetres a metre away."""
    out = torch.empty(layout.rows, 3, dtype=torch.float32, device=normed.device)
    _head[(triton.cdiv(layout.rows, 8),)](
        normed, weight, bias, out, layout.rows, DIM=normed.shape[1], COLUMNS=triton.next_power_of_2(normed.shape[1]),
        CHUNK=8, num_warps=1,
    )  # fmt: skip
    return out


def _chunk(rows: int, most: int) -> int:
    """Rows for each program: few enough to busy a GPU, in powers of two, for each is a kernel of its own."""
    return min(most, max(1, triton.next_power_of_2(rows // 2048)))


def _finished(partial):
    """The sum over programs; as a product with ones, twice as fast as sum(0)."""
    ones = torch.ones(len(partial), dtype=partial.dtype, device=partial.device)
    return torch.mv(partial.flatten(1).t(), ones).view(partial.shape[1:])


def norm(layout, x, branch, bias, keep, inner, position, outer, save: bool, dtype=None):
    """sum = x + branch + keep · bias; stream = inner norm of it + position, where given; normed = outer norm of that.

    branch, bias, keep, inner and position may be None. inner, outer: LayerNorms. dtype: of
    normed, by default x's. Returns sum (if saved), stream (if there is an inner norm), normed.
    """
    dim = x.shape[-1]
    chunk = _chunk(layout.rows, 4)
    saved = torch.empty_like(x) if save else None
    stream = torch.empty_like(x) if inner else None
    normed = torch.empty_like(x, dtype=dtype or x.dtype)
    _norm_forward[(triton.cdiv(layout.rows, chunk),)](
        x, branch, bias, keep, inner and inner.weight, inner and inner.bias, position, outer.weight, outer.bias,
        saved, stream, normed,
        layout.rows, layout.joints, layout.frames, inner.eps if inner else 0.0, outer.eps,
        DIM=dim, COLUMNS=triton.next_power_of_2(dim), CHUNK=chunk, BRANCH=branch is not None, BIASED=bias is not None,
        KEPT=keep is not None, INNER=inner is not None, PLACED=position is not None, SAVE=save, num_warps=1,
    )  # fmt: skip
    return saved, stream, normed


def norm_backward(layout, saved, d_normed, d_stream, keep, inner, position, outer):
    """Gradients of norm's x, which is that of branch; of position; and (5, dim) of bias, outer w, b, inner w, b."""
    dim = saved.shape[-1]
    chunk = max(16, _chunk(layout.rows, 32))
    programs = triton.cdiv(layout.rows, chunk)
    d_x = torch.empty_like(saved)
    d_placed = torch.empty_like(saved) if position is not None else None
    partial = torch.empty(programs, 5, dim, dtype=torch.float32, device=saved.device)
    _norm_backward[(programs,)](
        saved, d_normed, d_stream, keep, inner and inner.weight, inner and inner.bias, position, outer.weight,
        d_x, d_placed, partial,
        layout.rows, layout.joints, layout.frames, inner.eps if inner else 0.0, outer.eps,
        DIM=dim, COLUMNS=triton.next_power_of_2(dim), CHUNK=chunk, KEPT=keep is not None, INNER=inner is not None,
        PLACED=position is not None, num_warps=2 if inner else 1,
    )  # fmt: skip
    if position is not None:
        d_placed = d_placed.view(layout.batch, layout.frames, layout.joints, dim).sum((0, 2), dtype=torch.float32)
    return d_x, d_placed, _finished(partial)


def gelu(x, bias, keep):
    """keep · GELU(x + bias); keep, by row, may be None."""
    rows, width = x.shape
    out = torch.empty_like(x)
    _gelu_forward[(triton.cdiv(width, 256), triton.cdiv(rows, 16))](
        x, bias, keep, out, rows, width, ROWS=16, COLUMNS=256, KEPT=keep is not None, num_warps=4
    )
    return out


def gelu_backward(x, bias, keep, d_out):
    """Gradients of gelu's x and bias."""
    rows, width = x.shape
    d_x = torch.empty_like(x)
    partial = torch.empty(triton.cdiv(rows, CHUNK), width, dtype=torch.float32, device=x.device)
    _gelu_backward[(triton.cdiv(width, 256), len(partial))](
        x, bias, keep, d_out, d_x, partial, rows, width,
        ROWS=8, COLUMNS=256, CHUNK=CHUNK, KEPT=keep is not None, num_warps=4,
    )  # fmt: skip
    return d_x, _finished(partial)


def _frames_in_a_tile(joints: int) -> tuple[int, int]:
    """Rows of a tile of spatial attention, and how many of them are used: whole frames only."""
    tokens = max(64, triton.next_power_of_2(joints))
    return tokens, tokens // joints * joints


def attention(layout, qkv, heads: int, scale: float, temporal: bool, keep=None, bias=None):
    """keep · attention, (rows, 3 · dim) -> (rows, dim), and what its backward needs besides. keep, by row, may be None.

    bias: of qkv where it has none yet (without a backward). That of the keys changes nothing, for it moves all scores
    of a query alike; that of the values passes through, for weights sum to one.
    """
    dim = qkv.shape[1] // 3
    out = torch.empty(layout.rows, dim, dtype=qkv.dtype, device=qkv.device)
    sizes = {"DIM": dim, "HEADS": heads, "WIDTH": dim // heads}
    if not temporal:
        tokens, per_tile = _frames_in_a_tile(layout.joints)
        _spatial_forward[(triton.cdiv(layout.rows, per_tile) * heads,)](
            qkv, bias, keep, out, layout.rows, layout.joints, per_tile, scale * LOG2_E, **sizes, TOKENS=tokens,
            BIASED=bias is not None, KEPT=keep is not None, num_warps=4,
        )  # fmt: skip
        return out, None
    sequences = layout.batch * layout.joints * heads
    log_sum = torch.empty(sequences, layout.frames, dtype=torch.float32, device=qkv.device)
    block = min(64, max(16, triton.next_power_of_2(layout.frames)))
    _temporal_forward[(triton.cdiv(layout.frames, block), sequences)](
        qkv, bias, keep, out, log_sum, scale * LOG2_E, layout.frames, layout.joints, **sizes, QUERIES=block, KEYS=block,
        BIASED=bias is not None, KEPT=keep is not None, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out, log_sum


def attention_backward(layout, qkv, heads, scale, temporal, keep, out, log_sum, d_out):
    """The gradient of qkv, and its sum over rows."""
    dim = out.shape[1]
    d_qkv = torch.empty_like(qkv)
    sizes = {"DIM": dim, "HEADS": heads, "WIDTH": dim // heads}
    if not temporal:
        tokens, per_tile = _frames_in_a_tile(layout.joints)
        tiles = triton.cdiv(layout.rows, per_tile)
        partial = torch.empty(tiles, 3 * dim, dtype=torch.float32, device=qkv.device)
        _spatial_backward[(tiles * heads,)](
            qkv, keep, d_out, d_qkv, partial, layout.rows, layout.joints, per_tile, scale, scale * LOG2_E, **sizes,
            TOKENS=tokens, KEPT=keep is not None, num_warps=4,
        )  # fmt: skip
        return d_qkv, _finished(partial)
    if layout.frames <= 256 and sizes["WIDTH"] <= 64:
        queries = max(16, triton.next_power_of_2(layout.frames))
        partial = torch.empty(layout.batch * layout.joints, 3 * dim, dtype=torch.float32, device=qkv.device)
        _temporal_backward_whole[(layout.batch * layout.joints * heads,)](
            qkv, keep, out, d_out, log_sum, d_qkv, partial, scale, scale * LOG2_E, layout.frames, layout.joints,
            **sizes, QUERIES=queries, KEYS=min(64, queries), KEPT=keep is not None,
            num_warps=8 if queries > 128 else 4, num_stages=2,
        )  # fmt: skip
        return d_qkv, _finished(partial)
    block = min(64, max(16, triton.next_power_of_2(layout.frames)))
    blocks = triton.cdiv(layout.frames, block)
    partial = torch.empty(layout.batch * layout.joints * blocks, 3 * dim, dtype=torch.float32, device=qkv.device)
    _temporal_backward[(blocks, layout.batch * layout.joints * heads)](
        qkv, keep, out, d_out, log_sum, d_qkv, partial, scale, scale * LOG2_E, layout.frames, layout.joints, **sizes,
        OWN=block, OTHERS=block, KEPT=keep is not None, num_warps=4, num_stages=2,
    )  # fmt: skip
    return d_qkv, _finished(partial)
