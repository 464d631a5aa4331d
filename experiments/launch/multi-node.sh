#!/bin/sh
# Two machines of four GPUs each. Run the same lines on both, with MACHINE_RANK 0 on the first:
#   MACHINE_RANK=0 FIRST_MACHINE=10.0.0.1 sh experiments/launch/multi-node.sh CONFIG
#   MACHINE_RANK=1 FIRST_MACHINE=10.0.0.1 sh experiments/launch/multi-node.sh CONFIG
# run_dir, the model and the data must be on a file system that both see. LAUNCH may name fsdp2.yaml
# or zero3.yaml instead. SIGTERM to the launchers reaches training, which saves its state; the
# launchers then end with 1, not 75. Not run: one machine was at hand.
set -eu
exec accelerate launch \
  --config_file "${LAUNCH:-experiments/launch/ddp.yaml}" \
  --num_machines "${MACHINES:-2}" \
  --num_processes "${PROCESSES:-8}" \
  --machine_rank "$MACHINE_RANK" \
  --main_process_ip "$FIRST_MACHINE" \
  --main_process_port "${PORT:-29500}" \
  -m seal train "$@"
