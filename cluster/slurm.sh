#!/bin/bash
# A study on Slurm:   sbatch cluster/slurm.sh /shared/my.yaml default /shared/studies/first --trials 40
# The same line again goes on with the study, after the time limit too. All three are paths that every node sees; the
# environment in which sbatch is called has the package (pip install --constraint constraints.txt .) and is theirs too.
#SBATCH --job-name=raytune-m2f
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# --exclusive: symmetric-run takes a node to itself, and ends all that you run with Ray on it when it is done.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: sbatch $0 CONFIG SPACE STUDY [OPTION OF tune]... [KEY=VALUE]..." >&2
    exit 2
fi
config=$1 space=$2 study=$3
shift 3

# Who has no token cannot run anything on these nodes; it is made once, in ~/.ray, which all nodes see.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
ray get-auth-token --generate > /dev/null

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
port=$((20000 + SLURM_JOB_ID % 10000))

# Goes on with the study if there is one, else says so and makes it. The first node drives it; all nodes train.
# shellcheck disable=SC2016  # filled in by the shell that is started last
run='
config=$1 space=$2 study=$3
shift 3
raytune-m2f resume "$study" --address auto ||
    raytune-m2f tune --config "$config" --space "$space" --study "$study" --address auto "$@"
'
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "${address%% *}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_PER_NODE##*:}" --temp-dir="/tmp/ray_$SLURM_JOB_ID" -- \
    bash -c "$run" bash "$config" "$space" "$study" "$@"
