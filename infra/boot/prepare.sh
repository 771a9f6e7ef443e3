#!/usr/bin/env bash
# First boot: mounts the data volume at /data and makes /data/road, a repository to push to.
#
#     prepare.sh VOLUME [REPOSITORY]
#
# VOLUME is the id of the EBS volume. REPOSITORY is cloned into /data/road and set up.
set -euo pipefail

volume=$1 repository=${2:-}
owner=${OWNER:-ubuntu}
mount=${MOUNT:-/data}
fstab=${FSTAB:-/etc/fstab}
device=${DEVICES:-/dev/disk/by-id}/nvme-Amazon_Elastic_Block_Store_${volume//-/}

# Terraform attaches the volume after the machine has started.
for _ in {1..120}; do
    [[ -e $device ]] && break
    sleep 5
done
if [[ ! -e $device ]]; then
    echo "error: $device did not appear in 10 minutes, expected the data volume; look at its" \
        'attachment with aws ec2 describe-volumes, then run this again' >&2
    exit 2
fi

# Only a volume that is all zeros is new. Whatever else is on one stays.
if cmp --silent --bytes=1048576 "$device" /dev/zero; then
    mkfs.ext4 -q "$device"
fi
grep -qF "$device " "$fstab" || echo "$device $mount ext4 defaults,nofail 0 2" >>"$fstab"
mkdir -p "$mount"
mountpoint -q "$mount" || mount "$mount"

road=$mount/road
if [[ ! -d $road/.git ]]; then
    install -d -o "$owner" "$road"
    sudo -H -u "$owner" git init -q -b main "$road"
    # A push updates the checkout, and is refused where that has changes of its own.
    sudo -H -u "$owner" git -C "$road" config receive.denyCurrentBranch updateInstead
fi
if [[ -n $repository ]]; then
    sudo -H -u "$owner" git -C "$road" pull -q --ff-only "$repository"
    sudo -H -u "$owner" "$road/infra/setup.sh"
fi
