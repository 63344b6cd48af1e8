#!/usr/bin/env bash
# Trains on a Cloud TPU slice: one process on every worker, started again by itself when it stops.
#
#   export TPU_NAME=mine ZONE=us-west4-a CONFIG=configs/cifar_dmmd.py WORKDIR=gs://bucket/runs/mine
#   launch/cloud_tpu.sh create, then install, run [-- --config.field=value ...], logs
#   launch/cloud_tpu.sh watch mine [-- ...]   # does all of that, and replaces a preempted node
#   launch/cloud_tpu.sh delete mine
#
# Also read: ACCELERATOR, RUNTIME, PROJECT, SPOT=1, SETUP (a command that every worker runs at
# `install`, such as the one that mounts the storage of WORKDIR) and RETRIES (of a failed run).
# With --dry-run the commands are printed and none is run. docs/launching.md tells more.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
on_worker=$HOME/dmmd_jax # .log, .lock and .exit of the run, beside the folder of the code
dry_run=
exec 3>&1 # where a dry run prints, also from within $(...)

die() {
  echo "cloud_tpu.sh: $1" >&2
  exit 2
}

need() {
  local variable
  for variable; do [[ -n ${!variable:-} ]] || die "set $variable; see the head of the script"; done
}

# Words as a shell reads them; what printf %q makes of a whole command is hard for people to read.
quoted() {
  local word line=
  for word; do
    [[ $word =~ ^[[:alnum:]_./:=@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  echo "${line# }"
}

run() {
  if [[ -n $dry_run ]]; then
    quoted "$@" >&3
  else
    "$@"
  fi
}

tpu() {
  run gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

everywhere() {
  tpu ssh "$TPU_NAME" --worker=all --command="$1"
}

# Listed, not described: so an absent node is not mistaken for a failing gcloud, or the reverse.
node_state() {
  tpu list --format='csv[no-heading](name.basename(),state)' |
    awk -F, -v name="$TPU_NAME" '$1 == name { print $2 }'
}

# No `set -e` within a condition, so the steps below are joined by && for the sake of `watch`.

create() {
  local spot=
  [[ ${SPOT:-} != 1 ]] || spot=--spot
  tpu create "$TPU_NAME" --accelerator-type="${ACCELERATOR:-v5litepod-16}" \
    --version="${RUNTIME:-v2-alpha-tpuv5-lite}" ${spot:+"$spot"}
}

# The images have an older Python than the program needs; uv brings one. pip of newer images
# refuses to install beside the system's packages unless it is told to.
install() {
  local archive=${TMPDIR:-/tmp}/$TPU_NAME.tar.gz
  run git -C "$root" archive --format=tar.gz --output="$archive" HEAD &&
    tpu scp "$archive" "$TPU_NAME:dmmd_jax.tar.gz" --worker=all &&
    everywhere "${SETUP:+$SETUP && }mkdir -p dmmd_jax && tar -xzf dmmd_jax.tar.gz -C dmmd_jax &&\
 PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv && cd dmmd_jax &&\
 python3 -m uv venv --quiet --allow-existing --python=3.12 .venv &&\
 python3 -m uv pip install --quiet --python=.venv/bin/python --editable=.[tpu,gs]"
}

start() {
  everywhere "CONFIG=$(quoted "$CONFIG") WORKDIR=$(quoted "$WORKDIR") RETRIES=${RETRIES:-5}\
 bash dmmd_jax/launch/cloud_tpu.sh worker-start -- $(quoted "$@")"
}

# One round of `watch`. Whatever fails here may be the preemption itself: the next round sees.
tend() {
  local state report
  state=$(node_state) || return 0
  case $state in
    '') create && install && start "$@" ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED) tpu delete "$TPU_NAME" --quiet ;;
    READY)
      report=$(everywhere 'bash dmmd_jax/launch/cloud_tpu.sh worker-status || echo stopped') ||
        return 0
      case $report in
        *stopped*) install && start "$@" ;; # a worker rebooted, or `install` was cut short
        *running*) ;;
        *ended\ [1-9]*) echo "the run failed; see the logs" && exit 1 ;;
        *) echo "the run has finished; the node is still there" && exit 0 ;;
      esac
      ;;
    *) echo "$TPU_NAME is $state" ;;
  esac || echo "will try again"
}

# All workers must be at it, and a peer that dies ends all: so each goes on in the same way.
worker_loop() {
  local code failures=0
  while true; do
    code=0
    "$root/.venv/bin/python" -m dmmd_jax.main --config="$CONFIG" --workdir="$WORKDIR" "$@" ||
      code=$?
    case $code in
      0 | 2 | 3) break ;; # finished, or what will not get better
      143) ;;         # stopped, with its state saved
      *) ((++failures <= ${RETRIES:-5})) || break ;;
    esac
    echo "exit code $code; starting again"
    sleep "${PAUSE:-10}"
  done
  echo "exit code $code; the end"
  echo "$code" >"$on_worker.exit"
}

action=${1:-}
name=
(($# == 0)) || shift
while (($#)); do
  case $1 in
    --dry-run) dry_run=1 ;;
    --) shift && break ;;
    -*) die "unknown option $1; arguments of the program come after --" ;;
    *) name=$1 ;;
  esac
  shift
done
[[ $action == worker-* ]] || need TPU_NAME ZONE
case $action in
  run | watch | worker-start | worker-loop) need CONFIG WORKDIR ;;
esac
case $action in
  delete | watch)
    [[ $name == "$TPU_NAME" ]] ||
      die "$action can delete the node, so repeat its name: $action $TPU_NAME"
    ;;
  *) [[ -z $name ]] || die "unexpected argument $name" ;;
esac

case $action in
  create)
    state=$(node_state)
    if [[ -z $state ]]; then create; else echo "$TPU_NAME exists: $state"; fi
    ;;
  install) install ;;
  run) start "$@" ;;
  watch)
    tend "$@"
    while [[ -z $dry_run ]]; do sleep "${PAUSE:-60}" && tend "$@"; done
    ;;
  logs) tpu ssh "$TPU_NAME" --worker=0 --command='tail -n 100 -F dmmd_jax.log' ;;
  delete)
    state=$(node_state)
    if [[ -n $state$dry_run ]]; then
      tpu delete "$TPU_NAME" --quiet
    else
      echo "$TPU_NAME does not exist"
    fi
    ;;
  worker-start)
    exec 9>"$on_worker.lock" # held until the last process of the run is gone
    if ! flock --nonblock 9; then echo "already running" && exit; fi
    cd "$root"
    rm -f "$on_worker.exit"
    # All three are redirected, or ssh would wait for the run.
    setsid nohup bash launch/cloud_tpu.sh worker-loop -- "$@" \
      >>"$on_worker.log" 2>&1 </dev/null &
    echo "started"
    ;;
  worker-loop) worker_loop "$@" ;;
  worker-status)
    if ! flock --nonblock "$on_worker.lock" true; then
      echo "running"
    elif [[ -e $on_worker.exit ]]; then
      echo "ended $(<"$on_worker.exit")"
    else
      echo "stopped"
    fi
    ;;
  *) die "give an action: create, install, run, watch, logs or delete" ;;
esac
