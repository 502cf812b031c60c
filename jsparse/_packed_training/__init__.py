"""Training where only the links exist: packed layers with dynamic masks."""

from jsparse._packed_training.conversion import pack_training as pack_training
from jsparse._packed_training.conversion import unpack_training as unpack_training
from jsparse._packed_training.optimizer import PackedOptimizer as PackedOptimizer
