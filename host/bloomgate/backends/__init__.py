"""The devices that can decide commits. :func:`bloomgate.open_device` chooses one by the scheme of a URL."""
