"""Containers whose transactions conflict by what they touch in them, not by container."""

from bloomgate.stm.containers.tarray import TArray
from bloomgate.stm.containers.tcounter import TCounter
from bloomgate.stm.containers.tdeque import TDeque, TQueue
from bloomgate.stm.containers.tdict import TDict
from bloomgate.stm.containers.tlist import TList
from bloomgate.stm.containers.tset import TSet

__all__ = ["TArray", "TCounter", "TDeque", "TDict", "TList", "TQueue", "TSet"]
