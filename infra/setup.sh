#!/usr/bin/env bash
# Installs the project, ends with `pytest project_tests.py`. It may be run again at any time.
#
#     infra/setup.sh [--dry-run]
#
# For AWS' deep-learning image (Ubuntu 24.04), or any Debian with Python 3.11 to 3.13. Without an
# NVIDIA GPU it installs for the CPU, without systemd no services. VENV is the folder of the
# virtual environment, ~/roadseg-venv by default.
set -euo pipefail

road=$(cd "$(dirname "$0")/.." && pwd)
venv=$(realpath -m -- "${VENV:-$HOME/roadseg-venv}")
dry=
case ${1:-} in
    '') ;;
    --dry-run) dry=1 ;;
    *)
        echo "error: '$1' is no option of setup.sh, which knows --dry-run" >&2
        exit 2
        ;;
esac

run() {
    echo "+ $*" >&2
    [[ -n $dry ]] || "$@"
}

as_root() {
    if [[ $EUID = 0 ]]; then run "$@"; else run sudo "$@"; fi
}

if [[ -d /run/systemd/system && $road$venv = *[[:space:]%\&\|\"\\]* ]]; then
    echo "error: systemd cannot take $road or $venv; use paths without spaces and signs" >&2
    exit 2
fi

install_service() {
    # The files name the places on the deep-learning image.
    local unit
    unit=$(sed -e "s|/data/road|$road|g" -e "s|/home/ubuntu/roadseg-venv|$venv|g" \
        -e "s|^User=ubuntu|User=$(id -un)|" "$1")
    as_root tee "/etc/systemd/system/${1##*/}" <<<"$unit" >/dev/null
}

update_lists() {
    # apt-get waits for the lock of the packages, not for that of their lists.
    local log
    for _ in {1..60}; do
        if log=$(as_root env LC_ALL=C apt-get update -q 2>&1); then
            echo "$log" >&2
            return
        fi
        echo "$log" >&2
        [[ $log = *'Could not get lock'* ]] || break
        sleep 10
    done
    echo 'error: apt-get update fails, see above; run this again' >&2
    exit 2
}

if [[ -z $dry && $EUID = 0 && -d /run/systemd/system ]]; then
    echo 'error: run this as the user who will train, without sudo, which it asks for itself' >&2
    exit 2
fi
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    update_lists
    as_root apt-get -o DPkg::Lock::Timeout=600 install -yq --no-install-recommends python3-venv
fi
if ! python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    echo "error: python3 is $(python3 --version 2>&1), expected 3.11 to 3.13; take an image with" \
        'such a Python' >&2
    exit 2
fi

requirements='requirements-gpu.txt'
if ! nvidia-smi >/dev/null 2>&1; then
    echo 'warning: nvidia-smi finds no GPU; installing for the CPU' >&2
    requirements='requirements.txt'
fi
run python3 -m venv "$venv"
run "$venv/bin/pip" install -q -r "$road/$requirements" -r "$road/infra/requirements.txt"

export TF_CPP_MIN_LOG_LEVEL=2
if [[ $requirements = requirements-gpu.txt ]]; then
    if ! run "$venv/bin/python" -c 'import sys, tensorflow as tf
sys.exit(not tf.config.list_physical_devices("GPU"))'; then
        echo 'error: nvidia-smi finds a GPU, TensorFlow does not; the driver must know CUDA 12.5' \
            'or newer, see nvidia-smi' >&2
        exit 2
    fi
fi

if [[ -d /run/systemd/system ]]; then
    for unit in "$road"/infra/services/*.service; do
        install_service "$unit"
    done
    as_root systemctl daemon-reload
    as_root systemctl enable roadseg-resume.service roadseg-spot.service
    as_root systemctl enable roadseg-jupyter.service roadseg-tensorboard.service
    # Not `enable --now`, which leaves what runs as it was before the set-up was repeated.
    as_root systemctl restart roadseg-jupyter.service roadseg-tensorboard.service
else
    echo 'warning: no systemd here; no services installed' >&2
fi

cd "$road"
run "$venv/bin/python" -m pytest -q project_tests.py
