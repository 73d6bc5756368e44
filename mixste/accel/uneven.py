"""Triton kernels of attention over frames with heads whose width is no power of two, as 68 = 17 · 32 / 8.

The matrix units take powers of two: a head is split into its first MAIN columns, a power of two, and the REST, in a
product of its own padded to 16. Otherwise these are the kernels of `mixste.accel.kernels`, whose parameters they share.
A token is a whole frame: there is one sequence for each window and head.
"""

import math

import torch
import triton
import triton.language as tl

LOG2_E = math.log2(math.e)
PADDED: tl.constexpr = tl.constexpr(16)  # columns of the second product

# Forward: queries of a program, keys of a step, warps. Backward: keys of a step.
FORWARD, KEYS = (64, 64, 4), 32


@triton.jit
def _load(X, row, stride, rows, MAIN: tl.constexpr):
    return tl.load(X + row[:, None] * stride + tl.arange(0, MAIN)[None, :], row[:, None] < rows, 0.0)


@triton.jit
def _load_rest(X, row, stride, rows, MAIN: tl.constexpr, REST: tl.constexpr):
    column = tl.arange(0, PADDED)[None, :]
    return tl.load(X + MAIN + row[:, None] * stride + column, (row[:, None] < rows) & (column < REST), 0.0)


@triton.jit
def _bias(BIAS, MAIN: tl.constexpr):
    return tl.load(BIAS + tl.arange(0, MAIN))[None, :]


@triton.jit
def _bias_rest(BIAS, MAIN: tl.constexpr, REST: tl.constexpr):
    column = tl.arange(0, PADDED)
    return tl.load(BIAS + MAIN + column, column < REST, 0.0)[None, :]


@triton.jit
def _store(X, main, rest, row, stride, rows, MAIN: tl.constexpr, REST: tl.constexpr):
    X += row[:, None] * stride
    inside, column = row[:, None] < rows, tl.arange(0, PADDED)[None, :]
    tl.store(X + tl.arange(0, MAIN)[None, :], main.to(X.dtype.element_ty), inside)
    tl.store(X + MAIN + column, rest.to(X.dtype.element_ty), inside & (column < REST))


@triton.jit
def _store_sums(SUM, main, rest, MAIN: tl.constexpr, REST: tl.constexpr):
    """Of columns; rows beyond the last frame are 0."""
    column = tl.arange(0, PADDED)
    tl.store(SUM + tl.arange(0, MAIN), tl.sum(main.to(tl.float32), 0))
    tl.store(SUM + MAIN + column, tl.sum(rest.to(tl.float32), 0), column < REST)


@triton.jit
def _forward(
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
    q = (_load(QKV, query, stride, FRAMES, MAIN) + _bias(BIAS, MAIN)).to(low)
    q_rest = (_load_rest(QKV, query, stride, FRAMES, MAIN, REST) + _bias_rest(BIAS, MAIN, REST)).to(low)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, MAIN], tl.float32)
    out_rest = tl.zeros([QUERIES, PADDED], tl.float32)
    for start in range(0, FRAMES, KEYS):
        key = start + tl.arange(0, KEYS)
        scores = tl.dot(q, tl.trans(_load(QKV + DIM, key, stride, FRAMES, MAIN)))
        scores = tl.dot(q_rest, tl.trans(_load_rest(QKV + DIM, key, stride, FRAMES, MAIN, REST)), scores)
        scores = tl.where(key[None, :] < FRAMES, scores * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        weights = weights.to(low)
        out = tl.dot(weights, _load(QKV + 2 * DIM, key, stride, FRAMES, MAIN), out * shrink[:, None])
        v_rest = _load_rest(QKV + 2 * DIM, key, stride, FRAMES, MAIN, REST)
        out_rest = tl.dot(weights, v_rest, out_rest * shrink[:, None])
        highest = higher
    out = out / total[:, None] + _bias(BIAS + 2 * DIM, MAIN)
    out_rest = out_rest / total[:, None] + _bias_rest(BIAS + 2 * DIM, MAIN, REST)
    if KEPT:
        keep = tl.load(KEEP + first)
        out, out_rest = out * keep, out_rest * keep
    _store(OUT + first * DIM + head * (MAIN + REST), out, out_rest, query, DIM, FRAMES, MAIN, REST)
    tl.store(LOG_SUM + sequence * FRAMES + query, highest + tl.log2(total), query < FRAMES)


@triton.jit
def _backward(
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
    d_out = _load(D_OUT, query, DIM, FRAMES, MAIN)
    d_out_rest = _load_rest(D_OUT, query, DIM, FRAMES, MAIN, REST)
    mean = tl.sum(_load(OUT, query, DIM, FRAMES, MAIN).to(tl.float32) * d_out.to(tl.float32), 1)
    mean += tl.sum(_load_rest(OUT, query, DIM, FRAMES, MAIN, REST).to(tl.float32) * d_out_rest.to(tl.float32), 1)
    if KEPT:
        keep = tl.load(KEEP + first)
        d_out, d_out_rest = (d_out * keep).to(low), (d_out_rest * keep).to(low)
    mean -= tl.sum(d_out.to(tl.float32) * _bias(BIAS + 2 * DIM, MAIN), 1)
    mean -= tl.sum(d_out_rest.to(tl.float32) * _bias_rest(BIAS + 2 * DIM, MAIN, REST), 1)
    _store_sums(PARTIAL + 2 * DIM, d_out, d_out_rest, MAIN, REST)
    q = (_load(QKV, query, stride, FRAMES, MAIN) + _bias(BIAS, MAIN)).to(low)
    q_rest = (_load_rest(QKV, query, stride, FRAMES, MAIN, REST) + _bias_rest(BIAS, MAIN, REST)).to(low)
    log_sum = tl.load(LOG_SUM + sequence * FRAMES + query, query < FRAMES, float("inf"))  # no weight beyond them
    d_q = tl.zeros([QUERIES, MAIN], tl.float32)
    d_q_rest = tl.zeros([QUERIES, PADDED], tl.float32)
    for start in range(0, FRAMES, KEYS):
        key = start + tl.arange(0, KEYS)
        k = _load(QKV + DIM, key, stride, FRAMES, MAIN)
        k_rest = _load_rest(QKV + DIM, key, stride, FRAMES, MAIN, REST)
        scores = tl.dot(q, tl.trans(k))
        scores = tl.dot(q_rest, tl.trans(k_rest), scores)
        weights = tl.exp2(scores * log_scale - log_sum[:, None])
        weights = tl.where(key[None, :] < FRAMES, weights, 0.0)
        d_weights = tl.dot(d_out, tl.trans(_load(QKV + 2 * DIM, key, stride, FRAMES, MAIN)))
        v_rest = _load_rest(QKV + 2 * DIM, key, stride, FRAMES, MAIN, REST)
        d_weights = tl.dot(d_out_rest, tl.trans(v_rest), d_weights)
        d_scores = (weights * (d_weights - mean[:, None])).to(low)
        turned = tl.trans(weights.to(low))
        d_v, d_v_rest = tl.dot(turned, d_out), tl.dot(turned, d_out_rest)
        _store(D_QKV + 2 * DIM, d_v, d_v_rest, key, stride, FRAMES, MAIN, REST)
        turned = tl.trans(d_scores)
        d_k, d_k_rest = tl.dot(turned, q) * scale, tl.dot(turned, q_rest) * scale
        _store(D_QKV + DIM, d_k, d_k_rest, key, stride, FRAMES, MAIN, REST)
        d_q = tl.dot(d_scores, k, d_q)
        d_q_rest = tl.dot(d_scores, k_rest, d_q_rest)
    d_q, d_q_rest = d_q * scale, d_q_rest * scale
    _store(D_QKV, d_q, d_q_rest, query, stride, FRAMES, MAIN, REST)
    _store_sums(PARTIAL, d_q, d_q_rest, MAIN, REST)
    _store_sums(PARTIAL + DIM, d_q * 0, d_q_rest * 0, MAIN, REST)  # the bias of the keys has no gradient


def covers(layout, width: int) -> bool:
    """Whether these are the kernels for heads of such a width."""
    main, rest = split(width)
    return layout.joints == 1 and main in (16, 32, 64) and 0 < rest <= PADDED.value and layout.frames <= 256


def split(width: int) -> tuple[int, int]:
    """The largest power of two in a head's width, and the rest."""
    main = 1 << (width.bit_length() - 1)
    return main, width - main


def _sizes(layout, dim: int, heads: int, keep) -> dict[str, object]:
    main, rest = split(dim // heads)
    return {
        "FRAMES": layout.frames, "DIM": dim, "HEADS": heads, "MAIN": main, "REST": rest, "KEPT": keep is not None
    }  # fmt: skip


def attention(layout, qkv, bias, heads: int, scale: float, keep=None):
    """As `kernels.attention` over frames, where a frame is one token."""
    (queries, keys, warps), dim = FORWARD, qkv.shape[1] // 3
    queries, keys = (min(most, max(16, triton.next_power_of_2(layout.frames))) for most in (queries, keys))
    out = torch.empty(layout.rows, dim, dtype=qkv.dtype, device=qkv.device)
    log_sum = torch.empty(layout.batch * heads, layout.frames, dtype=torch.float32, device=qkv.device)
    _forward[(triton.cdiv(layout.frames, queries) * layout.batch * heads,)](
        qkv, bias, keep, out, log_sum, scale * LOG2_E, **_sizes(layout, dim, heads, keep), QUERIES=queries, KEYS=keys,
        num_warps=warps,
    )  # fmt: skip
    return out, log_sum


def attention_backward(layout, qkv, bias, heads, scale, keep, out, log_sum, d_out):
    """Gradients of qkv, and of bias by window."""
    dim, d_qkv, queries = out.shape[1], torch.empty_like(qkv), max(16, triton.next_power_of_2(layout.frames))
    partial = torch.empty(layout.batch, 3 * dim, dtype=torch.float32, device=qkv.device)
    _backward[(layout.batch * heads,)](
        qkv, bias, keep, out, d_out, log_sum, d_qkv, partial, scale, scale * LOG2_E,
        **_sizes(layout, dim, heads, keep), QUERIES=queries, KEYS=min(KEYS, queries),
        num_warps=8 if queries > 128 else 4, num_stages=2,
    )  # fmt: skip
    return d_qkv, partial
