"""A product fused with GELU, and one fused with the gradient of GELU, for Hopper. `cublaslt` computes the same on other
GPUs; this needs less traffic between the L2 cache and the multiprocessors, which is the bottleneck. In Gluon, as
`hopper`. See `covers` for the requirements.

One program on each multiprocessor takes one block of 256 rows after another and keeps all of it: 128 rows in shared
memory, 128 in registers, 64 of each with either of two groups of four warps. The columns of b come by in tiles of 64,
in chunks that meet 64 columns of a, through a ring of 8 stages. The groups work on the same tiles, half a tile apart:
while one multiplies, the other computes GELU and has the copy engine take it away. A single warp has the copy engine
fetch chunks; the rows that go to registers come through the ring too, before the first tile.
"""

import torch
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

from mixste.accel.hopper import _barriers, _hidden_zero, multiprocessors, runs_on

SIDE = gl.constexpr(64)  # rows, columns and depth of a chunk
CHUNKS = gl.constexpr(8)  # that make up a row of a, and stages of the ring
BLOCK = gl.constexpr(256)  # rows


@gluon.jit
def _share(x, square):
    """GELU(x) / x, which is (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, by the hardware's tanh, right to 11 bits."""
    inner = x * (0.7978845608028654 + 0.035677408136300125 * square)
    tanh = gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [inner], dtype=gl.float32, is_pure=True, pack=1)
    return 0.5 * tanh + 0.5


@gluon.jit
def _gelu(x):
    return x * _share(x, x * x)


@gluon.jit
def _slope(x):
    square = x * x
    share = _share(x, square)
    return share + (share - share * share) * (x * (1.5957691216057308 + 0.21406444881780075 * square))


@gluon.jit
def _place(turn, TILES: gl.constexpr, PARTS: gl.constexpr):
    """First row and first tile of one of a program's units: a block of rows by a part of the columns."""
    unit = gl.program_id(0) + turn * gl.num_programs(0)
    return unit // PARTS * BLOCK, unit % PARTS * TILES


@gluon.jit
def _column(first, tile, TILES: gl.constexpr):
    """First column of a tile: programs start with different tiles, so that they do not all read the same one."""
    return (first + (tile + gl.program_id(0)) % TILES) * SIDE


@gluon.jit
def _fetch(A, B, a, ring, ready, free, turns, TILES: gl.constexpr, PARTS: gl.constexpr, ACROSS: gl.constexpr):
    """What the single warp does: it fetches a block's rows of A, then B, chunk by chunk into the next free stage.

    a: (2 · CHUNKS, SIDE, SIDE), the rows that stay in shared memory. ring: the stages, with barriers ready and free.
    turns: units that the program does. TILES: of columns in a unit. PARTS: units of a block of rows. ACROSS: whether
    B's rows are contiguous, or else its columns.
    """
    for turn in range(turns):
        row, first = _place(turn, TILES, PARTS)
        for i in gl.static_range(2 * CHUNKS):  # rows that go to registers, for both groups by turns
            arrival = ready.index(i % CHUNKS)
            mbarrier.wait(free.index(i % CHUNKS), (turn * (TILES + 2) + i // CHUNKS + 1) % 2)
            mbarrier.expect(arrival, A.block_type.nbytes)
            tma.async_copy_global_to_shared(
                A, [row + 2 * SIDE + i % 2 * SIDE, i // 2 * SIDE], arrival, ring.index(i % CHUNKS)
            )
        for tile in range(TILES):
            column = _column(first, tile, TILES)
            new = tile == 0
            for k in gl.static_range(CHUNKS):
                arrival = ready.index(k)
                mbarrier.wait(free.index(k), (turn * (TILES + 2) + tile + 1) % 2)
                mbarrier.expect(arrival, 2 * A.block_type.nbytes + B.block_type.nbytes, new)
                mbarrier.expect(arrival, B.block_type.nbytes, not new)
                tma.async_copy_global_to_shared(A, [row, k * SIDE], arrival, a.index(2 * k), new)
                tma.async_copy_global_to_shared(A, [row + SIDE, k * SIDE], arrival, a.index(2 * k + 1), new)
                at = [k * SIDE, column] if ACROSS else [column, k * SIDE]
                tma.async_copy_global_to_shared(B, at, arrival, ring.index(k))


@gluon.jit
def _leave(OUT, at, room, x):
    """Has the copy engine take x away, by way of a room that nothing leaves from anymore."""
    gl.thread_barrier()
    room.store(x.to(gl.bfloat16))
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(OUT, at, room)


@gluon.jit
def _compute(
    OUT, AUX, BIAS, INVERSE, PARTIAL, a, ring, rooms, ready, free, lead, arrived, turns, rows, factor,
    WHICH: gl.constexpr, TILES: gl.constexpr, PARTS: gl.constexpr, ACROSS: gl.constexpr,
):  # fmt: skip
    """What WHICH of the groups of four warps does. AUX is `before`, to be written, or read if there is no bias: then
    the tensor cores, which have it in shared memory, also add up each column of the result.

    OUT, AUX, BIAS, INVERSE, PARTIAL, rows, factor: of `_product`. a, ring, ready, free, turns, constants: of `_fetch`.
    rooms: two for each group, by which tiles come and leave, with barriers arrived. lead: has the second group begin.
    """
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SIDE, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, SUMS, 2)
    ones = gl.full([SIDE, SIDE], 1.0, gl.bfloat16, OPERAND)
    for turn in range(turns):
        row, first = _place(turn, TILES, PARTS)
        row += WHICH * SIDE
        held = ()
        for i in gl.static_range(2 * CHUNKS):
            mbarrier.wait(ready.index(i % CHUNKS), (turn * (TILES + 2) + i // CHUNKS) % 2)
            if i % 2 == WHICH:
                held += (ring.index(i % CHUNKS + _hidden_zero()).load(OPERAND),)
                gl.thread_barrier()
            mbarrier.arrive(free.index(i % CHUNKS))
        if INVERSE is not None:
            place = row + gl.arange(0, SIDE, gl.SliceLayout(1, SUMS))
            inverse = gl.load(INVERSE + place, place < rows, 0.0)
            place += 2 * SIDE
            held_inverse = gl.load(INVERSE + place, place < rows, 0.0)
        if WHICH == 1:  # half a tile behind the other, from the first on
            mbarrier.wait(lead, 0)
        for tile in range(TILES):
            column = _column(first, tile, TILES)
            zero = _hidden_zero()
            if BIAS is not None:
                bias = gl.load(BIAS + column + gl.arange(0, SIDE, gl.SliceLayout(0, SUMS))).to(gl.float32)[None, :]
            x, held_x = gl.zeros([SIDE, SIDE], gl.float32, SUMS), gl.zeros([SIDE, SIDE], gl.float32, SUMS)
            for k in gl.static_range(CHUNKS):
                mbarrier.wait(ready.index(k), (turn * (TILES + 2) + tile) % 2)
                chunk = ring.index(k + zero)
                if not ACROSS:
                    chunk = chunk.permute([1, 0])
                held_x = warpgroup_mma(held[k], chunk, held_x, use_acc=k > 0, is_async=True)
                x = warpgroup_mma(a.index(2 * k + WHICH + zero), chunk, x, use_acc=k > 0, is_async=True)
                if k > 0:
                    x, held_x = warpgroup_mma_wait(2, [x, held_x])
                    mbarrier.arrive(free.index(k - 1))
                if BIAS is None and k == 1:
                    tma.store_wait(0)  # of the tile before
                    for i in gl.static_range(2):
                        come = arrived.index(2 * WHICH + i)
                        mbarrier.expect(come, AUX.block_type.nbytes)
                        at = [row + 2 * SIDE * i, column]
                        tma.async_copy_global_to_shared(AUX, at, come, rooms.index(2 * WHICH + i))
                if WHICH == 0 and k == 3:  # noqa: SIM102 - known when compiled
                    if turn + tile == 0:
                        mbarrier.arrive(lead)
            x, held_x = warpgroup_mma_wait(0, [x, held_x])
            mbarrier.arrive(free.index(CHUNKS - 1))

            total = gl.zeros([SIDE, SIDE], gl.float32, SUMS)  # the same in every line
            for i in gl.static_range(2):
                at = [row + 2 * SIDE * i, column]
                if BIAS is not None:
                    if INVERSE is not None:
                        x *= inverse[:, None]
                        inverse, held_inverse = held_inverse, inverse
                    x += bias
                    if AUX is not None:
                        tma.store_wait(1)
                        _leave(AUX, at, rooms.index(2 * WHICH + zero), x)
                    x = _gelu(x)
                    tma.store_wait(1)
                    _leave(OUT, at, rooms.index(2 * WHICH + (i if AUX is None else 1) + zero), x)
                else:
                    mbarrier.wait(arrived.index(2 * WHICH + i), (turn * TILES + tile) % 2)
                    room = rooms.index(2 * WHICH + i + zero)
                    x = factor * x * _slope(room.load(SUMS).to(gl.float32))
                    _leave(OUT, at, room, x)
                    total = warpgroup_mma(ones, room, total, use_acc=i > 0, is_async=True)
                x = held_x
            if BIAS is None:
                total = warpgroup_mma_wait(0, [total])
                line = gl.arange(0, SIDE, gl.SliceLayout(1, SUMS))[:, None]
                across = column + gl.arange(0, SIDE, gl.SliceLayout(0, SUMS))[None, :]
                half = row // BLOCK * 2 + WHICH
                gl.store(PARTIAL + half * (PARTS * TILES * SIDE) + across + 0 * line, total, line == 0)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["units", "rows"])
def _product(
    A, B, OUT, AUX, BIAS, INVERSE, PARTIAL, units, rows, factor,
    TILES: gl.constexpr, PARTS: gl.constexpr, ACROSS: gl.constexpr,
):  # fmt: skip
    """A, B, OUT and AUX are descriptors in blocks of 64 by 64, B's as its memory lies: beyond the last row they read 0
    and write nothing.

    A: (rows, 512). B: (512, out), or if not ACROSS (out, 512). OUT, AUX: (rows, out), what GELU, or its gradient, gives
    and takes; all in bfloat16. BIAS: (out,) bfloat16, or None for the gradient. INVERSE: (rows,) float32, or None.
    PARTIAL: (2 · blocks of rows, out) float32, column sums of OUT, with the gradient only. units: blocks · PARTS.
    factor: of the gradient.
    """
    a = gl.allocate_shared_memory(gl.bfloat16, [2 * CHUNKS, SIDE, SIDE], A.layout)
    ring = gl.allocate_shared_memory(gl.bfloat16, [CHUNKS, SIDE, SIDE], B.layout)
    rooms = gl.allocate_shared_memory(gl.bfloat16, [4, SIDE, SIDE], OUT.layout)
    ready, free, arrived = _barriers(CHUNKS, 1), _barriers(CHUNKS, 2), _barriers(4, 1)
    lead = _barriers(1, 1).index(0)
    fence_async_shared()
    gl.thread_barrier()
    turns = (units - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    gl.warp_specialize(
        [
            (_compute, (OUT, AUX, BIAS, INVERSE, PARTIAL, a, ring, rooms, ready, free, lead, arrived, turns, rows,
                        factor, 0, TILES, PARTS, ACROSS)),
            (_compute, (OUT, AUX, BIAS, INVERSE, PARTIAL, a, ring, rooms, ready, free, lead, arrived, turns, rows,
                        factor, 1, TILES, PARTS, ACROSS)),
            (_fetch, (A, B, a, ring, ready, free, turns, TILES, PARTS, ACROSS)),
        ],
        [4, 1],  # warps; the first has those of the kernel, 4, and the registers that are left, 240
        [240, 24],
    )  # fmt: skip


def covers(a, b) -> bool:
    """Whether a @ b is of the size, and a long enough to be worth it."""
    shape = len(a) >= 8192 and a.shape[1] == CHUNKS.value * SIDE.value and b.shape[1] % SIDE.value == 0
    return shape and a.dtype == torch.bfloat16 and runs_on(a.device)


def _parts(blocks: int, tiles: int, programs: int) -> int:
    """Into how many parts to split the columns, that all programs finish soonest; a block of rows costs two tiles."""
    fitting = (parts for parts in (1, 2, 4, 8) if tiles % parts == 0)
    return min(fitting, key=lambda parts: -(-blocks * parts // programs) * (tiles // parts + 2))


def _run(a, b, out, aux, bias=None, inverse=None, partial=None, factor=1.0):
    across = b.stride(1) == 1
    blocks, tiles = -(-len(a) // BLOCK.value), b.shape[1] // SIDE.value
    programs = multiprocessors(a.device)
    parts = _parts(blocks, tiles, programs)
    layout = gl.NVMMASharedLayout(128, 16, 2)

    def described(x):
        return None if x is None else TensorDescriptor.from_tensor(x, [SIDE.value, SIDE.value], layout)

    _product[(min(programs, blocks * parts),)](
        described(a), described(b if across else b.t()), described(out), described(aux), bias, inverse, partial,
        blocks * parts, len(a), factor, tiles // parts, parts, across, num_warps=4,
    )  # fmt: skip
    return out


def gelu(a, b, bias, before=None, inverse=None):
    """GELU(inverse · a @ b + bias), inverse by row; what it is taken of is left in `before`, if given."""
    return _run(a, b, torch.empty(len(a), b.shape[1], dtype=a.dtype, device=a.device), before, bias, inverse)


def gelu_backward(d, b, before, factor):
    """factor · d @ b times GELU's derivative at `before`, and what its columns add up to."""
    halves = 2 * -(-len(d) // BLOCK.value)
    partial = torch.empty(halves, before.shape[1], dtype=torch.float32, device=d.device)
    out = _run(d, b, torch.empty_like(before), before, partial=partial, factor=float(factor))
    return out, partial.sum(0)
