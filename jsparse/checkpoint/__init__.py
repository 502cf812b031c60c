"""Checkpoints of training runs: whole or refused, on any number of devices and processes."""

from jsparse.checkpoint.checkpoints import Checkpoints as Checkpoints
from jsparse.checkpoint.checkpoints import Restored as Restored
from jsparse.files import CorruptCheckpoint as CorruptCheckpoint
