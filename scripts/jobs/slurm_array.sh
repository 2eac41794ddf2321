#!/usr/bin/env bash
# Audits of several datasets as a Slurm array, one task each: sbatch scripts/jobs/slurm_array.sh
#SBATCH --job-name=camaudit
#SBATCH --array=0-2
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
# shard.count=1: each task is a run of its own; without it, tasks of an array are shares of one run.
# --requeue: a preempted task comes back; --signal: the shell is told two minutes before time is up.
set -uo pipefail

datasets=(photos scans sketches)
name=${datasets[$SLURM_ARRAY_TASK_ID]}

srun --kill-on-bad-exit=0 camaudit "run_id=$name" "dataset.root=/data/$name" model.name=resnet50 shard.count=1 &
child=$!
trap 'kill -TERM "$child"' TERM
wait "$child"
code=$?
if kill -0 "$child" 2>/dev/null; then
  wait "$child"
  code=$?
fi

# Not finished, or stopped: the same command goes on where it was.
case $code in
  75 | 143) scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" ;;
esac
exit "$code"
