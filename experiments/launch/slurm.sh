#!/usr/bin/env bash
# Slurm, a process per GPU; they find each other. Arguments are run.py's, and --workdir
# is on a disk that all nodes mount:
#
#   sbatch experiments/launch/slurm.sh --config=nfnet_f1 --workdir=/shared/runs/f1
#
#SBATCH --job-name=nfnets
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --open-mode=append
#SBATCH --requeue
# Five minutes before the limit, and on preemption: the processes save and leave (75).
#SBATCH --signal=TERM@300
set -uo pipefail
# A batch script runs as a copy elsewhere, so the path is that of the submission.
# Options of the compiler that one process gives by itself (docs/launch.md).
export XLA_FLAGS="--xla_allow_excess_precision=false --xla_gpu_enable_triton_gemm=false ${XLA_FLAGS:-}"
srun --kill-on-bad-exit=1 "${PYTHON:-python}" experiments/run.py "$@"
status=$?
# Complete, a mistake, and non-finite numbers are final; the rest goes on from the last
# checkpoint, as often as RETRIES says.
case "$status" in
  0 | 2 | 3) exit "$status" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -lt "${RETRIES:-20}" ]; then
  echo "status $status: the job goes on when it is its turn"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
