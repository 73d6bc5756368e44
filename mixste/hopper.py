"""Backward of temporal attention for Hopper, in three quarters of the time of mixste.kernels'
`_temporal_backward_whole`, which computes the same elsewhere. It is written in Gluon, the level below Triton: a kernel
says itself where its tensors lie and what runs at the same time. For what it needs see `covers`.

One program on each multiprocessor, which it fills (8 warps, nearly all shared memory), takes one sequence after
another: the frames of a joint, in one head. Shared memory holds all of a sequence. The copy engine refills each piece
from the sequence that follows as soon as it was used for the last time, and takes gradients away, those of keys and
values from where keys and values were.

Keys come in two halves of 128, queries in four chunks of 64, hence eight steps. In each, the tensor cores are busy with
gradients that the step before left to do, while the program computes the weights of keys by queries and the gradients
of their scores. Gradients of keys and values stay in registers for the four steps of a half, those of queries for all.

The gradient of the values' bias is that of the output, summed over queries. It comes as the gradient of one value more:
the last key, which is padding, gets a weight of 1 from each query. Its own key and value are 0 and add nothing.
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

WIDTH = gl.constexpr(64)  # of a head


@gluon.jit
def _buffer(BLOCKS):
    """Room for one block of a descriptor, and the barrier that tells of its arrival."""
    ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(ready, count=1)
    return gl.allocate_shared_memory(gl.bfloat16, [1, 1, BLOCKS.block_type.shape[1], WIDTH], BLOCKS.layout), ready


@gluon.jit
def _matrix(buffer):
    """The matrix in a buffer. The index is 0, but the compiler does not know: it would compute all addresses in
    advance, and then lack the registers to keep them."""
    index = gl.inline_asm_elementwise("mov.u32 $0, 0;", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
    return buffer[0].index(index).reshape([buffer[0].shape[2], buffer[0].shape[3]])


@gluon.jit
def _product(a, b, added, add: gl.constexpr = True):
    """added + a · b, or a · b alone. It is only begun; the tensor cores take one product after the other."""
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
    """What the copy engine cannot bring: log_sum, (256,), and keep."""
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
    D_KEYS in blocks of 128: beyond the last frame they read 0 and write nothing."""
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

    for sequence in tl.range(first, sequences, programs, disable_licm=True):  # what it took out would need registers
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


def covers(layout, width: int, device) -> bool:
    """Whether `temporal_backward` can do it, width being that of a head: if four chunks of queries hold all frames,
    three do not, and there is padding. Gluon is experimental: another version of Triton may mean something else."""
    sizes = 192 < layout.frames < 256 and width == WIDTH.value
    return sizes and triton.__version__.startswith("3.6.") and torch.cuda.get_device_capability(device)[0] == 9


def temporal_backward(layout, qkv, bias, heads, scale, keep, out, log_sum, d_out):
    """From what mixste.kernels' `attention` took and gave, qkv and out in bfloat16, and the gradient of out: that of
    qkv, and what to add up for that of bias, (batch · joints, 3 · dim)."""
    dim = out.shape[1]
    d_qkv = torch.empty_like(qkv)
    partial = torch.empty(layout.batch * layout.joints, 3 * dim, dtype=torch.float32, device=qkv.device)
    sequences = layout.batch * layout.joints * heads
    programs = min(sequences, torch.cuda.get_device_properties(qkv.device).multi_processor_count)
    swizzled = gl.NVMMASharedLayout(128, 16, 3)

    def blocks(x, rows):
        return TensorDescriptor.from_tensor(x.view(layout.batch, layout.frames, -1), [1, rows, 64], swizzled)

    _temporal_backward[(programs,)](
        blocks(qkv, 64), blocks(qkv, 128), blocks(out, 64), blocks(d_out, 64), blocks(d_qkv, 64), blocks(d_qkv, 128),
        bias, keep, log_sum, partial, sequences, scale, scale * math.log2(math.e), layout.frames, layout.joints, dim,
        heads, keep is not None, num_warps=8,
        ptx_options="-O1",  # by default ptxas changes the order of instructions until it lacks registers
    )  # fmt: skip
    return d_qkv, partial
