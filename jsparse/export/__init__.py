"""What is left of a sparse model, made small and fast."""

from jsparse.export.block import BlockSparse as BlockSparse
from jsparse.export.block import block_dot as block_dot
from jsparse.export.csr import Csr as Csr
from jsparse.export.cut import Cut as Cut
from jsparse.export.loading import DamagedModel as DamagedModel
from jsparse.export.loading import Loaded as Loaded
from jsparse.export.loading import load as load
from jsparse.export.loading import restore as restore
from jsparse.export.onnx import onnx as onnx
from jsparse.export.pack import blocks as blocks
from jsparse.export.pack import csr as csr
from jsparse.export.pack import left_dense as left_dense
from jsparse.export.pack import pack as pack
from jsparse.export.pack import unpack as unpack
from jsparse.export.pick import Choice as Choice
from jsparse.export.pick import Picked as Picked
from jsparse.export.pick import pick as pick
from jsparse.export.program import stablehlo as stablehlo
from jsparse.export.record import Record as Record
from jsparse.export.record import rebuild as rebuild
from jsparse.export.record import rebuild_training as rebuild_training
from jsparse.export.saving import save as save
from jsparse.export.shrinking import shrink as shrink
from jsparse.export.training import shrink_training as shrink_training
