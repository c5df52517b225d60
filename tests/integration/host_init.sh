#!/bin/sh
# Process 1 of a host: gives it a file system of its own and serves ssh from within.
# Arguments: a folder to mount on, the folder all hosts share, a cache, a public key, folders that must be visible.
set -eu
memory=$1 shared=$2 cache=$3 key=$4
shift 4
root=$memory/root

# Shows folder $1 at the same place on the host; what the host writes there stays in memory.
layers=0
show() {
    layers=$((layers + 1))
    mkdir -p "$root$1" "$memory/$layers/upper" "$memory/$layers/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$memory/$layers/upper,workdir=$memory/$layers/work" host "$root$1"
}

mount -t tmpfs host "$memory"
mkdir "$root"
show /
for folder in root tmp run mnt; do mount -t tmpfs host "$root/$folder"; done
for folder; do show "$folder"; done # which may lie in a folder just hidden, or on another disk
mount -t proc host "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs host "$root/dev/shm"
mkdir -p "$root/mnt/shared" "$root/root/.cache/advlab" "$root/root/.ssh" "$root/run/sshd"
chmod 1777 "$root/tmp"
mount --bind "$shared" "$root/mnt/shared"
mount --bind "$cache" "$root/root/.cache/advlab"
cp "$key" "$root/root/.ssh/authorized_keys"
ssh-keygen -q -t ed25519 -N '' -f "$root/run/host_key"
exec chroot "$root" /usr/sbin/sshd -D -f /dev/null -h /run/host_key -o UsePAM=no -o StrictModes=no -o MaxStartups=50
