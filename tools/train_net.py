"""Train and evaluate any config of WeakSeg."""

import argparse

from detectron2.engine import default_argument_parser

from weakseg.engine import Trainer, launch, run_command, setup

EXAMPLES = """
examples:
  train:                   tools/train_net.py --config-file configs/point2mask/voc_r50.yaml --num-gpus 4
  other values:            tools/train_net.py --config-file CONFIG SOLVER.BASE_LR 1e-4 OUTPUT_DIR output/mine
  go on after a stop:      tools/train_net.py --config-file CONFIG --resume
  fine-tune:               tools/train_net.py --config-file CONFIG MODEL.WEIGHTS models/other.pth
  evaluate:                tools/train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
  two processes, no GPU:   OMP_NUM_THREADS=1 tools/train_net.py --config-file CONFIG --num-gpus 2
  two machines:            tools/train_net.py --config-file CONFIG --num-gpus 8 --num-machines 2 --machine-rank 0 \\
                               --dist-url tcp://ADDRESS_OF_THE_FIRST:29500      (--machine-rank 1 on the second)
  by torchrun:             torchrun --nproc-per-node 8 tools/train_net.py --config-file CONFIG

Results, checkpoints, log and TensorBoard files go to OUTPUT_DIR. Without a GPU everything runs on the CPU.
"""


def run(args: argparse.Namespace) -> None:
    """One process of a run."""
    cfg = setup(args)
    if args.eval_only:
        Trainer.evaluate(cfg, resume=args.resume)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def main() -> None:
    args = default_argument_parser(epilog=EXAMPLES).parse_args()
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    run_command(main)
