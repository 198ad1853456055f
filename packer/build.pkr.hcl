# One build for every source: the same scripts, in the same order, make the same appliance.
# Valid for Packer 1.6.6 (Debian's) and later.

source "null" "bootstrap" {
  communicator = "none"
}

locals {
  environment = [
    "DEBIAN_FRONTEND=noninteractive",
    "LC_ALL=C.UTF-8",
    "HAPX_RELEASE=${var.release}",
    "HAPX_HOSTNAME=${var.hostname}",
    "HAPX_EXTRA_PACKAGES=${join(" ", var.extra_packages)}",
  ]
  scripts = [
    "${path.root}/scripts/10-packages.sh",
    "${path.root}/scripts/20-overlay.sh",
    "${path.root}/scripts/30-system.sh",
    "${path.root}/scripts/40-services.sh",
    "${path.root}/scripts/50-initramfs.sh",
    "${path.root}/scripts/90-generalise.sh",
  ]
}

build {
  sources = [
    "source.null.bootstrap",
    "source.qemu.cloud",
    "source.virtualbox-iso.installer",
    "source.virtualbox-ovf.derive",
  ]

  # Debian's root file system, by mmdebstrap or from the cache.
  provisioner "shell-local" {
    only   = ["null.bootstrap"]
    inline = ["exec ${var.hapx_stage} root"]
  }

  # The same scripts that a virtual machine would get, each inside the new root.
  provisioner "shell-local" {
    only             = ["null.bootstrap"]
    environment_vars = local.environment
    execute_command  = ["/bin/sh", "-c", "{{.Vars}} exec ${var.hapx_stage} provision \"$0\"", "{{.Script}}"]
    scripts          = local.scripts
  }

  # A disk that boots, then VMDK, OVF and OVA in one pass.
  provisioner "shell-local" {
    only = ["null.bootstrap"]
    inline = [
      "${var.hapx_stage} disk",
      "exec ${var.hapx_stage} package",
    ]
  }

  # A machine gets what the scripts need where a root file system has it bound; /run is gone when it is off.
  provisioner "shell" {
    except = ["null.bootstrap"]
    inline = ["mkdir -p /run/hapx"]
  }
  provisioner "file" {
    except      = ["null.bootstrap"]
    sources     = ["${path.root}/packages.list", "${path.root}/files"]
    destination = "/run/hapx/"
  }
  provisioner "shell" {
    except           = ["null.bootstrap"]
    environment_vars = concat(local.environment, ["HAPX_DATA=/run/hapx", "SOURCE_DATE_EPOCH=${var.hapx_epoch}"])
    scripts          = local.scripts
  }

  post-processors {
    # Its disk, through the same writer.
    post-processor "shell-local" {
      except = ["null.bootstrap"]
      inline = ["exec ${var.hapx_stage} adopt"]
    }
    post-processor "artifice" {
      files = ["${var.hapx_output}.ova"]
    }
    post-processor "checksum" {
      checksum_types      = ["sha256"]
      output              = "${var.hapx_output}.{{.ChecksumType}}"
      keep_input_artifact = true
    }
    post-processor "manifest" {
      output              = "${var.hapx_output}.packer.json"
      keep_input_artifact = true
      custom_data = {
        release = var.release
        arch    = var.arch
      }
    }
  }
}
