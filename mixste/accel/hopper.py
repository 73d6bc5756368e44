"""Backward of attention for Hopper, faster than the kernels in `kernels`, which compute the same on other GPUs. It is
written in Gluon, the level below Triton: a kernel specifies the layout of its tensors and what runs concurrently. See
`covers` for the requirements; parameters that are not explained here are as in `kernels`.

One program on each multiprocessor, which it fills (nearly all shared memory), takes one piece of work after another,
and the copy engine brings what follows meanwhile and takes gradients away.

Over frames a piece is a sequence, the frames of a joint in one head, all of which shared memory holds; 8 warps. Each
part is refilled as soon as it was used for the last time; gradients of keys and values leave from where keys and values
were. Keys come in two halves of 128, queries in four chunks of 64, hence eight steps. In each, the tensor cores are
busy with gradients that the step before left to do, while the program computes the weights of keys by queries and the
gradients of their scores. Gradients of keys and values stay in registers for the four steps of a half, those of queries
for all. The gradient of the values' bias is that of the output, summed over queries. It comes as the gradient of one
value more: the last key, which is padding, gets a weight of 1 from each query. Its own key and value are 0 and add
nothing.

Over joints a piece is a tile, as many whole frames in one head as 64 rows hold. A single warp has the copy engine bring
tiles, up to five ahead, and two groups of four warps each take every other one: while one waits for the tensor cores,
the other computes its softmax.
"""

import math

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

WIDTH = gl.constexpr(64)  # width of a head
TILES = gl.constexpr(5)  # of joints, in shared memory


@gluon.jit
def _buffer(BLOCKS):
    """Room for one block of a descriptor, and the barrier that tells of its arrival."""
    ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(ready, count=1)
    return gl.allocate_shared_memory(gl.bfloat16, [1, 1, BLOCKS.block_type.shape[1], WIDTH], BLOCKS.layout), ready


@gluon.jit
def _hidden_zero():
    """0, unknown to the compiler, which would otherwise compute all addresses in advance and run out of registers."""
    return gl.inline_asm_elementwise("mov.u32 $0, 0;", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _matrix(buffer):
    return buffer[0].index(_hidden_zero()).reshape([buffer[0].shape[2], buffer[0].shape[3]])


@gluon.jit
def _product(a, b, added, add: gl.constexpr = True):
    """added + a · b, or a · b alone. Asynchronous; the tensor cores execute products in order."""
    return warpgroup_mma(a, b, added, use_acc=add, is_async=True)


@gluon.jit
def _expect(BLOCKS, buffer, exists):
    mbarrier.expect(buffer[1], BLOCKS.block_type.nbytes, exists)


@gluon.jit
def _load(BLOCKS, at, buffer, exists):
    tma.async_copy_global_to_shared(BLOCKS, at, buffer[1], buffer[0].index(0), exists)


@gluon.jit
def _store(BLOCKS, at, buffer):
    tma.async_copy_shared_to_global(BLOCKS, at, buffer[0].index(0))


@gluon.jit
def _place(sequence, JOINTS: gl.constexpr, DIM: gl.constexpr, HEADS: gl.constexpr):
    """A sequence's batch, and where it begins among all that belongs to a frame, in qkv and in out."""
    head, joint = sequence % HEADS, sequence // HEADS % JOINTS
    return sequence // HEADS // JOINTS, joint * 3 * DIM + head * WIDTH, joint * DIM + head * WIDTH


@gluon.jit
def _barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(barriers.index(i), count=ARRIVALS)
    return barriers


@gluon.jit
def _load_queries(QUERIES, OUT, D_OUT, place, row, q, out, d_out, exists):
    batch, wide, narrow = place
    _expect(QUERIES, q, exists)
    _expect(OUT, out, exists)
    _expect(D_OUT, d_out, exists)
    _load(QUERIES, [batch, row, wide], q, exists)
    _load(OUT, [batch, row, narrow], out, exists)
    _load(D_OUT, [batch, row, narrow], d_out, exists)


@gluon.jit
def _load_keys(KEYS, place, row, k, v, exists, DIM: gl.constexpr):
    batch, wide, _ = place
    _expect(KEYS, k, exists)
    _expect(KEYS, v, exists)
    _load(KEYS, [batch, row, wide + DIM], k, exists)
    _load(KEYS, [batch, row, wide + 2 * DIM], v, exists)


@gluon.jit
def _scalars(LOG_SUM, KEEP, sequence, exists, FRAMES: gl.constexpr, JOINTS: gl.constexpr, HEADS: gl.constexpr,
             KEPT: gl.constexpr):  # fmt: skip
    """Loads that the copy engine cannot do: log_sum, (256,), and keep."""
    query = gl.arange(0, 256, gl.BlockedLayout([1], [32], [8], [0]))
    log_sum = gl.load(LOG_SUM + sequence.to(gl.int64) * FRAMES + query, (query < FRAMES) & exists, float("inf"))
    keep = 1.0
    if KEPT:
        first = sequence // HEADS // JOINTS * FRAMES * JOINTS + sequence // HEADS % JOINTS
        keep = gl.load(KEEP + first, exists, 0.0)
    return log_sum, keep


@gluon.jit
def _prepare(q, out, d_out, mean, phase, keep, BIAS, DIM: gl.constexpr, KEPT: gl.constexpr):
    """Once they are there, in place: queries with bias; from d_out the gradient of the attention itself, without keep
    and bias. Into mean, by query: its product with the output."""
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [8, 1], [1, 0])
    column = gl.arange(0, WIDTH, gl.SliceLayout(0, ROWS))
    bias_q, bias_v = gl.load(BIAS + column), gl.load(BIAS + 2 * DIM + column)
    mbarrier.wait(q[1], phase)
    mbarrier.wait(out[1], phase)
    mbarrier.wait(d_out[1], phase)
    with_bias = _matrix(q).load(ROWS).to(gl.float32) + bias_q[None, :]
    d = _matrix(d_out).load(ROWS)
    product = gl.sum(_matrix(out).load(ROWS).to(gl.float32) * d.to(gl.float32), 1)
    if KEPT:
        d = (d.to(gl.float32) * keep).to(gl.bfloat16)
    product -= gl.sum(d.to(gl.float32) * bias_v[None, :], 1)
    _matrix(q).store(with_bias.to(gl.bfloat16))
    if KEPT:
        _matrix(d_out).store(d)
    mean.store(product)


@gluon.jit(do_not_specialize=["sequences"])
def _temporal_backward(
    QUERIES, KEYS, OUT, D_OUT, D_QUERIES, D_KEYS, BIAS, KEEP, LOG_SUM, PARTIAL, sequences, scale, log_scale,
    FRAMES: gl.constexpr, JOINTS: gl.constexpr, DIM: gl.constexpr, HEADS: gl.constexpr, KEPT: gl.constexpr,
):  # fmt: skip
    """QUERIES, OUT, D_OUT and D_QUERIES are descriptors of (batch, frames, all else) in blocks of 64 frames, KEYS and
    D_KEYS in blocks of 128: beyond the last frame they read 0 and write nothing.

    QUERIES, KEYS: of qkv, all else being joints · 3 · dim, bfloat16. D_QUERIES, D_KEYS: of its gradient, to be written.
    OUT, D_OUT: of the attention's result and its gradient, all else being joints · dim, bfloat16.
    BIAS: (3 · DIM,) float32, of qkv, which does not hold it yet. KEEP: (rows,) float32, if KEPT.
    LOG_SUM: (sequences, FRAMES) float32, log₂ of each softmax's sum. sequences: batch · joints · heads.
    PARTIAL: (batch · JOINTS, 3 · DIM) float32, gradients of BIAS, to be added up.
    scale: of scores; log_scale: that times log₂ e.
    """
    BY_KEY: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, 64, 16])  # keys by queries or width
    BY_QUERY: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, 32, 16])  # queries by width
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])

    q = [_buffer(QUERIES) for i in (0, 1, 2, 3)]
    out = [_buffer(OUT) for i in (0, 1, 2, 3)]
    d_out = [_buffer(D_OUT) for i in (0, 1, 2, 3)]
    k, v = [_buffer(KEYS) for i in (0, 1)], [_buffer(KEYS) for i in (0, 1)]
    d_scores_of = [_buffer(KEYS) for i in (0, 1)]  # of this step and the one before, keys by queries
    leaving = [_buffer(QUERIES) for i in (0, 1)]  # d_q on its way out
    mean = [gl.allocate_shared_memory(gl.float32, [64], PLAIN) for i in (0, 1, 2, 3)]
    log_sums = gl.allocate_shared_memory(gl.float32, [256], PLAIN)
    fence_async_shared()
    gl.thread_barrier()

    programs, first = gl.num_programs(0), gl.program_id(0)
    start = _place(first, JOINTS, DIM, HEADS)
    for i in gl.static_range(4):
        _load_queries(QUERIES, OUT, D_OUT, start, 64 * i, q[i], out[i], d_out[i], True)
    _load_keys(KEYS, start, 0, k[0], v[0], True, DIM)
    log_sum, keep = _scalars(LOG_SUM, KEEP, first, True, FRAMES, JOINTS, HEADS, KEPT)
    phase = 0
    no_key = gl.zeros([128, 64], gl.float32, BY_KEY)
    no_query = gl.zeros([64, 64], gl.float32, BY_QUERY)

    for sequence in tl.range(first, sequences, programs, disable_licm=True):  # hoisting would need more registers
        following = sequence + programs
        exists = following < sequences
        here = _place(sequence, JOINTS, DIM, HEADS)
        batch, wide, _ = here
        bias = BIAS + sequence % HEADS * WIDTH
        partial = PARTIAL + sequence // HEADS * 3 * DIM + sequence % HEADS * WIDTH
        log_sums.store(log_sum)
        _prepare(q[0], out[0], d_out[0], mean[0], phase, keep, bias, DIM, KEPT)
        fence_async_shared()
        gl.thread_barrier()
        keep_now = keep
        log_sum, keep = _scalars(LOG_SUM, KEEP, following, exists, FRAMES, JOINTS, HEADS, KEPT)

        d_k, d_v, d_q, total = no_key, no_key, (), no_query
        for n in gl.static_range(8):
            # Products, in the order in which the tensor cores take them: they are busy with the later ones, and with
            # those of d_k and d_v of the step before, while the weights are computed from the first.
            if n % 4 == 0:
                mbarrier.wait(k[n // 4][1], phase)
                mbarrier.wait(v[n // 4][1], phase)
            if n == 4:
                d_k = _product(_matrix(d_scores_of[1]), _matrix(q[3]), d_k)
                d_q_3 = _product(_matrix(d_scores_of[1]).permute([1, 0]), _matrix(k[0]), no_query, False)
            scores = _product(_matrix(k[n // 4]), _matrix(q[n % 4]).permute([1, 0]), no_key, False)
            if n == 4:  # the first half of the keys is done: its gradients take its place
                d_v, d_k, d_q_3 = warpgroup_mma_wait(1, [d_v, d_k, d_q_3])
                d_q += (d_q_3,)
                gl.thread_barrier()
                _matrix(k[0]).store((d_k * scale).to(gl.bfloat16))
                _matrix(v[0]).store(d_v.to(gl.bfloat16))
            if n % 4 > 0:
                d_k = _product(_matrix(d_scores_of[(n - 1) % 2]), _matrix(q[n % 4 - 1]), d_k, n % 4 > 1)
            d_weights = _product(_matrix(v[n // 4]), _matrix(d_out[n % 4]).permute([1, 0]), no_key, False)
            if n % 4 > 0:
                d_q_before = _product(_matrix(d_scores_of[(n - 1) % 2]).permute([1, 0]), _matrix(k[n // 4]),
                                      d_q[n - 5] if n > 4 else no_query, n > 4)  # fmt: skip

            # Meanwhile: all that was waited for before the last barrier is over in all warps. What is complete leaves,
            # what nobody reads anymore is refilled, the next queries are made ready.
            if n == 1:
                _load_keys(KEYS, here, 128, k[1], v[1], True, DIM)
            if n == 5:
                _store(D_KEYS, [batch, 0, wide + DIM], k[0])
                _store(D_KEYS, [batch, 0, wide + 2 * DIM], v[0])
            if n == 6:
                ahead = _place(following, JOINTS, DIM, HEADS)
                _load_keys(KEYS, ahead, 0, k[0], v[0], exists, DIM)
            if n > 5:
                _store(D_QUERIES, [batch, 64 * (n - 6), wide], leaving[n % 2])
                _load_queries(QUERIES, OUT, D_OUT, ahead, 64 * (n - 6), q[n - 6], out[n - 6], d_out[n - 6], exists)
            if n < 3:
                _prepare(q[n + 1], out[n + 1], d_out[n + 1], mean[n + 1], phase, keep_now, bias, DIM, KEPT)

            if n % 4 == 0:
                scores = warpgroup_mma_wait(1, [scores])
            else:
                scores, d_v = warpgroup_mma_wait(3, [scores, d_v])
            by_query = log_sums.slice(64 * (n % 4), 64).load(gl.SliceLayout(0, BY_KEY))
            weights = gl.exp2(scores * log_scale - by_query[None, :])
            if n > 3:  # beyond the last key no weight, but 1 for the sum of d_out
                key = 128 + gl.arange(0, 128, gl.SliceLayout(1, BY_KEY))
                weights = gl.where((key < FRAMES)[:, None], weights, gl.where(key == 255, 1.0, 0.0)[:, None])
            rounded = gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, BY_KEY, 2))
            if n % 4 == 0:
                d_weights = warpgroup_mma_wait(0, [d_weights])
            else:
                d_weights, d_k = warpgroup_mma_wait(1, [d_weights, d_k])
            d_v = _product(rounded, _matrix(d_out[n % 4]), d_v, n % 4 > 0)
            by_query = mean[n % 4].load(gl.SliceLayout(0, BY_KEY))
            d_scores = (weights * (d_weights - by_query[None, :])).to(gl.bfloat16)
            _matrix(d_scores_of[n % 2]).store(d_scores)
            if n % 4 > 0:
                d_q_before = warpgroup_mma_wait(1, [d_q_before])
                if n < 4:
                    d_q += (d_q_before,)
                else:
                    total += d_q_before
                    _matrix(leaving[(n - 1) % 2]).store((d_q_before * scale).to(gl.bfloat16))
            if (n == 0) | (n > 4):
                tma.store_wait(0)  # what left was read: its place can be filled again
            fence_async_shared()
            gl.thread_barrier()

        d_k = _product(_matrix(d_scores_of[1]), _matrix(q[3]), d_k)
        d_q_3 = _product(_matrix(d_scores_of[1]).permute([1, 0]), _matrix(k[1]), d_q[3])
        _store(D_QUERIES, [batch, 128, wide], leaving[0])
        _load_queries(QUERIES, OUT, D_OUT, ahead, 128, q[2], out[2], d_out[2], exists)
        d_v, d_k = warpgroup_mma_wait(1, [d_v, d_k])
        _matrix(v[1]).store(d_v.to(gl.bfloat16))
        key = 128 + gl.arange(0, 128, gl.SliceLayout(1, BY_KEY))[:, None]
        column = gl.arange(0, WIDTH, gl.SliceLayout(0, BY_KEY))[None, :]
        gl.store(partial + 2 * DIM + column + 0 * key, d_v, key == 255)
        d_q_3 = warpgroup_mma_wait(0, [d_q_3])
        _matrix(leaving[1]).store((d_q_3 * scale).to(gl.bfloat16))
        gl.thread_barrier()  # nobody reads the second half of the keys anymore
        _matrix(k[1]).store((d_k * scale).to(gl.bfloat16))
        fence_async_shared()
        gl.thread_barrier()
        _store(D_KEYS, [batch, 128, wide + DIM], k[1])
        _store(D_KEYS, [batch, 128, wide + 2 * DIM], v[1])
        _store(D_QUERIES, [batch, 192, wide], leaving[1])
        _load_queries(QUERIES, OUT, D_OUT, ahead, 192, q[3], out[3], d_out[3], exists)
        total = gl.sum((total + d_q_3) * scale, 0)
        column = gl.arange(0, WIDTH, gl.SliceLayout(0, BY_QUERY))
        gl.store(partial + column, total)
        gl.store(partial + DIM + column, gl.zeros_like(total))
        phase ^= 1
    tma.store_wait(0)


@gluon.jit
def _tiles_of(tiles, HEADS: gl.constexpr):
    """A program's head, the first of its tiles, how far the next is, and how many there are."""
    first, step = gl.program_id(0) // HEADS, gl.num_programs(0) // HEADS
    return gl.program_id(0) % HEADS, first, step, (tiles - first + step - 1) // step


@gluon.jit
def _fetch_tiles(QKV, D_OUT, q, k, v, d_out, ready, free, tiles, DIM: gl.constexpr, HEADS: gl.constexpr):
    """What the single warp does: it brings a tile of queries, keys, values and d_out into the next free stage."""
    head, first, step, turns = _tiles_of(tiles, HEADS)
    for turn in range(turns):
        stage, tile, column = turn % TILES, first + turn * step, head * WIDTH
        arrival = ready.index(stage)
        mbarrier.wait(free.index(stage), (turn // TILES + 1) % 2)
        mbarrier.expect(arrival, 4 * QKV.block_type.nbytes)
        tma.async_copy_global_to_shared(QKV, [tile, 0, column], arrival, q.index(stage))
        tma.async_copy_global_to_shared(QKV, [tile, 0, column + DIM], arrival, k.index(stage))
        tma.async_copy_global_to_shared(QKV, [tile, 0, column + 2 * DIM], arrival, v.index(stage))
        tma.async_copy_global_to_shared(D_OUT, [tile, 0, column], arrival, d_out.index(stage))


@gluon.jit
def _square(buffers, index):
    return buffers.index(index + _hidden_zero()).reshape([64, WIDTH])


@gluon.jit
def _gradients(
    D_QKV, BIAS, KEEP, PARTIAL, q, k, v, d_out, rooms, ready, free, tiles, scale, log_scale, WHICH: gl.constexpr,
    JOINTS: gl.constexpr, DIM: gl.constexpr, HEADS: gl.constexpr, KEPT: gl.constexpr,
):  # fmt: skip
    """What WHICH of the groups of four warps does: the gradients of every other tile.

    D_QKV, BIAS, KEEP, PARTIAL, tiles, scale, log_scale: of `_spatial_backward`. q, k, v, d_out: TILES stages of 64 rows
    by WIDTH in shared memory, with barriers ready and free. rooms: three for each group, from which gradients leave.
    """
    BY: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    USED: gl.constexpr = 64 // JOINTS * JOINTS
    head, first, step, turns = _tiles_of(tiles, HEADS)
    row, column = gl.arange(0, 64, gl.SliceLayout(1, BY)), gl.arange(0, 64, gl.SliceLayout(0, BY))
    bias = gl.load(BIAS + head * WIDTH + column)
    none = gl.zeros([64, 64], gl.float32, BY)
    total_q, total_out = none, none
    for turn in range(WHICH, turns, 2):
        stage, tile = turn % TILES, first + turn * step
        if KEPT:
            keep = gl.load(KEEP + tile.to(gl.int64) * USED + row, row < USED, 0.0)
        mbarrier.wait(ready.index(stage), turn // TILES % 2)
        queries, d = _square(q, stage), _square(d_out, stage).load(BY)
        queries.store((queries.load(BY).to(gl.float32) + bias[None, :]).to(gl.bfloat16))
        if KEPT:
            d = (d.to(gl.float32) * keep[:, None]).to(gl.bfloat16)
            _square(d_out, stage).store(d)
        total_out += d.to(gl.float32)
        fence_async_shared()
        gl.thread_barrier()
        scores = _product(queries, _square(k, stage).permute([1, 0]), none, False)
        d_weights = _product(_square(d_out, stage), _square(v, stage).permute([1, 0]), none, False)
        scores, d_weights = warpgroup_mma_wait(0, [scores, d_weights])
        # Rows that are not used are a frame of their own, whose d_out is 0.
        scores = gl.where((row // JOINTS)[:, None] == (column // JOINTS)[None, :], scores * log_scale, float("-inf"))
        weights = gl.exp2(scores - gl.max(scores, 1)[:, None])
        weights = weights * (1 / gl.sum(weights, 1))[:, None]
        d_scores = weights * (d_weights - gl.sum(weights * d_weights, 1)[:, None]) * scale
        tma.store_wait(0)  # what left was read: its place can be filled again
        gl.thread_barrier()
        _square(rooms, 3 * WHICH).store(weights.to(gl.bfloat16))
        _square(rooms, 3 * WHICH + 1).store(d_scores.to(gl.bfloat16))
        fence_async_shared()
        gl.thread_barrier()
        d_v = _product(_square(rooms, 3 * WHICH).permute([1, 0]), _square(d_out, stage), none, False)
        d_k = _product(_square(rooms, 3 * WHICH + 1).permute([1, 0]), _square(q, stage), none, False)
        d_q = _product(_square(rooms, 3 * WHICH + 1), _square(k, stage), none, False)
        d_v, d_k, d_q = warpgroup_mma_wait(0, [d_v, d_k, d_q])
        gl.thread_barrier()
        mbarrier.arrive(free.index(stage))
        total_q += d_q
        _square(rooms, 3 * WHICH).store(d_v.to(gl.bfloat16))
        _square(rooms, 3 * WHICH + 1).store(d_k.to(gl.bfloat16))
        _square(rooms, 3 * WHICH + 2).store(d_q.to(gl.bfloat16))
        fence_async_shared()
        gl.thread_barrier()
        tma.async_copy_shared_to_global(D_QKV, [tile, 0, head * WIDTH + 2 * DIM], rooms.index(3 * WHICH))
        tma.async_copy_shared_to_global(D_QKV, [tile, 0, head * WIDTH + DIM], rooms.index(3 * WHICH + 1))
        tma.async_copy_shared_to_global(D_QKV, [tile, 0, head * WIDTH], rooms.index(3 * WHICH + 2))
    partial = PARTIAL + (2 * first + WHICH) * 3 * DIM + head * WIDTH + column
    gl.store(partial, gl.sum(total_q, 0))
    gl.store(partial + DIM, gl.zeros([64], gl.float32, gl.SliceLayout(0, BY)))
    gl.store(partial + 2 * DIM, gl.sum(total_out, 0))
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["tiles"])
def _spatial_backward(
    QKV, D_OUT, D_QKV, BIAS, KEEP, PARTIAL, tiles, scale, log_scale,
    JOINTS: gl.constexpr, DIM: gl.constexpr, HEADS: gl.constexpr, KEPT: gl.constexpr,
):  # fmt: skip
    """QKV, D_OUT and D_QKV are descriptors of (tiles, rows used, all else) in blocks of 64 rows: beyond those used they
    read 0 and write nothing. All else is 3 · dim, dim and 3 · dim; bfloat16.

    BIAS: (3 · DIM,) float32, of QKV. KEEP: (rows,) float32, if KEPT. tiles: of whole frames, in each of HEADS heads.
    PARTIAL: (2 · programs of a head, 3 · DIM) float32, a row for each group of warps: gradients of BIAS.
    """
    q = gl.allocate_shared_memory(gl.bfloat16, [TILES, 1, 64, WIDTH], QKV.layout)
    k = gl.allocate_shared_memory(gl.bfloat16, [TILES, 1, 64, WIDTH], QKV.layout)
    v = gl.allocate_shared_memory(gl.bfloat16, [TILES, 1, 64, WIDTH], QKV.layout)
    d_out = gl.allocate_shared_memory(gl.bfloat16, [TILES, 1, 64, WIDTH], D_OUT.layout)
    rooms = gl.allocate_shared_memory(gl.bfloat16, [6, 1, 64, WIDTH], D_QKV.layout)
    ready, free = _barriers(TILES, 1), _barriers(TILES, 1)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (_gradients, (D_QKV, BIAS, KEEP, PARTIAL, q, k, v, d_out, rooms, ready, free, tiles, scale, log_scale, 0,
                          JOINTS, DIM, HEADS, KEPT)),
            (_gradients, (D_QKV, BIAS, KEEP, PARTIAL, q, k, v, d_out, rooms, ready, free, tiles, scale, log_scale, 1,
                          JOINTS, DIM, HEADS, KEPT)),
            (_fetch_tiles, (QKV, D_OUT, q, k, v, d_out, ready, free, tiles, DIM, HEADS)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def covers(layout, width: int, temporal: bool, device) -> bool:
    """Whether the functions below can do it, width being that of a head. Temporal: if four chunks of queries hold all
    frames, three do not, and there is padding. Spatial: if no tile has less frames than the others."""
    used = 64 // layout.joints * layout.joints
    sizes = 192 < layout.frames < 256 if temporal else used > 0 and layout.rows % used == 0
    return sizes and width == WIDTH.value and runs_on(device)


def runs_on(device) -> bool:
    """Hopper, and the Triton this is written for: Gluon is experimental, another version may mean something else."""
    return triton.__version__.startswith("3.6.") and torch.cuda.get_device_capability(device)[0] == 9


def multiprocessors(device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _descriptor(x, rows: int) -> TensorDescriptor:
    """Blocks of some rows by a head."""
    return TensorDescriptor.from_tensor(x, [1, rows, WIDTH.value], gl.NVMMASharedLayout(128, 16, 3))


def _blocks(layout, x, frames: int) -> TensorDescriptor:
    return _descriptor(x.view(layout.batch, layout.frames, -1), frames)


def temporal_backward(layout, qkv, bias, heads, scale, keep, out, log_sum, d_out):
    """From what `kernels.attention` took and gave, qkv and out in bfloat16, and the gradient of out: that of
    qkv, and what to add up for that of bias, (batch · joints, 3 · dim)."""
    dim = out.shape[1]
    d_qkv = torch.empty_like(qkv)
    partial = torch.empty(layout.batch * layout.joints, 3 * dim, dtype=torch.float32, device=qkv.device)
    sequences = layout.batch * layout.joints * heads
    _temporal_backward[(min(sequences, multiprocessors(qkv.device)),)](
        _blocks(layout, qkv, 64), _blocks(layout, qkv, 128), _blocks(layout, out, 64), _blocks(layout, d_out, 64),
        _blocks(layout, d_qkv, 64), _blocks(layout, d_qkv, 128), bias, keep, log_sum, partial, sequences, scale,
        scale * math.log2(math.e), layout.frames, layout.joints, dim, heads, keep is not None, num_warps=8,
        ptx_options="-O1",  # by default ptxas changes the order of instructions until it lacks registers
    )  # fmt: skip
    return d_qkv, partial


def spatial_backward(layout, qkv, bias, heads, scale, keep, d_out):
    """As `temporal_backward`; what to add up is by program and group of warps."""
    dim, used = d_out.shape[1], 64 // layout.joints * layout.joints
    d_qkv, tiles = torch.empty_like(qkv), layout.rows // used
    across = min(tiles, multiprocessors(qkv.device) // heads)
    partial = torch.empty(2 * across, 3 * dim, dtype=torch.float32, device=qkv.device)
    _spatial_backward[(across * heads,)](
        *(_descriptor(x.view(tiles, used, -1), 64) for x in (qkv, d_out, d_qkv)), bias, keep, partial, tiles, scale,
        scale * math.log2(math.e), layout.joints, dim, heads, keep is not None, num_warps=4,
    )  # fmt: skip
    return d_qkv, partial
