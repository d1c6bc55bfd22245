# wanted MODALIAS: is this a device a rescue system should have a driver for?
#
# Every driver stays in memory: all that match cost 5.6 MB, half of it sound,
# graphics, cameras and sensors. Wanted are storage, network, input, the buses
# they hang on, and power keys. Anything else is one modprobe away.
# shellcheck shell=sh

wanted() {
	case $1 in
	# PCI by class: storage, network (wired and wireless), CardBus and PCMCIA
	# bridges, SD hosts, FireWire and USB.
	pci:*bc01sc* | pci:*bc02sc* | pci:*bc0Dsc*) return 0 ;;
	pci:*bc06sc05* | pci:*bc06sc07* | pci:*bc08sc05* | pci:*bc0Csc00* | pci:*bc0Csc03*) return 0 ;;
	pci:*) return 1 ;;
	# USB by interface class: not audio, printer, camera, Bluetooth.
	usb:*ic01isc* | usb:*ic07isc* | usb:*ic0Eisc* | usb:*icE0isc01ip01*) return 1 ;;
	# Power button, lid, battery, mains, fan; no video, no sensors.
	acpi:PNP0C0A* | acpi:PNP0C0B* | acpi:PNP0C0C* | acpi:PNP0C0D* | acpi:ACPI0003* | acpi:LNXPWRBN*) return 0 ;;
	# The rest of ACPI, the platform's odds and ends, mice, sound.
	acpi:* | platform:* | cpu:* | dmi:* | wmi:* | serio:* | input:* | i2c:* | snd* | hdaudio:*) return 1 ;;
	esac
	return 0
}
