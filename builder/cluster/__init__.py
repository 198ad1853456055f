"""A whole cluster: up, status, failover; over any hypervisor, on any number of hosts."""
