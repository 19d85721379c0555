#!/bin/sh
# Stands in for what a container has not: a kernel of its own that loads modules, and DKMS, which would build them against
# its headers. `build` leaves the link that DKMS leaves for what it has built; `boot` loads what is built.
set -eu
kernel=$(uname -r)
link=/var/lib/dkms/nvidia/kernel-$kernel-x86_64
case $1 in
    build)
        version=$(dpkg-query -W -f '${Version}' nvidia-kernel-dkms 2>/dev/null) || exit 0
        mkdir -p /var/lib/dkms/nvidia
        ln -sfn "${version%%-*}/$kernel/x86_64" "$link"
        ;;
    boot)
        rm -rf /sys/module/nvidia
        version=$(readlink "$link") || exit 0
        mkdir -p /sys/module/nvidia
        echo "${version%%/*}" >/sys/module/nvidia/version
        ;;
    setup)
        printf '%s\n' '[Unit]' 'Before=slurmd.service' '[Service]' 'Type=oneshot' "ExecStart=$0 boot" '[Install]' \
            'WantedBy=multi-user.target' >/etc/systemd/system/kernel-standin.service
        systemctl enable --quiet kernel-standin.service
        echo "DPkg::Post-Invoke {\"$0 build\";};" >/etc/apt/apt.conf.d/99-kernel-standin
        # A daemon that needs no GPU, by the name of the one that does.
        cp /bin/sleep /usr/local/sbin/nvidia-persistenced
        mkdir -p /etc/systemd/system/nvidia-persistenced.service.d
        printf '%s\n' '[Service]' 'Type=exec' 'PIDFile=' 'ExecStart=' \
            'ExecStart=/usr/local/sbin/nvidia-persistenced infinity' \
            >/etc/systemd/system/nvidia-persistenced.service.d/standin.conf
        ;;
esac
