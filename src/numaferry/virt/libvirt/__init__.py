"""Real hosts over libvirt. Only `connection` imports libvirt's bindings; the other modules get them through it."""
