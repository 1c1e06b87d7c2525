"""Pictures of a run: each answers one question in five seconds, in colours everybody can tell apart (Okabe and Ito)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.gains import UserCounts
from beholder.evaluation.headline import part_names
from beholder.evaluation.metrics import Floats, reliability
from beholder.evaluation.newcomers import Newcomers
from beholder.evaluation.results import Results
from beholder.util.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
NAMED_USERS = 30
"""With more users than this, the dots of the per-user figure go without names."""

DOTS = 2_000
"""More dots than this are drawn as pixels, not as shapes."""


def write_figures(folder: Path, of_users: Path, results: Results) -> list[Path]:
    """Draw every figure of a run into two folders: PNGs, each written whole.

    In `folder` `gain.png` for all methods, `newcomers.png` under a split by people; for each arm but the reference
    `gain-per-label-ARM.png`; for each arm `reliability-ARM.png`. In `of_users`, as users are named there,
    `gain-per-user-ARM.png`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_users.mkdir(parents=True, exist_ok=True)
    written = [_save(folder / "gain.png", gain_per_method(results))]
    if results.newcomers:
        written.append(_save(folder / "newcomers.png", adaptation_curve(results.newcomers)))
    for arm in results.arms:
        if arm.name != results.reference:
            written.append(_save(folder / f"gain-per-label-{arm.name}.png", gain_per_label(results, arm)))
            written.append(_save(of_users / f"gain-per-user-{arm.name}.png", gain_per_user(results, arm)))
        written.append(_save(folder / f"reliability-{arm.name}.png", reliability_curve(results, arm)))
    return written


def gain_per_method(results: Results) -> Figure:
    """Gain in macro-F1 of every method over the reference, with intervals; controls in grey."""
    arms = [arm for arm in results.arms if arm.name != results.reference]
    gains = [results.gains[arm.name] for arm in arms]
    return intervals(
        [arm.name for arm in arms],
        np.asarray([[gain.points, gain.low, gain.high] for gain in gains]).reshape(-1, 3),
        f"Gain over {results.reference}, all labels",
        results.level,
        grey=[arm.control_of is not None for arm in arms],
        unit=results.metric,
    )


def gain_per_label(results: Results, arm: ArmScores) -> Figure:
    """Gain of one method on each label, with intervals."""
    gains = results.gains[arm.name].per_label
    return intervals(
        list(part_names(results.task)),
        np.asarray([[gain.points, gain.low, gain.high] for gain in gains]).reshape(-1, 3),
        f"{arm.name}: gain over {results.reference} per label",
        results.level,
        unit="F1" if not results.task.scales else results.metric,
    )


def gain_per_user(results: Results, arm: ArmScores, called: Sequence[str] | None = None) -> Figure:
    """Gain in log-loss of one method for each user, sorted; up to `NAMED_USERS` named, with dots as large as test rows.

    `called`: names to go by instead, of the users sorted by their own.
    """
    gained = results.user_log_loss_gains(arm)
    counts = UserCounts.of(gained)
    users, rows = np.unique(results.test.user_ids.astype(str), return_counts=True)
    users = users if called is None else np.asarray(called)
    order = np.argsort(gained)
    named = len(order) <= NAMED_USERS
    figure, axes = canvas(height=1.6 + 0.24 * len(order) if named else 5.5)
    size = (25 + 75 * rows / rows.max())[order] if named else 12
    colours = np.select([gained[order] > 0, gained[order] < 0], [BLUE, ORANGE], GREY)
    many = len(order) > DOTS
    axes.scatter(gained[order], np.arange(len(order)), s=size, color=list(colours), zorder=3, rasterized=many)
    if named:
        axes.set_yticks(range(len(order)), [f"{users[user]} ({rows[user]})" for user in order])
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(order):,} users, sorted")
    axes.set_title(
        f"{arm.name}: better than {results.reference} for {counts.better:,} of {len(order):,} users, worse for "
        f"{counts.worse:,}",
        loc="left",
    )
    axes.set_xlabel(
        f"log-loss below that of {results.reference}, nats" + (" (in brackets: test rows of the user)" if named else "")
    )
    axes.axvline(0, color="black", linewidth=1)
    return figure


def reliability_curve(results: Results, arm: ArmScores) -> Figure:
    """How often a label is given where the model scores it so."""
    found = reliability(*results.scored(arm))
    filled = found.count > 0
    figure, axes = canvas(width=5.5, height=5.2)
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="perfectly calibrated")
    size = 20 + 180 * np.sqrt(found.count[filled] / found.count.max())
    axes.plot(found.confidence[filled], found.frequency[filled], color=BLUE, linewidth=1.5)
    axes.scatter(found.confidence[filled], found.frequency[filled], s=size, color=BLUE, zorder=3, label=arm.name)
    axes.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel="score, mean of the bin (larger dots: more judgements)",
        ylabel="share given the label",
    )
    error = results.calibration_error(arm)
    axes.set_title(f"{arm.name}: scores are off by {100 * error:.1f} points on average (ECE)", loc="left", fontsize=10)
    axes.legend(loc="upper left", frameon=False)
    return figure


def learning_curve(results: Results, arm: str, best: float | None = None) -> Figure:
    """Gain of a method against how many judgements of each user it was fitted on; at 0 what a newcomer gets.

    `best`: the most that could be gained, where that is known.
    """
    points = results.curves[arm]
    names = ["all" if point.rows is None else f"{point.rows}" for point in points]
    gains = np.asarray([[point.gain.points, point.gain.low, point.gain.high] for point in points])
    figure, axes = canvas(height=4.4)
    place = np.arange(len(points))
    axes.fill_between(place, gains[:, 1], gains[:, 2], color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(place, gains[:, 0], color=BLUE, linewidth=2, marker="o", markersize=6)
    axes.axhline(0, color="black", linewidth=1)
    if best is not None:
        axes.axhline(best, color=GREEN, linewidth=1.5, linestyle="--")
        axes.annotate("best achievable", (0, best), xytext=(0, 3), textcoords="offset points", fontsize=8, color=GREEN)
    axes.set_xticks(place, names)
    axes.set_xlabel("judgements of each user, at most (0: a newcomer)")
    axes.set_ylabel(f"points of {results.metric} over {results.reference}")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.grid(axis="x", visible=False)
    axes.set_title(f"{arm}: what more judgements of a user are worth", loc="left")
    return figure


def adaptation_curve(newcomers: Newcomers) -> Figure:
    """Log-loss of people nothing was fitted on, against how many of their judgements were adapted on.

    Bars are the interval of the difference to the global model, drawn around each arm's log-loss: an arm is better than
    the global model where its bar lies below the line.
    """
    figure, axes = canvas(height=4.4)
    level = newcomers.curves[newcomers.reference][0].log_loss.value
    axes.axhline(level, color="black", linewidth=1.5, linestyle="--")
    colours = iter([BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00"] * len(newcomers.curves))
    adapted = {name: curve for name, curve in newcomers.curves.items() if len(curve) > 1}
    steps = sorted({point.k for curve in adapted.values() for point in curve if point.k is not None} | {0})
    for place, (name, curve) in enumerate(adapted.items()):
        colour = GREY if name in newcomers.controls else next(colours)
        shift = 0.08 * (place - (len(adapted) - 1) / 2)
        x = np.asarray([steps.index(point.k or 0) for point in curve]) + shift
        y = np.asarray([point.log_loss.value for point in curve])
        over = [point.over_global for point in curve]
        low = np.asarray([level - gain.high if gain else level for gain in over])
        high = np.asarray([level - gain.low if gain else level for gain in over])
        bars = [y - low, high - y]
        axes.errorbar(x, y, bars, color=colour, linewidth=2, elinewidth=1.2, capsize=3, marker="o", label=name)
    if adapted:
        axes.plot([], [], color="black", linewidth=1.5, linestyle="--", label=newcomers.reference)
        axes.legend(frameon=False, fontsize=8)
    else:
        axes.annotate(newcomers.reference, (0, level), xytext=(0, 3), textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(steps)), [f"{step}" for step in steps])
    axes.set_xlabel("judgements of the new person that were adapted on, at most")
    axes.set_ylabel("log-loss per label, nats")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.grid(axis="x", visible=False)
    axes.set_title("What a newcomer gains from their first judgements", loc="left")
    return figure


def cost(results: Results) -> Figure:
    """Seconds to fit and score every method; at the end of each bar what it gains."""
    arms = [arm for arm in results.arms if arm.control_of is None and arm.seconds > 0]
    figure, axes = canvas(height=1.4 + 0.36 * len(arms))
    seconds = np.asarray([arm.seconds for arm in arms])
    axes.barh(range(len(arms)), seconds, color=BLUE, height=0.6)
    for place, arm in enumerate(arms):
        points = results.gains[arm.name].points
        said = "reference" if arm.name == results.reference else f"{points:+.1f} points"
        axes.annotate(f" {said}", (arm.seconds, place), va="center", fontsize=8)
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axes.set_xlim(0, 1.35 * seconds.max())
    axes.invert_yaxis()
    axes.set_xlabel("seconds to fit and score")
    axes.set_title("What a gain costs", loc="left")
    return figure


def intervals(
    names: list[str], points: Floats, title: str, level: float, grey: list[bool] | None = None, unit: str = "macro-F1"
) -> Figure:
    """Horizontal dots with intervals, the first name on top.

    Args:
        names: what stands on the left.
        points: float [names, (value, low, high)].
        title: of the figure.
        level: of the intervals.
        grey: which are controls; None where the points are of labels.
        unit: what they are points of.
    """
    figure, axes = canvas(height=1.6 + 0.36 * len(names))
    for place, (value, low, high) in enumerate(points):
        if np.isnan(value):
            axes.annotate("  no positive in the test rows", (0, place), va="center", fontsize=8, color=GREY)
            continue
        sure = low > 0 or high < 0
        colour = GREY if grey is not None and grey[place] else BLUE if sure and value > 0 else ORANGE if sure else GREEN
        low, high = (value, value) if np.isnan(low) else (low, high)
        axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.scatter(value, place, color=colour, s=45, zorder=3)
        axes.annotate(
            f"{value:+.1f}",
            (value, place),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.axvline(0, color="black", linewidth=1)
    key = "blue: better, orange: worse, green: not sure" + (", grey: control" if grey and any(grey) else "")
    axes.set_xlabel(f"points of {unit}, {100 * level:g} % interval\n{key}")
    axes.set_title(title, loc="left")
    return figure


def canvas(width: float = 8.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty figure; its size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _save(file: Path, figure: Figure) -> Path:
    with atomic_write(file) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return file
