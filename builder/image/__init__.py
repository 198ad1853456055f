"""From a root file system to an appliance: disk, VMDK, OVF, OVA, and the way back to check them."""
