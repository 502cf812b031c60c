"""What is left of a sparse model, made small and fast."""

from jsparse.export._packing.autotune import Choice as Choice
from jsparse.export._packing.autotune import Picked as Picked
from jsparse.export._packing.autotune import pick as pick
from jsparse.export._packing.block import BlockSparse as BlockSparse
from jsparse.export._packing.block import block_dot as block_dot
from jsparse.export._packing.csr import Csr as Csr
from jsparse.export._packing.layers import blocks as blocks
from jsparse.export._packing.layers import csr as csr
from jsparse.export._packing.layers import left_dense as left_dense
from jsparse.export._packing.layers import pack as pack
from jsparse.export._packing.layers import unpack as unpack
from jsparse.export._packing.pallas import pallas_dot as pallas_dot
from jsparse.export._saving.loading import DamagedModel as DamagedModel
from jsparse.export._saving.loading import Loaded as Loaded
from jsparse.export._saving.loading import load as load
from jsparse.export._saving.loading import restore as restore
from jsparse.export._saving.onnx import onnx as onnx
from jsparse.export._saving.saving import save as save
from jsparse.export._saving.stablehlo import stablehlo as stablehlo
from jsparse.export._shrinking.cut import Cut as Cut
from jsparse.export._shrinking.record import Record as Record
from jsparse.export._shrinking.record import rebuild as rebuild
from jsparse.export._shrinking.record import rebuild_training as rebuild_training
from jsparse.export._shrinking.shrink import shrink as shrink
from jsparse.export._shrinking.training import shrink_training as shrink_training
