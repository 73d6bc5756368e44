"""Triton kernels of a block over joints that is so narrow that all its weights stay on a multiprocessor.

Library kernels move such a block's tokens, 32 wide in heads of 4, through memory some thirty times. Here half a block
is one kernel: x + keep · attention(norm1(x)), or x + keep · MLP(norm2(x)). A program takes tiles of whole frames one
after the other. The backward kernels compute the half again from its input, and sum gradients of weights over their
tiles: each program leaves one row in `partial`, and these rows are added up in the same order every time.
Tokens lie as in `mixste.accel.kernels`, (batch · frames · joints, dim) in bfloat16.
"""

import math

import torch
import triton
import triton.language as tl

from mixste.accel.kernels import _added

LOG2_E = math.log2(math.e)
LN_2: tl.constexpr = tl.constexpr(math.log(2.0))

# Of each kernel: rows of a tile, warps of a program, programs for each multiprocessor.
ATTENTION, ATTENTION_BACKWARD = (64, 4, 4), (64, 4, 2)
MLP, MLP_BACKWARD = (64, 4, 4), (64, 4, 2)

# Parameters that the kernels share, besides those of `mixste.accel.kernels`:
#   X, OUT         (rows, DIM), the stream before and after the half; D_OUT, D_X: gradients
#   NORM_W, NORM_B (DIM,) float32, of the norm before the branch
#   used, tiles    rows of a tile's TOKENS that hold whole frames; the number of tiles
# The product with a tile of ones is the sum over its rows, in sixteen equal columns, as few as the matrix units take.


@triton.jit
def _norm(x, eps):
    """(x − mean) / deviation of each row, and 1 / deviation."""
    x -= tl.sum(x, 1)[:, None] / x.shape[1]
    inverse = tl.rsqrt(tl.sum(x * x, 1) / x.shape[1] + eps)[:, None]
    return x * inverse, inverse


@triton.jit
def _norm_backward(d, normed, inverse):
    mean, along = tl.sum(d, 1)[:, None] / d.shape[1], tl.sum(d * normed, 1)[:, None] / d.shape[1]
    return (d - mean - normed * along) * inverse


@triton.jit
def _matrix(W, OUT: tl.constexpr, IN: tl.constexpr, dtype):
    """A layer's weight, (OUT, IN)."""
    at = tl.arange(0, OUT)[:, None] * IN + tl.arange(0, IN)[None, :]
    return tl.load(W + at).to(dtype)


@triton.jit
def _turned(W, OUT: tl.constexpr, IN: tl.constexpr, dtype):
    """Its transpose, (IN, OUT)."""
    at = tl.arange(0, OUT)[None, :] * IN + tl.arange(0, IN)[:, None]
    return tl.load(W + at).to(dtype)


@triton.jit
def _row(V, WIDTH: tl.constexpr):
    return tl.load(V + tl.arange(0, WIDTH))[None, :]


@triton.jit
def _store_matrix(OUT, x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    tl.store(OUT + tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :], x)


@triton.jit
def _store_column(OUT, sums, WIDTH: tl.constexpr):
    """One of the sixteen equal columns of a sum over rows."""
    tl.store(OUT + tl.arange(0, WIDTH), tl.sum(sums, 1) / 16)


@triton.jit
def _weights(q, k, same):
    """Softmax of a tile's scores in base 2 within each of its frames; rows beyond them are a frame of their own."""
    scores = tl.where(same, tl.dot(q, tl.trans(k)), float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _attention_forward(
    X, KEEP, NORM_W, NORM_B, W_QKV, B_QKV, W_PROJ, B_PROJ, OUT, rows, used, tiles, scale, eps,
    JOINTS: tl.constexpr, DIM: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """OUT = X + KEEP · attention(norm(X)). A head's product takes all columns, with those of other heads set to 0,
    since the matrix units take at least 16."""
    low: tl.constexpr = X.dtype.element_ty
    w_q = _turned(W_QKV, DIM, DIM, low)
    w_k = _turned(W_QKV + DIM * DIM, DIM, DIM, low)
    w_v = _turned(W_QKV + 2 * DIM * DIM, DIM, DIM, low)
    w_proj = _turned(W_PROJ, DIM, DIM, low)
    b_q, b_k, b_v = _row(B_QKV, DIM), _row(B_QKV + DIM, DIM), _row(B_QKV + 2 * DIM, DIM)
    b_proj, norm_w, norm_b = _row(B_PROJ, DIM), _row(NORM_W, DIM), _row(NORM_B, DIM)
    token, column = tl.arange(0, TOKENS), tl.arange(0, DIM)
    same = (token // JOINTS)[:, None] == (token // JOINTS)[None, :]
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first = (tile * used).to(tl.int64)
        inside = token < tl.minimum(used, rows - first)
        at = first * DIM + token[:, None] * DIM + column[None, :]
        x = tl.load(X + at, inside[:, None], 0.0).to(tl.float32)
        normed, _ = _norm(x, eps)
        normed = (normed * norm_w + norm_b).to(low)
        q = ((tl.dot(normed, w_q) + b_q) * scale).to(low)
        k = (tl.dot(normed, w_k) + b_k).to(low)
        v = (tl.dot(normed, w_v) + b_v).to(low)
        out = tl.zeros([TOKENS, DIM], tl.float32)
        for head in range(HEADS):
            here = (column // (DIM // HEADS) == head)[None, :]
            weights = _weights(tl.where(here, q, 0.0), k, same)
            out = tl.dot(weights.to(low), tl.where(here, v, 0.0), out)
        out = tl.dot(out.to(low), w_proj) + b_proj
        if KEPT:
            out *= tl.load(KEEP + first + token, inside, 0.0)[:, None]
        tl.store(OUT + at, (x + out).to(low), inside[:, None])


@triton.jit
def _attention_backward(
    X, KEEP, D_OUT, NORM_W, NORM_B, W_QKV, B_QKV, W_PROJ, D_X, PARTIAL, rows, used, tiles, scale, eps,
    JOINTS: tl.constexpr, DIM: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """PARTIAL: (programs, 4 · DIM² + DIM), of the weights of queries, keys and values as `_unfold` takes them, and of
    the projection's weight and bias."""
    low: tl.constexpr = X.dtype.element_ty
    token, column = tl.arange(0, TOKENS), tl.arange(0, DIM)
    same = (token // JOINTS)[:, None] == (token // JOINTS)[None, :]
    ones = tl.full([TOKENS, 16], 1.0, low)
    d_w_q = tl.zeros([DIM, DIM], tl.float32)
    d_w_k = tl.zeros([DIM, DIM], tl.float32)
    d_w_v = tl.zeros([DIM, DIM], tl.float32)
    d_w_proj = tl.zeros([DIM, DIM], tl.float32)
    d_b_proj = tl.zeros([DIM, 16], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first = (tile * used).to(tl.int64)
        inside = token < tl.minimum(used, rows - first)
        at = first * DIM + token[:, None] * DIM + column[None, :]
        x = tl.load(X + at, inside[:, None], 0.0).to(tl.float32)
        d = tl.load(D_OUT + at, inside[:, None], 0.0).to(tl.float32)
        normed, inverse = _norm(x, eps)
        affine = (normed * _row(NORM_W, DIM) + _row(NORM_B, DIM)).to(low)
        # Loaded in the loop, since they would fill the registers throughout it.
        w_q = _matrix(W_QKV, DIM, DIM, low)
        w_k = _matrix(W_QKV + DIM * DIM, DIM, DIM, low)
        w_v = _matrix(W_QKV + 2 * DIM * DIM, DIM, DIM, low)
        w_proj = _matrix(W_PROJ, DIM, DIM, low)
        q = ((tl.dot(affine, tl.trans(w_q)) + _row(B_QKV, DIM)) * scale).to(low)
        k = (tl.dot(affine, tl.trans(w_k)) + _row(B_QKV + DIM, DIM)).to(low)
        v = (tl.dot(affine, tl.trans(w_v)) + _row(B_QKV + 2 * DIM, DIM)).to(low)
        d_proj = (d * tl.load(KEEP + first + token, inside, 0.0)[:, None]).to(low) if KEPT else d.to(low)
        d_out = tl.dot(d_proj, w_proj).to(low)
        out = tl.zeros([TOKENS, DIM], tl.float32)
        d_q = tl.zeros([TOKENS, DIM], tl.float32)
        d_k = tl.zeros([TOKENS, DIM], tl.float32)
        d_v = tl.zeros([TOKENS, DIM], tl.float32)
        for head in range(HEADS):
            here = (column // (DIM // HEADS) == head)[None, :]
            q_here, d_out_here = tl.where(here, q, 0.0), tl.where(here, d_out, 0.0)
            weights = _weights(q_here, k, same)
            low_weights = weights.to(low)
            out = tl.dot(low_weights, tl.where(here, v, 0.0), out)
            d_v = tl.dot(tl.trans(low_weights), d_out_here, d_v)
            d_scores = tl.dot(d_out_here, tl.trans(v)) * weights
            d_scores = (d_scores - weights * tl.sum(d_scores, 1)[:, None]).to(low)
            d_q = tl.dot(d_scores, tl.where(here, k, 0.0), d_q)
            d_k = tl.dot(tl.trans(d_scores), q_here, d_k)
        d_q = (d_q * (scale * LN_2)).to(low)  # scale is in base 2
        d_k = (d_k * LN_2).to(low)
        low_d_v = d_v.to(low)
        above = (normed + 1).to(low)
        d_w_proj = tl.dot(tl.trans(d_proj), out.to(low), d_w_proj)
        d_b_proj = tl.dot(tl.trans(d_proj), ones, d_b_proj)
        d_w_q = tl.dot(tl.trans(d_q), above, d_w_q)
        d_w_k = tl.dot(tl.trans(d_k), above, d_w_k)
        d_w_v = tl.dot(tl.trans(low_d_v), above, d_w_v)
        d_affine = tl.dot(d_q, w_q)
        d_affine = tl.dot(d_k, w_k, d_affine)
        d_affine = tl.dot(low_d_v, w_v, d_affine)
        d += _norm_backward(d_affine * _row(NORM_W, DIM), normed, inverse)
        tl.store(D_X + at, d.to(low), inside[:, None])
    PARTIAL += tl.program_id(0) * (4 * DIM * DIM + DIM)
    _store_matrix(PARTIAL, d_w_q, DIM, DIM)
    _store_matrix(PARTIAL + DIM * DIM, d_w_k, DIM, DIM)
    _store_matrix(PARTIAL + 2 * DIM * DIM, d_w_v, DIM, DIM)
    _store_matrix(PARTIAL + 3 * DIM * DIM, d_w_proj, DIM, DIM)
    _store_column(PARTIAL + 4 * DIM * DIM, d_b_proj, DIM)


@triton.jit
def _sigmoid_of_gelu(x):
    """GELU(x) / x, which is (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    return 1 / (1 + tl.exp2(x * (-2.302208198 - 0.1029432397 * x * x)))


@triton.jit
def _mlp_forward(
    X, KEEP, NORM_W, NORM_B, W_1, B_1, W_2, B_2, AFTER_W, AFTER_B, OUT, rows, used, tiles, eps, after_eps,
    DIM: tl.constexpr, HIDDEN: tl.constexpr, TOKENS: tl.constexpr, KEPT: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """OUT = X + KEEP · MLP(norm(X)), then the norm of AFTER_W and AFTER_B, (DIM,), if AFTER."""
    low: tl.constexpr = X.dtype.element_ty
    w_1, w_2 = _turned(W_1, HIDDEN, DIM, low), _turned(W_2, DIM, HIDDEN, low)
    b_1, b_2 = _row(B_1, HIDDEN), _row(B_2, DIM)
    norm_w, norm_b = _row(NORM_W, DIM), _row(NORM_B, DIM)
    token, column = tl.arange(0, TOKENS), tl.arange(0, DIM)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first = (tile * used).to(tl.int64)
        inside = token < rows - first
        at = first * DIM + token[:, None] * DIM + column[None, :]
        x = tl.load(X + at, inside[:, None], 0.0).to(tl.float32)
        normed, _ = _norm(x, eps)
        hidden = tl.dot((normed * norm_w + norm_b).to(low), w_1) + b_1
        out = tl.dot((hidden * _sigmoid_of_gelu(hidden)).to(low), w_2) + b_2
        if KEPT:
            out *= tl.load(KEEP + first + token, inside, 0.0)[:, None]
        out += x
        if AFTER:
            out, _ = _norm(out, after_eps)
            out = out * _row(AFTER_W, DIM) + _row(AFTER_B, DIM)
        tl.store(OUT + at, out.to(low), inside[:, None])


@triton.jit
def _mlp_backward(
    X, KEEP, D_OUT, NORM_W, NORM_B, W_1, B_1, W_2, B_2, AFTER_W, D_X, PARTIAL, rows, used, tiles, eps, after_eps,
    DIM: tl.constexpr, HIDDEN: tl.constexpr, TOKENS: tl.constexpr, KEPT: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """PARTIAL: (programs, 2 · DIM · HIDDEN + 3 · DIM), of W_1 as `_unfold` takes it, W_2, B_2, AFTER_W and AFTER_B."""
    low: tl.constexpr = X.dtype.element_ty
    w_1, w_2 = _matrix(W_1, HIDDEN, DIM, low), _matrix(W_2, DIM, HIDDEN, low)
    b_1, b_2 = _row(B_1, HIDDEN), _row(B_2, DIM)
    norm_w, norm_b = _row(NORM_W, DIM), _row(NORM_B, DIM)
    token, column = tl.arange(0, TOKENS), tl.arange(0, DIM)
    ones = tl.full([TOKENS, 16], 1.0, low)
    d_w_1 = tl.zeros([HIDDEN, DIM], tl.float32)
    d_w_2 = tl.zeros([DIM, HIDDEN], tl.float32)
    d_b_2 = tl.zeros([DIM, 16], tl.float32)
    d_after_w = tl.zeros([DIM], tl.float32)
    d_after_b = tl.zeros([DIM], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first = (tile * used).to(tl.int64)
        inside = token < rows - first
        at = first * DIM + token[:, None] * DIM + column[None, :]
        x = tl.load(X + at, inside[:, None], 0.0).to(tl.float32)
        d = tl.load(D_OUT + at, inside[:, None], 0.0).to(tl.float32)
        normed, inverse = _norm(x, eps)
        hidden = tl.dot((normed * norm_w + norm_b).to(low), tl.trans(w_1)) + b_1
        share = _sigmoid_of_gelu(hidden)
        active = (hidden * share).to(low)
        if KEPT:
            keep = tl.load(KEEP + first + token, inside, 0.0)[:, None]
        if AFTER:
            out = tl.dot(active, tl.trans(w_2)) + b_2
            if KEPT:
                out *= keep
            out, out_inverse = _norm(x + out, after_eps)
            d_after_w += tl.sum(d * out, 0)
            d_after_b += tl.sum(d, 0)
            d = _norm_backward(d * _row(AFTER_W, DIM), out, out_inverse)
        d_branch = (d * keep).to(low) if KEPT else d.to(low)
        d_w_2 = tl.dot(tl.trans(d_branch), active, d_w_2)
        d_b_2 = tl.dot(tl.trans(d_branch), ones, d_b_2)
        slope = share + hidden * (share - share * share) * (1.5957691216 + 0.2140644488 * hidden * hidden)
        d_hidden = (tl.dot(d_branch, w_2) * slope).to(low)
        d_w_1 = tl.dot(tl.trans(d_hidden), (normed + 1).to(low), d_w_1)
        d += _norm_backward(tl.dot(d_hidden, w_1) * norm_w, normed, inverse)
        tl.store(D_X + at, d.to(low), inside[:, None])
    PARTIAL += tl.program_id(0) * (2 * DIM * HIDDEN + 3 * DIM)
    _store_matrix(PARTIAL, d_w_1, HIDDEN, DIM)
    _store_matrix(PARTIAL + DIM * HIDDEN, d_w_2, DIM, HIDDEN)
    PARTIAL += 2 * DIM * HIDDEN
    _store_column(PARTIAL, d_b_2, DIM)
    tl.store(PARTIAL + DIM + column, d_after_w)
    tl.store(PARTIAL + 2 * DIM + column, d_after_b)


@triton.jit
def _unfold(
    G, W, NORM_W, NORM_B, D_W, D_BIAS, D_NORM, OUT: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
    SILENT: tl.constexpr,
):  # fmt: skip
    """Gradients of a layer, W (OUT, DIM) and its bias, and of the norm before it, from G = Σ d ⊗ (normed + 1).

    d is the gradient of the layer's output; normed is the norm's input, normalised. A row of normed adds up to 0, so
    that a row of G adds up to DIM times the gradient of the bias. D_NORM: (2, DIM), of NORM_W and NORM_B. ROWS: the
    power of two from OUT on. SILENT: which DIM rows have a bias without gradient: that of the keys moves all scores of
    a query alike.
    """
    row, column = tl.arange(0, ROWS), tl.arange(0, DIM)
    inside, at = (row < OUT)[:, None], row[:, None] * DIM + column[None, :]
    g, w = tl.load(G + at, inside, 0.0), tl.load(W + at, inside, 0.0)
    bias = tl.sum(g, 1) / DIM
    g -= bias[:, None]
    bias = tl.where(row // DIM == SILENT, 0.0, bias)
    tl.store(D_BIAS + row, bias, row < OUT)
    tl.store(D_W + at, g * _row(NORM_W, DIM) + bias[:, None] * _row(NORM_B, DIM), inside)
    tl.store(D_NORM + column, tl.sum(g * w, 0))
    tl.store(D_NORM + DIM + column, tl.sum(bias[:, None] * w, 0))


# Launching. Functions take contiguous (rows, dim) tensors; rows are tokens; keep is by row, or None for 1.


def covers(block, joints: int) -> bool:
    """Whether there are kernels for a block over joints of such sizes."""
    dim, hidden = block.attn.proj.in_features, block.mlp.fc1.out_features
    return joints <= 32 and dim in (16, 32) and hidden in (16, 32, 64)


def _programs(x, tiles: int, each: int) -> int:
    """Programs that take `tiles`, `each` on a multiprocessor."""
    count = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 2
    return min(tiles, each * count)


def _unfolded(sums, layer, norm, silent: int = -1):
    """Gradients of the norm and the layer, which `_unfold` makes of the first of `sums`; and the rest of `sums`."""
    (out, dim), new = layer.weight.shape, sums.new_empty
    d_weight, d_bias, d_norm = new(out, dim), new(out), new(2, dim)
    _unfold[(1,)](
        sums, layer.weight, norm.weight, norm.bias, d_weight, d_bias, d_norm, OUT=out,
        ROWS=triton.next_power_of_2(out), DIM=dim, SILENT=silent, num_warps=8,
    )  # fmt: skip
    return [*d_norm, d_weight, d_bias], sums[out * dim :]


def _tiles(layout, tokens: int) -> tuple[int, int]:
    """Rows of a tile that hold whole frames, and the number of tiles."""
    used = tokens // layout.joints * layout.joints
    return used, triton.cdiv(layout.rows, used)


def joint_attention(layout, x, block, keep=None):
    """x + keep · attention(norm1(x)) of a block over joints."""
    (tokens, warps, each), attn, out = ATTENTION, block.attn, torch.empty_like(x)
    used, tiles = _tiles(layout, tokens)
    _attention_forward[(_programs(x, tiles, each),)](
        x, keep, *block.norm1.parameters(), *attn.qkv.parameters(), *attn.proj.parameters(), out, layout.rows, used,
        tiles, attn.scale * LOG2_E, block.norm1.eps, JOINTS=layout.joints, DIM=x.shape[1], HEADS=attn.heads,
        TOKENS=tokens, KEPT=keep is not None, num_warps=warps,
    )  # fmt: skip
    return out


def joint_attention_backward(layout, x, block, d_out, keep=None):
    """Gradients of x and of the parameters of norm1, qkv and proj."""
    (tokens, warps, each), attn, d_x, dim = ATTENTION_BACKWARD, block.attn, torch.empty_like(x), x.shape[1]
    used, tiles = _tiles(layout, tokens)
    programs = _programs(x, tiles, each)
    partial = torch.empty(programs, 4 * dim * dim + dim, dtype=torch.float32, device=x.device)
    _attention_backward[(programs,)](
        x, keep, d_out, *block.norm1.parameters(), *attn.qkv.parameters(), attn.proj.weight, d_x, partial, layout.rows,
        used, tiles, attn.scale * LOG2_E, block.norm1.eps, JOINTS=layout.joints, DIM=dim, HEADS=attn.heads,
        TOKENS=tokens, KEPT=keep is not None, num_warps=warps,
    )  # fmt: skip
    gradients, rest = _unfolded(_added(partial), attn.qkv, block.norm1, silent=1)
    return d_x, [*gradients, rest[: dim * dim].view(dim, dim), rest[dim * dim :]]


def joint_mlp(layout, x, block, keep=None, after=None):
    """x + keep · MLP(norm2(x)), and the norm `after` of it, if given."""
    (tokens, warps, each), out = MLP, torch.empty_like(x)
    tiles = triton.cdiv(layout.rows, tokens)
    _mlp_forward[(_programs(x, tiles, each),)](
        x, keep, *block.norm2.parameters(), *block.mlp.parameters(), after and after.weight, after and after.bias, out,
        layout.rows, tokens, tiles, block.norm2.eps, after.eps if after else 0.0, DIM=x.shape[1],
        HIDDEN=block.mlp.fc1.out_features, TOKENS=tokens, KEPT=keep is not None, AFTER=after is not None,
        num_warps=warps,
    )  # fmt: skip
    return out


def joint_mlp_backward(layout, x, block, d_out, keep=None, after=None):
    """Gradients of x and of the parameters of norm2, fc1, fc2 and after, if given."""
    (tokens, warps, each), d_x, dim, hidden = MLP_BACKWARD, torch.empty_like(x), x.shape[1], block.mlp.fc1.out_features
    tiles = triton.cdiv(layout.rows, tokens)
    programs = _programs(x, tiles, each)
    partial = torch.empty(programs, 2 * dim * hidden + 3 * dim, dtype=torch.float32, device=x.device)
    _mlp_backward[(programs,)](
        x, keep, d_out, *block.norm2.parameters(), *block.mlp.parameters(), after and after.weight, d_x, partial,
        layout.rows, tokens, tiles, block.norm2.eps, after.eps if after else 0.0, DIM=dim, HIDDEN=hidden, TOKENS=tokens,
        KEPT=keep is not None, AFTER=after is not None, num_warps=warps,
    )  # fmt: skip
    gradients, rest = _unfolded(_added(partial), block.mlp.fc1, block.norm2)
    d_fc2, d_fc2_bias, d_after = rest.split([dim * hidden, dim, 2 * dim])
    gradients += [d_fc2.view(dim, hidden), d_fc2_bias]
    return d_x, [*gradients, *d_after.view(2, dim)] if after else gradients
