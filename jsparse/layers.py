"""Stock Flax layers with a `rule=` argument, and `Recall`."""

from jsparse._layers import Conv as Conv
from jsparse._layers import ConvTranspose as ConvTranspose
from jsparse._layers import Einsum as Einsum
from jsparse._layers import Embed as Embed
from jsparse._layers import GRUCell as GRUCell
from jsparse._layers import Linear as Linear
from jsparse._layers import LinearGeneral as LinearGeneral
from jsparse._layers import LSTMCell as LSTMCell
from jsparse._layers import MultiHeadAttention as MultiHeadAttention
from jsparse._layers import OptimizedLSTMCell as OptimizedLSTMCell
from jsparse._recall import Recall as Recall
