"""Bootstrap intervals of averages over test clips."""

import numpy as np
import pandas as pd
from jaxtyping import Float


def bootstrap_interval(
    values: Float[np.ndarray, "clips"] | Float[np.ndarray, "clips seeds"],
    weights: Float[np.ndarray, "clips"] | None = None,
    *,
    seed: int,
    level: float = 0.95,
    draws: int = 2000,
) -> tuple[float, float, float]:
    """Weighted mean of one value a clip, with the low and high end of its percentile bootstrap interval.

    Clips are resampled with replacement, `draws` times. If there are several seeds, one per column, they are resampled
    too, to include the variation between trainings (with few seeds, the interval is too narrow rather than too wide).
    weights: positive, by default 1; a clip's frame count makes the mean that of all frames, its share of its action's
    frames that of the actions' means. Views of one take are not independent: average them first. Raises ValueError for
    fewer than 2 clips, for shapes that do not match, and for numbers that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.ndim not in (1, 2) or weights.shape != values.shape[:1] or len(values) < 2 or not values.size:
        raise ValueError(
            "values must be one number a clip, or one for each seed, and weights one a clip, for at least 2 clips, "
            f"found {values.shape}, {weights.shape}"
        )
    if not (np.isfinite(values).all() and np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError("values must be finite and weights positive, found others")
    values = values.reshape(len(values), -1)
    rng = np.random.default_rng(seed)
    # How often each clip is drawn, and each seed.
    clips, seeds = (rng.multinomial(n, np.full(n, 1 / n), size=draws) for n in values.shape)
    of_seeds = clips @ (weights[:, None] * values) / (clips @ weights)[:, None]  # (draws, seeds)
    means = (of_seeds * seeds).sum(axis=1) / values.shape[1]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(np.average(values.mean(axis=1), weights=weights)), float(low), float(high)


def summary(values: pd.DataFrame, weights: pd.Series) -> dict[str, float]:
    """Summary of values by take (rows) and seed (columns), for a line of a tidy table.

    value: their weighted mean. low, high: its 95 % interval, nan for a single take. seeds: how many. seed_spread: the
    standard deviation over seeds, nan for one.
    """
    means = np.average(values.to_numpy(), axis=0, weights=weights.to_numpy())
    value, low, high = float(means.mean()), np.nan, np.nan
    if len(values) > 1:
        value, low, high = bootstrap_interval(values.to_numpy(), weights.to_numpy(), seed=0)
    spread = float(means.std(ddof=1)) if len(means) > 1 else np.nan
    return {"value": value, "low": low, "high": high, "seeds": len(means), "seed_spread": spread}
