# Sources that are virtual machines: each boots something, takes the same scripts over SSH, and is switched off.
# Valid for Packer 1.6.6 and later; what later versions need besides is in plugins/plugins.pkr.hcl.

variable "base_image" {
  type        = string
  default     = ""
  description = "qemu.cloud: a Debian disk with cloud-init, qcow2 or raw; a path or a URL."
}

variable "base_ova" {
  type        = string
  default     = ""
  description = "virtualbox-ovf.derive: the OVA to start from, made by hapx-build or with cloud-init in it; a path."
}

variable "installer_iso" {
  type        = string
  default     = ""
  description = "virtualbox-iso.installer: Debian's netinst image; a path or a URL."
}

variable "base_checksum" {
  type        = string
  default     = ""
  description = "What base_image, base_ova or installer_iso has to be: sha256:HEX, or file:URL of a list of checksums."
}

# Set by hapx-build itself for each bake.

variable "hapx_seed" {
  type        = string
  default     = ""
  description = "Internal: the folder with what the machine is told at its first boot, and the key to its door."
}

variable "hapx_epoch" {
  type        = string
  default     = "0"
  description = "Internal: the date of what is made, in seconds since 1970."
}

variable "hapx_accelerator" {
  type        = string
  default     = "tcg"
  description = "Internal: how QEMU runs here, kvm or tcg."
}

variable "hapx_machine" {
  type        = string
  default     = ""
  description = "Internal: the folder where a machine's disk is left."
}

locals {
  # The last words to a machine.
  shutdown = "systemctl poweroff"
  install = [
    "auto=true", "priority=critical", "locale=C.UTF-8", "keymap=us",
    "hostname=${var.hostname}", "domain=localdomain",
    # The installer reads a preseed file from its own CD only: the second one is mounted once its driver is there.
    "preseed/early_command=\"mkdir /seed; (until mount -t iso9660 -o ro /dev/sr1 /seed; do sleep 1; done)&\"",
    "preseed/file=/seed/preseed.cfg",
  ]
}

source "qemu" "cloud" {
  disk_image       = true
  iso_url          = var.base_image
  iso_checksum     = var.base_checksum
  accelerator      = var.hapx_accelerator
  qemuargs         = [["-cpu", "max"]]
  cpus             = var.cpus
  memory           = var.memory_mib
  headless         = true
  format           = "raw"
  disk_size        = "${var.disk_size_mib}M"
  disk_interface   = "virtio-scsi"
  skip_compaction  = true
  output_directory = var.hapx_machine
  vm_name          = "machine.raw"

  cd_files = ["${var.hapx_seed}/user-data", "${var.hapx_seed}/meta-data"]
  cd_label = "cidata"

  ssh_username         = "root"
  ssh_private_key_file = "${var.hapx_seed}/key"
  ssh_timeout          = "30m"
  shutdown_command     = local.shutdown
  shutdown_timeout     = "15m"
}

source "virtualbox-iso" "installer" {
  guest_os_type        = "Debian_64"
  iso_url              = var.installer_iso
  iso_checksum         = var.base_checksum
  disk_size            = var.disk_size_mib
  hard_drive_interface = "sata"
  iso_interface        = "sata"
  cpus                 = var.cpus
  memory               = var.memory_mib
  headless             = true
  format               = "ova"
  guest_additions_mode = "disable"
  output_directory     = var.hapx_machine
  output_filename      = "machine"
  vm_name              = basename(var.hapx_machine)

  cd_files     = ["${var.hapx_seed}/preseed.cfg", "${var.hapx_seed}/key.pub"]
  cd_label     = "hapx"
  boot_wait    = "10s"
  boot_command = ["<esc><wait>/install.amd/vmlinuz initrd=/install.amd/initrd.gz ${join(" ", local.install)}<enter>"]

  ssh_username         = "root"
  ssh_private_key_file = "${var.hapx_seed}/key"
  ssh_timeout          = "1h"
  shutdown_command     = local.shutdown
  shutdown_timeout     = "15m"
}

source "virtualbox-ovf" "derive" {
  source_path          = var.base_ova
  checksum             = var.base_checksum
  headless             = true
  format               = "ova"
  guest_additions_mode = "disable"
  output_directory     = var.hapx_machine
  output_filename      = "machine"
  vm_name              = basename(var.hapx_machine)
  vboxmanage = [
    ["modifyvm", "{{.Name}}", "--cpus", var.cpus],
    ["modifyvm", "{{.Name}}", "--memory", var.memory_mib],
    ["modifyvm", "{{.Name}}", "--nic1", "nat"],
    # cd_files would go to a controller named "IDE Controller", which few OVAs have.
    ["storagectl", "{{.Name}}", "--name", "seed", "--add", "virtio"],
    ["storageattach", "{{.Name}}", "--storagectl", "seed", "--port", "0", "--device", "0", "--type", "dvddrive", "--medium", "${var.hapx_seed}/seed.iso"],
  ]

  ssh_username         = "root"
  ssh_private_key_file = "${var.hapx_seed}/key"
  ssh_timeout          = "30m"
  shutdown_command     = local.shutdown
  shutdown_timeout     = "15m"
}
