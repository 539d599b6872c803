"""Shared memory: the segment through which several processes use one device, see docs/shm.md."""
