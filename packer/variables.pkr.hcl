# What a bake may be told: hapx-build image --var NAME=VALUE, --var-file FILE; --list-vars prints this file.

variable "release" {
  type        = string
  default     = "trixie"
  description = "Debian release: trixie (13) or bookworm (12)."
}

variable "arch" {
  type        = string
  default     = "amd64"
  description = "Debian architecture of the image: amd64."
}

variable "mirror" {
  type        = string
  default     = ""
  description = "Debian mirror to install from, kept in the image; empty: mmdebstrap's own default."
}

variable "version" {
  type        = string
  default     = ""
  description = "Version of the image, in its name and its OVF; empty: the version of hapx-build."
}

variable "extra_packages" {
  type        = list(string)
  default     = []
  description = "More Debian packages to put into the image."
}

variable "hostname" {
  type        = string
  default     = "hapx"
  description = "Host name until a seed gives one."
}

variable "disk_size_mib" {
  type        = number
  default     = 8192
  description = "Size of the disk in MiB; only what is used takes space in the OVA."
}

variable "cpus" {
  type        = number
  default     = 2
  description = "Virtual processors the OVF asks for."
}

variable "memory_mib" {
  type        = number
  default     = 1024
  description = "Memory in MiB the OVF asks for."
}

# Set by hapx-build itself for each bake.

variable "hapx_stage" {
  type        = string
  default     = ""
  description = "Internal: the command that runs one stage of a bake."
}

variable "hapx_output" {
  type        = string
  default     = ""
  description = "Internal: path of the OVA without its extension, where the stages leave it."
}
