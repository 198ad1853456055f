# For Packer 1.10 and later, which brings no builders along: `packer init packer/plugins`, once. Packer 1.6.6 (Debian's)
# knows no such block, so it stands in a folder of its own, which takes no part in a build.
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
    virtualbox = {
      source  = "github.com/hashicorp/virtualbox"
      version = ">= 1.0.5"
    }
  }
}
