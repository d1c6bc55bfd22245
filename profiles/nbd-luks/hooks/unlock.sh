# The root is encrypted on a network block device, its key on a USB stick: see
# hook.sh among /init's parts for the words used here.
#
#   cryptnbd=SERVER[:PORT][/EXPORT]  where the container is
#   liveiso.key=LABEL:/FILE          another stick or file than KEYSTICK:/root.key
# shellcheck shell=sh disable=SC2154

place=$(value_of cryptnbd)
# Without it this is a live medium like any other.
[ "$place" ] || return 0
part nbd
part luks
attach_nbd "$place"
open_luks "$found" cryptroot KEYSTICK:/root.key
# Either the image itself, or a volume group with it in a volume named root.
offer "$found"
activate_lvm
# Without udev the kernel's names are the ones that are always there.
for volume in /sys/class/block/dm-*; do
	case $(cat "$volume/dm/name") in *-root) offer "/dev/${volume##*/}" ;; esac
done
