#!/bin/sh
# Runs one node: supervise.sh ROOT NODE-FOLDER NAMESPACE HOSTNAME
# The node has its own mount namespace, so that its disk and nspawn's folders vanish with it. systemd-nspawn exits with
# 133 when the node reboots; then it is started again. The node may read the clock's state, but cannot set the clock.
set -eu
read -r _ || exit 0

root=$1 folder=$2 namespace=$3 hostname=$4

mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mkdir -p "$folder/upper" "$folder/work" "$folder/disk"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/upper,workdir=$folder/work" "$folder/disk"
if [ -e "$folder/files.tar" ]; then
    chroot "$folder/disk" tar -xmf - <"$folder/files.tar"
    rm "$folder/files.tar"
fi

status=133
while [ "$status" -eq 133 ]; do
    status=0
    systemd-nspawn --quiet --boot --directory="$folder/disk" --machine="$namespace" --hostname="$hostname" \
        --network-namespace-path="/run/netns/$namespace" --register=no --keep-unit \
        --bind=/dev/net/tun --capability=CAP_NET_ADMIN --system-call-filter="adjtimex clock_adjtime" \
        --resolv-conf=off --timezone=off --link-journal=no --console=pipe </dev/null || status=$?
done
echo "the node exited with status $status"
