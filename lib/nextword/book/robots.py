"""A robot in one room that is told in words what to do: BabyAI's levels, their expert, and episodes in closed loop.

The robot sees seven by seven tiles in front of it, as a picture; itself is at the bottom in the middle, facing up.

Source: Chevalier-Boisvert et al. 2019 (BabyAI), and their package minigrid. Used in: 2023_palm_e.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import gymnasium
import minigrid as minigrid  # registers the levels
import numpy as np
import torch
from jaxtyping import Float
from minigrid.utils.baby_ai_bot import BabyAIBot
from minigrid.wrappers import RGBImgPartialObsWrapper
from torch import Tensor
from torch.nn import functional as F

ACTIONS = ("left", "right", "forward", "pick", "drop")
"""What the robot can do, by the number of the environment's action."""

SIZE = 64
"""Height and width of a picture: 7 tiles of 8 pixels, and a black border."""


class Step(NamedTuple):
    """What the robot saw, what it was told to do, and what the expert did next."""

    frame: np.ndarray  # 56 × 56 × 3 bytes
    mission: str  # such as ``go to the red ball``
    action: str  # one of ACTIONS
    things: dict[str, tuple[int, int]]  # what is in view, such as ``red ball``: tiles to the right and ahead


def make_level(level: str) -> Any:
    """Return a BabyAI level that shows what the robot sees.

    Raises:
        ValueError: there is no such level.
    """
    name = f"BabyAI-{level}-v0"
    if name not in gymnasium.registry:
        raise ValueError(f"level={level!r}: no {name} in this minigrid")
    wrapped: Any = RGBImgPartialObsWrapper  # the package has no annotations
    return wrapped(gymnasium.make(name, disable_env_checker=True), tile_size=8)


def start(env: Any, seed: int) -> dict[str, Any]:
    """Begin the episode of a seed and return what is seen first."""
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints every room that it drew and rejected
        seen: dict[str, Any] = env.reset(seed=seed)[0]
    return seen


def demonstrations(level: str, episodes: int, seed: int = 0) -> list[Step]:
    """Return every step of some episodes that the expert solves; each seed has episodes of its own."""
    if episodes < 1:
        raise ValueError(f"episodes={episodes} is below 1")
    env, expert, steps = make_level(level), cast(Any, BabyAIBot), []
    for i in range(episodes):
        seen = start(env, 1_000_000 + 100_000 * seed + i)
        bot, over = expert(env.unwrapped), False
        while not over:
            action = bot.replan()
            if action >= len(ACTIONS):  # an action outside the five: no level of this book needs one
                break
            steps.append(Step(seen["image"], seen["mission"], ACTIONS[action], in_view(env.unwrapped)))
            seen, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    return steps


def in_view(env: Any) -> dict[str, tuple[int, int]]:
    """Return the things that the robot sees, with the tiles from it to them, to the right and ahead."""
    grid, visible = env.gen_obs_grid()
    things = {}
    for column in range(grid.width):
        for row in range(grid.height):
            thing = grid.get(column, row)
            if visible[column, row] and thing is not None and thing.type in ("key", "ball", "box"):
                things[f"{thing.color} {thing.type}"] = (column - grid.width // 2, grid.height - 1 - row)
    return things


def where(step: Step, thing: str) -> str:
    """Return where a thing is, seen from the robot: ``left``, ``right``, ``ahead``, or ``nowhere`` in view; of two alike, one of them."""
    if thing not in step.things:
        return "nowhere"
    right, _ = step.things[thing]
    return "ahead" if right == 0 else "right" if right > 0 else "left"


def as_pictures(frames: Sequence[np.ndarray]) -> Float[Tensor, "B 3 H W"]:
    """Return frames as pictures, brightness from 0 to 1, with a black border."""
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255.0
    border = (SIZE - pixels.shape[-1]) // 2
    return F.pad(pixels, (border,) * 4)


Policy = Callable[[Float[Tensor, "B 3 H W"], list[str]], list[str]]
"""Pictures and missions in, an action a robot out; what is none of ACTIONS is a lost step."""


class Episode(NamedTuple):
    """How one episode went."""

    solved: bool
    frames: list[np.ndarray]
    actions: list[str]
    mission: str


def run_episodes(level: str, policy: Policy, episodes: int, *, seed: int = 0, max_steps: int = 32) -> list[Episode]:
    """Let a policy act in some episodes at once, each for at most ``max_steps`` steps.

    Their seeds begin at 5,000,000, those of :func:`demonstrations` at 1,000,000: up to ``seed=39`` the two do not meet.
    """
    if episodes < 1 or max_steps < 1:
        raise ValueError(f"episodes={episodes} and max_steps={max_steps}; each must be 1 at least")
    envs = [make_level(level) for _ in range(episodes)]
    seen = [start(env, 5_000_000 + 100_000 * seed + i) for i, env in enumerate(envs)]
    runs = [Episode(False, [s["image"]], [], s["mission"]) for s in seen]
    still = list(range(episodes))
    for _ in range(max_steps):
        if not still:
            break
        chosen = policy(as_pictures([seen[i]["image"] for i in still]), [seen[i]["mission"] for i in still])
        for i, action in list(zip(still, chosen, strict=True)):
            runs[i].actions.append(action)
            if action not in ACTIONS:  # the step is lost, and nothing has changed
                continue
            seen[i], reward, terminated, truncated, _ = envs[i].step(ACTIONS.index(action))
            runs[i].frames.append(seen[i]["image"])
            if terminated or truncated:
                runs[i] = runs[i]._replace(solved=float(reward) > 0)
                still.remove(i)
    return runs


def success(runs: Sequence[Episode]) -> float:
    """Return the share of solved episodes, in percent."""
    return 100 * sum(run.solved for run in runs) / len(runs)


def random_policy(seed: int = 0, n_actions: int = 3) -> Policy:
    """Return a policy that draws from the first actions, which are left, right and forward."""
    drawn = np.random.default_rng(seed)
    return lambda pictures, missions: [ACTIONS[i] for i in drawn.integers(n_actions, size=len(missions))]
