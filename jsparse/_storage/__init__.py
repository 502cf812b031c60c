"""Arrays by path on disk: checkpoints of training runs, and trees in one file."""

from jsparse._storage.checkpoints import Checkpoints as Checkpoints
from jsparse._storage.checkpoints import Restored as Restored
from jsparse._storage.files import CorruptCheckpoint as CorruptCheckpoint
