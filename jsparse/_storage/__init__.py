"""Checkpoints of training runs: whole or refused, on any number of devices and processes."""

from jsparse._storage.checkpoints import Checkpoints as Checkpoints
from jsparse._storage.checkpoints import Restored as Restored
from jsparse._storage.files import CorruptCheckpoint as CorruptCheckpoint
