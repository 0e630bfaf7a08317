"""Robots in rooms: demonstrations that lead to the goal, what is in view checked on the grid, and episodes replayed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from minigrid.utils.baby_ai_bot import BabyAIBot
from torch import Tensor

from nextword.book import robots
from nextword.book.robots import (
    ACTIONS,
    SIZE,
    Episode,
    Step,
    as_pictures,
    demonstrations,
    in_view,
    make_level,
    random_policy,
    run_episodes,
    start,
    success,
    where,
)

LEVELS = ["GoToObj", "GoToLocal", "GoToRedBall", "PickupDist"]
"""Those of the chapter."""

shown = functools.cache(demonstrations)


@pytest.fixture(autouse=True)
def _silent(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing in this module may print."""
    yield
    assert capsys.readouterr().out == ""


def same(x: list[Step], y: list[Step]) -> bool:
    return len(x) == len(y) and all(
        np.array_equal(a.frame, b.frame) and a[1:] == b[1:] for a, b in zip(x, y, strict=True)
    )


# --- Levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["", "GoToMoon", "gotoobj", "BabyAI-GoToObj-v0"])
def test_there_is_no_such_level(level: str) -> None:
    calls: list[Any] = [make_level, lambda x: demonstrations(x, 1), lambda x: run_episodes(x, random_policy(), 1)]
    for call in calls:
        with pytest.raises(ValueError, match=f"level='{level}': no BabyAI-{level}-v0 in this minigrid"):
            call(level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_seed_is_an_episode(level: str) -> None:
    def first(seed: int, env: Any = None) -> tuple[bytes, str, bytes]:
        env = env or make_level(level)
        seen = start(env, seed)
        return seen["image"].tobytes(), seen["mission"], env.unwrapped.grid.encode().tobytes()

    used = make_level(level)
    first(5, used)
    assert first(3) == first(3) == first(3, used), "whatever was played before"
    assert len({first(seed) for seed in range(10)}) == 10


def test_rejected_rooms_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The package prints one whenever things cannot be reached."""

    class Noisy:
        def reset(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
            print("Sampling rejected: unreachable object")
            return {"mission": f"go to room {seed}"}, {}

    assert start(Noisy(), 3) == {"mission": "go to room 3"}
    assert capsys.readouterr().out == ""


# --- Demonstrations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_demonstrations_are_the_same_every_time(level: str) -> None:
    assert same(demonstrations(level, 4, 3), shown(level, 4, 3))
    default = demonstrations(level, 3)
    assert same(default, shown(level, 3, 0))
    assert same(shown(level, 4, 0)[: len(default)], default), "more episodes begin with the same"


@pytest.mark.parametrize("level", LEVELS)
def test_each_seed_has_episodes_of_its_own(level: str) -> None:
    whole = [
        b"".join(step.frame.tobytes() for step in shown(level, 4, seed)) + shown(level, 4, seed)[0].mission.encode()
        for seed in range(4)
    ]
    assert len(set(whole)) == 4


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", [0, 2])
def test_every_demonstration_leads_to_the_goal(level: str, seed: int) -> None:
    """Replayed in the room of its own seed: the same frames, and a reward at the last step of each episode."""
    steps, env = iter(shown(level, 12, seed)), make_level(level)
    for i in range(12):
        seen, over, reward = start(env, 1_000_000 + 100_000 * seed + i), False, 0.0
        while not over:
            step = next(steps)
            assert np.array_equal(step.frame, seen["image"]) and step.mission == seen["mission"]
            assert step.things == in_view(env.unwrapped)
            seen, reward, terminated, truncated, _ = env.step(ACTIONS.index(step.action))
            over = terminated or truncated
        assert reward > 0 and terminated, i
    assert next(steps, None) is None


@pytest.mark.parametrize("level", LEVELS)
def test_a_step_is_a_frame_a_mission_an_action_and_things(level: str) -> None:
    begins = {"GoToObj": "go to ", "GoToLocal": "go to ", "GoToRedBall": "go to ", "PickupDist": "pick up "}
    actions = {step.action for step in shown(level, 12, 0)}
    assert {"left", "right", "forward"} <= actions <= {"left", "right", "forward", "pick"}
    assert ("pick" in actions) == (level == "PickupDist")
    for step in shown(level, 12, 0):
        assert step.frame.shape == (56, 56, 3) and step.frame.dtype == np.uint8
        assert step.mission.startswith(begins[level])
        assert level != "GoToRedBall" or step.mission in ("go to the red ball", "go to a red ball")  # if there are two
        for thing, (right, ahead) in step.things.items():
            colour, kind = thing.split()
            assert colour in ("red", "green", "blue", "purple", "yellow", "grey") and kind in ("key", "ball", "box")
            assert -3 <= right <= 3 and 0 <= ahead <= 6


@pytest.mark.parametrize("episodes", [0, -1])
def test_at_least_one_episode_is_demonstrated(episodes: int) -> None:
    with pytest.raises(ValueError, match=f"episodes={episodes} is below 1"):
        demonstrations("GoToObj", episodes)


# --- What is in view --------------------------------------------------------------------------------------------------

TURNS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Ahead on the grid, in columns and rows, for each direction that a robot can face; the next of them is its right."""


def on_the_grid(env: Any) -> dict[str, list[tuple[int, int]]]:
    """Return where things are by their places in the room, turned by hand; walls of one room hide nothing inside it."""
    found: dict[str, list[tuple[int, int]]] = {}
    (x, y), ahead, aside = env.agent_pos, TURNS[env.agent_dir], TURNS[(env.agent_dir + 1) % 4]
    for column, row in itertools.product(range(env.grid.width), range(env.grid.height)):
        thing = env.grid.get(column, row)
        if thing is not None and thing.type in ("key", "ball", "box"):
            along, right = (d[0] * (column - x) + d[1] * (row - y) for d in (ahead, aside))
            if 0 <= along <= 6 and -3 <= right <= 3:
                found.setdefault(f"{thing.color} {thing.type}", []).append((right, along))
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_in_view_is_what_stands_on_the_grid(level: str) -> None:
    env, seen = make_level(level), 0
    for seed in range(30):
        start(env, seed)
        for _ in range(4):  # once around
            expected = on_the_grid(env.unwrapped)
            found = in_view(env.unwrapped)
            assert set(found) == set(expected)
            assert all(found[thing] in places for thing, places in expected.items())
            seen += len(found)
            env.step(ACTIONS.index("right"))
    assert seen > 25


def test_turning_right_moves_a_thing_to_the_left() -> None:
    env, checked = make_level("GoToObj"), 0
    for seed in range(40):
        start(env, seed)
        before = in_view(env.unwrapped)
        env.step(ACTIONS.index("right"))
        for thing, (right, ahead) in before.items():
            if right >= 0 and ahead <= 3:  # and it stays in view
                assert in_view(env.unwrapped) == {thing: (-ahead, right)}
                checked += 1
    assert checked > 3


def test_what_is_in_view_is_drawn_where_it_is_said_to_be() -> None:
    """The robot's own tile is at the bottom in the middle; a thing to the right stands to the right, one ahead above."""
    checked = 0
    for step in shown("GoToObj", 12, 0):
        tiles = step.frame.reshape(7, 8, 7, 8, 3).transpose(0, 2, 1, 3, 4)  # row, column, 8 × 8 pixels
        coloured = {
            (column - 3, 6 - row)
            for row, column in itertools.product(range(7), range(7))
            if (row, column) != (6, 3) and tiles[row, column].max(-1).astype(int).max() > 150
        }
        for thing, place in step.things.items():
            if "grey" not in thing:
                assert place in coloured
                checked += 1
    assert checked > 10


@pytest.mark.parametrize(
    ("place", "expected"),
    [((0, 3), "ahead"), ((0, 1), "ahead"), ((1, 0), "right"), ((3, 6), "right"), ((-1, 2), "left"), ((-3, 0), "left")],
)
def test_where_a_thing_is(place: tuple[int, int], expected: str) -> None:
    step = Step(np.zeros((56, 56, 3), np.uint8), "go to the red ball", "left", {"red ball": place, "grey key": (2, 2)})
    assert where(step, "red ball") == expected and where(step, "grey key") == "right"
    assert where(step, "red box") == where(step, "ball") == "nowhere"


@pytest.mark.parametrize("level", ["GoToObj", "GoToLocal"])
def test_the_expert_goes_where_the_thing_is(level: str) -> None:
    """At the last step of going to a thing it is one turn away, or a tile ahead."""
    found = {"left": 0, "right": 0, "ahead": 0, "nowhere": 0}
    for step, following in itertools.pairwise(shown(level, 30, 0)):
        thing = " ".join(step.mission.split()[-2:])
        if following.mission != step.mission and where(step, thing) != "nowhere":
            found[where(step, thing)] += 1
    assert sum(found.values()) > 15 and found["left"] > 0 and found["right"] > 0


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_have_a_black_border_and_brightness_from_0_to_1() -> None:
    frames = [step.frame for step in shown("GoToLocal", 4, 3)[:5]]
    found = as_pictures(frames)
    assert found.shape == (5, 3, SIZE, SIZE) and found.dtype == torch.float32 and SIZE == 64
    inside = found[:, :, 4:-4, 4:-4]
    expected = torch.tensor(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(inside, expected)
    assert found.sum() == pytest.approx(inside.sum().item(), rel=1e-5), "nothing but the frame shines"
    assert found[:, :, :4].max() == found[:, :, :, -4:].max() == 0 and found.min() >= 0 and 0.5 < found.max() <= 1


def test_brightness_is_a_share_of_255() -> None:
    frame = np.zeros((56, 56, 3), np.uint8)
    frame[0, 0], frame[-1, -1] = (255, 51, 0), (0, 102, 204)
    [found] = as_pictures([frame])
    torch.testing.assert_close(found[:, 4, 4], torch.tensor([1, 0.2, 0]))
    torch.testing.assert_close(found[:, -5, -5], torch.tensor([0, 0.4, 0.8]))
    assert (found > 0).any(0).sum() == 2


# --- Episodes ---------------------------------------------------------------------------------------------------------


def experts_actions(level: str, episodes: int, seed: int) -> list[list[str]]:
    """Return what the expert does in the rooms of run_episodes."""
    plans = []
    for i in range(episodes):
        env, plan, over = make_level(level), [], False
        start(env, 5_000_000 + 100_000 * seed + i)
        bot: Any = BabyAIBot(env.unwrapped)  # type: ignore[no-untyped-call]
        while not over:
            action = bot.replan()
            plan.append(ACTIONS[action])
            *_, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        plans.append(plan)
    return plans


class Playing:
    """A policy that plays given actions, and keeps what it was shown."""

    def __init__(self, plans: list[list[str]]) -> None:
        self.left = [list(plan) for plan in plans]
        self.pictures: list[Tensor] = []
        self.missions: list[list[str]] = []

    def __call__(self, pictures: Tensor, missions: list[str]) -> list[str]:
        still = [plan for plan in self.left if plan]  # whose is empty has arrived, and is not asked again
        assert len(pictures) == len(missions) == len(still)
        self.pictures.append(pictures)
        self.missions.append(missions)
        return [plan.pop(0) for plan in still]


@pytest.mark.parametrize("level", LEVELS)
def test_the_experts_own_actions_solve_everything(level: str) -> None:
    plans = experts_actions(level, 8, 1)
    assert len({len(plan) for plan in plans}) > 2
    policy = Playing(plans)
    runs = run_episodes(level, policy, 8, seed=1, max_steps=64)
    assert success(runs) == 100 and [run.actions for run in runs] == plans
    for run in runs:
        assert len(run.frames) == len(run.actions) + 1, "the first and one after each action"
    assert policy.missions[0] == [run.mission for run in runs]
    torch.testing.assert_close(policy.pictures[0], as_pictures([run.frames[0] for run in runs]))
    longest = max(range(8), key=lambda i: (len(plans[i]), i))  # the last row that is asked
    torch.testing.assert_close(policy.pictures[-1][-1:], as_pictures([runs[longest].frames[-2]]))


def test_too_few_steps_leave_what_is_far_away() -> None:
    plans = experts_actions("GoToObj", 8, 1)
    for most in (1, 3, 6):
        short = run_episodes("GoToObj", Playing(plans), 8, seed=1, max_steps=most)
        assert [run.solved for run in short] == [len(plan) <= most for plan in plans]
        assert [run.actions for run in short] == [plan[:most] for plan in plans]


def test_nonsense_solves_nothing_and_loses_its_steps() -> None:
    runs = run_episodes("GoToObj", lambda pictures, missions: ["fly"] * len(missions), 5, seed=2, max_steps=7)
    assert success(runs) == 0
    assert all(run.actions == ["fly"] * 7 and len(run.frames) == 1 and not run.solved for run in runs)


def test_a_lost_step_changes_nothing() -> None:
    plans = experts_actions("GoToLocal", 4, 0)
    spoiled = [["", plan[0], "Left", *plan[1:]] for plan in plans]
    runs = run_episodes("GoToLocal", Playing(spoiled), 4, max_steps=64)
    clean = run_episodes("GoToLocal", Playing(plans), 4, max_steps=64)
    for run, other, plan in zip(runs, clean, spoiled, strict=True):
        assert run.solved and run.actions == plan
        assert len(run.frames) == len(other.frames) == len(plan) - 1
        assert all(np.array_equal(a, b) for a, b in zip(run.frames, other.frames, strict=True))


def test_turning_on_the_spot_leads_nowhere_and_ends() -> None:
    runs = run_episodes("PickupDist", lambda pictures, missions: ["left"] * len(missions), 3, max_steps=500)
    limit = make_level("PickupDist").unwrapped
    start(limit, 0)
    assert all(not run.solved and len(run.actions) == limit.max_steps < 500 for run in runs), "time is up"


def test_every_action_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="zip"):
        run_episodes("GoToObj", lambda pictures, missions: ["left"], 2)


@pytest.mark.parametrize(("episodes", "max_steps"), [(0, 5), (5, 0), (-1, 5), (5, -2)])
def test_impossible_runs_are_refused(episodes: int, max_steps: int) -> None:
    message = f"episodes={episodes} and max_steps={max_steps}; each must be 1 at least"
    with pytest.raises(ValueError, match=message):
        run_episodes("GoToObj", random_policy(), episodes, max_steps=max_steps)


def test_no_room_of_the_test_is_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the seeds of the rooms, for as many episodes and seeds as the chapter has, its questions' rooms included."""
    env = make_level("GoToObj")

    class Stop(Exception):
        pass

    def first_seed(call: Any) -> int:
        def stopped(env: Any, seed: int) -> Any:
            raise Stop(seed)

        with monkeypatch.context() as patch:
            patch.setattr(robots, "start", stopped)
            patch.setattr(robots, "make_level", lambda level: env)
            with pytest.raises(Stop) as caught:
                call()
        return int(caught.value.args[0])

    def rooms(begin: int, n: int) -> set[int]:
        return set(range(begin, begin + n))

    train = [
        rooms(first_seed(lambda seed=seed: demonstrations("GoToObj", 1, seed)), 4000)
        for seed in (0, 1, 2, 3, 4, 50, 51, 52, 53, 54)
    ]
    test = [
        rooms(first_seed(lambda seed=seed: run_episodes("GoToObj", random_policy(), 1, seed=seed)), 200)
        for seed in range(5)
    ]
    assert len(set.union(*train, *test)) == 10 * 4000 + 5 * 200, "and none is used twice"


@pytest.mark.parametrize("level", ["GoToLocal", "PickupDist"])
def test_rooms_of_the_test_look_different(level: str) -> None:
    """With eight things and some missions no first frame with its mission comes in both."""
    env, train = make_level(level), set()
    for seed in range(100):
        seen = start(env, 1_000_000 + seed)
        train.add((seen["mission"], env.unwrapped.grid.encode().tobytes(), *env.unwrapped.agent_pos))
    assert len(train) == 100
    for seed in range(40):
        seen = start(env, 5_000_000 + seed)
        assert (seen["mission"], env.unwrapped.grid.encode().tobytes(), *env.unwrapped.agent_pos) not in train


# --- Chance, and shares -----------------------------------------------------------------------------------------------


def test_chance_is_the_same_every_time_and_draws_from_the_first_actions() -> None:
    def drawn(seed: int, **settings: Any) -> list[str]:
        policy = random_policy(seed, **settings)
        return [action for _ in range(40) for action in policy(torch.zeros(3, 3, SIZE, SIZE), ["x"] * 3)]

    assert drawn(4) == drawn(4) != drawn(5) and len(drawn(4)) == 120
    default = random_policy()
    assert [a for _ in range(40) for a in default(torch.zeros(3, 3, SIZE, SIZE), ["x"] * 3)] == drawn(0)
    for n in (1, 3, 5):
        assert set(drawn(0, n_actions=n)) == set(ACTIONS[:n])
    assert 25 < drawn(0).count("forward") < 55


def test_chance_runs_the_same_every_time() -> None:
    first, again = (run_episodes("GoToObj", random_policy(3), 10, seed=3) for _ in range(2))
    other = run_episodes("GoToObj", random_policy(3), 10, seed=4)
    assert [run.actions for run in first] == [run.actions for run in again] != [run.actions for run in other]
    assert success(first) == success(again) < 100
    assert all(len(run.actions) <= 32 for run in first) and any(len(run.actions) == 32 for run in first)


@pytest.mark.parametrize(("solved", "share"), [([1, 0, 0, 1], 50.0), ([1], 100.0), ([0, 0], 0.0), ([1, 0, 0], 100 / 3)])
def test_success_is_a_share_in_percent(solved: list[int], share: float) -> None:
    assert success([Episode(bool(s), [], [], "") for s in solved]) == pytest.approx(share)
