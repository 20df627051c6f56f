#!/bin/busybox sh
# What the guest does: load modules, then run what the host sends, script by script.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module" || echo "guest: $module is not loaded"
done </modules/order
ip link set lo up

tries=0
until [ -e /dev/vport0p1 ] || [ -e /dev/vport1p1 ] || [ "$tries" = 100 ]; do
    tries=$((tries + 1))
    usleep 50000
done
for port in /dev/vport*p1; do exec 3<>"$port"; done
echo ready >&3
while :; do
    # busybox's own ip knows no xfrm, and its shell prefers it to every other.
    echo 'ip() { /usr/sbin/ip "$@"; }' >/tmp/script
    while :; do
        # A host that hangs up has no more use for the machine.
        IFS= read -r line <&3 || poweroff -f
        [ "$line" = "@END@" ] && break
        printf '%s\n' "$line" >>/tmp/script
    done
    sh /tmp/script </dev/null >/tmp/stdout 2>/tmp/stderr 3>&-
    status=$?
    out=$(wc -c </tmp/stdout)
    err=$(wc -c </tmp/stderr)
    { echo "$status $out $err"; head -c "$out" /tmp/stdout; head -c "$err" /tmp/stderr; } >&3
done
