"""Make the recorded runs: experiments too long for a chapter, made with the very function that the chapter shows.

    python tools/record.py                    all that are missing
    python tools/record.py next_word_neural   one, again from its beginning

The chapter's cells tagged ``recorded`` are executed in order, then the function is called with each setting. Every point
is written as soon as it is measured, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import provenance
import registration
from nextword import runtime


@dataclass(frozen=True)
class Run:
    """One recorded run: which function of which chapter is called with which settings."""

    chapter: str
    function: str
    settings: list[dict[str, Any]] = field(default_factory=list)


LIMITS = (  # the rows of the PPO paper's table 1
    {"objective": "none"},
    *({"objective": "clip", "clip": clip} for clip in (0.1, 0.2, 0.3)),
    *({"objective": "adaptive_kl", "kl_goal": goal} for goal in (0.003, 0.01, 0.03)),
    *({"objective": "kl", "beta": beta} for beta in (0.3, 1.0, 3.0, 10.0)),
)
RUNS = {
    "next_word_neural": Run(
        "2003_next_word",
        "train_network",
        [{"steps": steps, "seed": seed} for steps in (2_000, 8_000, 16_000) for seed in range(5)],
    ),
    "gnmt_attention": Run(
        "2016_gnmt",
        "record_translator",
        [
            {"attention": attention, "steps": 1_500, "seed": seed}
            for seed in range(5)
            for attention in ("none", "bottom")
        ],
    ),
    "gnmt_vocabulary": Run(
        "2016_gnmt",
        "record_translator",
        [
            {"attention": "bottom", "steps": 1_200, "seed": seed, "vocabulary": vocabulary}
            for vocabulary, seeds in (("words", 5), ("subwords", 5), ("characters", 1))
            for seed in range(seeds)
        ],
    ),
    "transformer_race": Run(
        "2017_transformer",
        "record",
        [
            {"arm": arm, "steps": 3_000, "seed": seed, "texts": True}
            for seed in range(3)
            for arm in ("LSTM", "LSTM with attention", "Transformer")
        ],
    ),
    "transformer_start": Run(
        "2017_transformer",
        "record",
        [{"arm": "Transformer", "steps": 300, "seed": seed} for seed in range(3, 8)],
    ),
    "transformer_long": Run(
        "2017_transformer",
        "record",
        [{"arm": arm, "steps": 15_000, "seed": 0, "texts": True} for arm in ("LSTM with attention", "Transformer")],
    ),
    "transformer_width": Run(
        "2017_transformer",
        "record_width",
        [
            {"arm": arm, "width": width, "steps": 1_500, "seed": seed}
            for seed in range(3)
            for arm, widths in (("Transformer", (64, 256)), ("LSTM with attention", (76, 312)))
            for width in widths
        ],
    ),
    "transformer_ablations": Run(
        "2017_transformer",
        "record",
        [
            {"arm": "Transformer", "steps": 900, "seed": seed, **change}
            for seed in range(5)
            for change in (
                {},
                {"warm": False},
                {"norm_position": "pre"},
                {"norm_position": "pre", "warm": False},
                {"label_smoothing": 0.1},
                {"n_layers": 1},
                {"d_model": 64},
                {"positions": "learned"},
            )
        ],
    ),
    "gpt1_questions": Run(
        "2018_gpt1",
        "record",
        [
            {"task": "questions", "labels": labels, "layers": layers, "seed": seed, **how}
            for seed in range(5)
            for labels, layers, how in (
                *((labels, layers, {}) for labels in (100, 400, 1600, 4091) for layers in (-1, 5)),
                *((400, layers, {}) for layers in range(5)),
                (400, 5, {"aux": 0.5}),
                (4091, 5, {"aux": 0.5}),
                (400, 5, {"frozen": True, "rate": 1e-2}),
                (400, -1, {"rate": 5e-4}),
                (400, -1, {"rate": 2e-3}),
                (400, -1, {"times": 3}),
            )
        ],
    ),
    "gpt1_tasks": Run(
        "2018_gpt1",
        "record",
        [
            {"task": task, "labels": labels, "layers": layers, "seed": seed}
            for seed in range(5)
            for task, labels in (
                ("films", 400),
                ("films", 1600),
                ("belongs", 400),
                ("yes or no", 1600),
                ("belongs", 12_205),
            )
            for layers in (-1, 5)
        ],
    ),
    "gpt1_pretraining": Run(
        "2018_gpt1",
        "record_pretraining",
        [
            {"kind": kind, "seed": seed, "steps": 1200, "every": 100}
            for seed in range(3)
            for kind in ("Transformer", "LSTM")
        ],
    ),
    "gpt1_rate": Run(  # twice the learning rate
        "2018_gpt1",
        "record_pretraining",
        [
            {"kind": kind, "seed": seed, "steps": 1200, "every": 100, "rate": 2e-3}
            for seed in range(3)
            for kind in ("Transformer", "LSTM")
        ],
    ),
    "gpt1_frozen": Run("2018_gpt1", "record_frozen", [{"labels": 400, "seed": seed} for seed in range(5)]),
    "gpt1_start": Run(
        "2018_gpt1",
        "record_pretraining",
        [{"kind": "Transformer", "seed": seed, "steps": 150, "every": 50} for seed in (*range(3, 8), 0)],
    ),
    "bert_objectives": Run(
        "2018_bert",
        "record",
        [
            {"kind": kind, "seed": seed, "steps": 3000, "every": 250, "transfer": True}
            for seed in range(3)
            for kind in ("masked", "left to right")
        ],
    ),
    "bert_long": Run(  # four times as long
        "2018_bert",
        "record",
        [
            {"kind": kind, "seed": seed, "steps": 12_000, "every": 1000}
            for seed in range(3)
            for kind in ("masked", "left to right")
        ],
    ),
    "bert_start": Run(
        "2018_bert",
        "record",
        [
            {"kind": kind, "seed": seed, "steps": 150, "every": 50}
            for seed in (*range(3, 8), 0)
            for kind in ("masked", "left to right")
        ],
    ),
    "bert_masking": Run(
        "2018_bert",
        "record",
        [{"kind": "masked", "seed": seed, "steps": 3000, "every": 250, "mix": [1, 0, 0]} for seed in range(3)],
    ),
    "bert_positions": Run(
        "2018_bert",
        "record",
        [
            {"kind": "masked", "seed": seed, "steps": 1000, "every": 250, "positions": positions}
            for seed in range(3)
            for positions in ("learned", "rotary")
        ],
    ),
    "bert_scratch": Run(
        "2018_bert",
        "record_scratch",
        [{"kind": kind, "seed": seed} for seed in range(3) for kind in ("masked", "left to right")],
    ),
    "bert_cheat": Run(
        "2018_bert",
        "record",
        [
            *({"kind": "cheating", "seed": seed, "steps": 1000, "every": 250} for seed in range(3)),
            {"kind": "cheating", "seed": 0, "steps": 150, "every": 50},
        ],
    ),
    "bert_pairs": Run(
        "2018_bert",
        "record_pairs",
        [{"following": following, "seed": seed, "steps": 1500} for seed in range(3) for following in (True, False)],
    ),
    "bert_pairs_long": Run(  # four times as long
        "2018_bert",
        "record_pairs",
        [{"following": following, "seed": seed, "steps": 6000} for seed in range(3) for following in (True, False)],
    ),
    "bert_real": Run(
        "2018_bert",
        "record_real",
        [
            {"how": how, "labels": labels, "seed": seed}
            for seed in range(3)
            for labels in (400, 1600)
            for how in ("tuned", "frozen", "random")
        ],
    ),
    "gpt2_start": Run("2019_gpt2", "record", [{"name": "small", "steps": 200, "seed": seed} for seed in range(2, 8)]),
    "gpt2_sizes": Run(
        "2019_gpt2",
        "record",
        [{"name": name, "steps": 900, "seed": seed} for seed in range(3) for name in ("small", "medium", "large")],
    ),
    "gpt3_sizes": Run(
        "2020_gpt3",
        "record",
        [
            {"name": f"{size} thousand", "seed": seed}
            for seeds, sizes in ((range(3), (13, 50, 200, 800)), (range(3, 8), (50,)), (range(3, 5), (13, 200, 800)))
            for seed in seeds
            for size in sizes
        ],
    ),
    "gpt3_bands": Run(
        "2020_gpt3",
        "record_bands",
        [{"layers": layers, "seed": seed} for seed in range(5) for layers in ("dense", "alternating")],
    ),
    "sparse_quality": Run(
        "2019_sparse_transformer",
        "record",
        [
            {"kind": kind, "attention": attention, "seed": seed}
            for kind in ("images", "text")
            for seed in range(5)
            for attention in ("dense", "strided", "fixed")
        ],
    ),
    "scaling_sizes": Run(
        "2020_scaling_laws",
        "record",
        [
            {"layers": layers, "width": width, "steps": steps, "seed": seed}
            for steps, seeds in ((4800, (0,)), (600, (0, 1, 2)), (2400, (0,)), (1200, (0,)), (300, (0,)))
            for seed in seeds
            for layers, width in ((1, 8), (1, 16), (2, 16), (2, 32), (2, 64), (3, 96), (4, 128))
        ],
    ),
    "scaling_start": Run(
        "2020_scaling_laws",
        "record",
        [{"layers": 2, "width": 32, "steps": 600, "seed": seed} for seed in range(3, 8)],
    ),
    "scaling_valleys": Run(  # with those of scaling_sizes, four budgets of four to six sizes each
        "2020_scaling_laws",
        "record",
        [
            {"layers": layers, "width": width, "steps": steps, "seed": 0}
            for layers, width, many in (
                (4, 16, (1200, 4800)),
                (4, 32, (300, 1200, 4800)),
                (2, 64, (150,)),
                (4, 64, (300, 1200, 4800)),
                (2, 128, (150, 600, 2400)),
                (8, 128, (600,)),
            )
            for steps in many
        ],
    ),
    "scaling_data": Run(
        "2020_scaling_laws",
        "record",
        [
            {"layers": layers, "width": width, "steps": max(1200, limit // 2), "seed": 0, "limit": limit}
            for layers, width in ((3, 96), (2, 32), (2, 64))
            for limit in (320, 640, 1280, 2560, 5120, 10_240, 20_480)
        ],
    ),
    "scaling_long": Run(  # the small sizes of those budgets: up to four passes through the text
        "2020_scaling_laws",
        "record",
        [
            {"layers": layers, "width": width, "steps": steps, "seed": 0}
            for layers, width, steps in (
                (1, 16, 19_200),
                (2, 16, 9600),
                (4, 16, 19_200),
                (2, 32, 9600),
                (4, 32, 19_200),
                (2, 64, 9600),
            )
        ],
    ),
    "scaling_shapes": Run(
        "2020_scaling_laws",
        "record",
        [
            {"layers": layers, "width": width, "steps": 1200, "seed": seed, "heads": heads}
            for seed in range(3)
            for layers, width, heads in ((1, 128, 4), (2, 90, 3), (4, 64, 2), (8, 44, 2), (16, 32, 1))
        ],
    ),
    "scaling_context": Run(
        "2020_scaling_laws",
        "record_context",
        [
            *({"kind": kind, "seed": seed, "steps": 4800} for seed in range(3) for kind in ("LSTM", "Transformer")),
            *({"kind": "LSTM", "seed": seed, "steps": 600} for seed in range(5)),
        ],
    ),
    "scaling_bet": Run("2020_scaling_laws", "record", [{"layers": 6, "width": 192, "steps": 4800, "seed": 0}]),
    "ppo_cartpole": Run(
        "2017_ppo",
        "record",
        [
            {"task": "CartPole-v1", "seed": seed, **how}
            for seeds, ways in (
                (range(5), (*LIMITS, {"objective": "clip", "n_epochs": 1}, {"objective": "none", "n_epochs": 1})),
                (range(5, 20), (LIMITS[2], {"objective": "none"}, {"objective": "none", "n_epochs": 1})),
            )
            for seed in seeds
            for how in ways
        ],
    ),
    "ppo_cheetah": Run(
        "2017_ppo",
        "record",
        [{"task": "HalfCheetah-v5", "seed": seed, **how} for seed in range(3) for how in LIMITS],
    ),
    "ppo_details": Run(  # what else is done, each left out or added alone
        "2017_ppo",
        "record",
        [
            {"task": "HalfCheetah-v5", "seed": seed, "total_steps": 100_000, **how}
            for seed in range(6)
            for how in (
                {},
                {"normalize": False},
                {"normalize_advantage": False},
                {"orthogonal": False},
                {"bootstrap": False},
                {"anneal": True},
                {"value_clip": 0.2},
                {"max_grad_norm": 0.5},
            )
        ],
    ),
    "instruct_sizes": Run(
        "2022_instructgpt",
        "record",
        [
            {"size": size, "seed": seed, **stage}
            for sizes, seeds in ((("small", "medium"), 5), (("large",), 1))
            for seed in range(seeds)
            for size in sizes
            for stage in (
                {"stage": "base"},
                {"stage": "SFT"},
                {"stage": "PPO", "beta": 0.2},
                {"stage": "PPO", "beta": 0.2, "ptx": 0.5},
            )
            if seed == 0 or stage["stage"] != "base"
        ],
    ),
    "instruct_beta": Run(
        "2022_instructgpt",
        "record",
        [
            {"size": "medium", "seed": seed, "stage": "PPO", "beta": beta}
            for seed in range(3)
            for beta in (1.0, 0.5, 0.1, 0.02)
        ],
    ),
    "instruct_free": Run(  # no price on KL, a poor reward model and a good one
        "2022_instructgpt",
        "record",
        [
            {"size": "medium", "seed": seed, "stage": "PPO", "beta": 0.0, "share": share, "iterations": 36, "every": 4}
            for share in (0.04, 1.0)
            for seed in range(3)
        ],
    ),
    "instruct_reward": Run(
        "2022_instructgpt",
        "record_reward",
        [
            {"size": size, "seed": seed, "share": share}
            for seed in range(5)
            for size, share in (
                *(("medium", share) for share in (0.04, 0.12, 0.36, 1.0)),
                *((size, 1.0) for size in ("small", "large") if seed < 3),
            )
        ],
    ),
    "instruct_pairs": Run(
        "2022_instructgpt",
        "record_pairs",
        [
            {"way": way, "seed": seed, "passes": passes}
            for seed in range(5)
            for way in ("rankings", "shuffled")
            for passes in (1, 2)
            if seed < 3 or (way, passes) == ("rankings", 1)
        ],
    ),
    "instruct_best": Run(
        "2022_instructgpt",
        "record_best",
        [*({"seed": seed} for seed in range(3)), *({"seed": seed, "n": 4} for seed in range(5))],
    ),
    "instruct_supervised": Run(
        "2022_instructgpt",
        "record_supervised",
        [*({"seed": seed} for seed in range(3)), *({"seed": seed, "steps": 26} for seed in range(5))],
    ),
}


def namespace(chapter: str) -> dict[str, Any]:
    """Execute the chapter's cells tagged ``recorded`` and return their names."""
    names: dict[str, Any] = {}
    for i, source in enumerate(provenance.recorded_code(chapter)):
        exec(compile(source, f"{chapter}, recorded cell {i + 1}", "exec"), names)
    return names


def record(name: str, run: Run, path: Path) -> None:
    """Measure every point of a run that ``path`` does not hold yet; each says what made it."""
    check_registered(name)
    made_by = provenance.fingerprint(run.chapter, run.function)
    done = json.loads(gzip.decompress(path.read_bytes())) if path.exists() else {"points": []}
    begun = bool(done["points"])
    if begun and done["fingerprint"] != made_by and provenance.state(name, run.chapter, run.function)[0] != "fits":
        raise SystemExit(
            f"{path.name} was begun by other code than {run.chapter} and the library hold now; make it again: "
            f"make runs NAME={name}"
        )
    strangers = [point["settings"] for point in done["points"] if point["settings"] not in run.settings]
    if strangers:
        raise SystemExit(
            f"{path.name} holds {strangers[0]}, which is not planned; make it again: make runs NAME={name}"
        )
    function = namespace(run.chapter)[run.function]
    for setting in run.settings:
        if any(point["settings"] == setting for point in done["points"]):
            continue
        made, start, cpu = provenance.here(), time.perf_counter(), time.process_time()
        result = function(**setting)
        seconds = {
            "seconds": round(time.perf_counter() - start, 1),
            "process_seconds": round(time.process_time() - cpu, 1),
        }
        done["points"].append({"settings": setting, **seconds, "made": made, "result": result})
        # A seed added later stands in its place.
        done["points"].sort(key=lambda point: run.settings.index(point["settings"]))
        print(name, setting, seconds, str(result)[:400], flush=True)
        content = {
            "name": name,
            "function": f"{run.chapter}: {run.function}",
            "fingerprint": made_by,
            "date": datetime.date.today().isoformat(),
            "versions": runtime.describe(),
            "processor": provenance.processor(),
            "points": done["points"],
        }
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(gzip.compress(json.dumps(content, indent=1).encode(), mtime=0))
        os.replace(temporary, path)
    provenance.adopt(name, run.chapter, run.function, "extended" if begun else "recorded", [])


def check_registered(name: str) -> None:
    """Refuse to measure what a claim is not yet registered for: criterion and bet are committed first."""
    try:
        waiting = registration.uncommitted(name)
    except registration.NoHistory as error:
        raise SystemExit(f"recorded runs are made in a clone of the repository only: {error}") from error
    if waiting:
        raise SystemExit(
            f"{name} decides {', '.join(waiting)}, and what is frozen of these is not committed. Commit claims.toml first: a "
            "claim is registered before its data."
        )


def prepare(kind: str, known: Iterable[str], names: Sequence[str] | None = None) -> None:
    """Set one thread unless told otherwise; refuse another preset than ``cpu``, and names that are not known."""
    if runtime.preset() != "cpu":
        raise SystemExit(f"{kind}s are made under the cpu preset, not {runtime.preset()}: set NEXTWORD_PRESET=cpu")
    runtime.set_threads(int(os.environ.get("NEXTWORD_THREADS", "1")))
    unknown = sorted(set(sys.argv[1:] if names is None else names) - set(known))
    if unknown:
        raise SystemExit(f"no {kind} called {', '.join(unknown)}; there are: {', '.join(known)}")


def main() -> None:
    """Make the named runs again, or all that are incomplete."""
    prepare("recorded run", RUNS)
    provenance.RUNS_FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or RUNS:
        path = provenance.RUNS_FOLDER / f"{name}.json.gz"
        if name in sys.argv[1:]:
            path.unlink(missing_ok=True)
        record(name, RUNS[name], path)


if __name__ == "__main__":
    main()
