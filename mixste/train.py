"""Training: the recipes of the paper and of the authors' code, and the loop that follows them.

All frames live on the device of the run; a batch is one index gather, so that no worker processes feed it. The network
is computed by `mixste.accel`: on CUDA in bfloat16 where that is safe; on the CPU in float32, and the result depends on
the seed alone: a run that was killed and resumed ends with the same bits as one that was not.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from mixste import losses
from mixste.accel import accelerate, parameters_changed
from mixste.accel.graphs import Recorder
from mixste.data.augment import measured_bodies, project_screen, resize_bodies, turn_cameras
from mixste.data.clips import Clip
from mixste.data.windows import ClipFrames
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.optim import Muon
from mixste.skeleton import Skeleton, mirrored

SAVE_SECONDS = 60.0  # between checkpoints to resume from
MOST_FRAMES = 8192  # supervised at a time: 27 GiB of GPU memory at the paper's size
GATHERED_FRAMES = 2**16  # read at a time, for several small batches: to make one alone takes longer than its step


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. The defaults are those of the authors' code.

    Numbers in brackets are rows of notebook 13, which compares the paper's text with the authors' code.

    loss: terms of Eq. 9 with their coefficients (3). squared: use squared distances, as Eq. 10 is printed (1). weights:
    the joint weights W, "authors" (their code's list) or "paper" (by joint group) (2). scaled_gradient: multiply the
    gradient by the value of the loss, as the authors' `loss.backward(loss)` does (6). optimizer, weight_decay,
    learning_rate: "adamw" with decay 0.1 in the code, Adam in the text (7); the text gives no rate (8). schedule:
    "epochs" multiplies the rate by 0.99 after each epoch, as the authors do (8); "cosine" rises over the first 5 % of
    the steps and falls to zero, for trainings of any length. batch_frames: supervised poses per step, 1024 in the code;
    the text says 1024 without a unit (10). dropout, drop_path: dropout in the text, stochastic depth in the code (11).
    attention_scale, embedding_norm: see `mixste.model.MixSTE` (12, 13). interval: frames between the starts of
    training windows, T if None (19). mirror: also train on the mirror image of each window (19).

    Not in the paper. optimizer "muon": see `mixste.optim`. random_starts: draw each window from anywhere in its clip;
    if the clip is shorter than T, place it anywhere in the window. by_subject: draw windows so that every subject is
    equally likely, however many frames it has. body_shapes: scale the bones of each window's person at random.
    measured_bodies: the same with factors that vary and correlate as between adults, see `mixste.data.bodies`.
    new_cameras: move the camera of each window at random.
    """

    loss: tuple[tuple[str, float], ...] = (("wmpjpe", 1.0), ("tc", 0.5), ("mpjve", 2.0))
    squared: bool = False
    weights: str = "authors"
    scaled_gradient: bool = True
    optimizer: str = "adamw"
    weight_decay: float = 0.1
    learning_rate: float = 4e-5
    schedule: str = "epochs"
    batch_frames: int = 1024
    dropout: float = 0.0
    drop_path: float = 0.1
    attention_scale: str = "head"
    embedding_norm: bool = False
    interval: int | None = None
    mirror: bool = True
    random_starts: bool = False
    by_subject: bool = False
    body_shapes: bool = False
    measured_bodies: bool = False
    new_cameras: bool = False

    def __post_init__(self):
        for name, allowed in (
            ("weights", ("authors", "paper")),
            ("optimizer", ("adamw", "adam", "muon")),
            ("schedule", ("epochs", "cosine")),
            ("attention_scale", ("head", "model")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}")
        if self.random_starts and self.interval is not None:
            raise ValueError(f"random_starts leave no interval between windows, found interval {self.interval}")
        if self.body_shapes and self.measured_bodies:
            raise ValueError("expected body_shapes or measured_bodies, found both")
        for name in ("batch_frames", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")


AUTHORS = Recipe()
# Where the paper's text is silent, this recipe uses the authors' value. A batch is still 1024 frames, as in their code;
# notebook 13 measures the other reading, 1024 windows, by itself.
PAPER = replace(
    AUTHORS,
    squared=True,
    weights="paper",
    scaled_gradient=False,
    optimizer="adam",
    weight_decay=0.0,
    dropout=0.1,
    drop_path=0.0,
    attention_scale="model",
    embedding_norm=True,
)


class Batches:
    """An endless stream of training batches: each window once per epoch, as it is and mirrored, in a seeded order.

    With `by_subject`, an epoch is as many draws with replacement; within a subject, all windows are equally likely.
    Batches are always full: one may contain the end of an epoch and the start of the next. Small ones are made several
    at a time. They depend only on the seed and the step, so that a training can resume at any step.
    """

    def __init__(self, model: nn.Module, clips: list[Clip], skeleton: Skeleton, recipe: Recipe, seed: int, device):
        if not clips:
            raise DataError("expected at least one training clip, found none")
        self.skeleton, self.seed, self.recipe = skeleton, seed, recipe
        self.whole_windows = model.mode == "seq2seq"  # otherwise only their central frames are supervised
        if not self.whole_windows and recipe.random_starts:
            raise ValueError("random_starts are for seq2seq networks: the others read a window around every frame")
        self.augmented = recipe.body_shapes or recipe.measured_bodies or recipe.new_cameras
        self.frames = ClipFrames.of(clips, skeleton, device, paths=self.augmented)
        self.poses_per_window = model.poses_per_window(model.frames)
        self.size = max(1, recipe.batch_frames // self.poses_per_window)
        self.together = max(1, GATHERED_FRAMES // (self.size * model.frames))  # batches made at a time
        self.made = (None, None)  # which ones were made last, and their windows

        spans = []
        for clip, (first, length) in enumerate(zip(self.frames.starts, self.frames.lengths, strict=True)):
            starts = model.training_starts(length, recipe.interval)
            span = np.stack(np.broadcast_arrays(starts + first, first, first + length - 1, clip), axis=1)
            spans += [np.pad(span, ((0, 0), (0, 1)), constant_values=flip) for flip in range(1 + recipe.mirror)]
        # (windows, 5): first frame, the clip's first and last frame, clip, mirrored or not
        windows = np.concatenate(spans)
        if recipe.by_subject:
            _, subjects = np.unique([clip.subject for clip in clips], return_inverse=True)
            subjects = subjects[windows[:, 3]]
            self.shares = torch.from_numpy(1 / np.bincount(subjects)[subjects])
        self.windows = torch.from_numpy(windows).to(device)
        self.offsets = torch.arange(model.frames, device=device)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return len(self.windows)

    def order(self, epoch: int) -> Int[Tensor, "windows"]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        if self.recipe.by_subject:
            return torch.multinomial(self.shares, len(self), replacement=True, generator=generator)
        return torch.randperm(len(self), generator=generator)

    def chosen(self, first: int, last: int) -> Int[Tensor, "windows"]:
        """Indices of the windows that are drawn from `first` on and before `last`, counted from the first step."""
        parts = []
        while first < last:
            epoch, start = divmod(first, len(self))
            if getattr(self, "_epoch", None) != epoch:
                self._epoch, self._order = epoch, self.order(epoch)
            parts.append(self._order[start : start + last - first])
            first += len(parts[-1])
        return torch.cat(parts)

    def __getitem__(
        self, step: int
    ) -> tuple[Float[Tensor, "batch frames joints 2"], Float[Tensor, "batch supervised joints 3"]]:
        """Keypoints and target poses of one step."""
        part, place = divmod(step, self.together)
        if self.made[0] != part:
            self.made = part, self.make(part)
        keypoints, poses = self.made[1]
        windows = slice(place * self.size, (place + 1) * self.size)
        return keypoints[windows], poses[windows]

    def make(self, part: int) -> tuple[Tensor, Tensor]:
        """Keypoints and target poses of `together` steps, one after the other."""
        windows = self.chosen(*(index * self.together * self.size for index in (part, part + 1)))
        first, low, high, clip, flip = self.windows[windows.to(self.windows.device, non_blocking=True)].unbind(1)
        if self.recipe.random_starts:
            generator = torch.Generator(first.device).manual_seed(seed_of(self.seed, part, 2))
            spare = (
                high - low + 1 - len(self.offsets)
            )  # how many frames the clip is longer than a window; negative if shorter
            share = torch.rand(len(first), generator=generator, device=first.device, dtype=torch.float64)
            first = low + spare.clamp(max=0) + (share * (spare.abs() + 1)).long()
        index = (first[:, None] + self.offsets).clamp(low[:, None], high[:, None])  # (windows, frames)
        keypoints, poses = self.frames.keypoints[index], self.frames.poses[index]
        if self.augmented:
            keypoints, poses = self.augment_windows(part, index, clip, keypoints, poses)
        flip = flip.bool()[:, None, None, None]
        keypoints = torch.where(flip, mirrored(keypoints, self.skeleton), keypoints)
        poses = torch.where(flip, mirrored(poses, self.skeleton), poses)
        if not self.whole_windows:
            centre = (len(self.offsets) - 1) // 2
            poses = poses[:, centre : centre + 1]
        return keypoints, poses

    def augment_windows(self, part: int, index, clip, keypoints, poses) -> tuple[Tensor, Tensor]:
        """Change bodies or cameras of the windows and project the poses again, with the same errors of the detector."""
        frames = self.frames
        generator = torch.Generator(index.device).manual_seed(seed_of(self.seed, part, 1))
        intrinsics, resolution = frames.intrinsics[clip], frames.resolutions[clip]
        poses = poses + frames.roots[index][:, :, None]
        errors = keypoints - project_screen(poses, intrinsics, resolution)
        if self.recipe.body_shapes:
            poses = resize_bodies(poses, self.skeleton, generator)
        if self.recipe.measured_bodies:
            poses = measured_bodies(poses, self.skeleton, generator)
        if self.recipe.new_cameras:
            poses = turn_cameras(poses, generator)
        root = poses[:, :, [self.skeleton.root]]
        return project_screen(poses, intrinsics, resolution) + errors, poses - root


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "muon":
        return Muon(model, recipe.learning_rate, recipe.weight_decay)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer]
    return kind(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def learning_rate(recipe: Recipe, step: int, steps: int, epoch: int) -> float:
    if recipe.schedule == "epochs":
        return recipe.learning_rate * 0.99**epoch
    rise = max(1, steps // 20)
    if step < rise:
        return recipe.learning_rate * (step + 1) / rise
    return recipe.learning_rate * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def loss_of(recipe: Recipe, skeleton: Skeleton, device="cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """The loss (pred, target) -> scalar: Eq. 9 with the terms of the recipe."""
    weights, terms = torch.tensor(skeleton.weights(recipe.weights), device=device), dict(recipe.loss)
    return lambda pred, target: losses.total_loss(pred, target, terms, weights, recipe.squared, skeleton)


class Step:
    """Computes the gradients of one batch: step(keypoints, target) writes them to `.grad` and returns the loss.

    All batches must have the same shape: on CUDA, forward, loss and backward are recorded as a graph at the first call
    and replayed at later ones. The next call overwrites the returned loss. pieces: the number of equal pieces into
    which a batch is split to fit into memory; its loss and gradients are the means over the pieces.
    """

    def __init__(
        self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], scaled_gradient: bool, pieces: int = 1
    ):
        self.network, self.loss, self.scaled_gradient, self.pieces = network, loss, scaled_gradient, pieces
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.recorder = Recorder(state=network.buffers())

    def __call__(
        self, keypoints: Float[Tensor, "batch frames joints 2"], target: Float[Tensor, "batch supervised joints 3"]
    ) -> Float[Tensor, ""]:
        if self.pieces == 1:
            return self.recorder(self.one_piece, keypoints, target)
        sums = None
        for piece in zip(keypoints.chunk(self.pieces), target.chunk(self.pieces), strict=True):
            loss = self.recorder(self.one_piece, *piece)
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            if sums is None:
                sums = [x.clone() for x in (loss, *gradients)]
            else:
                torch._foreach_add_(sums, [loss, *gradients])
        torch._foreach_div_(sums, self.pieces)
        loss, *means = sums
        if self.scaled_gradient:  # by the loss of the whole batch, not of a piece
            torch._foreach_mul_(means, loss)
        torch._foreach_copy_(gradients, means)
        return loss

    def one_piece(self, keypoints: Tensor, target: Tensor) -> Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss(self.network(keypoints), target)
        # The authors' loss.backward(loss) multiplies the gradient by the value of the loss (notebook 13, row 6).
        loss.backward(loss.detach() if self.scaled_gradient and self.pieces == 1 else None)
        return loss.detach()


class Update:
    """Makes a step of the optimizer: update(learning rate). On CUDA it is recorded as a graph at the second call."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer, self.recorder = optimizer, None

    def __call__(self, rate: float) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        device = parameters[0].device
        if self.recorder:
            self.recorder(self.step, torch.full((), rate, device=device))
            parameters_changed()
            return
        self.step(torch.full((), rate, device=device) if device.type == "cuda" else rate)
        if device.type == "cuda":  # now that the optimizer has made its state
            state = [x for values in self.optimizer.state.values() for x in values.values()]
            self.recorder = Recorder(state=[*parameters, *state])

    def step(self, rate: float | Tensor) -> float | Tensor:
        recorded = isinstance(rate, Tensor) and torch.cuda.is_current_stream_capturing()
        for group in self.optimizer.param_groups:
            group.update(lr=rate, capturable=recorded)  # PyTorch warns of a capturable step that is not recorded
        self.optimizer.step()
        return rate


def even_pieces(network: nn.Module, windows: int, poses: int) -> int:
    """The number of equal pieces into which to split a batch of `windows` windows with `poses` supervised poses each.

    It is the smallest for which a piece has at most MOST_FRAMES poses; 1 for a network with batch norms, whose
    statistics are over the whole batch.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return 1
    even = (pieces for pieces in range(1, windows) if windows % pieces == 0)
    return next((pieces for pieces in even if windows // pieces * poses <= MOST_FRAMES), windows)


class TrainingCollapsed(FloatingPointError):
    """A training whose network is no better than a constant pose, and does not recover; see `CollapseWatch`.

    step: number of steps before the collapse. loss: mean loss since then. constant_loss: loss of the constant pose.
    history: the learning curve, which ends where the training was stopped.
    """

    def __init__(
        self,
        message: str,
        step: int = 0,
        loss: float = math.nan,
        constant_loss: float = math.nan,
        history: Sequence[dict] = (),
    ):
        super().__init__(message)
        self.step, self.loss, self.constant_loss, self.history = step, loss, constant_loss, list(history)


class CollapseWatch:
    """Detects a collapse from the mean loss over intervals of 1 % of the steps, or of 50 steps if that is more.

    A training has collapsed if six means in a row exceed 95 % of the constant pose's loss after one was below 85 %, so
    that what the network had learned is lost; or if twelve in a row exceed 125 %, whether or not it ever learned. These
    are no collapses: a spike of a few steps, a loss that stagnates at the constant pose's, and a high loss in the first
    twelve intervals before the network has learned anything. The numbers are chosen from results/bench/collapse.csv,
    where the loss after a collapse is 0.97 to 1.6 times the constant pose's, depending on its terms. Nothing is
    detected if the constant pose's loss is not positive.
    """

    def __init__(self, steps: int, constant_loss: float, device="cpu"):
        self.every, self.constant_loss = max(50, steps // 100), constant_loss
        self.total, self.counted, self.means = torch.zeros((), dtype=torch.float64, device=device), 0, []

    def __call__(self, loss: Float[Tensor, ""]) -> int:
        """Adds the loss of the next step. Returns how many steps ago the training collapsed, 0 if it has not."""
        self.total, self.counted = self.total + loss, self.counted + 1
        if self.counted < self.every:  # without waiting for the GPU
            return 0
        self.means.append(float(self.total) / self.counted)
        self.total, self.counted = torch.zeros_like(self.total), 0
        return collapsed_for(self.means, self.constant_loss) * self.every

    def state(self) -> dict:
        return {"total": self.total, "counted": self.counted, "means": self.means}

    def resume(self, total: Tensor, counted: int, means: list[float]) -> None:
        self.total, self.counted, self.means = total, counted, means


def collapsed_for(means: Sequence[float], constant_loss: float) -> int:
    """How many of the last mean losses are those of a collapse, see `CollapseWatch`; 0 if there is none."""
    if 0 < constant_loss < math.inf:
        for length, level, learned in ((6, 0.95, 0.85), (12, 1.25, math.inf)):
            is_high = [mean > level * constant_loss for mean in means[-length:]]
            if len(is_high) == length and all(is_high) and min(means) < learned * constant_loss:
                return length
    return 0


def constant_pose_loss(batches: Batches, loss: Callable[[Tensor, Tensor], Tensor], windows: int = 512) -> float:
    """The loss of the mean pose, if predicted for every frame, over the first batches with so many windows."""
    targets = [batches[step][1] for step in range(math.ceil(min(windows, len(batches)) / batches.size))]
    mean = torch.stack([target.mean((0, 1), dtype=torch.float64) for target in targets]).mean(0)  # (joints, 3)
    constant = mean.to(targets[0].dtype).expand_as(targets[0]).contiguous()
    return float(torch.stack([loss(constant, target) for target in targets]).double().mean())


def train(
    model: nn.Module,
    clips: list[Clip],
    skeleton: Skeleton,
    recipe: Recipe,
    poses: int,
    seed: int,
    folder: Path | None = None,
    points: int = 20,
    at_point: Callable[[nn.Module, dict], None] | None = None,
    title: str = "training",
) -> list[dict]:
    """Train in place until `poses` poses have been supervised; returns the learning curve.

    The curve has `points` rows: step, poses, epoch, learning_rate, and loss, the mean since the previous row.
    at_point(model, row) is called for each row and may add to it. With a folder, the state is saved there every
    minute, and the training resumes from it. `model.layout` becomes the skeleton's name. Raises FloatingPointError if
    the loss is no longer finite, and TrainingCollapsed, after one more row, if the network is no better than a constant
    pose, see `CollapseWatch`.
    """
    device = next(model.parameters()).device
    model.layout = skeleton.name
    batches = Batches(model, clips, skeleton, recipe, seed, device)
    optimizer = optimizer_of(model, recipe)
    loss_function = loss_of(recipe, skeleton, device)
    poses_per_step = batches.size * batches.poses_per_window
    steps = max(1, math.ceil(poses / poses_per_step))
    rows_at = {math.ceil(steps * (point + 1) / points) for point in range(points)}

    state = folder / "state.pt" if folder else None
    first, history, total, counted = 0, [], torch.zeros((), device=device), 0
    watch = CollapseWatch(steps, constant_pose_loss(batches, loss_function), device)
    torch.manual_seed(seed)  # for dropout and stochastic depth
    if state and state.exists():
        first, history, total, counted = _resume(state, model, optimizer, watch, device)
    last_save = time.monotonic()
    network = accelerate(model.train())
    pieces = even_pieces(network, batches.size, batches.poses_per_window)
    gradients, update = Step(network, loss_function, recipe.scaled_gradient, pieces), Update(optimizer)
    with tqdm(total=steps, initial=first, desc=title, unit="step", disable=None, leave=False) as bar:
        for step in range(first, steps):
            epoch = step * batches.size // len(batches)
            rate = learning_rate(recipe, step, steps, epoch)
            keypoints, target = batches[step]
            loss = gradients(keypoints, target)
            update(rate)
            total, counted = total + loss, counted + 1
            collapsed = watch(loss)
            bar.update()
            if step + 1 in rows_at or collapsed:
                row = {"step": step + 1, "poses": (step + 1) * poses_per_step, "epoch": epoch}
                row |= {"learning_rate": rate, "loss": float(total) / counted}
                if not math.isfinite(row["loss"]):
                    raise FloatingPointError(f"{title}: the loss is {row['loss']} at step {step + 1} of {steps}")
                bar.set_postfix_str(
                    f"loss {row['loss']:.4f}, {(bar.format_dict['rate'] or 0) * poses_per_step:,.0f} poses/s"
                )
                if at_point:
                    at_point(model, row)
                    model.train()
                history.append(row)
                total, counted = torch.zeros((), device=device), 0
            if collapsed:
                since, mean = step + 1 - collapsed, fmean(watch.means[-collapsed // watch.every :])
                raise TrainingCollapsed(
                    f"{title}: collapsed at step {since} of {steps} (loss {mean:.3g} over {collapsed} steps, "
                    f"constant pose {watch.constant_loss:.3g})",
                    *(since, mean, watch.constant_loss, history),
                )
            if state and time.monotonic() - last_save > SAVE_SECONDS:
                _save_state(state, model, optimizer, step + 1, history, total, counted, watch)
                last_save = time.monotonic()
    return history


def _save_state(
    path: Path, model, optimizer, step: int, history: list[dict], total: Tensor, counted: int, watch: CollapseWatch
) -> None:
    rng = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if total.is_cuda else [])]
    with replacing(path) as temporary:
        torch.save(
            {
                "step": step,
                "history": history,
                "total": total,
                "counted": counted,
                "watch": watch.state(),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "rng": rng,
            },
            temporary,
        )


def _resume(path: Path, model, optimizer, watch: CollapseWatch, device) -> tuple[int, list[dict], Tensor, int]:
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if "watch" in state:  # it is not in those of older versions, whose losses count from here on
        watch.resume(**state["watch"])
    torch.set_rng_state(state["rng"][0].cpu())
    if len(state["rng"]) > 1:
        torch.cuda.set_rng_state(state["rng"][1].cpu())
    return state["step"], state["history"], state["total"], state["counted"]


def seed_of(*key: int) -> int:
    """A seed computed from several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
