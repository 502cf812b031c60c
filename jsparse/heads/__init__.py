"""Readable sparse linear heads: an elastic-net path on the features of a frozen model."""

from jsparse.heads._edit import ablate as ablate
from jsparse.heads._edit import replace as replace
from jsparse.heads._page import page as page
from jsparse.heads._path import Path as Path
from jsparse.heads._path import elastic_net_path as elastic_net_path
from jsparse.heads._point import Point as Point
