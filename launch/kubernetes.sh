#!/usr/bin/env bash
# Trains on a Kubernetes cluster that has JobSet: one pod on every host of TPUs, or of GPUs.
#
#   export IMAGE=registry/dmmd CLAIM=runs CONFIG=configs/cifar_dmmd.py WORKDIR=/runs/mine HOSTS=4
#   launch/kubernetes.sh apply tpu [-- --config.field=value ...]      # or: apply gpu
#   launch/kubernetes.sh logs dmmd-tpu
#   launch/kubernetes.sh delete dmmd-tpu
#
# IMAGE starts in a folder with configs/ and has dmmd_jax installed; CLAIM is a volume claim that
# all pods can write (ReadWriteMany), at /runs. Also read: NAME (dmmd-tpu or dmmd-gpu),
# MAX_RESTARTS (of a failed run), TPU_ACCELERATOR, TPU_TOPOLOGY, TPUS and GPUS (of one host).
# With --dry-run what would be applied or run is printed. docs/launching.md tells more.
set -euo pipefail

die() {
  echo "kubernetes.sh: $1" >&2
  exit 2
}

run() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# The arguments as a YAML list of strings, in which only a quote has to be escaped.
yaml_list() {
  local item list=
  for item; do list+="${list:+, }'${item//\'/\'\'}'"; done
  echo "[$list]"
}

render() {
  local text variable
  text=$(<"$(dirname "${BASH_SOURCE[0]}")/kubernetes.yaml")
  if [[ $1 == tpu ]]; then text=${text%%$'\n---\n'*}; else text=${text#*$'\n---\n'}; fi
  for variable in ARGUMENTS CLAIM GPUS HOSTS IMAGE MAX_RESTARTS NAME TPUS TPU_ACCELERATOR \
    TPU_TOPOLOGY; do
    text=${text//"\${$variable}"/"${!variable}"}
  done
  echo "$text"
}

action=${1:-}
target=
dry_run=
(($# == 0)) || shift
while (($#)); do
  case $1 in
    --dry-run) dry_run=1 ;;
    --) shift && break ;;
    -*) die "unknown option $1; arguments of the program come after --" ;;
    *) target=$1 ;;
  esac
  shift
done

case $action in
  apply)
    [[ $target == tpu || $target == gpu ]] || die "apply tpu, or apply gpu"
    for variable in IMAGE CLAIM CONFIG WORKDIR HOSTS; do
      [[ -n ${!variable:-} ]] || die "set $variable; see the head of the script"
    done
    [[ $WORKDIR == /runs/* || $WORKDIR == gs://* ]] ||
      die "WORKDIR is $WORKDIR; it must be in /runs, the shared volume, or in gs://"
    NAME=${NAME:-dmmd-$target}
    MAX_RESTARTS=${MAX_RESTARTS:-5}
    TPU_ACCELERATOR=${TPU_ACCELERATOR:-tpu-v5-lite-podslice}
    TPU_TOPOLOGY=${TPU_TOPOLOGY:-4x4}
    TPUS=${TPUS:-4}
    GPUS=${GPUS:-8}
    # shellcheck disable=SC2034 # read by its name, as all of these
    ARGUMENTS=$(yaml_list "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
    if [[ -n $dry_run ]]; then
      render "$target"
    else
      render "$target" | kubectl apply --filename=-
    fi
    ;;
  logs)
    [[ -n $target ]] || die "name the JobSet: logs NAME"
    pods=jobset.sigs.k8s.io/jobset-name=$target,batch.kubernetes.io/job-completion-index=0
    run kubectl logs --follow --tail=100 --selector="$pods"
    ;;
  delete)
    [[ -n $target ]] || die "name the JobSet: delete NAME"
    run kubectl delete jobset "$target" --ignore-not-found
    ;;
  *) die "give an action: apply, logs or delete" ;;
esac
