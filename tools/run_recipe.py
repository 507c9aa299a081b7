"""Run the stages of a published result in order: trainings, pseudo labels, evaluations.

    python tools/run_recipe.py configs/spml/recipes/voc_point.yaml --dry-run
    python tools/run_recipe.py configs/spml/recipes/voc_point.yaml --num-gpus 4
    python tools/run_recipe.py configs/spml/recipes/voc_point.yaml --output output/mine --opts SOLVER.MAX_ITER 300
    python tools/run_recipe.py configs/spml/recipes/voc_point.yaml --stages labels classifier

Each stage is a plain command, printed before it runs as it could be pasted. Its files go to OUTPUT/STAGE. Called again,
the command skips the stages that are finished, and goes on with the one that was stopped: a training from its last
checkpoint. A stage that another command or other inputs have made is refused; delete its folder to make it anew. When a
stage fails, the recipe ends with its exit status.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from weakseg.engine.cli import run_command
from weakseg.engine.recipe import Stage, locked, plan, read_recipe


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe file (.yaml)")
    parser.add_argument("--output", type=Path, help="folder to write; default: output/NAME_OF_THE_RECIPE")
    parser.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help="run these alone; default: all")
    parser.add_argument("--num-gpus", type=int, help="processes of each stage that has a config; default: one")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and run nothing")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys and values for every stage that has a config; comes last",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    recipe = read_recipe(args.recipe)
    output = args.output or Path("output", args.recipe.stem)
    planned = {"only": args.stages, "options": args.opts, "num_processes": args.num_gpus}
    if args.dry_run:
        for stage in announce(recipe.description, plan(recipe, output, **planned)):
            print_command(stage)
        return
    with locked(output) as lock:
        for stage in announce(recipe.description, plan(recipe, output, **planned)):
            print_command(stage)
            status = stage.run(lock)
            if status:
                print(
                    f"error: stage {stage.name} ended with exit status {status}; see its output above, then call "
                    "again: finished stages are skipped.",
                    file=sys.stderr,
                )
                sys.exit(status)


def announce(description: str, stages: list[Stage]) -> Iterator[Stage]:
    """Say what is to be done; yields the stages that are not finished."""
    print(description)
    for number, stage in enumerate(stages, start=1):
        state = "finished, skipped" if stage.is_finished else "goes on" if stage.is_started else "starts"
        print(f"[{number}/{len(stages)}] {stage.name}: {state}", flush=True)
        if not stage.is_finished:
            yield stage


def print_command(stage: Stage) -> None:
    print(shlex.join(stage.command_line()), flush=True)


if __name__ == "__main__":
    run_command(main)
