#!/usr/bin/env bash
# shellcheck disable=SC2329  # the parts are called by their names
# Everything that is to be shown on a GPU, in nine minutes at most, on a machine with Python and this checkout.
#
#   benchmarks/gpu_day.sh [--device cuda|cpu] [--output DIR] [--python PYTHON] [--wheels DIR]
#
#   --device    cuda, or cpu: a rehearsal of every part with small sizes, which may take ten times as long
#   --output    where the logs and note.md go; by default $OUT, or else gpu_day-DATE here
#   --python    what makes the environment; by default python3. One that has all that is needed is used as it is
#   --wheels    folder of wheels, for a machine that can fetch nothing: they are laid beside what PYTHON has
#
# Parts: install, tests (pytest -m gpu), losses (bfloat16 beside float32), steps (gpu.py), study (four trials, two on the
# GPU at once, with an out-of-memory halving and a killed driver). Each has its own time limit, and one that fails
# costs no other. Mask2Former and transformers are measured beside ours if PYTHONPATH has them.
# Exit code: 0 if all parts passed, 1 if one did not, 2 if an option is wrong.
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    sed -n '3,/^set /{s/^# \{0,1\}//;/^set /d;p}' "${BASH_SOURCE[0]}"
}

wrong() {
    echo "error: $1; see $0 --help" >&2
    exit 2
}

DEVICE=cuda OUTPUT=${OUT:-$PWD/gpu_day-$(date +%F)} PYTHON=python3 WHEELS=
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --device | --output | --python | --wheels)
        (($# > 1)) && [[ -n $2 ]] || wrong "$1 needs a value"
        case $1 in
        --device) DEVICE=$2 ;;
        --output) OUTPUT=$2 ;;
        --python) PYTHON=$2 ;;
        --wheels) WHEELS=$2 ;;
        esac
        shift 2
        ;;
    *) wrong "$1 is no option" ;;
    esac
done
[[ $DEVICE == cuda || $DEVICE == cpu ]] || wrong "--device $DEVICE is neither cuda nor cpu"
command -v "$PYTHON" >/dev/null || wrong "--python $PYTHON is no program"
[[ -z $WHEELS ]] || compgen -G "$WHEELS/*.whl" >/dev/null || wrong "--wheels $WHEELS has no *.whl"
[[ -z $WHEELS ]] || WHEELS=$(cd "$WHEELS" && pwd)
PYTHON=$(command -v "$PYTHON")
mkdir -p "$OUTPUT" && OUTPUT=$(cd "$OUTPUT" && pwd) && [[ -w $OUTPUT ]] || wrong "--output $OUTPUT cannot be written"
WORK=$(mktemp -d) || wrong "no temporary folder"
trap 'rm -rf "$WORK"' EXIT

cd "$ROOT" || exit 1
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
export ROOT DEVICE PYTHON WHEELS WORK
[[ $DEVICE == cuda ]] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # threads that share a core wait for each other

# Everything that the parts import; on a GPU day a GPU as well.
works() {
    "$1" -c 'import sys, raytune_m2f.cli.main, ray.tune, optuna, pytest, torch; torch.zeros(1, device=sys.argv[1])' "$DEVICE"
}

# The interpreter to use, in $WORK/python.
install() {
    if works "$PYTHON" 2>/dev/null; then
        echo "$PYTHON has all that is needed" && echo "$PYTHON" >"$WORK/python"
    elif [[ -z $WHEELS ]] && works "$ROOT/.venv/bin/python" 2>/dev/null; then
        echo "$ROOT/.venv has all that is needed" && echo "$ROOT/.venv/bin/python" >"$WORK/python"
    elif [[ -n $WHEELS ]]; then
        echo "$PYTHON" >"$WORK/python" # its own packages serve the parts that need no other
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$WORK/site" "$WHEELS"/*.whl &&
            PYTHONPATH=$PYTHONPATH:$WORK/site works "$PYTHON"
    else
        "$PYTHON" -m venv "$WORK/venv" && echo "$WORK/venv/bin/python" >"$WORK/python" &&
            "$WORK/venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".[dev]" &&
            works "$WORK/venv/bin/python"
    fi
}

# Warnings are errors to pytest, but here the versions may be others than those that were tested.
tests() {
    works "$PY" && "$PY" -m pytest -m gpu -W default -rs --durations=5 -p no:cacheprovider tests/model tests/training
}

losses() {
    "$PY" -m benchmarks.gpu_day losses --device "$DEVICE" --work "$WORK/losses"
}

steps() {
    if [[ $DEVICE == cuda ]]; then
        "$PY" -m benchmarks.gpu --eager --pixels 256 512 --repeats 5
    else
        "$PY" -m benchmarks.gpu --eager --device cpu --pixels 64 --batch 1 --points 64 --repeats 1
    fi
}

study() {
    "$PY" -m benchmarks.gpu_day study --device "$DEVICE" --work "$WORK/study"
}
export -f works install tests losses steps study

RESULTS=() FAILED=0
# part NAME SECONDS: run it, with what it says in $OUTPUT/NAME.log.
part() {
    local start=$SECONDS limit=$2 code=0 result
    [[ $DEVICE == cpu ]] && limit=$((10 * limit))
    echo "$1 (at most $limit s) ..."
    timeout --kill-after=10 "$limit" bash -c "$1" >"$OUTPUT/$1.log" 2>&1 || code=$?
    case $code in
    0) result=passed ;;
    124 | 137) result="**out of time**" ;;
    *) result="**failed** (exit code $code)" ;;
    esac
    ((code == 0)) || FAILED=1
    RESULTS+=("| $1 | $result | $((SECONDS - start)) s | $limit s |")
    tail -n 3 "$OUTPUT/$1.log" | sed 's/^/    /'
    echo "$1: ${result//\*/}, $((SECONDS - start)) s"
}

hardware() {
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
    grep -m 1 'model name' /proc/cpuinfo
    echo "$(getconf _NPROCESSORS_ONLN) cores, $(free -g | awk '/^Mem:/ { print $2 }') GiB"
}

versions() {
    git -c safe.directory='*' log -1 --format='commit %h of %cs: %s' 2>/dev/null || echo "no git checkout"
    "$PY" - <<'PROGRAM' || echo "no versions: see install.log"
import importlib.metadata, platform
print("python", platform.python_version())
for name in ("torch", "torchvision", "ray", "optuna", "numpy"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "is not installed")
PROGRAM
}

note() {
    echo "# A GPU day: $(date +%F)"
    echo
    echo "\`benchmarks/gpu_day.sh --device $DEVICE\`, $SECONDS s in all."
    printf '\n```text\n'
    hardware
    versions
    printf '```\n\n| part | result | took | limit |\n|---|---|---|---|\n'
    printf '%s\n' "${RESULTS[@]}"
    for name in losses steps study tests; do
        printf '\n## %s\n\n```text\n' "$name"
        tail -n 60 "$OUTPUT/$name.log"
        printf '```\n'
    done
}

{ # in braces it is read at once: whoever changes the file meanwhile does no harm
    part install 140
    PY=$(cat "$WORK/python" 2>/dev/null || echo "$PYTHON")
    [[ -z $WHEELS ]] || PYTHONPATH=$PYTHONPATH:$WORK/site
    export PY PYTHONPATH
    part tests 60
    part losses 120
    part steps 80
    part study 140
    note >"$OUTPUT/note.md"
    echo "$OUTPUT/note.md"
    exit "$FAILED"
}
