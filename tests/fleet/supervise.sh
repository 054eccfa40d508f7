#!/bin/sh
# Runs one node in a mount namespace of its own, so that its disk and nspawn's folders vanish with it, and starts it
# again when it reboots, which systemd-nspawn says with code 133. As on a machine, the clock's state may be asked for,
# and the clock cannot be set: supervise.sh ROOT NODE-FOLDER NAMESPACE HOSTNAME
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
echo "the node ended with $status"
