"""What a unit of a trained model is worth: one importance per file."""

from jsparse.importance._activation import MeanActivation as MeanActivation
from jsparse.importance._apoz import APoZ as APoZ
from jsparse.importance._fisher import Fisher as Fisher
from jsparse.importance._lamp import LAMP as LAMP
from jsparse.importance._median import MedianDistance as MedianDistance
from jsparse.importance._members import Importance as Importance
from jsparse.importance._members import Joined as Joined
from jsparse.importance._norm import Norm as Norm
from jsparse.importance._random import Random as Random
from jsparse.importance._scale import NormScale as NormScale
from jsparse.importance._taylor import Taylor as Taylor
